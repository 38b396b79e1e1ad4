/// @file
/// Rational functions whose poles are negative, for powers and the logarithm of a matrix. Plain C++, for the kernels'
/// host code and for autograd.h; counterpart in Python: fastsqrtm/_reference/scalars.py, proofs in docs/method.md.
///
///   x^-a  = sin(pi a)/pi  integral of t^-a / (x + t) dt,   log x = (x - 1) integral of 1 / ((1 + t)(x + t)) dt
///
/// over t > 0. With t = l^2 sc^2(u; l'), the poles of Zolotarev's function for [l^2, 1] being equidistant in u, the
/// integrand is an even periodic function of theta = pi u / K' times the weight (1 - y)^-a (1 + y)^(a - 1) in
/// y = cos(theta), for the logarithm the weight 1. Gauss' rule for this weight has the rate of the best approximation,
/// exp(-2 pi^2 poles / log(16 / lowest)), for every a.
#pragma once

#include <algorithm>
#include <cmath>

namespace fastsqrtm {

constexpr int max_fractions = 32;

/// constant + sum_j weight_j q_j(x) with q_j = h / (1 + h) where `quotient`, else 1 / (1 + h), h = scale_j x. All
/// weights have one sign.
struct PartialFractions {
  int count = 0;
  bool quotient = false;
  double constant = 0;
  double scales[max_fractions] = {}, weights[max_fractions] = {};

