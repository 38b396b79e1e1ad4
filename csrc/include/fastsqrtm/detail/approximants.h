/// @file
/// The paper's approximants in torch functions, which torch differentiates: autograd.h takes their second derivatives
/// from here, as Python does from its twins, step for step, in fastsqrtm/_reference/series.py.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <vector>

namespace fastsqrtm {
namespace autograd {
namespace detail {

using at::Tensor;

// One term after the other, here and in autograd.h: torch adds up gradients in the reverse order of the terms, and C++
// would leave that order open.
inline Tensor symmetric_part(const Tensor& A) {
  const Tensor half = A / 2;
  return half + A.mT() / 2;
}

enum class Series { pade, taylor, newton_schulz };

inline Tensor spd_solve(const Tensor& A, const Tensor& B) {
  const auto [factor, info] = at::linalg_cholesky_ex(A);
  return at::cholesky_solve(B, factor).masked_fill(info.unsqueeze(-1).unsqueeze(-1) != 0,
                                                   std::numeric_limits<double>::quiet_NaN());
}

inline Tensor pade(const Tensor& X, int64_t degree, bool inverse) {
  const double pi = 3.14159265358979323846, order = double(2 * degree + 1);
  const Tensor identity = at::eye(X.size(-1), X.options().requires_grad(false));
  Tensor Y = identity / (2 * degree + 1);
  for (int64_t j = 1; j <= degree; ++j) {
    const double root = std::tan(pi * double(j) / order), shift = root * root, weight = 2 * (1 + shift) / order;
    const Tensor H = inverse ? shift * X : X / shift;
    Y = Y + weight * spd_solve(identity + H, inverse ? identity.expand_as(X) : H);
  }
  return Y;
}

inline Tensor taylor(const Tensor& X, int64_t degree, double power) {
  std::vector<double> c = {1.0};
  for (int64_t k = 1; k <= degree; ++k) c.push_back(c.back() * (double(k - 1) - power) / double(k));
  const Tensor identity = at::eye(X.size(-1), X.options().requires_grad(false)), W = identity - X;
  Tensor Y = c[degree] * W;
  for (int64_t k = degree - 1; k > 0; --k) Y = (Y + identity * c[k]).matmul(W);
  return Y + identity * c[0];
}

inline Tensor newton_schulz(const Tensor& X, int64_t iterations, bool inverse) {
  const Tensor identity = at::eye(X.size(-1), X.options().requires_grad(false));
  Tensor M = X, Y = inverse ? identity : X;
  for (int64_t step = 0; step < iterations; ++step) {
    const Tensor P = (3 * identity - M) / 2;
    Y = symmetric_part(Y.matmul(P));
    M = symmetric_part(M.matmul(P).matmul(P));
  }
  return Y;
}

inline Tensor approximant(Series series, bool inverse, const Tensor& given, int64_t degree) {
  if (given.numel() == 0) return given + 0;
  const Tensor A = symmetric_part(given.to(given.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  const Tensor largest = A.abs().amax({-2, -1}, true), zero = largest == 0;
  Tensor X = at::where(zero, 1, A / at::where(zero, 1, largest));
  const Tensor norm = at::linalg_vector_norm(X, 2, at::IntArrayRef({-2, -1}), true);
  X = at::where(zero, 0, X / norm);
  const Tensor nu = largest * norm;
  const Tensor root_of_nu = at::where(nu == 0, 1, nu).sqrt();
  const Tensor Y = symmetric_part(series == Series::pade     ? pade(X, degree, inverse)
                                  : series == Series::taylor ? taylor(X, degree, inverse ? -0.5 : 0.5)
                                                             : newton_schulz(X, degree, inverse));
  if (!inverse) return at::where(nu == 0, 0, Y * root_of_nu).to(given.scalar_type());
  const Tensor infinite = at::full_like(A.select(-1, 0), std::numeric_limits<double>::infinity()).diag_embed();
  return at::where(nu == 0, infinite, Y / root_of_nu).to(given.scalar_type());
}

}  // namespace detail
}  // namespace autograd
}  // namespace fastsqrtm
