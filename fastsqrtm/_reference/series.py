"""The paper's approximants, Pade (mpa) and Taylor (mtp), and Newton-Schulz (ns).

With nu = ||A||_F and X = A/nu the root is sqrt(nu) r(X), the inverse root r(X)/sqrt(nu) with an r of its own.

Each comes with its own gradient, that of the map computed (`mpa`); the approximants also with the paper's, that of the
exact root at the point computed (`mpa_lya`).
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from .._ops.definition import Definition, Rule, op
from .._ops.route import call
from .lyapunov import solve_newton_schulz
from .matrix import (
    anticommutator,
    identity_like,
    infinite_like,
    is_infinite,
    normalise,
    spd_solve,
    sqrt_of_norm,
    symmetric_part,
)
from .roots import rule_of_inverse_root_backward
from .scalars import pade_terms, taylor_coefficients

# r(X).


def pade(X: Tensor, degree: int) -> Tensor:
    """I/N + sum_j w_j H (I + H)^-1 with H = X/t_j."""
    identity = identity_like(X)
    Y = identity / (2 * degree + 1)
    for shift, weight in pade_terms(degree):
        H = X / shift
        Y = Y + weight * spd_solve(identity + H, H)
    return Y


def pade_inverse(X: Tensor, degree: int) -> Tensor:
    """I/N + sum_j w_j (I + t_j X)^-1."""
    identity = identity_like(X)
    Y = identity / (2 * degree + 1)
    for shift, weight in pade_terms(degree):
        Y = Y + weight * spd_solve(identity + shift * X, identity.expand_as(X))
    return Y


def taylor(X: Tensor, degree: int, power: float) -> Tensor:
    """sum_k c_k (I - X)^k by Horner."""
    *c, last = taylor_coefficients(degree, power)
    W = identity_like(X) - X
    Y = last * W
    for c_k in reversed(c[1:]):
        Y = (Y + identity_like(X, c_k)) @ W
    return Y + identity_like(X, c[0])


def newton_schulz(X: Tensor, iterations: int, inverse: bool) -> Tensor:
    """Y of the steps Y <- Y P, M <- M P^2, P = (3 I - M)/2, from M = X and Y = X, for the inverse root Y = I.

    The coupled iteration Y <- Y P, Z <- P Z, P = (3 I - Z Y)/2 with M for Z Y. Twin: csrc/cpu/steps/newton_schulz.h.
    """
    M, Y = X, identity_like(X) if inverse else X
    for _ in range(iterations):
        P = (3 * identity_like(X) - M) / 2
        Y = symmetric_part(Y @ P)
        M = symmetric_part(M @ P @ P)
    return Y


# The derivative of r at X along G, and r(X).


def pade_derivative(X: Tensor, G: Tensor, degree: int, inverse: bool) -> tuple[Tensor, Tensor]:
    identity = identity_like(X)
    derivative, value = torch.zeros_like(X), identity / (2 * degree + 1)
    for shift, weight in pade_terms(degree):
        R = spd_solve(identity + (shift * X if inverse else X / shift), identity.expand_as(X))
        value = value + weight * (R if inverse else identity - R)
        derivative = derivative + (-weight * shift if inverse else weight / shift) * (R @ G @ R)
    return derivative, value


def taylor_derivative(X: Tensor, G: Tensor, degree: int, power: float) -> tuple[Tensor, Tensor]:
    W = identity_like(X) - X
    c = taylor_coefficients(degree, power)
    H, D = identity_like(X, c[-1]).expand_as(X), torch.zeros_like(X)
    for c_k in reversed(c[:-1]):
        H, D = H @ W + identity_like(X, c_k), D @ W + H @ G
    return -D, H


def newton_schulz_derivative(X: Tensor, G: Tensor, iterations: int, inverse: bool) -> tuple[Tensor, Tensor]:
    """The steps of `newton_schulz`, each matrix with its derivative along G."""
    identity = identity_like(X)
    M, dM = X, G
    Y, dY = (identity.expand_as(X), torch.zeros_like(X)) if inverse else (X, G)
    for _ in range(iterations):
        P, dP = (3 * identity - M) / 2, -dM / 2
        Y, dY = symmetric_part(Y @ P), symmetric_part(dY @ P + Y @ dP)
        N, dN = M @ P, dM @ P + M @ dP
        M, dM = symmetric_part(N @ P), symmetric_part(dN @ P + N @ dP)
    return dY, Y


# The root of A, and the gradient of <G, root> with that of the normaliser.


def root_of(A: Tensor, series: Callable[[Tensor], Tensor]) -> Tensor:
    X, nu = normalise(symmetric_part(A))
    return torch.where(nu == 0, 0, symmetric_part(series(X)) * sqrt_of_norm(nu))


def inverse_root_of(A: Tensor, series: Callable[[Tensor], Tensor]) -> Tensor:
    X, nu = normalise(symmetric_part(A))
    return torch.where(nu == 0, infinite_like(A), symmetric_part(series(X)) / sqrt_of_norm(nu))


def exact_gradient(A: Tensor, G: Tensor, inverse: bool, series: Callable[[Tensor, Tensor], tuple]) -> Tensor:
    """From series(X, G) = (derivative of r at X applied to G, r(X)); csrc/cpu/steps/series.h has the formula."""
    X, nu = normalise(symmetric_part(A))
    G = symmetric_part(G)
    derivative, value = series(X, G)
    along = (G * value).sum((-2, -1), keepdim=True) * (-0.5 if inverse else 0.5)
    gradient = derivative + X * (along - (derivative * X).sum((-2, -1), keepdim=True))
    return torch.where(nu == 0, 0, symmetric_part(gradient) / sqrt_of_norm(nu) / (nu if inverse else 1))


# The rules of the map computed: the approximant as a torch function, which torch differentiates beyond the first
# derivative.


def _approximant(root: Definition, numbers: tuple) -> Callable[[Tensor], Tensor]:
    compute = cast(Callable[..., Tensor], root.compute)

    def function(A: Tensor) -> Tensor:
        if A.numel() == 0:
            return A + 0
        precision = torch.float64 if A.dtype == torch.float64 else torch.float32
        return compute(A.to(precision), *numbers).to(A.dtype)

    return function


def _along(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """The derivative along the tangents as the transpose of the transpose: torch cannot nest forward mode."""
    output, pullback, *_ = torch.func.vjp(function, *inputs)
    return torch.func.vjp(pullback, torch.zeros_like(output))[1](tangents)[0]


def _exact(root: Definition, backward: Definition) -> Rule:
    def vjp(A: Tensor, numbers: tuple, G: Tensor) -> Tensor:
        return call(backward.op.name, A, G, *numbers)

    def jvp(A: Tensor, numbers: tuple, dA: Tensor) -> Tensor:
        return _along(_approximant(root, numbers), (A,), (dA,))

    return Rule(lambda A, _: (A,), vjp, jvp)


def _exact_backward(root: Definition) -> Rule:
    def gradient(numbers: tuple) -> Callable[[Tensor, Tensor], Tensor]:
        function = _approximant(root, numbers)
        return lambda A, G: torch.func.vjp(function, A)[1](G)[0]

    def vjp(A: Tensor, G: Tensor, numbers: tuple, cotangent: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(gradient(numbers), A, G)[1](cotangent)

    def jvp(A: Tensor, G: Tensor, numbers: tuple, *tangents: Tensor) -> Tensor:
        return _along(gradient(numbers), (A, G), tangents)

    return Rule(lambda A, G, _: (A, G), vjp, jvp, uses_torch_func=True)


@op
def mpa(A: Tensor, degree: int) -> Tensor:
    return root_of(A, lambda X: pade(X, degree))


@op
def mtp(A: Tensor, degree: int) -> Tensor:
    return root_of(A, lambda X: taylor(X, degree, 0.5))


@op
def ns(A: Tensor, iterations: int) -> Tensor:
    return root_of(A, lambda X: newton_schulz(X, iterations, False))


@op
def mpa_inv(A: Tensor, degree: int) -> Tensor:
    return inverse_root_of(A, lambda X: pade_inverse(X, degree))


@op
def mtp_inv(A: Tensor, degree: int) -> Tensor:
    return inverse_root_of(A, lambda X: taylor(X, degree, -0.5))


@op
def ns_inv(A: Tensor, iterations: int) -> Tensor:
    return inverse_root_of(A, lambda X: newton_schulz(X, iterations, True))


@op
def mpa_backward(A: Tensor, G: Tensor, degree: int) -> Tensor:
    return exact_gradient(A, G, False, lambda X, G: pade_derivative(X, G, degree, False))


@op
def mtp_backward(A: Tensor, G: Tensor, degree: int) -> Tensor:
    return exact_gradient(A, G, False, lambda X, G: taylor_derivative(X, G, degree, 0.5))


@op
def ns_backward(A: Tensor, G: Tensor, iterations: int) -> Tensor:
    return exact_gradient(A, G, False, lambda X, G: newton_schulz_derivative(X, G, iterations, False))


@op
def mpa_inv_backward(A: Tensor, G: Tensor, degree: int) -> Tensor:
    return exact_gradient(A, G, True, lambda X, G: pade_derivative(X, G, degree, True))


@op
def mtp_inv_backward(A: Tensor, G: Tensor, degree: int) -> Tensor:
    return exact_gradient(A, G, True, lambda X, G: taylor_derivative(X, G, degree, -0.5))


@op
def ns_inv_backward(A: Tensor, G: Tensor, iterations: int) -> Tensor:
    return exact_gradient(A, G, True, lambda X, G: newton_schulz_derivative(X, G, iterations, True))


for _root, _backward in (
    (mpa, mpa_backward),
    (mtp, mtp_backward),
    (ns, ns_backward),
    (mpa_inv, mpa_inv_backward),
    (mtp_inv, mtp_inv_backward),
    (ns_inv, ns_inv_backward),
):
    _root.rule, _backward.rule = _exact(_root, _backward), _exact_backward(_root)


# The same maps with the paper's gradient. The last number is the iterations of the Lyapunov solve in it.


@op
def mpa_lya(A: Tensor, degree: int, iterations: int) -> Tensor:
    return root_of(A, lambda X: pade(X, degree))


@op
def mtp_lya(A: Tensor, degree: int, iterations: int) -> Tensor:
    return root_of(A, lambda X: taylor(X, degree, 0.5))


def _lya(A: Tensor, S: Tensor, numbers: tuple, direction: Tensor) -> Tensor:
    _, iterations = numbers
    return call("sqrtm_lya_backward", A, S, direction, iterations)


mpa_lya.rule = mtp_lya.rule = Rule(lambda A, S: (A, S), _lya, _lya)


@op
def mpa_lya_inv(A: Tensor, degree: int, iterations: int) -> Tensor:
    return inverse_root_of(A, lambda X: pade_inverse(X, degree))


@op
def mtp_lya_inv(A: Tensor, degree: int, iterations: int) -> Tensor:
    return inverse_root_of(A, lambda X: taylor(X, degree, -0.5))


def _lya_inv(Z: Tensor, numbers: tuple, direction: Tensor) -> Tensor:
    _, iterations = numbers
    return call("inv_sqrtm_lya_backward", Z, direction, iterations)


mpa_lya_inv.rule = mtp_lya_inv.rule = Rule(lambda A, Z: (Z,), _lya_inv, _lya_inv)


@op
def sqrtm_lya_backward(A: Tensor, S: Tensor, G: Tensor, iterations: int) -> Tensor:
    """X with S X + X S = sym(G), scaled by sqrt(||A||_F): the gradient of the roots."""
    scale = normalise(symmetric_part(A))[1].sqrt()
    X = solve_newton_schulz(symmetric_part(S) / scale, symmetric_part(G), iterations)
    return torch.where(scale == 0, 0, symmetric_part(X) / scale)


# A gives the scale and has no part in the solution.


def _lya_backward_vjp(
    A: Tensor, S: Tensor, X: Tensor, numbers: tuple, cotangent: Tensor
) -> tuple[None, Tensor, Tensor]:
    Y = call("sqrtm_lya_backward", A, S, cotangent, *numbers)
    return None, -anticommutator(Y, X), Y


def _lya_backward_jvp(A: Tensor, S: Tensor, X: Tensor, numbers: tuple, *tangents: Tensor) -> Tensor:
    _, dS, dG = tangents
    return call("sqrtm_lya_backward", A, S, dG - anticommutator(symmetric_part(dS), X), *numbers)


sqrtm_lya_backward.rule = Rule(lambda A, S, G, X: (A, S, X), _lya_backward_vjp, _lya_backward_jvp)


@op
def inv_sqrtm_lya_backward(Z: Tensor, G: Tensor, iterations: int) -> Tensor:
    """X with Z X + X Z = -Z^2 sym(G) Z^2, scaled by ||Z||_F: the gradient of the inverse roots."""
    B_0, scale = normalise(symmetric_part(Z))
    M = B_0 @ B_0
    X = solve_newton_schulz(B_0, M @ symmetric_part(G) @ M, iterations)
    # Z^4 / ||Z||_F overflows long before the gradient does, so this takes one factor after the other.
    X = -symmetric_part(X) * scale * scale * scale
    return torch.where((scale == 0) | is_infinite(Z), 0, X)


inv_sqrtm_lya_backward.rule = rule_of_inverse_root_backward("inv_sqrtm_lya_backward", "lyapunov")
