"""Every op in plain torch, on any device: the fallback where there is no native kernel, and the oracle of the tests.

Twins of csrc/cpu/ops.cpp, with the same names and the same input policy. Their gradients are ops as well (see
_register.py); nothing here relies on torch's autograd.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import _check


def pade_terms(degree: int) -> list[tuple[float, float]]:
    """Shift t_j and weight w_j of the [degree, degree] Pade approximant of sqrt(x) about 1 in partial fractions.

    Twin of pade_term in csrc/coefficients.h, which has the formulas.
    """
    shifts = [math.tan(math.pi * j / (2 * degree + 1)) ** 2 for j in range(1, degree + 1)]
    return [(t, 2 * (1 + t) / (2 * degree + 1)) for t in shifts]


def taylor_coefficients(degree: int, power: float) -> list[float]:
    """Coefficients 0..degree of (1 - z)^power. Twin of taylor_next in csrc/coefficients.h."""
    c = [1.0]
    for k in range(1, degree + 1):
        c.append(c[-1] * (k - 1 - power) / k)
    return c


def symmetric_part(A: Tensor) -> Tensor:
    """(A + A^T)/2, halved before the sum so that it does not overflow."""
    return A / 2 + A.mT / 2


def _twin(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What every op shares: the checks, empty results, float32 for half precision, a contiguous result."""

    @functools.wraps(compute)
    def op(*args, **kwargs) -> Tensor:
        arguments = _check.call(compute, args, kwargs)
        A = next(iter(arguments.values()))
        if A.numel() == 0:
            return torch.empty_like(A, memory_format=torch.contiguous_format)
        precision = torch.float64 if A.dtype == torch.float64 else torch.float32
        inputs = (x.to(precision).contiguous() if isinstance(x, Tensor) else x for x in arguments.values())
        return compute(*inputs).to(A.dtype).contiguous()

    return op


def _normalise(A: Tensor) -> tuple[Tensor, Tensor]:
    """A/||A||_F and ||A||_F (..., 1, 1), through max |a_ij|: no square over- or underflows. Zero stays zero."""
    largest = A.abs().amax((-2, -1), keepdim=True)
    X = A / torch.where(largest == 0, 1, largest)
    norm = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
    return X / torch.where(norm == 0, 1, norm), largest * norm


def _identity(A: Tensor, scale: float = 1.0) -> Tensor:
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device) * scale


def _spd_solve(A: Tensor, B: Tensor) -> Tensor:
    """A^-1 B by Cholesky, as batched LU can hang on CPU; NaN for the matrices that are not positive definite."""
    factor, info = torch.linalg.cholesky_ex(A)
    return torch.cholesky_solve(B, factor).masked_fill(info[..., None, None] != 0, math.nan)


def _pade(X: Tensor, degree: int) -> Tensor:
    """I/N + sum_j w_j H (I + H)^-1 with H = X/t_j."""
    identity = _identity(X)
    Y = identity / (2 * degree + 1)
    for shift, weight in pade_terms(degree):
        H = X / shift
        Y = Y + weight * _spd_solve(identity + H, H)
    return Y


def _pade_inverse(X: Tensor, degree: int) -> Tensor:
    """I/N + sum_j w_j (I + t_j X)^-1."""
    identity = _identity(X)
    Y = identity / (2 * degree + 1)
    for shift, weight in pade_terms(degree):
        Y = Y + weight * _spd_solve(identity + shift * X, identity.expand_as(X))
    return Y


def _taylor(X: Tensor, degree: int, power: float) -> Tensor:
    """sum_k c_k (I - X)^k by Horner."""
    *c, last = taylor_coefficients(degree, power)
    W = _identity(X) - X
    Y = last * W
    for c_k in reversed(c[1:]):
        Y = (Y + _identity(X, c_k)) @ W
    return Y + _identity(X, c[0])


def _root(A: Tensor, series: Callable[[Tensor], Tensor]) -> Tensor:
    X, nu = _normalise(symmetric_part(A))
    return symmetric_part(series(X)) * nu.sqrt()


def _inverse_root(A: Tensor, series: Callable[[Tensor], Tensor]) -> Tensor:
    X, nu = _normalise(symmetric_part(A))
    infinite = torch.full_like(A[..., 0], math.inf).diag_embed()
    return torch.where(nu == 0, infinite, symmetric_part(series(X)) / nu.sqrt())


def _solve_lyapunov(B: Tensor, C: Tensor, iterations: int) -> Tensor:
    """The paper's steps from B_0 = B, C_0 = C: B <- B(3I - B^2)/2, C <- (C(3I - B^2) - B^2 C + B C B)/2; X = C/2.

    Right for any C; for symmetric C the native kernels need four products of the six.
    """
    for _ in range(iterations):
        M = B @ B
        C = (3 * C - C @ M - M @ C + B @ C @ B) / 2
        B = (3 * B - B @ M) / 2
    return C / 2


@_twin
def mpa_lya(A: Tensor, degree: int = 5, iterations: int = 8) -> Tensor:
    return _root(A, lambda X: _pade(X, degree))


@_twin
def mtp_lya(A: Tensor, degree: int = 10, iterations: int = 8) -> Tensor:
    return _root(A, lambda X: _taylor(X, degree, 0.5))


@_twin
def mpa_lya_inv(A: Tensor, degree: int = 5, iterations: int = 8) -> Tensor:
    return _inverse_root(A, lambda X: _pade_inverse(X, degree))


@_twin
def mtp_lya_inv(A: Tensor, degree: int = 10, iterations: int = 8) -> Tensor:
    return _inverse_root(A, lambda X: _taylor(X, degree, -0.5))


@_twin
def lyapunov(B: Tensor, C: Tensor, iterations: int = 8) -> Tensor:
    B_0, scale = _normalise(symmetric_part(B))
    return torch.where(scale == 0, 0, _solve_lyapunov(B_0, C, iterations) / scale)


@_twin
def sqrtm_lya_backward(A: Tensor, S: Tensor, G: Tensor, iterations: int = 8) -> Tensor:
    """X with S X + X S = sym(G), scaled by sqrt(||A||_F): the gradient of the roots."""
    scale = _normalise(symmetric_part(A))[1].sqrt()
    X = _solve_lyapunov(symmetric_part(S) / scale, symmetric_part(G), iterations)
    return torch.where(scale == 0, 0, symmetric_part(X) / scale)


@_twin
def inv_sqrtm_lya_backward(Z: Tensor, G: Tensor, iterations: int = 8) -> Tensor:
    """X with Z X + X Z = -Z^2 sym(G) Z^2, scaled by ||Z||_F: the gradient of the inverse roots."""
    B_0, scale = _normalise(symmetric_part(Z))
    M = B_0 @ B_0
    X = _solve_lyapunov(B_0, M @ symmetric_part(G) @ M, iterations)
    # Z^4 / ||Z||_F overflows long before the gradient does: one factor after the other.
    X = -symmetric_part(X) * scale * scale * scale
    no_gradient = (scale == 0) | (Z == torch.full_like(Z[..., 0], math.inf).diag_embed()).all(-1, True).all(-2, True)
    return torch.where(no_gradient, 0, X)