  /// Of the derivative sum_j slope_j / (1 + h)^2.
  double slope(int j) const { return (quotient ? 1 : -1) * weights[j] * scales[j]; }
};

namespace detail {

constexpr double pi = 3.14159265358979323846;

/// The `wanted` nodes that are nearest to 1, as z = 1 - y, of Gauss' rule of `count` nodes for
/// (1 - y)^(a - 1) (1 + y)^(b - 1) on [-1, 1], a, b > 0, and their weights. Newton's iteration on the Jacobi
/// polynomials q_k with q_k = 1 at z = 0, by the recurrence of their differences, which has the digits of small z.
inline void gauss_jacobi(int count, double a, double b, int wanted, double* nodes, double* weights) {
  const double s = a + b - 2;
  // Not by lgamma, which leaves a sign in a global variable: a data race.
  const double mass = std::exp2(s + 1) * std::tgamma(a) * std::tgamma(b) / std::tgamma(a + b);
  // q_k+1 - q_k = steps_k z q_k + keeps_k (q_k - q_k-1), and the squares of the orthonormal polynomials at z = 0. For
  // k = 0 the general formulas are 0/0 where a + b = 1.
  double steps[max_fractions] = {-(s + 2) / (2 * a)}, keeps[max_fractions] = {};
  double sizes[max_fractions + 1] = {1 / mass, a * (s + 3) / b / mass};
  for (int k = 1; k < count; ++k) {
    steps[k] = -(2 * k + s + 1) * (2 * k + s + 2) / (2 * (k + s + 1) * (k + a));
    keeps[k] = k * (k - 1 + b) * (2 * k + s + 2) / ((k + s + 1) * (2 * k + s) * (k + a));
    sizes[k + 1] = sizes[k] * (k + a) * (k + s + 1) * (2 * k + s + 3) / ((k + 1) * (k + b) * (2 * k + s + 1));
  }
  struct Value {
    double polynomial, derivative, squares;
  };
  const auto at = [&](double z) {
    double q = 1, slope = 0, change = 0, change_slope = 0, squares = 0;
    for (int k = 0; k < count; ++k) {
      squares += sizes[k] * q * q;
      change_slope = steps[k] * (q + z * slope) + keeps[k] * change_slope;
      change = steps[k] * z * q + keeps[k] * change;
      q += change;
      slope += change_slope;
    }
    return Value{q, slope, squares};
  };
  for (int j = 0; j < wanted; ++j) {
    const double sine = std::sin(pi * (4 * j + 1 + 2 * a) / (8 * count + 4 * (a + b - 1)));
    double z = 2 * sine * sine;
    for (int step = 0; step < 30; ++step) {
      const Value value = at(z);
      double others = 0;  // without the nodes found, which Newton's steps would find again
      for (int i = 0; i < j; ++i) others += 1 / (z - nodes[i]);
      const double change = value.polynomial / (value.derivative - value.polynomial * others);
      z -= change;
      if (!(std::fabs(change) > 1e-16 * z)) break;
    }
    nodes[j] = std::max(z, 1e-30);  // zero would be a pole at zero
    weights[j] = 1 / at(nodes[j]).squares;
  }
}

/// Pole t, weight and tan(theta / 2), y = cos(theta), of Gauss' rule in Zolotarev's variable. The weight has the factor
/// 2 K' / pi. Jacobi's function by Landen's transformation, as zolotarev_node in csrc/scalars.
struct Pole {
  double t, weight, tangent;
};
inline void poles(double lowest, double a, double b, int count, Pole* found) {
  const double low = std::sqrt(lowest);
  double means[16] = {1}, halves[16] = {std::sqrt(1 - lowest)}, geometric = low;
  int last = 0;
  while (last < 15 && halves[last] > 1e-17 * means[last]) {
    const double mean = (means[last] + geometric) / 2;
    halves[last + 1] = (means[last] - geometric) / 2;
    geometric = std::sqrt(means[last] * geometric);
    means[++last] = mean;
  }
  for (const bool beyond : {false, true}) {  // the middle, where sc(K' - u) = 1 / (l sc(u))
    double nodes[max_fractions], weights[max_fractions];
    const int wanted = beyond ? count / 2 : count - count / 2;
    gauss_jacobi(count, beyond ? b : a, beyond ? a : b, wanted, nodes, weights);
    for (int j = 0; j < wanted; ++j) {
      const double tangent = std::sqrt(nodes[j] / (2 - nodes[j])), weight = weights[j] / means[last];
      double phase = std::ldexp(std::atan(tangent), last);
      for (int k = last; k > 0; --k) phase = (phase + std::asin(halves[k] / means[k] * std::sin(phase))) / 2;
      const double root = low * std::tan(phase), t = root * root;
      *found++ = beyond ? Pole{lowest / t, weight, 1 / tangent} : Pole{t, weight, tangent};
    }
  }
}

}  // namespace detail

/// x^exponent on [lowest, 1] for an exponent between -1 and 1: nearer to -1, 0 or 1 than rounding it counts as beside
/// them.
inline PartialFractions fractions_of_power(double exponent, double lowest, int count) {
  PartialFractions f;
  f.count = count;
  f.quotient = exponent > 0;  // x^p = x x^(p - 1)
  const double a = std::min(std::max(f.quotient ? 1 - exponent : -exponent, 1e-14), 1 - 1e-14);
  detail::Pole poles[max_fractions];
  detail::poles(lowest, 1 - a, a, count, poles);
  const double common = std::sin(detail::pi * std::min(a, 1 - a)) / detail::pi;
  for (int j = 0; j < count; ++j) {
    const double t = poles[j].t, ratio = std::pow(std::sqrt(t) / poles[j].tangent, 1 - 2 * a);
    const double weight = poles[j].weight * common * ratio * std::sqrt((lowest + t) * (1 + t));
    f.scales[j] = 1 / t;
    f.weights[j] = f.quotient ? weight : weight / t;
  }
  return f;
}

/// log(x) / (x - 1) on [lowest, 2], which is not an end at the identity: the product with x - 1 keeps the digits there.
inline PartialFractions fractions_of_logarithm(double lowest, int count) {
  PartialFractions f;
  f.count = count;
  detail::Pole poles[max_fractions];
  detail::poles(lowest / 2, 1, 1, count, poles);
  for (int j = 0; j < count; ++j) {
    const double half = poles[j].t, t = 2 * half, tangent = poles[j].tangent;
    const double density = std::sqrt(half * (lowest / 2 + half) * (1 + half)) / (1 + t);
    f.scales[j] = 1 / t;
    f.weights[j] = poles[j].weight * density * (tangent + 1 / tangent) / t;
  }
  return f;
}

}  // namespace fastsqrtm
