/// @file
/// The second derivatives of the paper's approximants in torch functions, which torch differentiates further, for
/// autograd.h. Twin, step for step: fastsqrtm/_reference/series.py, which has the formulas.
#pragma once

#include <ATen/ATen.h>
#include <fastsqrtm/detail/pseudo.h>

#include <cmath>
#include <limits>
#include <vector>

#include <fastsqrtm/detail/partial_fractions.h>

namespace fastsqrtm {
namespace autograd {
namespace detail {

// One term after the other, here and in autograd.h: torch adds up gradients in the reverse order of the terms, and C++
// would leave that order open.
using at::Tensor;
using fastsqrtm::detail::identity_like;
using fastsqrtm::detail::symmetric_part;

enum class Series { pade, taylor, newton_schulz };

inline Tensor spd_solve(const Tensor& A, const Tensor& B) {
  const auto [factor, info] = at::linalg_cholesky_ex(A);
  return at::cholesky_solve(B, factor).masked_fill(info.unsqueeze(-1).unsqueeze(-1) != 0,
                                                   std::numeric_limits<double>::quiet_NaN());
}

/// A matrix, its derivatives along G and along D, and its second derivative along both, for symmetric G and D.
struct Second {
  Tensor value, along_G, along_D, second;
};

inline Second pade(const Tensor& X, const Tensor& G, const Tensor& D, int64_t degree, bool inverse) {
  const double pi = 3.14159265358979323846, order = double(2 * degree + 1);
  const Tensor identity = identity_like(X), zero = at::zeros_like(X);
  Second Y = {identity / (2 * degree + 1), zero, zero, zero};
  for (int64_t j = 1; j <= degree; ++j) {
    const double root = std::tan(pi * double(j) / order), shift = root * root, weight = 2 * (1 + shift) / order;
    const double scale = inverse ? shift : 1 / shift, factor = inverse ? -weight * shift : weight / shift;
    const Tensor R = spd_solve(identity + scale * X, identity.expand_as(X));
    const Tensor RG = R.matmul(G), RD = R.matmul(D);
    const Tensor RGR = RG.matmul(R), RDR = RD.matmul(R);
    const Tensor K = RG.matmul(RDR);
    Y.value = Y.value + weight * (inverse ? R : identity - R);
    Y.along_G = Y.along_G + factor * RGR;
    Y.along_D = Y.along_D + factor * RDR;
    Y.second = Y.second - factor * scale * (K + K.mT());
  }
  return Y;
}

inline Second taylor(const Tensor& X, const Tensor& G, const Tensor& D, int64_t degree, double power) {
  std::vector<double> c = {1.0};
  for (int64_t k = 1; k <= degree; ++k) c.push_back(c.back() * (double(k - 1) - power) / double(k));
  const Tensor identity = identity_like(X), W = identity - X, zero = at::zeros_like(X);
  Second Y = {(identity * c[degree]).expand_as(X), zero, zero, zero};
  for (int64_t k = degree - 1; k >= 0; --k) {
    Tensor second = Y.second.matmul(W);
    second = second - Y.along_G.matmul(D);
    Y.second = second - Y.along_D.matmul(G);
    const Tensor along_G = Y.along_G.matmul(W);
    Y.along_G = along_G - Y.value.matmul(G);
    const Tensor along_D = Y.along_D.matmul(W);
    Y.along_D = along_D - Y.value.matmul(D);
    Y.value = Y.value.matmul(W) + identity * c[k];
  }
  return Y;
}

inline Second product(const Second& A, const Second& B) {
  const Tensor value = A.value.matmul(B.value);
  Tensor along_G = A.along_G.matmul(B.value);
  along_G = along_G + A.value.matmul(B.along_G);
  Tensor along_D = A.along_D.matmul(B.value);
  along_D = along_D + A.value.matmul(B.along_D);
  Tensor second = A.second.matmul(B.value);
  second = second + A.along_G.matmul(B.along_D);
  second = second + A.along_D.matmul(B.along_G);
  second = second + A.value.matmul(B.second);
  return {value, along_G, along_D, second};
}

inline Second symmetric_part(const Second& A) {
  return {symmetric_part(A.value), symmetric_part(A.along_G), symmetric_part(A.along_D), symmetric_part(A.second)};
}

inline Second newton_schulz(const Tensor& X, const Tensor& G, const Tensor& D, int64_t iterations, bool inverse) {
  const Tensor identity = identity_like(X), zero = at::zeros_like(X);
  Second M = {X, G, D, zero}, Y = inverse ? Second{identity.expand_as(X), zero, zero, zero} : M;
  for (int64_t step = 0; step < iterations; ++step) {
    const Second P = {(3 * identity - M.value) / 2, M.along_G / -2, M.along_D / -2, M.second / -2};
    Y = symmetric_part(product(Y, P));
    M = symmetric_part(product(product(M, P), P));
  }
  return Y;
}

/// The derivative along D of the derivative of a rational function along G.
inline Tensor rational_second(const Tensor& A, const Tensor& G, const Tensor& D, const PartialFractions& series) {
  if (A.numel() == 0) return A + G + D;
  const auto type = A.scalar_type(), wide = type == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor X = symmetric_part(A.to(wide)), identity = identity_like(X);
  const Tensor along_G = symmetric_part(G.to(wide)), along_D = symmetric_part(D.to(wide));
  Tensor second = at::zeros_like(X);
  for (int j = 0; j < series.count; ++j) {
    const Tensor R = spd_solve(identity + series.scales[j] * X, identity.expand_as(X));
    const Tensor K = R.matmul(along_G).matmul(R).matmul(along_D).matmul(R);
    second = second - series.slope(j) * series.scales[j] * (K + K.mT());
  }
  return second.to(type);
}

inline Tensor dot_product(const Tensor& A, const Tensor& B) { return (A * B).sum({-2, -1}, true); }

/// Y / nu^(whole + 1/2), and 0 at zero.
inline Tensor over_power(Tensor Y, const Tensor& nu, int whole) {
  Y = Y / at::where(nu == 0, 1, nu).sqrt();
  const Tensor positive = at::where(nu == 0, 1, nu);
  for (int i = 0; i < whole; ++i) Y = Y / positive;
  return at::where(nu == 0, 0, symmetric_part(Y));
}

/// The gradient of <G, f'(A)[D]> in A, and f'(A)[D], for the approximant f.
inline std::vector<Tensor> gradient_along(Series series, bool inverse, const std::vector<Tensor>& given,
                                          int64_t degree) {
  if (given[0].numel() == 0) {
    const Tensor sum = given[0] + given[1];
    return {sum + given[2], given[0] + given[2]};
  }
  const auto type = given[0].scalar_type();
  std::vector<Tensor> wide;
  for (const Tensor& x : given) wide.push_back(symmetric_part(x.to(type == at::kDouble ? at::kDouble : at::kFloat)));
  const Tensor &A = wide[0], &G = wide[1], &D = wide[2];
  const Tensor largest = A.abs().amax({-2, -1}, true), zero = largest == 0;
  Tensor X = at::where(zero, 1, A / at::where(zero, 1, largest));
  const Tensor norm = at::linalg_vector_norm(X, 2, at::IntArrayRef({-2, -1}), true);
  X = at::where(zero, 0, X / norm);
  const Tensor nu = largest * norm;

  const double p = inverse ? -0.5 : 0.5;
  const Tensor u = dot_product(X, D), E = D - u * X;
  const Second Y = series == Series::pade     ? pade(X, G, E, degree, inverse)
                   : series == Series::taylor ? taylor(X, G, E, degree, p)
                                              : newton_schulz(X, G, E, degree, inverse);
  const Tensor &L = Y.along_G, along = p * dot_product(G, Y.value);
  Tensor K = dot_product(L, E);
  K = K + u * along;
  Tensor gradient = Y.second - (1 - p) * u * L;
  gradient = gradient + (along - dot_product(L, X)) * D;
  const Tensor scaled = (1 - p) * K;
  gradient = gradient - (scaled + dot_product(gradient, X)) * X;
  gradient = over_power(gradient, nu, inverse ? 2 : 1);
  const Tensor derivative = over_power(Y.along_D + p * u * Y.value, nu, inverse ? 1 : 0);
  return {gradient.to(type), derivative.to(type)};
}

}  // namespace detail
}  // namespace autograd
}  // namespace fastsqrtm
