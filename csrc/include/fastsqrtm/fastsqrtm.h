/// @file
/// Square roots and inverse square roots of batches of symmetric matrices, and Lyapunov solves, as in Python.
///
/// Header-only over torch's dispatcher: the compiler and the torch of the program that includes this header decide its
/// ABI, and the libraries behind it fit any torch from 2.11 on. The functions accept CPU tensors, and CUDA tensors
/// where libfastsqrtm_cuda is linked.
///
/// Every function takes tensors (..., n, n) of float16, bfloat16, float32 or float64 and uses their symmetric part. It
/// throws c10::Error for an argument that is not square, has another dtype or layout, or is a number out of range;
/// what_without_backtrace() is the text that Python shows. All functions may be called from any number of threads at
/// once.
///
/// These functions do not differentiate; fastsqrtm/autograd.h has them again in the namespace fastsqrtm::autograd. They
/// refuse a tensor that requires a gradient, unless no gradient is recorded (at::NoGradGuard) or the dispatcher has a
/// rule: from Python, or from fastsqrtm::register_autograd().
///
/// The Python docstring of the same name describes the mathematics, gradients and cost of each function.
/// fastsqrtm/paper.h has the approximants of the paper with a choice of gradient.
#pragma once

#include <fastsqrtm/detail/pseudo.h>
#include <fastsqrtm/ops.h>
#include <torch/arg.h>

#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace fastsqrtm {

/// Version of the library, such as "0.1.0".
inline std::string version() { return fastsqrtm_version(); }

/// Options of sqrtm, inv_sqrtm and sqrtm_and_inv: `RootOptions().rtol(1e-3).eps(1e-5)`.
struct RootOptions {
  /// Largest relative error of root and gradient, 0 to 1. Unset means the precision of the dtype.
  TORCH_ARG(std::optional<double>, rtol);
  /// Added to the diagonal of A before the root is taken, in the precision of the computation.
  TORCH_ARG(double, eps) = 0;
  /// The same in units of the Frobenius norm of each matrix.
  TORCH_ARG(double, rel_eps) = 0;
  /// Of inv_sqrtm alone, what becomes of null directions: "ridge" counts their eigenvalues as the eps of the precision
  /// times the largest; "zero" maps them to zero, which gives the pseudo-inverse of the root, by torch's eigh.
  TORCH_ARG(std::string, null) = "ridge";
  /// With null("zero"), eigenvalues up to this part of the largest are null. Unset means n times the eps of A's dtype.
  TORCH_ARG(std::optional<double>, null_rtol);
};

