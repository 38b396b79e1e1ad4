"""QR, LQ and pivoted QR of matrices of any shape, real and complex, and what they solve.

docs/guide/qr.md derives the gradients; the ops and their rule are in _reference/qr.py.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._ops import check as _check
from ._ops.route import call_all, under_autocast
from ._ops.table import PUBLIC_DTYPES, Matrix

__all__ = ["LQ", "QR", "PivotedQR", "lq", "lstsq", "orthogonal", "qr"]


class QR(NamedTuple):
    """A = Q R."""

    Q: Tensor
    R: Tensor


class PivotedQR(NamedTuple):
    """A[:, P] = Q R; of several matrices, `A.take_along_dim(P[..., None, :], -1)` is A[:, P]."""

    Q: Tensor
    R: Tensor
    P: Tensor

    @property
    def rank(self) -> Tensor:
        """The rank of each matrix, int64 on its device: how many diagonal entries of R are not zero."""
        return self.R.diagonal(dim1=-2, dim2=-1).count_nonzero(-1)


class LQ(NamedTuple):
    """A = L Q."""

    L: Tensor
    Q: Tensor


def qr(
    A: Tensor,
    *,
    mode: str = "reduced",
    pivoting: bool = False,
    k: int | None = None,
    rtol: float | None = None,
    positive: bool = False,
    q2: str = "subspace",
) -> QR | PivotedQR:
    """Compute the QR factorisation of each matrix, with or without column pivoting, with its exact gradient.

    Args:
        A: (..., m, n), float16, bfloat16, float32, float64, complex64 or complex128; the half precisions are computed
            in float32.
        mode: With "reduced" Q has min(m, n) columns, with "complete" m, and with "r" it is an empty tensor.
        pivoting: At each step take the longest remaining column, so that the diagonal of R decreases in magnitude.
        k: Stop after k columns, from 0 to min(m, n): Q has k columns, R k rows, and Q R is A[:, P] but for columns
            beyond k.
        rtol: With pivoting, the rank of a matrix is how many diagonal entries of R are larger than this part of the
            first one, in magnitude. The columns of Q and the rows of R beyond it are zero.
        positive: Make the diagonal of R positive, or zero. Otherwise its signs are those of LAPACK.
        q2: What the gradient of mode="complete" takes the columns of Q beyond n for: "subspace", a basis of their space
            that turns as little as possible, or "householder", these very columns.

    Returns:
        `QR(Q, R)`, with pivoting `PivotedQR(Q, R, P)`, in the dtype of A. The columns of Q are orthonormal, R is upper
        triangular with a real diagonal, and P, int64, is LAPACK's jpvt counted from 0. NaN and Inf give NaN, in that
        matrix alone, whose P is 0, 1, ...

    Gradient:
        Exact, in reverse mode to any order and in forward mode, of all results but P, which is locally constant. It
        exists where the leading min(m, n) columns of A, in the order of P, are independent; with k or rtol the leading
        k, or as many as the rank, have to be. With pivoting that is every A of full rank, and every A at all with a
        suitable rtol. Elsewhere it is infinite or NaN. Its error grows with the condition of these columns. A loss that
        depends on the space of the last columns alone has the same gradient for both choices of q2, which for
        "householder" does not exist where a column of A is already reduced, as in a triangular A.

    Cost:
        About 4 m n min(m, n) flop for Q and R, twice as many backward; with k or rtol a second factorisation of the
        columns that are kept. Q and R are saved for backward. Complex tensors are computed in plain torch, those with
        pivoting in steps that do not wait for the device.

    Raises:
        RuntimeError: A is no batch of matrices or has another dtype or layout; an argument is out of its range; k or
            rtol come with mode="complete", or rtol without pivoting.

    Source:
        Roberts and Roberts, arXiv 2009.10071, 2020; Walter and Lehmann, arXiv 1009.6112, 2010; for q2="householder"
        arXiv 2409.13374, 2024; for the pivots Quintana-Orti, Sun and Bischof, SIAM J. Sci. Comput. 19(5), 1998.

    Example:
        >>> A = torch.randn(3, 4, 6)
        >>> Q, R, P = fastsqrtm.linalg.qr(A, pivoting=True)
        >>> torch.allclose(Q @ R, A.take_along_dim(P[..., None, :], -1), atol=1e-5)
        True
        >>> B = torch.ones(5, 5, dtype=torch.float64)
        >>> fastsqrtm.linalg.qr(B, pivoting=True, rtol=1e-12).rank
        tensor(1)
    """
    _one_of("linalg.qr", "mode", mode, ("reduced", "complete", "r"))
    _one_of("linalg.qr", "q2", q2, ("subspace", "householder"))
    X = _prepared("linalg.qr", A)
    if k is not None or rtol is not None:
        _check_truncation(X, mode, pivoting, k, rtol)
        Q, R, P = _truncated(X, pivoting, k, rtol)
    else:
        Q, R, P = _factors(X, mode == "complete", pivoting)
        if q2 == "householder" and R.shape[-2] > R.shape[-1]:
            Q = _with_householder_columns(Q, R.shape[-1])
    if positive:
        Q, R = _with_positive_diagonal(Q, R)
    if mode == "r":
        Q = X.new_empty(0)
    Q, R = _in_dtype(Q, A), _in_dtype(R, A)
    return PivotedQR(Q, R, P) if pivoting else QR(Q, R)


def lq(A: Tensor, *, mode: str = "reduced", positive: bool = False, q2: str = "subspace") -> LQ:
    """Compute the LQ factorisation of each matrix, with its exact gradient.

    Args:
        A: (..., m, n), as for `qr`.
        mode: With "reduced" Q has min(m, n) rows, with "complete" n, and with "l" it is an empty tensor.
        positive: Make the diagonal of L positive, or zero. Otherwise its signs are those of LAPACK.
        q2: As for `qr`, of the rows of Q beyond m.

    Returns:
        `LQ(L, Q)` in the dtype of A, transposed views of the factors of A^H: the rows of Q are orthonormal, and L is
        lower triangular with a real diagonal.

    Gradient:
        As for `qr`. It exists where the leading min(m, n) rows of A are independent.

    Cost:
        As for `qr` of A^H.

    Raises:
        RuntimeError: A is no batch of matrices or has another dtype or layout; mode or q2 is none of those above.

    Source:
        Roberts and Roberts, arXiv 2009.10071, 2020.

    Example:
        >>> A = torch.randn(3, 4, 6)
        >>> L, Q = fastsqrtm.linalg.lq(A)
        >>> torch.allclose(L @ Q, A, atol=1e-5)
        True
    """
    _one_of("linalg.lq", "mode", mode, ("reduced", "complete", "l"))
    _one_of("linalg.lq", "q2", q2, ("subspace", "householder"))
    _check.first("linalg.lq", _ANY_MATRIX, A)
    found = qr(A.mH, mode="r" if mode == "l" else mode, positive=positive, q2=q2)
    return LQ(found.R.mH, found.Q if mode == "l" else found.Q.mH)


def lstsq(A: Tensor, B: Tensor, *, rtol: float | None = None) -> Tensor:
    """Solve least squares problems of any shape and rank, with their exact gradient.

    Args:
        A: (..., m, n), as for `qr`.
        B: (..., m, r), the right sides, in the dtype of A. Leading dimensions broadcast.
        rtol: What decides the rank of A, as for `qr`; None stands for max(m, n) times the eps of A's dtype.

    Returns:
        The X, (..., n, r), of the smallest norm among those with the smallest ||A X - B||: A^-1 B, the least squares
        solution of a deep A, the solution of the smallest norm of a wide one, and A^+ B in general.

    Gradient:
        Exact to any order and in forward mode with respect to A and B, where a change of A keeps its rank, as all do
        at full rank. At a lower rank it is that of the map in which the columns of A that were taken as pivots decide
        the space. Finite for every A, also for the zero matrix.

    Cost:
        A pivoted QR, a QR of its columns and one of its rows. Nothing waits for the device.

    Raises:
        RuntimeError: A or B is no batch of matrices, their rows, dtypes or devices differ, or rtol is out of range.

    Source:
        The complete orthogonal decomposition: Golub and Van Loan, Matrix Computations, section 5.5.

    Example:
        >>> A, B = torch.randn(20, 3), torch.randn(20, 1)
        >>> X = fastsqrtm.linalg.lstsq(A, B)
        >>> torch.allclose(A.mT @ (A @ X - B), torch.zeros(3, 1), atol=1e-4)
        True
    """
    X = _prepared("linalg.lstsq", A)
    _check_right_side(A, B)
    m, n = A.shape[-2:]
    rtol = max(m, n) * torch.finfo(A.dtype).eps if rtol is None else rtol
    _check_truncation(X, "reduced", True, None, rtol, "linalg.lstsq")
    Y = B.to(X.dtype)
    if A.numel() == 0:
        return _in_dtype(X.mH @ Y, A)
    Q, R, P = _truncated(X, True, None, rtol)
    # The rows of R beyond the rank are zero. With rows of the identity instead its leading block has an inverse.
    kept = _diagonal(R) != 0
    identity = torch.eye(*R.shape[-2:], dtype=R.dtype, device=R.device)
    V, S = call_all("qr", torch.where(kept[..., None], R, identity).mH)
    S = torch.where(kept[..., None, :] & kept[..., None], S, identity[:, : S.shape[-1]])
    Z = torch.linalg.solve_triangular(S.mH, Q.mH @ Y, upper=False)
    Z = torch.where(kept[..., None, :], V, 0) @ Z
    rows = P.argsort(-1)[..., None].expand(*Z.shape[:-2], n, 1).expand_as(Z)
    return _in_dtype(Z.gather(-2, rows), A)


class _Orthogonal(nn.Module):
    """The orthonormal columns, or rows where there are fewer, that stand for a matrix in a parametrisation.

    It is the Q of `qr` with positive=True, a smooth function of every matrix of full rank, and gives an orthogonal
    matrix back unchanged.
    """

    def forward(self, X: Tensor) -> Tensor:
        return lq(X, positive=True).Q if X.shape[-2] < X.shape[-1] else qr(X, positive=True).Q

    def right_inverse(self, Q: Tensor) -> Tensor:
        return Q


def orthogonal(module: nn.Module, name: str = "weight") -> nn.Module:
    """Keep a matrix of a module orthogonal while it is trained.

    Args:
        module: The module, such as `torch.nn.Linear`. It is changed in place.
        name: Its parameter, (..., m, n) of full rank: columns become orthonormal for m >= n, rows for m < n.

    Returns:
        The module, whose parameter is now computed from an unconstrained one, `parametrizations.<name>.original`, by
        `torch.nn.utils.parametrize`. Assigning an orthogonal matrix sets the parameter to it.

    Gradient:
        That of `qr`.

    Cost:
        A QR of the parameter at each forward pass; none after `torch.nn.utils.parametrize.remove_parametrizations`.

    Raises:
        RuntimeError: The parameter is no batch of matrices or has another dtype.

    Source:
        Trivializations by the Q factor: Lezcano-Casado, NeurIPS 2019.

    Example:
        >>> layer = fastsqrtm.linalg.orthogonal(torch.nn.Linear(6, 4))
        >>> torch.allclose(layer.weight @ layer.weight.mT, torch.eye(4), atol=1e-5)
        True
    """
    _check.first("linalg.orthogonal", _ANY_MATRIX, getattr(module, name, None))
    nn.utils.parametrize.register_parametrization(module, name, _Orthogonal())
    return module


_ANY_MATRIX = Matrix("A", "mn", dtypes=PUBLIC_DTYPES)
_OPS = {
    (False, False): "qr",
    (True, False): "qr_complete",
    (False, True): "qr_pivoted",
    (True, True): "qr_pivoted_complete",
}
"""By whether Q is complete and whether there are pivots."""


def _one_of(function: str, name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        _check.fail(function, f"{name} must be one of {', '.join(allowed)}", repr(value))


def _check_truncation(
    A: Tensor, mode: str, pivoting: bool, k: int | None, rtol: float | None, function: str = "linalg.qr"
) -> None:
    if mode == "complete":
        _check.fail(function, "k and rtol need mode reduced or r", "complete")
    if k is not None:
        _check.kind(function, "k", k, whole=True)
        if not 0 <= k <= min(A.shape[-2:]):
            _check.fail(function, f"k must be from 0 to {min(A.shape[-2:])}", k)
    if rtol is not None:
        _check.kind(function, "rtol", rtol)
        if not 0 <= rtol < 1:
            _check.fail(function, "rtol must be at least 0 and less than 1", f"{rtol:g}")
        if not pivoting:
            _check.fail(function, "rtol needs pivoting=True", "pivoting=False")


def _check_right_side(A: Tensor, B: Tensor) -> None:
    function = "linalg.lstsq"
    _check.strided(function, "B", B)
    if B.dim() < 2 or B.shape[-2] != A.shape[-2]:
        _check.fail(function, f"B must be (..., m, r) where A is {tuple(A.shape)}", tuple(B.shape))
    if B.dtype != A.dtype:
        _check.fail(function, f"B must have the dtype of A ({A.dtype})".replace("torch.", ""), str(B.dtype)[6:])
    if B.device != A.device:
        _check.fail(function, f"B must be on the device of A ({A.device})", B.device)
    for a, b in zip(reversed(A.shape[:-2]), reversed(B.shape[:-2]), strict=False):
        if a != b and a != 1 and b != 1:
            _check.fail(function, f"B must broadcast with A {tuple(A.shape)}", tuple(B.shape))


def _prepared(function: str, A: Tensor) -> Tensor:
    """A as the ops take it: half precisions in float32, and what autocast would cast."""
    _check.first(function, _ANY_MATRIX, A)
    return A.to(torch.promote_types(A.dtype, torch.float32))


def _in_dtype(result: Tensor, A: Tensor) -> Tensor:
    return result if result.dtype == A.dtype or under_autocast(A) else result.to(A.dtype)


def _factors(A: Tensor, complete: bool, pivoting: bool) -> tuple[Tensor, Tensor, Any]:
    """Q, R and P, which is None without pivoting. Ops of empty matrices give zeros."""
    Q, R, *pivots = call_all(_OPS[complete, pivoting], A)
    if A.numel() == 0:
        Q = Q + torch.eye(*Q.shape[-2:], dtype=Q.dtype, device=Q.device)
        pivots = [torch.arange(A.shape[-1], device=A.device).expand(*A.shape[:-2], A.shape[-1])]
    return Q, R, pivots[0] if pivoting else None


def _diagonal(R: Tensor) -> Tensor:
    """The diagonal of R, which is real."""
    diagonal = R.diagonal(dim1=-2, dim2=-1)
    return diagonal.real if R.is_complex() else diagonal


def _truncated(A: Tensor, pivoting: bool, k: int | None, rtol: float | None) -> tuple[Tensor, Tensor, Any]:
    """Q and R of the leading columns in the order of P: k of them, or as many as the rank.

    Later columns have no part in this Q, so that neither their values nor their dependence reach the gradient. In the
    place of those beyond the rank of a matrix stand columns that are orthogonal to the others, until they become zero.
    """
    basis, whole, P = _factors(A.detach() if pivoting else A[..., :0], complete=False, pivoting=pivoting)
    k = min(A.shape[-2:]) if k is None else k
    A = A.gather(-1, P[..., None, :].expand_as(A)) if pivoting else A
    leading, kept = A[..., :k], None
    if rtol is not None and k > 0 and A.numel() > 0:
        size = _diagonal(whole)[..., :k].abs()
        rank = (size <= rtol * size[..., :1]).logical_not().sum(-1, keepdim=True)  # NaN is kept
        kept = (torch.arange(k, device=A.device) < rank)[..., None, :]
        leading = torch.where(kept, leading, basis[..., :k])
    Q, R, _ = _factors(leading, complete=False, pivoting=False)
    if kept is None:
        return Q, torch.cat((R, Q.mH @ A[..., k:]), -1), P
    Q = torch.where(kept, Q, 0)
    projected = Q.mH @ A
    return Q, torch.cat((torch.where(kept, R, projected[..., :k]), projected[..., k:]), -1), P


def _with_positive_diagonal(Q: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    signs = torch.where(_diagonal(R) < 0, -1, 1).to(R.dtype)
    beyond = R.shape[-2] - signs.shape[-1]
    signs = torch.nn.functional.pad(signs, (0, beyond), value=1)
    return Q * signs[..., None, :], R * signs[..., None]


def _with_householder_columns(Q: Tensor, n: int) -> Tensor:
    """Q with the derivatives of its columns beyond n as the reflections make them: a function of the first n.

    Those are the leading columns of I - V T V^H, whose block V1 T V1^H has an inverse, and all else follows from it.
    """
    Q1, Q2 = Q[..., :n], Q[..., n:].detach()
    identity = torch.eye(*Q.shape[-2:], dtype=Q.dtype, device=Q.device)
    moved = identity[:, :n] - Q1
    factor, triangle = call_all("qr", moved[..., :n, :])  # no LU factors, whose batched form can hang on CPU
    Z = torch.linalg.solve_triangular(triangle, moved[..., n:, :], upper=True, left=False) @ factor.mH
    found = identity[:, n:] - moved @ Z.mH
    change = found - found.detach()
    return torch.cat((Q1, Q2 + torch.where(change.isnan(), 0, change)), -1)
