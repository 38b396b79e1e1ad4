// The scalars of the accurate roots: Zolotarev's best rational approximation of 1/sqrt(x) on [lowest, 1], then Newton
// steps whose scaling is known beforehand. Host only; counterpart in Python: fastsqrtm/_reference/scalars.py.
//
//   Y_0 = c I + sum_j w_j (X + t_j I)^-1 ~ X^(-1/2),   X_0 = X Y_0 = c X + sum_j w_j (I - t_j (X + t_j I)^-1) ~ X^(1/2)
//   X_k+1 = g_k (X_k + Y_k^-1) / 2,                    Y_k+1 = g_k (Y_k + X_k^-1) / 2
//
// With nu = y sqrt(x) at an eigenvalue x of X, nu_0 lies in [1/h, h] and a step takes it to g (nu + 1/nu)/2 with
// g = 1/sqrt((h + 1/h)/2), in [1/h', h'] again: the error log h becomes log(cosh(log h))/2, about its square over 4.
// The composition is best possible again (Nakatsukasa and Freund, SIAM Review 58(3), 2016); the coupled step is Denman
// and Beavers' (Higham, Numer. Algorithms 15, 1997, has its stability). X_k Y_k^-1 = X all along, so an error of the
// scalars costs accuracy only through nu.
#pragma once

#include <cmath>

namespace fastsqrtm {

constexpr int max_poles = 8;
constexpr int max_newton_steps = 5;

struct RootDesign {
  int poles, newton_steps;
  double constant;                  // c
  double shifts[max_poles];         // t_j
  double weights[max_poles];        // w_j
  double scales[max_newton_steps];  // g_k
  double error;                     // largest relative error of the root at an eigenvalue in [lowest, 1]
  double deepest[3];                // smallest eigenvalues for which no, one or two steps more suffice

  double inverse_shift(int j) const { return 1 / shifts[j]; }
  double weight_over_shift(int j) const { return weights[j] / shifts[j]; }
  double half_scale(int k) const { return (k < newton_steps ? scales[k] : 1) / 2; }