namespace detail {

inline bool is_batch_of_matrices(const at::Tensor& A) {
  const auto dtype = A.scalar_type();
  const bool supported = dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat || dtype == at::kDouble;
  return supported && A.layout() == at::kStrided && A.dim() >= 2 && A.size(-1) == A.size(-2);
}

inline double epsilon(at::ScalarType dtype) {
  return dtype == at::kDouble ? 0x1p-52 : dtype == at::kFloat ? 0x1p-23 : dtype == at::kBFloat16 ? 0x1p-7 : 0x1p-10;
}

inline at::Tensor cast(const at::Tensor& x, at::ScalarType dtype) { return x.to(dtype); }
inline std::tuple<at::Tensor, at::Tensor> cast(const std::tuple<at::Tensor, at::Tensor>& x, at::ScalarType dtype) {
  return {std::get<0>(x).to(dtype), std::get<1>(x).to(dtype)};
}

/// compute(A + eps I). Half precision would round eps away, so there the sum and the computation are in float32.
template <class Compute>
auto shifted(const std::string& function, const at::Tensor& A, double eps, const Compute& compute) {
  if (eps == 0 || !is_batch_of_matrices(A)) return compute(A);  // which throws where A is no batch of matrices
  if (!(eps > 0 && eps < std::numeric_limits<double>::infinity()))
    fail(c10::str("fastsqrtm.", function, ": eps must be finite and not negative, got ", eps));
  const auto dtype = A.scalar_type();
  const at::Tensor precise = dtype == at::kDouble ? A : A.to(at::kFloat);
  const auto root = compute(precise + eps * at::eye(A.size(-1), precise.options().requires_grad(false)));
  return cast(root, dtype);
}

/// compute(A + eps I + rel_eps ||A||_F I).
template <class Compute>
auto root_of_shifted(const std::string& function, const at::Tensor& A, const RootOptions& options,
                     const Compute& compute) {
  const double rel_eps = options.rel_eps();
  if (!(rel_eps >= 0 && rel_eps < std::numeric_limits<double>::infinity()))
    fail(c10::str("fastsqrtm.", function, ": rel_eps must be finite and not negative, got ", rel_eps));
  if (rel_eps == 0 || A.numel() == 0 || !is_batch_of_matrices(A)) return shifted(function, A, options.eps(), compute);
  const at::Tensor precise = A.scalar_type() == at::kDouble ? A : A.to(at::kFloat);
  const at::Tensor size = precise.detach().abs().amax({-2, -1}, true);  // keeps the squares of the norm in range
  const at::Tensor unit = size.masked_fill(size == 0, 1);
  const at::Tensor norm = unit * at::linalg_vector_norm(precise / unit, 2, at::IntArrayRef{-2, -1}, true);
  const at::Tensor identity = at::eye(A.size(-1), precise.options().requires_grad(false));
  return cast(shifted(function, precise + rel_eps * norm * identity, options.eps(), compute), A.scalar_type());
}

template <class Op>
auto root(const Op& op, const at::Tensor& A, const RootOptions& options) {
  const std::string function(op.signature.name);
  if (options.null() != "ridge" || options.null_rtol())
    fail(c10::str("fastsqrtm.", function, ": null and null_rtol are options of inv_sqrtm"));
  const auto compute = [&](const at::Tensor& shifted) { return op(shifted, options.rtol().value_or(0)); };
  return root_of_shifted(function, A, options, compute);
}

/// The inverse root by `op`, or by pseudo_inverse(symmetric A in float32 or float64, null_rtol) where the options ask
/// for it.
template <class Op, class PseudoInverse>
at::Tensor inverse_root(const Op& op, const at::Tensor& A, const RootOptions& options,
                        const PseudoInverse& pseudo_inverse) {
  if (options.null() != "ridge" && options.null() != "zero")
    fail(c10::str("fastsqrtm.inv_sqrtm: null must be \"ridge\" or \"zero\", got '", options.null(), "'"));
  if (options.null() == "ridge" && options.null_rtol())
    fail("fastsqrtm.inv_sqrtm: null_rtol needs null=\"zero\", got null='ridge'");
  if (options.null() == "ridge") return root(op, A, options);
  if (A.is_nested() || !is_batch_of_matrices(A)) return op(A, 0);  // which throws
  const auto dtype = A.scalar_type();
  const auto precision = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const double null_rtol = options.null_rtol().value_or(double(A.size(-1)) * epsilon(dtype));
  if (!(null_rtol >= 0 && null_rtol < 1))
    fail(c10::str("fastsqrtm.inv_sqrtm: null_rtol must be at least 0 and less than 1, got ", null_rtol));
  return root_of_shifted("inv_sqrtm", A, options, [&](const at::Tensor& shifted) {
    if (shifted.numel() == 0) return shifted.clone();
    return pseudo_inverse(symmetric_part(shifted.to(precision)), null_rtol).to(dtype);
  });
}

/// Calls solve(B, C, number) with the leading dimensions of B and C broadcast.
template <class Op, class Number>
at::Tensor broadcast(const Op& solve, const at::Tensor& B, const at::Tensor& C, Number number) {
  if (B.dim() < 2 || C.dim() < 2) return solve(B, C, number);  // throws
  const auto b = B.sizes(), c = C.sizes();
  if (b.slice(0, b.size() - 2) == c.slice(0, c.size() - 2)) return solve(B, C, number);
  std::vector<int64_t> batch = at::infer_size(b.slice(0, b.size() - 2), c.slice(0, c.size() - 2));
  const auto expanded = [&](const at::Tensor& x) {
    std::vector<int64_t> shape = batch;
    shape.insert(shape.end(), {x.size(-2), x.size(-1)});
    return x.expand(shape);
  };
  return solve(expanded(B), expanded(C), number);
}

/// Default of a number in ops.def.
template <class Number>
constexpr Number default_of(const Signature& op, std::string_view number) {
  return Number(op.arguments[op.position(number)].default_value);
}

}  // namespace detail

