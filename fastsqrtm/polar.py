"""The polar decomposition and the nearest orthogonal matrix; `_reference/polar.py` has the mathematics."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._ops import check as _check
from ._ops.hermitian import embedded, restored
from ._ops.route import call, under_autocast, without_autocast
from ._ops.table import Matrix, Number
from ._reference.matrix import symmetric_part
from ._reference.scalars import minimax_quintics


class Polar(NamedTuple):
    """A = U P.

    U: (..., m, n), with orthonormal columns, or rows where m < n.
    P: (..., n, n), symmetric (Hermitian) positive semidefinite.
    """

    U: Tensor
    P: Tensor


def polar(A: Tensor) -> Polar:
    """Compute the polar decomposition A = U P of each matrix, with exact gradients.

    Args:
        A: (..., m, n), float16, bfloat16, float32, float64, complex64 or complex128; square, deep or wide. The half
            precisions are computed in float32.

    Returns:
        Polar(U, P) in the dtype of A: U is the matrix nearest to A among those with orthonormal columns (rows where
        m < n), and P = (A^H A)^(1/2). The error is that of a singular value decomposition in the same
        precision, at any condition number. Where A has not full rank, U maps the null directions of A to zero (a
        partial isometry; U = 0 for A = 0); those are the directions of singular values up to max(m, n) eps of the
        largest, with the eps of float64. NaN and Inf give NaN, in that matrix alone.

    Gradient:
        dU = U K + (I - U U^H) dA P^-1 with P K + K P = U^H dA - dA^H U for m >= n, the transpose of that for m < n, and
        P = (U^H A + A^H U) / 2; differentiable to any order. It is finite: where the sum of two singular values is zero
        to working precision, or for m != n one of them, its part is left out.

    Cost:
        In float32 a product and an inverse root in float64 and three products in float32, 14 m n^2 flop for m about n;
        matrices of a condition number beyond about 1e7 need a singular value decomposition. In float64 a singular value
        decomposition on a CPU, and the inverse root with one or two Lyapunov equations on a GPU. It waits for a GPU to
        know which matrices need more. Backward a Lyapunov equation, and another one for m != n. A complex matrix costs
        what a real one of twice the size does.

    Raises:
        RuntimeError: A is not a matrix or has another dtype or layout.

    Source:
        Higham, Functions of Matrices, SIAM 2008, chapter 8.

    Example:
        >>> A = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
        >>> U, P = fastsqrtm.polar(A)
        >>> torch.allclose(U @ P, A, atol=1e-5), torch.allclose(U.mT @ U, torch.eye(4).expand(3, 4, 4), atol=1e-5)
        (True, True)
    """
    X, U = _factor("polar", A)
    with without_autocast(A):
        P = symmetric_part(U.mT @ X)
    return Polar(_in_dtype(U, A), _in_dtype(P, A))


def nearest_orthogonal(A: Tensor, steps: int | None = None) -> Tensor:
    """Compute the nearest matrix with orthonormal columns, or rows where m < n: Loewdin's orthogonalisation.

    Args:
        A: (..., m, n), as for `polar`.
        steps: Take so many Newton-Schulz steps of degree 5 in the precision of A instead, 1 to 20, as optimizers such
            as Muon do. Singular values from 1e-3 ||A||_F up become 1 up to 0.86, 0.55, 0.11 and 9e-4 after 3, 4, 5 and
            6 steps, in bfloat16 up to 0.9, 0.7, 0.3 and 0.05; smaller ones grow by a factor of 8, then 4 a step. There
            is no singular value decomposition and no wait for a GPU.

    Returns:
        U of `polar(A)`, in the dtype of A; with `steps` an approximation of it that has the same singular vectors.

    Gradient:
        That of `polar`; with `steps` that of the steps.

    Cost:
        As `polar`; with `steps` 4 m n^2 + 2 n^3 flop a step for m >= n, all products.

    Raises:
        RuntimeError: As `polar`, or `steps` is out of range.

    Source:
        Loewdin, J. Chem. Phys. 18, 1950; for the steps Amsel, Persson, Musco and Gower, arXiv:2505.16932, 2025, after
        Jordan et al., Muon, 2024.

    Example:
        >>> A = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        >>> Q = fastsqrtm.nearest_orthogonal(A)
        >>> torch.allclose(Q.mT @ Q, torch.eye(4), atol=1e-5)
        True
        >>> rough = fastsqrtm.nearest_orthogonal(A.bfloat16(), steps=5)
        >>> bool((torch.linalg.svdvals(rough.float()) - 1).abs().max() < 0.15)
        True
    """
    if steps is None:
        return _in_dtype(_factor("nearest_orthogonal", A)[1], A)
    _check.number("nearest_orthogonal", _STEPS, steps)
    _check.real_or_complex("nearest_orthogonal", _MATRIX, A)
    X = embedded(A)
    wide = X.shape[-2] < X.shape[-1]
    X = X.mT if wide else X
    if X.numel():
        largest = X.detach().abs().amax((-2, -1), True)  # keeps the squares of the norm in range
        X = X / torch.where(largest == 0, 1, largest)
        X = X / torch.where(largest == 0, 1, torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True))
    for a, b, c in _coefficients(steps, 1 + 2 * torch.finfo(X.dtype).eps):
        K = X.mT @ X
        X = a * X + X @ (b * K + c * (K @ K))
    return restored(X.mT if wide else X, A)


_MATRIX = Matrix("A", "mn")
_STEPS = Number("steps", True, None, 1, 20)
# A constant of a compiled graph.
_coefficients = torch.compiler.assume_constant_result(lambda steps, margin: minimax_quintics(steps, 1e-3, margin))


def _factor(function: str, A: Tensor) -> tuple[Tensor, Tensor]:
    """A as it is computed, real and at least in float32, and its orthogonal factor."""
    _check.real_or_complex(function, _MATRIX, A)
    X = embedded(A.to(torch.promote_types(A.dtype, torch.float32)))
    copies = 2 if A.is_complex() else 1
    if X.shape[-2] < X.shape[-1]:
        return X, call("polar_factor", X.mT, copies).mT
    return X, call("polar_factor", X, copies)


def _in_dtype(X: Tensor, A: Tensor) -> Tensor:
    X = restored(X, A)
    return X if under_autocast(A) else X.to(A.dtype)
