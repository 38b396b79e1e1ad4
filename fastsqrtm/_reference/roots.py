"""The roots to the accuracy of the dtype and their gradients: a rational start and Newton steps made of SPD inverses.

For the root S and the inverse root Z of A, S dS + dS S = dA and Z dZ + dZ Z = -Z^2 dA Z^2. Both are self-adjoint, so
one Lyapunov solve serves reverse and forward mode.
"""

import math

import torch
from torch import Tensor

from .._ops.definition import Rule, op
from .._ops.route import call
from .lyapunov import reachable, solve_newton
from .matrix import (
    anticommutator,
    identity_like,
    infinite_like,
    inverse_of_root,
    inverse_with_ridge,
    is_infinite,
    may_stop,
    normalise,
    one_norm,
    spd_inverse,
    spectral_estimate,
    symmetric_part,
)
from .scalars import (
    LARGEST_SPECTRAL_ORDER,
    MOST_NEGATIVE_EIGENVALUE,
    SINGULAR_EIGENVALUE,
    RootDesign,
    root_design,
    smallest_regular,
)


def newton_roots(A: Tensor, design: RootDesign, further: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A^(1/2), A^(-1/2) for eigenvalues up to 1, and whether A was definite: csrc/cpu/steps/denman_beavers.h. With
    `further` steps for eigenvalues below the interval of the design, as far as they do not count as singular.
    """
    identity = identity_like(A)
    X, Y = design.constant * A, design.constant * identity.expand_as(A)
    good = torch.ones_like(A[..., :1, :1], dtype=torch.bool)
    for shift, weight in design.terms:
        R, positive = spd_inverse(identity + A / shift)
        X, Y, good = X + weight * (identity - R), Y + weight / shift * R, good & positive
    size = spectral_estimate(X, 4).square() if further else 1
    smallest = SINGULAR_EIGENVALUE[A.dtype]
    largest_inverse = design.largest_inverse(smallest * size if further else smallest_regular(design, A.dtype))
    for k, scale in enumerate((*design.scales, 1, 1) if further else design.scales):
        X_inverse, X_positive = spd_inverse(X)
        Y_inverse, Y_positive = spd_inverse(Y)
        X, Y = scale / 2 * (X + Y_inverse), scale / 2 * (Y + X_inverse)
        good = good & X_positive & Y_positive
        if k == 0:
            good = good & (spectral_estimate(X_inverse, 4) <= largest_inverse)
    return X, Y, good


def spectral_roots(w: Tensor) -> tuple[Tensor, Tensor]:
    """Root and inverse root of the eigenvalues w (..., n): the root of the positive semidefinite part, and an inverse
    that is bounded. NaN where one is too negative. Twin: csrc/cpu/steps/spectral.h.
    """
    size = w.abs().amax(-1, True)
    w = w.where((w >= MOST_NEGATIVE_EIGENVALUE * size).all(-1, True), math.nan)
    return w.clamp_min(0).sqrt(), torch.maximum(w, torch.finfo(w.dtype).eps * size).rsqrt()


def semidefinite_roots(A: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """A^(1/2) and A^(-1/2) of normalised matrices by their eigenvalues, where `wanted`. The root and the trace take an
    error of an eigenvalue near zero to its square root, so these are found in float64.
    """
    A = torch.where(wanted, A, identity_like(A))
    precise = A.dtype if A.shape[-1] <= LARGEST_SPECTRAL_ORDER else torch.float64
    w, V = (x.to(A.dtype) for x in torch.linalg.eigh(A.to(precise)))
    f, g = spectral_roots(w)
    return (V * f[..., None, :]) @ V.mT, (V * g[..., None, :]) @ V.mT


def unbiased(A: Tensor, X: Tensor, design: RootDesign) -> Tensor:
    """The factor with which tr X^2 = tr A, as the error of the design at the largest eigenvalue is always to one side.
    1 where the root has other errors.
    """
    trace = A.double().diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    factor = (trace / X.double().square().sum((-2, -1), keepdim=True)).sqrt()
    return torch.where((factor - 1).abs() <= 2 * design.error, factor, 1).to(A.dtype)


def both_roots(A: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
    """A^(1/2) and A^(-1/2). Matrices with smaller eigenvalues than the design has start again, with more steps, and
    those that are singular or indefinite by their eigenvalues. NaN where they are too indefinite.
    """
    design = root_design(rtol, A.dtype)
    A = symmetric_part(A)
    diagonal = A.diagonal(dim1=-2, dim2=-1)
    is_diagonal = (A == diagonal.diag_embed()).all(-1, True).all(-2, True)
    f, g = spectral_roots(diagonal)
    accepted = f.isnan().any(-1, True)[..., None].logical_not()
    S, Z = f.diag_embed().where(accepted, math.nan), g.diag_embed().where(accepted, math.nan)
    given = A
    A, nu = normalise(A)
    finite, zero = nu.isfinite(), nu == 0
    A = torch.where(finite, A, identity_like(A))
    bound = one_norm(A).clamp_max(1)
    bound = torch.where(zero, 1, bound)
    B = A / bound
    scale, done = torch.ones_like(bound), is_diagonal | zero
    attempts = ("by the design", "with more steps", "by eigenvalues")
    for attempt in attempts[2:] if A.shape[-1] <= LARGEST_SPECTRAL_ORDER else attempts:
        unit = nu * bound
        if attempt == "by eigenvalues":
            # By a power of two, which rounds nothing: the smallest eigenvalues are as small as the entries' rounding.
            unit = torch.ldexp(torch.ones_like(nu), nu.frexp().exponent)
            good = finite & done.logical_not()
            X, Y = semidefinite_roots(given / unit, good)
        else:
            X, Y, good = newton_roots(B, design, attempt == attempts[1])
            X = X * unbiased(B, X, design)
        now = good & done.logical_not()
        S, Z, done = torch.where(now, X, S), torch.where(now, Y, Z), done | now
        scale = torch.where(now, unit, scale)
        if may_stop(done):
            break
    scale = scale.sqrt()
    S, Z = symmetric_part(S) * scale, symmetric_part(Z) / scale
    S, Z = S.where(finite, math.nan), Z.where(finite, math.nan)
    return torch.where(zero, 0, S), torch.where(zero, infinite_like(A), Z)


@op
def sqrtm(A: Tensor, rtol: float) -> Tensor:
    """S = A^(1/2)."""
    return both_roots(A, rtol)[0]


sqrtm.rule = Rule(lambda A, S: (S,), "sqrtm_backward", "sqrtm_backward")


@op
def inv_sqrtm(A: Tensor, rtol: float) -> Tensor:
    """Z = A^(-1/2)."""
    return both_roots(A, rtol)[1]


inv_sqrtm.rule = Rule(lambda A, Z: (Z,), "inv_sqrtm_backward", "inv_sqrtm_backward")


@op
def sqrtm_and_inv(A: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
    """S = A^(1/2) and Z = A^(-1/2)."""
    return both_roots(A, rtol)


def _both_roots_jvp(S: Tensor, Z: Tensor, numbers: tuple, dA: Tensor) -> tuple[Tensor, Tensor]:
    dS = call("sqrtm_backward", S, dA, *numbers)
    return dS, -Z @ dS @ Z


sqrtm_and_inv.rule = Rule(lambda A, S, Z: (S, Z), "sqrtm_and_inv_backward", _both_roots_jvp)


@op(entry_precision=True)
def sqrtm_backward(S: Tensor, G: Tensor, rtol: float, entry_precision: float) -> Tensor:
    """X with S X + X S = sym(G)."""
    B, s = normalise(symmetric_part(S))
    X = solve_newton(*inverse_of_root(B, entry_precision), symmetric_part(G), reachable(rtol, S.dtype))
    return torch.where(s == 0, 0, symmetric_part(X) / s)


def _sqrtm_backward_vjp(S: Tensor, X: Tensor, numbers: tuple, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    Y = call("sqrtm_backward", S, cotangent, *numbers)
    return -anticommutator(Y, X), Y


def _sqrtm_backward_jvp(S: Tensor, X: Tensor, numbers: tuple, dS: Tensor, dG: Tensor) -> Tensor:
    return call("sqrtm_backward", S, dG - anticommutator(symmetric_part(dS), X), *numbers)


sqrtm_backward.rule = Rule(lambda S, G, X: (S, X), _sqrtm_backward_vjp, _sqrtm_backward_jvp)


@op(entry_precision=True)
def inv_sqrtm_backward(Z: Tensor, G: Tensor, rtol: float, entry_precision: float) -> Tensor:
    """X with S X + X S = -Z sym(G) Z, S = Z^-1."""
    W, z = normalise(symmetric_part(Z))
    W, B = inverse_with_ridge(W, entry_precision)
    X = solve_newton(B, W, W @ symmetric_part(G) @ W, reachable(rtol, Z.dtype))
    X = -symmetric_part(X) * z * z * z
    return torch.where((z == 0) | is_infinite(Z), 0, X)


def rule_of_inverse_root_backward(name: str, lyapunov: str) -> Rule:
    """Z X + X Z = -Z^2 sym(G) Z^2 is self-adjoint in G, because Z^2 commutes with the solve by `lyapunov`."""

    def vjp(Z: Tensor, G: Tensor, X: Tensor, numbers: tuple, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        Z, G, cotangent = symmetric_part(Z), symmetric_part(G), symmetric_part(cotangent)
        Y = call(lyapunov, Z, cotangent, *numbers)
        K = Y @ Z @ Z @ G  # <K + K^T, dZ Z + Z dZ> is the derivative of <Y, Z^2 G Z^2>
        dZ = -anticommutator(Y, X) - anticommutator(K + K.mT, Z)
        return symmetric_part(dZ), call(name, Z, cotangent, *numbers)

    def jvp(Z: Tensor, G: Tensor, X: Tensor, numbers: tuple, *tangents: Tensor) -> Tensor:
        Z, G, dZ, dG = (symmetric_part(x) for x in (Z, G, *tangents))
        M, dM = Z @ Z, anticommutator(dZ, Z)
        right_side = anticommutator(dZ, X) + dM @ G @ M + M @ dG @ M + M @ G @ dM
        return -call(lyapunov, Z, right_side, *numbers)

    return Rule(lambda Z, G, X: (Z, G, X), vjp, jvp)


inv_sqrtm_backward.rule = rule_of_inverse_root_backward("inv_sqrtm_backward", "lyapunov_newton")


@op(entry_precision=True)
def sqrtm_and_inv_backward(S: Tensor, Z: Tensor, G: Tensor, H: Tensor, rtol: float, entry_precision: float) -> Tensor:
    """X with S X + X S = sym(G) - Z sym(H) Z for the roots S and Z and their cotangents G and H."""
    S, Z, G, H = (symmetric_part(x) for x in (S, Z, G, H))
    B, s = normalise(S)
    W = Z * s
    X = solve_newton(*inverse_of_root(B, entry_precision), G - W @ H @ W / s / s, reachable(rtol, S.dtype))
    return torch.where(s == 0, 0, symmetric_part(X) / s)


def _both_roots_backward_vjp(
    S: Tensor, Z: Tensor, H: Tensor, X: Tensor, numbers: tuple, cotangent: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    S, Z, H = (symmetric_part(x) for x in (S, Z, H))
    Y = call("sqrtm_backward", S, cotangent, *numbers)
    K = Y @ Z @ H
    return -anticommutator(Y, X), -(K + K.mT), Y, -Z @ Y @ Z


def _both_roots_backward_jvp(S: Tensor, Z: Tensor, H: Tensor, X: Tensor, numbers: tuple, *tangents: Tensor) -> Tensor:
    S, Z, H, dS, dZ, dG, dH = (symmetric_part(x) for x in (S, Z, H, *tangents))
    K = dZ @ H @ Z
    return call("sqrtm_backward", S, dG - K - K.mT - Z @ dH @ Z - anticommutator(dS, X), *numbers)


sqrtm_and_inv_backward.rule = Rule(
    lambda S, Z, G, H, X: (S, Z, H, X), _both_roots_backward_vjp, _both_roots_backward_jvp
)