  // y_0 at an eigenvalue.
  double start(double eigenvalue) const {
    double y = constant;
    for (int j = 0; j < poles; ++j) y += weights[j] / (eigenvalue + shifts[j]);
    return y;
  }
  // ||X_0^-1|| of a matrix with the smallest eigenvalue `smallest`: 1/x_0 there, where x_0 = x y_0.
  double largest_inverse(double smallest) const { return 1 / (smallest * start(smallest)); }
  // The relative error of the root at an eigenvalue, after as many steps more than the design has.
  double error_at(double eigenvalue, int more) const {
    double nu = start(eigenvalue) * std::sqrt(eigenvalue);
    for (int k = 0; k < newton_steps + more; ++k) nu = half_scale(k) * (nu + 1 / nu);
    return std::fabs(nu - 1);
  }
};

// c_i = l^2 sc^2(i K'/d; l') for i < d: the poles (odd i) and zeros (even i), negated squares, of Zolotarev's function
// of degree d for the sign on [l, 1]. Jacobi's function by the descending Landen transformation (Abramowitz and Stegun
// 16.4); for i > d/2 by sc(K' - u) = 1/(l sc(u)), which keeps the digits.
inline double zolotarev_node(int degree, int i, double l) {
  if (2 * i > degree) return l * l / zolotarev_node(degree, degree - i, l);
  double a[16] = {1}, c[16] = {std::sqrt(1 - l * l)}, b = l;
  int last = 0;
  while (last < 15 && c[last] > 1e-17 * a[last]) {
    const double mean = (a[last] + b) / 2;
    c[last + 1] = (a[last] - b) / 2;
    b = std::sqrt(a[last] * b);
    a[++last] = mean;
  }
  double phase = std::ldexp(3.14159265358979323846 * i / (2 * degree), last);
  for (int k = last; k > 0; --k) phase = (phase + std::asin(c[k] / a[k] * std::sin(phase))) / 2;
  const double tangent = l * std::tan(phase);
  return tangent * tangent;
}

// The design of given numbers of poles and steps for eigenvalues in [lowest, 1].
inline RootDesign root_design(int poles, int newton_steps, double lowest) {
  const double l = std::sqrt(lowest);
  const int degree = 2 * poles + 1;
  RootDesign design = {poles, newton_steps, 1, {}, {}, {}, 0, {}};
  double zeros[max_poles];
  for (int j = 0; j < poles; ++j) {
    design.shifts[j] = zolotarev_node(degree, 2 * j + 1, l);
    zeros[j] = zolotarev_node(degree, 2 * j + 2, l);
  }
  for (int j = 0; j < poles; ++j) {
    double weight = 1;
    for (int i = 0; i < poles; ++i) {
      weight *= zeros[i] - design.shifts[j];
      if (i != j) weight /= design.shifts[i] - design.shifts[j];
    }
    design.weights[j] = weight;
  }
  const auto value = [&](double nu) {  // of nu prod (nu^2 + zero)/(nu^2 + pole): lowest at l, highest at 1
    double product = nu;
    for (int j = 0; j < poles; ++j) product *= (nu * nu + zeros[j]) / (nu * nu + design.shifts[j]);
    return product;
  };
  const double low = value(l), high = value(1), scale = 1 / std::sqrt(low * high);
  design.constant = scale;
  for (int j = 0; j < poles; ++j) design.weights[j] *= scale;
  double log_h = std::log(high / low) / 2;
  for (int k = 0; k < newton_steps; ++k) {
    const double sinh_half = std::sinh(log_h / 2);
    log_h = std::log1p(2 * sinh_half * sinh_half) / 2;  // log(cosh(log h))/2
    design.scales[k] = std::exp(-log_h);
  }
  design.error = std::expm1(log_h);
  return design;
}

// Default interval and tolerance: condition numbers up to 1e6 (float32) and 1e12 (float64), and an error that rounding
// hides.
constexpr double lowest_eigenvalue(int element_bytes) { return element_bytes == 8 ? 1e-12 : 1e-6; }
constexpr double finest_tolerance(int element_bytes) { return element_bytes == 8 ? 2e-15 : 5e-7; }
// A matrix with an eigenvalue below this, in units of its norm, counts as singular: the steps would not give its root
// as accurately as an eigendecomposition does.
constexpr double singular_eigenvalue(int element_bytes) { return lowest_eigenvalue(element_bytes) / 2; }
// ||X_0^-1|| of a matrix that just does not count as singular and needs no more steps.
inline double largest_regular_inverse(const RootDesign& design, int element_bytes) {
  return design.largest_inverse(std::fmax(singular_eigenvalue(element_bytes), design.deepest[0]));
}
// Up to this order an eigendecomposition on the CPU is faster than the steps, and its errors have no preferred side.
constexpr int largest_spectral_order = 4;

// Ridges on the diagonal of a matrix, in units of the precision and of its norm. They are added one after the other
// until elimination meets no pivot that is not positive: rounding makes positive semidefinite matrices indefinite.
constexpr double ridges[] = {0, 1, 8, 64, 1024};
constexpr double last_ridge = ridges[4];

// The design of least cost, counted in inverses, whose error is at most the tolerance. The last design is kept, because
// the search takes longer than the root of a small matrix.
inline const RootDesign& root_design(double tolerance, int element_bytes) {
  const double lowest = lowest_eigenvalue(element_bytes), finest = finest_tolerance(element_bytes);
  tolerance = tolerance > finest ? tolerance : finest;
  thread_local RootDesign best = {};
  thread_local double best_tolerance = 0;
  thread_local int best_bytes = 0;
  if (tolerance == best_tolerance && element_bytes == best_bytes) return best;
  best_tolerance = tolerance;
  best_bytes = element_bytes;
  int best_cost = 1 << 20;
  for (int steps = 0; steps <= max_newton_steps; ++steps)
    for (int poles = 1; poles <= max_poles; ++poles) {
      const RootDesign design = root_design(poles, steps, lowest);
      const int cost = poles + (steps ? 2 * steps - 1 : 0);
      if (design.error > tolerance || cost > best_cost || (cost == best_cost && design.error > best.error)) continue;
      best = design;
      best_cost = cost;
    }
  // A tenth of what the rounding of the entries makes of the smallest eigenvalue that does not count as singular.
  const double epsilon = element_bytes == 8 ? 0x1p-52 : 0x1p-23;
  const double allowed = std::fmax(best.error, epsilon / (20 * singular_eigenvalue(element_bytes)));
  for (int more = 0; more <= 2; ++more) {
    double below = -60, above = std::log(lowest);
    for (int halving = 0; halving < 30; ++halving) {
      const double middle = (below + above) / 2;
      (best.error_at(std::exp(middle), more) <= allowed ? above : below) = middle;
    }
    best.deepest[more] = std::exp(above);
  }
  return best;
}

}  // namespace fastsqrtm
