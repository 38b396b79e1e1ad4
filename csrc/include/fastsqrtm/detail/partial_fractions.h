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

/// Node y and weight of a rule on [-1, 1], with 1 - y and 1 + y in all their digits as tan(theta / 2), y = cos(theta).
struct Node {
  double y, weight;
  double tangent() const { return std::sqrt((1 - y) / (1 + y)); }
};

/// Gauss' rule of `count` nodes for (1 - y)^(a - 1) (1 + y)^(b - 1), a, b > 0: Newton's iteration on the orthonormal
/// polynomials.
inline void gauss_jacobi(int count, double a, double b, Node* nodes) {
  double centre[max_fractions], beside[max_fractions + 1];
  for (int k = 0; k <= count; ++k) {
    const double s = 2 * k + a + b - 2;
    if (k < count) centre[k] = k == 0 ? (b - a) / (a + b) : (b - a) * (a + b - 2) / (s * (s + 2));
    const double last = k > 1 ? (k + a + b - 2) / (s - 1) : 1;  // equal for k = 1, where a + b = 1 would give 0/0
    beside[k] = k == 0 ? 0 : std::sqrt(4 * k * (k - 1 + a) * (k - 1 + b) * last / (s * s * (s + 1)));
  }
  const double first =
      std::exp(-((a + b - 1) * std::log(2) + std::lgamma(a) + std::lgamma(b) - std::lgamma(a + b)) / 2);
  struct Value {
    double polynomial, derivative, squares;
  };
  const auto at = [&](double y) {
    double before = 0, p = first, slope_before = 0, slope = 0, squares = p * p;
    for (int k = 0; k < count; ++k) {
      const double next = ((y - centre[k]) * p - beside[k] * before) / beside[k + 1];
      const double next_slope = (p + (y - centre[k]) * slope - beside[k] * slope_before) / beside[k + 1];
      before = p;
      p = next;
      slope_before = slope;
      slope = next_slope;
      if (k + 1 < count) squares += p * p;
    }
    return Value{p, slope, squares};
  };
  for (int j = 0; j < count; ++j) {
    double y = std::cos(pi * (4 * j + 1 + 2 * a) / (4 * count + 2 * (a + b - 1)));
    for (int step = 0; step < 30; ++step) {
      const Value value = at(y);
      double others = 0;  // without the nodes found, which Newton's steps would find again
      for (int i = 0; i < j; ++i) others += 1 / (y - nodes[i].y);
      const double change = value.polynomial / (value.derivative - value.polynomial * others);
      y -= change;
      if (!(std::fabs(change) > 1e-15)) break;
    }
    y = std::min(std::max(y, -1 + 0x1p-52), 1 - 0x1p-52);  // an end would be a pole at zero or infinity
    nodes[j] = {y, 1 / at(y).squares};
  }
}

/// sc^2(fraction K'; l') by Landen's transformation, as zolotarev_node in csrc/scalars, and K' itself.
struct Elliptic {
  double low;

  double quarter_period() const {
    double a = 1, b = low;
    for (int step = 0; step < 12; ++step) {
      const double mean = (a + b) / 2;
      b = std::sqrt(a * b);
      a = mean;
    }
    return pi / (2 * a);
  }
  double sc_squared(double fraction) const {
    double a[16] = {1}, c[16] = {std::sqrt(1 - low * low)}, b = low;
    int last = 0;
    while (last < 15 && c[last] > 1e-17 * a[last]) {
      const double mean = (a[last] + b) / 2;
      c[last + 1] = (a[last] - b) / 2;
      b = std::sqrt(a[last] * b);
      a[++last] = mean;
    }
    double phase = std::ldexp(pi * fraction / 2, last);
    for (int k = last; k > 0; --k) phase = (phase + std::asin(c[k] / a[k] * std::sin(phase))) / 2;
    const double tangent = std::tan(phase);
    return tangent * tangent;
  }
  /// Pole t at a node: beyond the middle by sc(K' - u) = 1 / (l sc(u)), which keeps the digits.
  double pole(const Node& node) const {
    const double tangent = node.tangent(), near = 2 / pi * std::atan(std::min(tangent, 1 / tangent));
    const double squared = low * low * sc_squared(near);
    return tangent <= 1 ? squared : low * low / squared;
  }
};

}  // namespace detail

/// x^exponent on [lowest, 1] for an exponent between -1 and 1: nearer to -1, 0 or 1 than rounding it counts as beside
/// them.
inline PartialFractions fractions_of_power(double exponent, double lowest, int count) {
  PartialFractions f;
  f.count = count;
  f.quotient = exponent > 0;  // x^p = x x^(p - 1)
  const double a = std::min(std::max(f.quotient ? 1 - exponent : -exponent, 1e-14), 1 - 1e-14);
  const detail::Elliptic elliptic = {std::sqrt(lowest)};
  detail::Node nodes[max_fractions];
  detail::gauss_jacobi(count, 1 - a, a, nodes);
  const double common =
      2 * elliptic.quarter_period() * std::sin(detail::pi * std::min(a, 1 - a)) / (detail::pi * detail::pi);
  for (int j = 0; j < count; ++j) {
    const double t = elliptic.pole(nodes[j]), ratio = std::sqrt(t) / nodes[j].tangent();
    const double weight = nodes[j].weight * common * std::pow(ratio, 1 - 2 * a) * std::sqrt((lowest + t) * (1 + t));
    f.scales[j] = 1 / t;
    f.weights[j] = f.quotient ? weight : weight / t;
  }
  return f;
}

/// log x on [lowest, 1].
inline PartialFractions fractions_of_logarithm(double lowest, int count) {
  PartialFractions f;
  f.count = count;
  const detail::Elliptic elliptic = {std::sqrt(lowest)};
  detail::Node nodes[max_fractions];
  detail::gauss_jacobi(count, 1, 1, nodes);
  for (int j = 0; j < count; ++j) {
    const double t = elliptic.pole(nodes[j]), sine = std::sqrt((1 - nodes[j].y) * (1 + nodes[j].y));
    const double weight =
        nodes[j].weight * 2 * elliptic.quarter_period() / detail::pi / sine * std::sqrt(t * (lowest + t) / (1 + t));
    f.constant += weight;  // (x - 1)/(x + t) = 1 - (1 + t)/(x + t)
    f.scales[j] = 1 / t;
    f.weights[j] = -weight * (1 + t) / t;
  }
  return f;
}

}  // namespace fastsqrtm
