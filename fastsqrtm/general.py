"""The principal square root of matrices that need not be symmetric; `_reference/general.py` has the mathematics."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._ops import check as _check
from ._ops.hermitian import embedded, restored
from ._ops.route import call, under_autocast, without_autocast
from ._ops.table import Matrix


def sqrtm_general(A: Tensor) -> Tensor:
    """Compute the principal square root of each square matrix, symmetric or not, with its exact gradient.

    For symmetric or Hermitian matrices `sqrtm` is several times as fast, and takes singular ones.

    Args:
        A: (..., n, n), float16, bfloat16, float32, float64, complex64 or complex128, without eigenvalues on the closed
            negative real axis. All is computed in float64.

    Returns:
        X with X X = A whose eigenvalues have positive real parts, in the shape and dtype of A. NaN where A has an
        eigenvalue that is negative or zero to working precision, or that is so near the negative axis, below an angle
        of about 1e-6, that the iteration does not converge; and for NaN and Inf, in that matrix alone. A = 0 gives 0.

    Gradient:
        Y with X^H Y + Y X^H = G for the cotangent G; differentiable to any order, 0 at the zero matrix.

    Cost:
        5 to 15 steps forward and as many backward, each of an LU inverse and two products; up to twice that forward in
        float64, for ill-conditioned matrices. On a GPU 30 steps each, without waiting for it. A complex matrix costs
        what a real one of twice the size does. X is saved for backward.

    Raises:
        RuntimeError: A is not square or has another dtype or layout.

    Source:
        The product form of Denman and Beavers, scaled by determinants: Higham, Functions of Matrices, SIAM 2008,
        chapter 6; for the equation Roberts, Int. J. Control 32, 1980.

    Example:
        >>> A = torch.tensor([[0.0, -1.0], [1.0, 0.0]])  # a quarter turn, whose root is an eighth
        >>> fastsqrtm.sqrtm_general(A)
        tensor([[ 0.7071, -0.7071],
                [ 0.7071,  0.7071]])
        >>> fastsqrtm.sqrtm_general(-torch.eye(2)).isnan().all()
        tensor(True)
    """
    _check.real_or_complex("sqrtm_general", _MATRIX, A)
    X = restored(call("sqrtm_general", embedded(A)), A)
    return X if under_autocast(A) else X.to(A.dtype)


class GeneralRootInfo(NamedTuple):
    """The accuracy of each root, one entry per matrix. The tensors stay on A's device.

    residual: ||X X - A||_F / ||X||_F^2, of which rounding X leaves about eps; NaN where A or X is not finite.
    converged: Whether it is that, up to a factor of 8 sqrt(n).
    """

    residual: Tensor
    converged: Tensor


@torch.no_grad()
def general_root_info(A: Tensor, X: Tensor) -> GeneralRootInfo:
    """Measure how accurate roots of any matrices are, without waiting for the device.

    Args:
        A: (..., n, n), real or complex.
        X: Their roots, by any method, in the same shape and dtype.

    Returns:
        GeneralRootInfo(residual, converged) in the leading dimensions of A. The root counts as the exact one of a
        matrix at distance residual ||X||_F^2 from A; whether it is the principal one is not looked at.

    Gradient:
        None.

    Cost:
        A product in float64.

    Raises:
        RuntimeError: A is not square, or X is not like A.

    Source:
        Higham, Functions of Matrices, SIAM 2008, section 6.4.

    Example:
        >>> A = torch.tensor([[[0.0, -1.0], [1.0, 0.0]], [[-1.0, 0.0], [0.0, 1.0]]])
        >>> fastsqrtm.general_root_info(A, fastsqrtm.sqrtm_general(A)).converged
        tensor([ True, False])
    """
    _check.real_or_complex("general_root_info", _MATRIX, A)
    _check.strided("general_root_info", "X", X)
    if X.shape != A.shape or X.dtype != A.dtype:
        got = f"{tuple(X.shape)} in {str(X.dtype).removeprefix('torch.')}"
        _check.fail("general_root_info", f"X must have the shape and dtype of A {tuple(A.shape)}", got)
    eps = torch.finfo(A.dtype).eps
    wide_A, wide_X = (embedded(x).double() for x in (A, X))
    with without_autocast(A):
        size = torch.linalg.matrix_norm(wide_X).square()
        residual = torch.linalg.matrix_norm(wide_X @ wide_X - wide_A) / torch.where(size == 0, 1, size)
    return GeneralRootInfo(residual, residual <= 8 * max(A.shape[-1], 1) ** 0.5 * eps)


_MATRIX = Matrix("A", "nn")
