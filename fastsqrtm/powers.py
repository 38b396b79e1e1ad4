"""Powers and the logarithm of symmetric positive definite matrices; docs/method.md, section 13, has the mathematics."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._ops import check as _check
from ._ops.route import call, call_all, without_autocast
from ._reference.eigen import powers_by_eigenvalues_are_faster
from ._reference.matrix import identity_like, infinite_like, one_norm, symmetric_part
from ._reference.pseudo import pseudo_inverse_root
from ._reference.scalars import FINEST_TOLERANCE
from .roots import in_dtype, null_limit, prepared, tolerance

_ROOTS = {torch.float32: 1, torch.float64: 2}
"""Square roots before the rational function: they bring condition numbers of 1e6 and 1e12 down to 1e3."""

_LOWEST = 2.0**-12
"""The interval of the rational functions is [_LOWEST, 1]: 1e-3, and a norm that is 4 times too large."""


def powm(
    A: Tensor,
    exponent: float,
    *,
    rtol: float | None = None,
    eps: float = 0.0,
    rel_eps: float = 0.0,
    null: str = "ridge",
    null_rtol: float | None = None,
) -> Tensor:
    """Compute a real power of each symmetric positive definite matrix, with its exact gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used. The half precisions are
            computed in float32.
        exponent: From -2 to 2. Multiples of 1/8 are the fastest.
        rtol, eps, rel_eps: As for `sqrtm`.
        null, null_rtol: As for `inv_sqrtm`; they concern negative exponents.

    Returns:
        A^exponent, symmetric, in the shape and dtype of A, at condition numbers up to 1e6 (float32) or 1e12 (float64)
        as accurate as by an eigendecomposition. Matrices beyond, singular ones and those that rounding made indefinite
        get the power of their positive semidefinite part. For negative exponents null directions are what `null` says:
        with "ridge" an eigenvalue counts as at least eps times the largest. The power of the zero matrix is 0 for
        positive exponents, I for 0, and for negative ones +inf on the diagonal and 0 elsewhere, with null="zero" 0. NaN
        and Inf give NaN, in that matrix alone, and so does an eigenvalue below -1/64 of the largest.

    Gradient:
        The derivative of the power in the direction sym(G), which is self-adjoint; symmetric, differentiable to any
        order, 0 at the zero matrix. At singular matrices as that of `sqrtm` and `inv_sqrtm`.

    Cost:
        One `sqrtm` or `inv_sqrtm` for +-1/2, two for +-1/4, three for +-1/8. For other exponents in float32 one, in
        float64 two, then 11 or 22 n^3 flop forward and 44 or 88 n^3 backward, less with an `rtol`; one product, 2 n^3,
        for each binary digit of the exponent that is set before. The roots on the way are saved for backward. Large
        matrices on a CPU go by an eigendecomposition in float64 where that is faster (docs/design.md).

    Raises:
        RuntimeError: The exponent is out of range, or as `inv_sqrtm`.

    Source:
        Inverse scaling: Higham and Lin, SIAM J. Matrix Anal. Appl. 32(3), 2011. The poles are Gauss' in the variable of
        Zolotarev's, docs/method.md.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=1e4, batch=(3,), dtype=torch.float64)
        >>> third = fastsqrtm.powm(A, 1 / 3)
        >>> torch.allclose(third @ third @ third, A, atol=1e-12)
        True
    """
    _check.kind("powm", "exponent", exponent)
    if not -2 <= exponent <= 2:
        _check.fail("powm", "exponent must be from -2 to 2", f"{exponent:g}")
    shifted = prepared("powm", A, eps, rel_eps)
    limit = null_limit("powm", A, null, null_rtol)
    return in_dtype(_power(_wide(shifted), float(exponent), tolerance("powm", rtol), limit), A)


def inv_root(
    A: Tensor,
    p: float,
    *,
    rtol: float | None = None,
    eps: float = 0.0,
    rel_eps: float = 0.0,
    null: str = "ridge",
    null_rtol: float | None = None,
) -> Tensor:
    """Compute the inverse p-th root of each symmetric positive definite matrix, with its exact gradient.

    Args:
        A: (..., n, n), as for `powm`.
        p: At least 1/2; whole numbers are Shampoo's: 4 for the factors of a matrix, 2 k for those of k dimensions.
        rtol, eps, rel_eps, null, null_rtol: As for `powm`.

    Returns:
        A^(-1/p), as `powm(A, -1 / p)`.

    Gradient:
        As `powm`.

    Cost:
        As `powm`: in float32 12 n^3 flop forward for p = 4.

    Raises:
        RuntimeError: p is out of range, or as `powm`.

    Source:
        As `powm`; for its use Gupta, Koren and Singer, Shampoo, ICML 2018.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=1e4, batch=(3,))
        >>> Z = fastsqrtm.inv_root(A, 4)
        >>> torch.allclose(Z @ Z @ A @ Z @ Z, torch.eye(8).expand(3, 8, 8), atol=1e-3)
        True
    """
    _check.kind("inv_root", "p", p)
    if not 0.5 <= p < math.inf:
        _check.fail("inv_root", "p must be finite and at least 1/2", f"{p:g}")
    shifted = prepared("inv_root", A, eps, rel_eps)
    limit = null_limit("inv_root", A, null, null_rtol)
    return in_dtype(_power(_wide(shifted), -1 / p, tolerance("inv_root", rtol), limit), A)


def logm(A: Tensor, *, rtol: float | None = None, eps: float = 0.0, rel_eps: float = 0.0) -> Tensor:
    """Compute the logarithm of each symmetric positive definite matrix, with its exact gradient.

    Args:
        A: (..., n, n), as for `powm`.
        rtol: Largest error of the logarithm of an eigenvalue, from 0 to 1; None as for `sqrtm`.
        eps, rel_eps: As for `sqrtm`.

    Returns:
        log A, symmetric, in the shape and dtype of A, at condition numbers up to 1e6 (float32) or 1e12 (float64) as
        accurate as by an eigendecomposition. For singular matrices an eigenvalue counts as at least eps times the
        largest. The zero matrix gives -inf on the diagonal and 0 elsewhere; otherwise as for `powm`.

    Gradient:
        The derivative of the logarithm in the direction sym(G), as for `powm`.

    Cost:
        As `powm` for exponents that are no multiples of 1/8.

    Raises:
        RuntimeError: As `sqrtm`.

    Source:
        Inverse scaling: Kenney and Laub, SIAM J. Matrix Anal. Appl. 10(2), 1989. The poles as for `powm`.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=1e4, batch=(3,), dtype=torch.float64)
        >>> torch.allclose(fastsqrtm.expm_sym(fastsqrtm.logm(A)), A, atol=1e-12)
        True
    """
    shifted = prepared("logm", A, eps, rel_eps)
    return in_dtype(_logarithm(_wide(shifted), tolerance("logm", rtol)), A)


def expm_sym(A: Tensor) -> Tensor:
    """Compute the exponential of each symmetric matrix, the inverse of `logm`.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used. The half precisions are
            computed in float32.

    Returns:
        exp A, symmetric, in the shape and dtype of A. NaN and Inf give NaN, in that matrix alone.

    Gradient:
        That of torch.matrix_exp; symmetric, differentiable to any order.

    Cost:
        That of torch.matrix_exp: 5 to 8 products and one for each doubling of the norm beyond; which it is depends on
        the values, so a GPU is waited for.

    Raises:
        RuntimeError: A is not square or has another dtype or layout.

    Source:
        torch.matrix_exp: Bader, Blanes and Casas, Mathematics 7(12), 2019.

    Example:
        >>> A = fastsqrtm.testing.spd(8, batch=(3,))
        >>> torch.allclose(fastsqrtm.logm(fastsqrtm.expm_sym(A)), A, atol=1e-5)
        True
    """
    return in_dtype(_exponential(_wide(prepared("expm_sym", A, 0.0))), A)


def _wide(A: Tensor) -> Tensor:
    return A.to(torch.promote_types(A.dtype, torch.float32))


def _without_zero(A: Tensor) -> tuple[Tensor, Tensor]:
    """A with the identity in the place of every zero matrix, and where they were, (..., 1, 1)."""
    zero = (A == 0).all(-1, True).all(-2, True)
    return torch.where(zero, identity_like(A), A), zero


def _poles(rtol: float, dtype: torch.dtype, ratio: float) -> int:
    """As many as make the error of the value, at most 16 exp(-2 pi^2 poles / log(16 ratio)) on an interval of this
    ratio of its ends, an eighth of the tolerance: that of the derivative is larger.
    """
    error = max(rtol, FINEST_TOLERANCE[dtype]) / 8
    return math.ceil(math.log(16 / error) * math.log(16 * ratio) / (2 * math.pi**2))


def _scaled(B: Tensor, whole: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """B / scale with eigenvalues up to 1 or a little beyond, and the scale, a power of two, which rounds nothing. It
    has no gradient: it matters for the error alone.
    """
    scale = torch.exp2(whole(one_norm(B.detach()).log2()))
    return B / scale, scale


def _power(A: Tensor, exponent: float, rtol: float, null: float | None) -> Tensor:
    if A.numel() == 0:
        return symmetric_part(A)
    with without_autocast(A):
        if exponent == 0:
            return identity_like(A) + 0 * A
        X, zero = _without_zero(A)
        at_zero: Tensor | float = 0.0 if exponent > 0 or null is not None else infinite_like(X)
        if (exponent > 0 or null is None) and powers_by_eigenvalues_are_faster(X, exponent, rtol):
            Y = _power_by_eigenvalues(symmetric_part(X), exponent)
        elif exponent > 0:
            Y = _positive_power(symmetric_part(X), exponent, rtol)
        elif null is None:
            Y = _power_of_root(call("inv_sqrtm", X, rtol / 4), -2 * exponent, rtol)
        else:
            # On the null space, of projector Q, the pseudo-inverse root Z + s Q has the eigenvalue s instead of 0.
            Z = pseudo_inverse_root(X, null)
            Q = identity_like(X) - symmetric_part(Z @ X @ Z)
            s = one_norm(Z.detach())
            Y = _power_of_root(Z + s * Q, -2 * exponent, rtol) - s ** (-2 * exponent) * Q
        return torch.where(zero, at_zero, symmetric_part(Y))


def _logarithm(A: Tensor, rtol: float) -> Tensor:
    if A.numel() == 0:
        return symmetric_part(A)
    with without_autocast(A):
        X, zero = _without_zero(A)
        if powers_by_eigenvalues_are_faster(X, 0.0, rtol):
            return torch.where(zero, -infinite_like(X), symmetric_part(_power_by_eigenvalues(X, 0.0)))
        B, level = call("inv_sqrtm", X, rtol / 4), 1
        while level < _ROOTS[B.dtype]:
            B, level = call("sqrtm", B, rtol / 4), level + 1
        B, scale = _scaled(B, torch.floor)
        quotient = call("rational_log", B, _LOWEST, _poles(rtol, B.dtype, 2 / _LOWEST))
        logarithm = symmetric_part((B - identity_like(B)) @ quotient) + scale.log() * identity_like(B)
        return torch.where(zero, -infinite_like(X), -(2**level) * logarithm)


def _power_by_eigenvalues(A: Tensor, exponent: float) -> Tensor:
    """The power, or for the exponent 0 the logarithm, in float64: the exponents of the op are from -1 to 1."""
    if exponent > 1:
        return A @ _power_by_eigenvalues(A, exponent - 1)
    if exponent < -1:
        half = _power_by_eigenvalues(A, exponent / 2)
        return half @ half
    return call_all("power_by_eigenvalues", A.double(), exponent)[0].to(A.dtype)


def _exponential(A: Tensor) -> Tensor:
    if A.numel() == 0:
        return symmetric_part(A)
    with without_autocast(A):
        finite = A.isfinite().all(-1, True).all(-2, True)
        Y = torch.linalg.matrix_exp(symmetric_part(torch.where(finite, A, 0)))
        return symmetric_part(Y).where(finite, math.nan)


def _positive_power(A: Tensor, exponent: float, rtol: float) -> Tensor:
    whole = int(exponent)
    if exponent == whole:
        return A @ A if whole == 2 else A
    power = _power_of_root(call("sqrtm", A, rtol / 4), 2 * (exponent - whole), rtol)
    return A @ power if whole else power


def _power_of_root(B: Tensor, exponent: float, rtol: float) -> Tensor:
    """B^exponent, 0 < exponent <= 4, for a B that is a square root: products of the roots of B that the binary digits
    of the exponent ask for, and at last a rational function of one of them.
    """
    factors: list[Tensor] = []
    level = 1
    while True:
        whole = int(exponent)
        factors += [B] * whole
        exponent -= whole
        if exponent == 0:
            break
        if level >= _ROOTS[B.dtype] and (4 * exponent) % 1:
            C, scale = _scaled(B, torch.ceil)
            power = call("rational_power", C, exponent, _LOWEST, _poles(rtol, B.dtype, 1 / _LOWEST))
            factors.append(scale**exponent * power)
            break
        B, exponent, level = call("sqrtm", B, rtol / 4), 2 * exponent, level + 1
    product = factors[0]
    for factor in factors[1:]:
        product = product @ factor
    return product
