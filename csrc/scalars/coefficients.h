// The scalars of the paper's two forward methods, for any degree, on host and device.
// Counterpart in Python: fastsqrtm/_reference/scalars.py.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define FASTSQRTM_HOST_DEVICE __host__ __device__
#else
#define FASTSQRTM_HOST_DEVICE
#endif

namespace fastsqrtm {

// One term of the diagonal Pade approximant [m, m] of sqrt(x) about 1 in partial fractions. With N = 2m + 1 and
// t_j = tan^2(pi j / N), j = 1..m:
//   sqrt(x)   ~ 1/N + sum_j weight_j * x / (x + t_j)
//   1/sqrt(x) ~ 1/N + sum_j weight_j / (1 + t_j x)          weight_j = 2 (1 + t_j) / N
// All terms are positive for x >= 0: nothing cancels, whatever the degree. The textbook form P(x)/Q(x) loses
// cond(Q) ~ 4^m / (2m + 1) of the working precision instead.
struct PadeTerm {
  double shift;   // t_j
  double weight;  // 2 (1 + t_j) / N
};

FASTSQRTM_HOST_DEVICE inline PadeTerm pade_term(int degree, int j) {
  const double tangent = std::tan(3.14159265358979323846 * j / (2 * degree + 1));
  const double shift = tangent * tangent;
  return {shift, 2 * (1 + shift) / (2 * degree + 1)};
}

// The term that both series share: their value at x = 0 (root) and at x = infinity (inverse root).
FASTSQRTM_HOST_DEVICE inline double pade_constant(int degree) { return 1.0 / (2 * degree + 1); }

// Coefficient k of (1 - z)^power, power = 1/2 (root) or -1/2 (inverse root), from coefficient k - 1:
// c_0 = 1, c_k = c_{k-1} (k - 1 - power) / k.
FASTSQRTM_HOST_DEVICE inline double taylor_next(double previous, int k, double power) {
  return previous * (k - 1 - power) / k;
}

constexpr int max_pade_degree = 32;
constexpr int max_taylor_degree = 128;
constexpr int max_iterations = 100;

}  // namespace fastsqrtm
