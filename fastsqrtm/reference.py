"""Every op in plain torch, on any device: the fallback where there is no native kernel, and the oracle of the tests.

Twins of csrc/cpu/ops.cpp, with the same names and the same input policy. Their gradients are ops as well (see
_register.py); nothing here relies on torch's autograd.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import _check
from ._schema import result_shape


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


class RootDesign(NamedTuple):
    """Scalars of the accurate roots. Twin of RootDesign in csrc/zolotarev.h, which has the formulas and sources."""

    constant: float
    terms: tuple[tuple[float, float], ...]  # shift, weight
    scales: tuple[float, ...]  # of the Newton steps
    error: float

    def largest_inverse(self, precision: float) -> float:
        return 2 / (precision * (self.constant + sum(w / t for t, w in self.terms)))


def _zolotarev_node(degree: int, i: int, low: float) -> float:
    if 2 * i > degree:
        return low * low / _zolotarev_node(degree, degree - i, low)
    a, b, c = [1.0], low, [math.sqrt(1 - low * low)]
    while c[-1] > 1e-17 * a[-1] and len(a) < 16:
        c.append((a[-1] - b) / 2)
        a, b = [*a, (a[-1] + b) / 2], math.sqrt(a[-1] * b)
    phase = math.ldexp(math.pi * i / (2 * degree), len(a) - 1)
    for k in range(len(a) - 1, 0, -1):
        phase = (phase + math.asin(c[k] / a[k] * math.sin(phase))) / 2
    return (low * math.tan(phase)) ** 2


@functools.cache
def _design(poles: int, steps: int, lowest: float) -> RootDesign:
    low, degree = math.sqrt(lowest), 2 * poles + 1
    nodes = [_zolotarev_node(degree, i, low) for i in range(1, degree)]
    shifts, zeros = nodes[::2], nodes[1::2]
    weights = [
        math.prod(z - t for z in zeros) / math.prod(s - t for s in shifts if s != t) for t in shifts
    ]  # of the partial fractions

    def value(nu: float) -> float:
        return nu * math.prod((nu * nu + z) / (nu * nu + t) for z, t in zip(zeros, shifts, strict=True))

    scale = 1 / math.sqrt(value(low) * value(1))
    log_h, scales = math.log(value(1) / value(low)) / 2, []
    for _ in range(steps):
        log_h = math.log1p(2 * math.sinh(log_h / 2) ** 2) / 2
        scales.append(math.exp(-log_h))
    terms = tuple((t, scale * w) for t, w in zip(shifts, weights, strict=True))
    return RootDesign(scale, terms, tuple(scales), math.expm1(log_h))


LOWEST_EIGENVALUE = {torch.float32: 1e-6, torch.float64: 1e-12}
FINEST_TOLERANCE = {torch.float32: 5e-7, torch.float64: 2e-15}


@functools.cache
def root_design(rtol: float, dtype: torch.dtype) -> RootDesign:
    """The design with the fewest inverses whose error is at most rtol, for float32 or float64."""

    def cost(design: RootDesign) -> tuple[int, float]:
        return len(design.terms) + max(0, 2 * len(design.scales) - 1), design.error

    designs = (_design(p, k, LOWEST_EIGENVALUE[dtype]) for p, k in itertools.product(range(1, 9), range(6)))
    return min((d for d in designs if d.error <= max(rtol, FINEST_TOLERANCE[dtype])), key=cost)


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
            return A.new_empty(result_shape(compute.__name__, A.shape))
        precision = torch.float64 if A.dtype == torch.float64 else torch.float32
        inputs = (x.to(precision).contiguous() if isinstance(x, Tensor) else x for x in arguments.values())
        entries = {"entry_precision": torch.finfo(A.dtype).eps / 2} if compute.__kwdefaults__ else {}
        return compute(*inputs, **entries).to(A.dtype).contiguous()

    return op


def _normalise(A: Tensor) -> tuple[Tensor, Tensor]:
    """A/||A||_F and ||A||_F (..., 1, 1), through max |a_ij|: no square over- or underflows. Zero stays zero, and every
    derivative there is zero as well.
    """
    largest = A.abs().amax((-2, -1), keepdim=True)
    zero = largest == 0
    X = torch.where(zero, 1, A / torch.where(zero, 1, largest))
    norm = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
    return torch.where(zero, 0, X / norm), largest * norm


def _sqrt(nu: Tensor) -> Tensor:
    """1 for 0, where the derivative would be infinite."""
    return torch.where(nu == 0, 1, nu).sqrt()


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


def _newton_schulz(X: Tensor, iterations: int, inverse: bool) -> Tensor:
    """Y of the steps Y <- Y P, M <- M P^2, P = (3 I - M)/2, from M = X and Y = X, for the inverse root Y = I.

    The coupled iteration Y <- Y P, Z <- P Z, P = (3 I - Z Y)/2 with M for Z Y. Twin: csrc/cpu/newton_schulz.h.
    """
    M, Y = X, _identity(X) if inverse else X
    for _ in range(iterations):
        P = (3 * _identity(X) - M) / 2
        Y = symmetric_part(Y @ P)
        M = symmetric_part(M @ P @ P)
    return Y


def _root(A: Tensor, series: Callable[[Tensor], Tensor]) -> Tensor:
    X, nu = _normalise(symmetric_part(A))
    return torch.where(nu == 0, 0, symmetric_part(series(X)) * _sqrt(nu))


def _inverse_root(A: Tensor, series: Callable[[Tensor], Tensor]) -> Tensor:
    X, nu = _normalise(symmetric_part(A))
    infinite = torch.full_like(A[..., 0], math.inf).diag_embed()
    return torch.where(nu == 0, infinite, symmetric_part(series(X)) / _sqrt(nu))


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


# The roots alone: their gradient is that of the approximant, not of the root.


@_twin
def mpa(A: Tensor, degree: int = 5) -> Tensor:
    return _root(A, lambda X: _pade(X, degree))


@_twin
def mtp(A: Tensor, degree: int = 10) -> Tensor:
    return _root(A, lambda X: _taylor(X, degree, 0.5))


@_twin
def mpa_inv(A: Tensor, degree: int = 5) -> Tensor:
    return _inverse_root(A, lambda X: _pade_inverse(X, degree))


@_twin
def mtp_inv(A: Tensor, degree: int = 10) -> Tensor:
    return _inverse_root(A, lambda X: _taylor(X, degree, -0.5))


@_twin
def ns(A: Tensor, iterations: int = 5) -> Tensor:
    return _root(A, lambda X: _newton_schulz(X, iterations, False))


@_twin
def ns_inv(A: Tensor, iterations: int = 5) -> Tensor:
    return _inverse_root(A, lambda X: _newton_schulz(X, iterations, True))


def _exact_gradient(A: Tensor, G: Tensor, inverse: bool, series: Callable[[Tensor, Tensor], tuple]) -> Tensor:
    """From series(X, G) = (derivative of r at X applied to G, r(X)); csrc/cpu/kernels.cpp, root_backward."""
    X, nu = _normalise(symmetric_part(A))
    G = symmetric_part(G)
    derivative, value = series(X, G)
    along = (G * value).sum((-2, -1), keepdim=True) * (-0.5 if inverse else 0.5)
    gradient = derivative + X * (along - (derivative * X).sum((-2, -1), keepdim=True))
    return torch.where(nu == 0, 0, symmetric_part(gradient) / _sqrt(nu) / (nu if inverse else 1))


def _pade_derivative(X: Tensor, G: Tensor, degree: int, inverse: bool) -> tuple[Tensor, Tensor]:
    identity = _identity(X)
    derivative, value = torch.zeros_like(X), identity / (2 * degree + 1)
    for shift, weight in pade_terms(degree):
        R = _spd_solve(identity + (shift * X if inverse else X / shift), identity.expand_as(X))
        value = value + weight * (R if inverse else identity - R)
        derivative = derivative + (-weight * shift if inverse else weight / shift) * (R @ G @ R)
    return derivative, value


def _taylor_derivative(X: Tensor, G: Tensor, degree: int, power: float) -> tuple[Tensor, Tensor]:
    W = _identity(X) - X
    c = taylor_coefficients(degree, power)
    H, D = _identity(X, c[-1]).expand_as(X), torch.zeros_like(X)
    for c_k in reversed(c[:-1]):
        H, D = H @ W + _identity(X, c_k), D @ W + H @ G
    return -D, H


def _newton_schulz_derivative(X: Tensor, G: Tensor, iterations: int, inverse: bool) -> tuple[Tensor, Tensor]:
    """The steps of _newton_schulz, each matrix with its derivative along G."""
    identity = _identity(X)
    M, dM = X, G
    Y, dY = (identity.expand_as(X), torch.zeros_like(X)) if inverse else (X, G)
    for _ in range(iterations):
        P, dP = (3 * identity - M) / 2, -dM / 2
        Y, dY = symmetric_part(Y @ P), symmetric_part(dY @ P + Y @ dP)
        N, dN = M @ P, dM @ P + M @ dP
        M, dM = symmetric_part(N @ P), symmetric_part(dN @ P + N @ dP)
    return dY, Y


@_twin
def mpa_backward(A: Tensor, G: Tensor, degree: int = 5) -> Tensor:
    return _exact_gradient(A, G, False, lambda X, G: _pade_derivative(X, G, degree, False))


@_twin
def mtp_backward(A: Tensor, G: Tensor, degree: int = 10) -> Tensor:
    return _exact_gradient(A, G, False, lambda X, G: _taylor_derivative(X, G, degree, 0.5))


@_twin
def mpa_inv_backward(A: Tensor, G: Tensor, degree: int = 5) -> Tensor:
    return _exact_gradient(A, G, True, lambda X, G: _pade_derivative(X, G, degree, True))


@_twin
def mtp_inv_backward(A: Tensor, G: Tensor, degree: int = 10) -> Tensor:
    return _exact_gradient(A, G, True, lambda X, G: _taylor_derivative(X, G, degree, -0.5))


@_twin
def ns_backward(A: Tensor, G: Tensor, iterations: int = 5) -> Tensor:
    return _exact_gradient(A, G, False, lambda X, G: _newton_schulz_derivative(X, G, iterations, False))


@_twin
def ns_inv_backward(A: Tensor, G: Tensor, iterations: int = 5) -> Tensor:
    return _exact_gradient(A, G, True, lambda X, G: _newton_schulz_derivative(X, G, iterations, True))


# The accurate roots and their gradient: Newton iterations by SPD inverses.

RIDGES = (0, 1, 8, 64, 1024)  # csrc/zolotarev.h


def _spd_inverse(A: Tensor) -> tuple[Tensor, Tensor]:
    """A^-1, and where A was positive definite, (..., 1, 1)."""
    factor, info = torch.linalg.cholesky_ex(A)
    good = (info == 0)[..., None, None]
    return torch.cholesky_inverse(torch.where(good, factor, _identity(A))), good


def _all(done: Tensor) -> bool:
    """Whether a loop may end early. On a GPU it goes on to its last step: asking would wait for the device."""
    return done.device.type == "cpu" and bool(done.all())


def _one_norm(A: Tensor) -> Tensor:
    return A.abs().sum(-2, keepdim=True).amax(-1, keepdim=True)


def newton_roots(A: Tensor, design: RootDesign) -> tuple[Tensor, Tensor, Tensor]:
    """A^(1/2), A^(-1/2) for eigenvalues up to 1, and where A was positive definite. Twin: csrc/cpu/newton.h."""
    identity = _identity(A)
    X, Y = design.constant * A, design.constant * identity.expand_as(A)
    good = torch.ones_like(A[..., :1, :1], dtype=torch.bool)
    for shift, weight in design.terms:
        R, positive = _spd_inverse(identity + A / shift)
        X, Y, good = X + weight * (identity - R), Y + weight / shift * R, good & positive
    largest_inverse = design.largest_inverse(torch.finfo(A.dtype).eps)
    for k, scale in enumerate(design.scales):
        X_inverse, X_positive = _spd_inverse(X)
        Y_inverse, Y_positive = _spd_inverse(Y)
        X, Y = scale / 2 * (X + Y_inverse), scale / 2 * (Y + X_inverse)
        good = good & X_positive & Y_positive
        if k == 0:
            trace = X_inverse.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
            good = good & (X_inverse.square().sum((-2, -1), keepdim=True) <= largest_inverse * trace)
    return X, Y, good


def _accurate_roots(A: Tensor, rtol: float, entry_precision: float) -> tuple[Tensor, Tensor]:
    design = root_design(rtol, A.dtype)
    A, nu = _normalise(symmetric_part(A))
    bound = _one_norm(A).clamp_max(1)
    bound = torch.where(bound == 0, 1, bound)
    A, nu = A / bound, nu * bound
    S, Z = torch.full_like(A, math.nan), torch.full_like(A, math.nan)
    good = torch.zeros_like(nu, dtype=torch.bool)
    eps = torch.finfo(A.dtype).eps
    for ridge in (*(eps * r for r in RIDGES[:-1]), max(eps * RIDGES[-1], entry_precision)):
        X, Y, now = newton_roots(A + _identity(A, ridge), design)
        now = now & good.logical_not() & nu.isfinite()
        S, Z, good = torch.where(now, X, S), torch.where(now, Y, Z), good | now
        if _all(good):
            break
    infinite = torch.full_like(A[..., 0], math.inf).diag_embed()
    S = torch.where(nu == 0, 0, symmetric_part(S) * nu.sqrt())
    return S, torch.where(nu == 0, infinite, symmetric_part(Z) / nu.sqrt())


def _invert(B: Tensor, entry_precision: float) -> tuple[Tensor, Tensor]:
    """B with the ridge it needs, and its inverse; NaN where it is indefinite. The last ridge covers the rounding of the
    entries. Twin: invert in csrc/cpu/newton.h.
    """
    unit = max(torch.finfo(B.dtype).eps, entry_precision / RIDGES[-1]) * _one_norm(B) * _identity(B)
    W, good = _spd_inverse(B)
    for ridge in RIDGES[1:]:
        if _all(good):
            break
        B = torch.where(good, B, B + ridge * unit)
        inverse, now = _spd_inverse(B)
        W, good = torch.where(good, W, inverse), good | now
    return B, torch.where(good, W, math.nan)


def solve_newton(B: Tensor, W: Tensor, C: Tensor, tolerance: float) -> Tensor:
    """X with B X + X B = C for W = B^-1. Twin: solve_newton in csrc/cpu/newton.h, which has the formulas."""
    done = torch.zeros_like(B[..., :1, :1], dtype=torch.bool)
    identity = _identity(B)
    for _ in range(12):
        mu = (_one_norm(W) / _one_norm(B)).sqrt()
        C = torch.where(done, C, (mu * C + W @ C @ W / mu) / 2)
        B = torch.where(done, B, (mu * B + W / mu) / 2)
        theta = B.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        E = B / theta - identity
        bound = torch.minimum(torch.linalg.vector_norm(E, dim=(-2, -1), keepdim=True), _one_norm(E))
        done = done | (bound**3 > tolerance).logical_not()
        if _all(done):
            break
        W = _spd_inverse(B)[0]
    C = C / (2 * theta)
    size = torch.linalg.vector_norm(C, dim=(-2, -1), keepdim=True)
    X, done, contraction = C, torch.zeros_like(done), None
    for _ in range(6):
        following = C - (E @ X + X @ E) / 2
        change = torch.linalg.vector_norm(following - X, dim=(-2, -1), keepdim=True) / size
        X = torch.where(done, X, following)
        contraction = change.clamp_max(0.5) if contraction is None else contraction
        done = done | (change * contraction > tolerance).logical_not()
        if _all(done):
            break
    return X


def _tolerance(A: Tensor, rtol: float) -> float:
    return max(rtol, FINEST_TOLERANCE[A.dtype])


@_twin
def sqrtm(A: Tensor, rtol: float = 0.0, *, entry_precision: float = 0.0) -> Tensor:
    return _accurate_roots(A, rtol, entry_precision)[0]


@_twin
def inv_sqrtm(A: Tensor, rtol: float = 0.0, *, entry_precision: float = 0.0) -> Tensor:
    return _accurate_roots(A, rtol, entry_precision)[1]


@_twin
def sqrtm_and_inv(A: Tensor, rtol: float = 0.0, *, entry_precision: float = 0.0) -> Tensor:
    return torch.stack(_accurate_roots(A, rtol, entry_precision), -3)


@_twin
def sqrtm_backward(S: Tensor, G: Tensor, rtol: float = 0.0, *, entry_precision: float = 0.0) -> Tensor:
    """X with S X + X S = sym(G)."""
    B, s = _normalise(symmetric_part(S))
    X = symmetric_part(solve_newton(*_invert(B, entry_precision), symmetric_part(G), _tolerance(S, rtol)))
    return torch.where(s == 0, 0, X / s)


def _inverse_is_infinite(Z: Tensor) -> Tensor:
    """Where Z is the inverse root of zero, (..., 1, 1)."""
    return (Z == torch.full_like(Z[..., 0], math.inf).diag_embed()).all(-1, True).all(-2, True)


@_twin
def inv_sqrtm_backward(Z: Tensor, G: Tensor, rtol: float = 0.0, *, entry_precision: float = 0.0) -> Tensor:
    """X with S X + X S = -Z sym(G) Z, S = Z^-1."""
    W, z = _normalise(symmetric_part(Z))
    W, B = _invert(W, entry_precision)
    X = solve_newton(B, W, W @ symmetric_part(G) @ W, _tolerance(Z, rtol))
    X = -symmetric_part(X) * z * z * z
    return torch.where((z == 0) | _inverse_is_infinite(Z), 0, X)


@_twin
def sqrtm_and_inv_backward(R: Tensor, G: Tensor, rtol: float = 0.0, *, entry_precision: float = 0.0) -> Tensor:
    """X with S X + X S = sym(G_S) - Z sym(G_Z) Z for the roots R = (S, Z) and their cotangents."""
    (S, Z), (G_S, G_Z) = symmetric_part(R).unbind(-3), symmetric_part(G).unbind(-3)
    B, s = _normalise(S)
    W = Z * s
    X = solve_newton(*_invert(B, entry_precision), G_S - W @ G_Z @ W / s / s, _tolerance(R, rtol))
    return torch.where(s == 0, 0, symmetric_part(X) / s)


@_twin
def lyapunov_newton(B: Tensor, C: Tensor, rtol: float = 0.0, *, entry_precision: float = 0.0) -> Tensor:
    B_0, s = _normalise(symmetric_part(B))
    return torch.where(s == 0, 0, solve_newton(*_invert(B_0, entry_precision), C, _tolerance(B, rtol)) / s)


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
    return torch.where((scale == 0) | _inverse_is_infinite(Z), 0, X)
