/// @file
/// The pseudo-inverse of the root in torch functions, for fastsqrtm.h; autograd.h has its derivative. Twin, step for
/// step: fastsqrtm/_reference/pseudo.py.
#pragma once

#include <ATen/ATen.h>

#include <limits>

namespace fastsqrtm {
namespace detail {

inline at::Tensor symmetric_part(const at::Tensor& A) {
  const at::Tensor half = A / 2;
  return half + A.mT() / 2;
}

inline at::Tensor identity_like(const at::Tensor& X) { return at::eye(X.size(-1), X.options().requires_grad(false)); }

/// Z >= 0 with Z A Z the projector on the range of the symmetric A, float32 or float64; eigenvalues up to null_rtol
/// times the largest are null.
inline at::Tensor pseudo_inverse_root(const at::Tensor& A, double null_rtol) {
  constexpr double most_negative_eigenvalue = -0x1p-6;  // in units of the largest: largest_negative of the kernels
  const at::Tensor finite = A.isfinite().all(-1, true).all(-2, true);  // LAPACK would reject the whole batch
  const auto [w, V] = at::linalg_eigh(at::where(finite, A, identity_like(A)));
  const at::Tensor size = w.abs().amax(-1, true);
  const at::Tensor good = finite.logical_and((w >= most_negative_eigenvalue * size).all(-1, true).unsqueeze(-1));
  const at::Tensor keep = w > null_rtol * size;
  const at::Tensor g = at::where(keep, w, 1).rsqrt() * keep;
  const at::Tensor Z = (V * g.unsqueeze(-2)).matmul(V.mT());
  return at::where(good, Z, std::numeric_limits<double>::quiet_NaN());
}

}  // namespace detail
}  // namespace fastsqrtm
