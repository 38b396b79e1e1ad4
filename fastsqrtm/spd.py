"""Functions of symmetric positive definite matrices."""

from torch import Tensor

from ._ops import check as _check
from ._ops.hermitian import embedded, restored
from ._ops.route import call, call_all
from ._ops.table import OPS


def inv(A: Tensor) -> Tensor:
    """Compute the inverse of each symmetric positive definite matrix, with its exact gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32, float64, complex64 or complex128. Its symmetric part is used, of a
            complex matrix the Hermitian part; the half precisions are computed in float32.

    Returns:
        A^-1, symmetric, in the shape and dtype of A. No ridge is added: a matrix that is not positive definite in its
        precision gives NaN, as do NaN and Inf, in that matrix alone. The zero matrix gives +inf on the diagonal and 0
        elsewhere.

    Gradient:
        -Z sym(G) Z for Z = A^-1 and the cotangent G; symmetric, differentiable to any order, 0 at the zero matrix.

    Cost:
        n^3 flop forward and 3 n^3 backward, of a complex matrix as of a real one of twice the size. On CPU at most 4
        matrices of workspace per thread. The inverse is saved for backward.

    Raises:
        RuntimeError: A is not square or has another dtype or layout.

    Source:
        The symmetric sweep: Goodnight, The American Statistician 33(3), 1979.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=100, batch=(3,))
        >>> torch.allclose(fastsqrtm.inv(A) @ A, torch.eye(8).expand(3, 8, 8), atol=1e-4)
        True
    """
    _check.real_or_complex("inv", OPS["inv"].tensors[0], A)
    return restored(call("inv", embedded(A)), A)


def inv_and_logdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the inverse of each symmetric positive definite matrix and the logarithm of its determinant.

    Args:
        A: (..., n, n), as for `inv`.

    Returns:
        (A^-1, log det A), the latter of shape (...), one real number a matrix, in the precision of A. Where `inv` is
        NaN both are; the zero matrix gives -inf for the determinant.

    Gradient:
        -Z sym(G) Z + g Z for Z = A^-1 and the cotangents G and g; symmetric, differentiable to any order, 0 at the zero
        matrix.

    Cost:
        As `inv`.

    Raises:
        RuntimeError: As `inv`.

    Source:
        As `inv`: the determinant is the product of the pivots.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=100, batch=(3,))
        >>> Z, logdet = fastsqrtm.inv_and_logdet(A)
        >>> torch.allclose(logdet, torch.logdet(A), atol=1e-4)
        True
    """
    _check.real_or_complex("inv_and_logdet", OPS["inv_and_logdet"].tensors[0], A)
    Z, logdet = call_all("inv_and_logdet", embedded(A))
    return restored(Z, A), logdet / 2 if A.is_complex() else logdet
