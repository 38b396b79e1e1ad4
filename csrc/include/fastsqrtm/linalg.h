/// @file
/// QR, LQ and least squares of matrices of any shape, differentiable to any order: the functions of fastsqrtm.linalg
/// for real tensors. docs/guide/qr.md derives them. Twin, step for step: fastsqrtm/linalg.py.
#pragma once

#include <fastsqrtm/autograd.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>

namespace fastsqrtm {
namespace autograd {
namespace linalg {

/// Options of qr: `QROptions().pivoting(true).rtol(1e-6)`.
struct QROptions {
  /// "reduced": Q has min(m, n) columns; "complete": m; "r": Q is an empty tensor.
  TORCH_ARG(std::string, mode) = "reduced";
  /// At each step take the longest remaining column.
  TORCH_ARG(bool, pivoting) = false;
  /// Stop after so many columns.
  TORCH_ARG(std::optional<int64_t>, k);
  /// With pivoting, the rank of a matrix is how many diagonal entries of R are larger than this part of the first one.
  /// The columns of Q and the rows of R beyond it are zero.
  TORCH_ARG(std::optional<double>, rtol);
  /// Make the diagonal of R positive, or zero. Otherwise its signs are those of LAPACK.
  TORCH_ARG(bool, positive) = false;
  /// What the gradient of mode "complete" takes the columns of Q beyond n for: "subspace", a basis of their space that
  /// turns as little as possible, or "householder", these very columns.
  TORCH_ARG(std::string, q2) = "subspace";
};

/// A = Q R, or A[:, P] = Q R with pivoting; P is undefined without.
struct QR {
  Tensor Q, R, P;