/// Returns the square root of each matrix, (..., n, n) positive semidefinite. Source: Nakatsukasa and Freund, SIAM
/// Review 58(3), 2016, and Higham, Numer. Algorithms 15, 1997.
inline at::Tensor sqrtm(const at::Tensor& A, const RootOptions& options = {}) {
  return detail::root(ops::sqrtm, A, options);
}

/// Returns the inverse square root of each matrix, (..., n, n) positive definite. Otherwise like sqrtm. With
/// RootOptions().null("zero") A is positive semidefinite, and the result the pseudo-inverse of its root; that one has
/// no rule in the dispatcher and is differentiable in fastsqrtm::autograd alone.
inline at::Tensor inv_sqrtm(const at::Tensor& A, const RootOptions& options = {}) {
  return detail::inverse_root(ops::inv_sqrtm, A, options, [](const at::Tensor& symmetric, double null_rtol) {
    detail::check_no_tangent(signatures::inv_sqrtm, {&symmetric});
    detail::check_no_gradient(signatures::inv_sqrtm, signatures::inv_sqrtm.arguments[0], symmetric);
    return detail::pseudo_inverse_root(symmetric, null_rtol);
  });
}

/// Returns the square root and the inverse square root of each matrix, from one forward pass. Otherwise like sqrtm.
inline std::tuple<at::Tensor, at::Tensor> sqrtm_and_inv(const at::Tensor& A, const RootOptions& options = {}) {
  return detail::root(ops::sqrtm_and_inv, A, options);
}

/// Returns the solution X of B X + X B = C for each pair of matrices, by the paper's iteration.
/// @param B           (..., n, n), positive definite
/// @param C           (..., n, n) of the same dtype and device, symmetric or not; leading dimensions are broadcast
/// @param iterations  1 to 100
inline at::Tensor lyapunov(const at::Tensor& B, const at::Tensor& C,
                           int64_t iterations = detail::default_of<int64_t>(signatures::lyapunov, "iterations")) {
  return detail::broadcast(ops::lyapunov, B, C, iterations);
}

/// Returns the solution X of B X + X B = C to the relative error rtol, 0 to 1; 0 means the precision of the dtype. In
/// Python this is lyapunov(B, C, rtol=rtol). Source: Roberts, Int. J. Control 32, 1980.
inline at::Tensor lyapunov_newton(const at::Tensor& B, const at::Tensor& C,
                                  double rtol = detail::default_of<double>(signatures::lyapunov_newton, "rtol")) {
  return detail::broadcast(ops::lyapunov_newton, B, C, rtol);
}

/// The inverse of each symmetric positive definite matrix, and with it the logarithm of its determinant, (...):
///
///     Tensor inv(const Tensor& A), std::tuple<Tensor, Tensor> inv_and_logdet(const Tensor& A)
using ops::inv;
using ops::inv_and_logdet;

/// The QR factorisation of each m x n matrix by Householder reflections, with LAPACK's signs:
///
///     std::tuple<Tensor, Tensor> qr(const Tensor& A)
///     std::tuple<Tensor, Tensor, Tensor> qr_pivoted(const Tensor& A)
///
/// and the same with _complete. Q is m x min(m, n) and R min(m, n) x n; complete, m x m and m x n. With pivots P,
/// int64, has the order of the columns, A[:, P] = Q R, each time the longest of those that are left. A matrix that is
/// not finite gives NaN.
using ops::qr;
using ops::qr_complete;
using ops::qr_pivoted;
using ops::qr_pivoted_complete;

/// The root or the inverse root of each matrix by the paper's Pade approximants (mpa) or Taylor polynomials (mtp):
///
///     Tensor mpa_lya(const Tensor& A, int64_t degree, int64_t iterations), and so on
///
/// `degree` is that of the polynomials, 1 to 32 (mpa) or 128 (mtp); `iterations` of the Lyapunov solve in the backward
/// pass, 1 to 100. Both are optional. A is positive semidefinite, for the inverse root positive definite; the result is
/// symmetric, in the shape and dtype of A. Source: Song, Sebe, Wang, *Fast Differentiable Matrix Square Root*, ICLR
/// 2022, and arXiv 2201.12543.
using ops::mpa_lya;
using ops::mpa_lya_inv;
using ops::mtp_lya;
using ops::mtp_lya_inv;

}  // namespace fastsqrtm