  /// The rank of each matrix, int64 on its device: how many diagonal entries of R are not zero.
  Tensor rank() const { return (R.diagonal(0, -2, -1) != 0).sum(-1); }
};

/// A = L Q.
struct LQ {
  Tensor L, Q;
};

namespace detail {

using fastsqrtm::detail::fail;

/// A as the ops take it: half precisions in float32.
inline Tensor prepared(const Tensor& A) {
  const auto dtype = A.scalar_type();
  const bool fits = A.layout() == at::kStrided && !A.is_nested() && A.dim() >= 2;
  if (!fits || !at::isFloatingType(dtype)) ops::qr(A);  // throws
  return A.to(at::promoteTypes(dtype, at::kFloat));
}

inline Tensor identity(int64_t rows, int64_t columns, const Tensor& like) {
  return at::eye(rows, columns, like.options().requires_grad(false));
}

inline QR factors(const Tensor& A, bool complete, bool pivoting) {
  QR found;
  if (pivoting)
    std::tie(found.Q, found.R, found.P) = complete ? ops::qr_pivoted_complete(A) : ops::qr_pivoted(A);
  else
    std::tie(found.Q, found.R) = complete ? ops::qr_complete(A) : ops::qr(A);
  if (A.numel() == 0) {  // for which the ops give zeros
    found.Q = found.Q + identity(found.Q.size(-2), found.Q.size(-1), A);
    const Tensor order = at::arange(A.size(-1), A.options().dtype(at::kLong).requires_grad(false));
    if (pivoting) found.P = order.expand_as(found.P);
  }
  return found;
}

/// Q and R of the leading columns in the order of P: k of them, or as many as the rank. In the place of those beyond
/// the rank of a matrix stand columns that are orthogonal to the others, until they become zero.
inline QR truncated(const Tensor& A, bool pivoting, std::optional<int64_t> wanted, std::optional<double> rtol) {
  const int64_t n = A.size(-1), k = wanted.value_or(std::min(A.size(-2), n));
  const QR whole = pivoting ? factors(A.detach(), false, true) : QR();
  const Tensor X = pivoting ? A.gather(-1, whole.P.unsqueeze(-2).expand_as(A)) : A;
  Tensor leading = X.narrow(-1, 0, k), kept;
  if (rtol && k > 0 && A.numel() > 0) {
    const Tensor size = whole.R.diagonal(0, -2, -1).narrow(-1, 0, k).abs();
    const Tensor rank = (size <= *rtol * size.narrow(-1, 0, 1)).logical_not().sum(-1, true);  // NaN is kept
    kept = (at::arange(k, rank.options()) < rank).unsqueeze(-2);
    leading = at::where(kept, leading, whole.Q.narrow(-1, 0, k));
  }
  QR found = factors(leading, false, false);
  const Tensor rest = X.narrow(-1, k, n - k);
  if (!kept.defined()) return {found.Q, at::cat({found.R, found.Q.mT().matmul(rest)}, -1), whole.P};
  const Tensor Q = at::where(kept, found.Q, 0), projected = Q.mT().matmul(X);
  const Tensor R1 = at::where(kept, found.R, projected.narrow(-1, 0, k));
  return {Q, at::cat({R1, projected.narrow(-1, k, n - k)}, -1), whole.P};
}

/// Q with the derivatives of its columns beyond n as the reflections make them: a function of the first n.
inline Tensor with_householder_columns(const Tensor& Q, int64_t n) {
  const int64_t m = Q.size(-2);
  const Tensor Q1 = Q.narrow(-1, 0, n), Q2 = Q.narrow(-1, n, m - n).detach(), I = identity(m, m, Q);
  const Tensor moved = I.narrow(-1, 0, n) - Q1;
  const auto [factor, triangle] = ops::qr(moved.narrow(-2, 0, n));
  const Tensor Z = at::linalg_solve_triangular(triangle, moved.narrow(-2, n, m - n), /*upper=*/true, /*left=*/false);
  const Tensor found = I.narrow(-1, n, m - n) - moved.matmul(Z.matmul(factor.mT()).mT());
  const Tensor change = found - found.detach();
  return at::cat({Q1, Q2 + at::where(change.isnan(), 0, change)}, -1);
}

inline QR with_positive_diagonal(const QR& x) {
  const Tensor diagonal = x.R.diagonal(0, -2, -1).detach();
  Tensor signs = 1 - 2 * (diagonal < 0).to(diagonal.scalar_type());
  signs = at::constant_pad_nd(signs, {0, x.R.size(-2) - signs.size(-1)}, 1);
  return {x.Q * signs.unsqueeze(-2), x.R * signs.unsqueeze(-1), x.P};
}

inline void check_truncation(const char* function, const Tensor& A, const QROptions& options) {
  const auto wrong = [&](const auto&... text) { fail(c10::str("fastsqrtm.", function, ": ", text...)); };
  if (!options.k() && !options.rtol()) return;
  if (options.mode() == "complete") wrong("k and rtol need mode reduced or r, got complete");
  const int64_t most = std::min(A.size(-2), A.size(-1)), k = options.k().value_or(most);
  if (k < 0 || k > most) wrong("k must be from 0 to ", most, ", got ", k);
  const double rtol = options.rtol().value_or(0);
  if (!(rtol >= 0 && rtol < 1)) wrong("rtol must be at least 0 and less than 1, got ", rtol);
  if (options.rtol() && !options.pivoting()) wrong("rtol needs pivoting=True, got pivoting=False");
}

inline void check_word(const std::string& name, const std::string& word, std::initializer_list<const char*> allowed) {
  std::string list;
  for (const char* x : allowed) {
    if (word == x) return;
    list += list.empty() ? x : std::string(", ") + x;
  }
  fail(c10::str("fastsqrtm.linalg.qr: ", name, " must be one of ", list, ", got '", word, "'"));
}

}  // namespace detail

/// Returns the QR factorisation of each matrix of A, (..., m, n), with or without column pivoting, with its exact
/// gradient: it exists where the leading min(m, n) columns of A, in the order of P, are independent; with k or rtol the
/// leading k, or as many as the rank, have to be. Source: Roberts and Roberts, arXiv 2009.10071, 2020.
inline QR qr(const Tensor& A, const QROptions& options = {}) {
  detail::check_word("mode", options.mode(), {"reduced", "complete", "r"});
  detail::check_word("q2", options.q2(), {"subspace", "householder"});
  const Tensor X = detail::prepared(A);
  detail::check_truncation("linalg.qr", X, options);
  QR found;
  if (options.k() || options.rtol()) {
    found = detail::truncated(X, options.pivoting(), options.k(), options.rtol());
  } else {
    found = detail::factors(X, options.mode() == "complete", options.pivoting());
    if (options.q2() == "householder" && found.R.size(-2) > found.R.size(-1))
      found.Q = detail::with_householder_columns(found.Q, found.R.size(-1));
  }
  if (options.positive()) found = detail::with_positive_diagonal(found);
  if (options.mode() == "r") found.Q = at::empty({0}, X.options().requires_grad(false));
  return {found.Q.to(A.scalar_type()), found.R.to(A.scalar_type()), found.P};
}

/// Returns the LQ factorisation of each matrix: the transposed factors of qr(A^T). Mode "l" leaves Q empty.
inline LQ lq(const Tensor& A, const std::string& mode = "reduced", bool positive = false,
             const std::string& q2 = "subspace") {
  if (mode != "reduced" && mode != "complete" && mode != "l")
    detail::fail(c10::str("fastsqrtm.linalg.lq: mode must be one of reduced, complete, l, got '", mode, "'"));
  detail::prepared(A);  // throws where A is no batch of matrices
  const QR found = qr(A.mT(), QROptions().mode(mode == "l" ? "r" : mode).positive(positive).q2(q2));
  return {found.R.mT(), mode == "l" ? found.Q : found.Q.mT()};
}

/// Returns the X, (..., n, r), of the smallest norm among those with the smallest ||A X - B||, for A of any shape and
/// rank, with its exact gradient at that rank. rtol decides the rank, as for qr; unset means max(m, n) times the eps of
/// A's dtype. Source: Golub and Van Loan, Matrix Computations, section 5.5.
inline Tensor lstsq(const Tensor& A, const Tensor& B, std::optional<double> rtol = {}) {
  const Tensor X = detail::prepared(A);
  const auto wrong = [](const auto&... text) { detail::fail(c10::str("fastsqrtm.linalg.lstsq: ", text...)); };
  if (B.dim() < 2 || B.size(-2) != A.size(-2))
    wrong("B must be (..., m, r) where A is ", A.sizes(), ", got ", B.sizes());
  if (B.scalar_type() != A.scalar_type()) wrong("B must have the dtype of A (", A.dtype(), "), got ", B.dtype());
  if (B.device() != A.device()) wrong("B must be on the device of A (", A.device(), "), got ", B.device());
  const int64_t n = A.size(-1);
  rtol = rtol.value_or(double(std::max(A.size(-2), n)) * fastsqrtm::detail::epsilon(A.scalar_type()));
  detail::check_truncation("linalg.lstsq", X, QROptions().pivoting(true).rtol(rtol));
  const Tensor Y = B.to(X.scalar_type());
  if (A.numel() == 0) return X.mT().matmul(Y).to(A.scalar_type());
  const QR found = detail::truncated(X, true, {}, rtol);
  // The rows of R beyond the rank are zero. With rows of the identity instead its leading block has an inverse.
  const Tensor kept = found.R.diagonal(0, -2, -1) != 0;
  const Tensor I = detail::identity(found.R.size(-2), found.R.size(-1), X);
  auto [V, S] = ops::qr(at::where(kept.unsqueeze(-1), found.R, I).mT());
  S = at::where(kept.unsqueeze(-2).logical_and(kept.unsqueeze(-1)), S, I.narrow(-1, 0, S.size(-1)));
  Tensor Z = at::linalg_solve_triangular(S.mT(), found.Q.mT().matmul(Y), /*upper=*/false);
  Z = at::where(kept.unsqueeze(-2), V, 0).matmul(Z);
  return Z.gather(-2, found.P.argsort(int64_t(-1)).unsqueeze(-1).expand_as(Z)).to(A.scalar_type());
}

}  // namespace linalg
}  // namespace autograd
}  // namespace fastsqrtm
