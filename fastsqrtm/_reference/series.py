"""The paper's approximants, Pade (mpa) and Taylor (mtp), and Newton-Schulz (ns).

With nu = ||A||_F and X = A/nu the root is sqrt(nu) r(X), the inverse root r(X)/sqrt(nu) with an r of its own.

Each comes with its own gradient, that of the map computed (`mpa`); the approximants also with the paper's, that of the
exact root at the point computed (`mpa_lya`).
"""

from collections.abc import Callable

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


def pade_derivative(X: Tensor, G: Tensor, degree: int, power: float) -> tuple[Tensor, Tensor]:
    identity = identity_like(X)
    derivative, value = torch.zeros_like(X), identity / (2 * degree + 1)
    inverse = power < 0
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


def newton_schulz_derivative(X: Tensor, G: Tensor, iterations: int, power: float) -> tuple[Tensor, Tensor]:
    """The steps of `newton_schulz`, each matrix with its derivative along G."""
    identity = identity_like(X)
    M, dM = X, G
    Y, dY = (identity.expand_as(X), torch.zeros_like(X)) if power < 0 else (X, G)
    for _ in range(iterations):
        P, dP = (3 * identity - M) / 2, -dM / 2
        Y, dY = symmetric_part(Y @ P), symmetric_part(dY @ P + Y @ dP)
        N, dN = M @ P, dM @ P + M @ dP
        M, dM = symmetric_part(N @ P), symmetric_part(dN @ P + N @ dP)
    return dY, Y


# Further: r(X), its derivatives along G and along D, and its second derivative along both, for symmetric G and D. Twin:
# csrc/include/fastsqrtm/detail/approximants.h, to the last bit.

Second = tuple[Tensor, Tensor, Tensor, Tensor]


def pade_second(X: Tensor, G: Tensor, D: Tensor, degree: int, power: float) -> Second:
    identity, zero, inverse = identity_like(X), torch.zeros_like(X), power < 0
    value, along_G, along_D, second = identity / (2 * degree + 1), zero, zero, zero
    for shift, weight in pade_terms(degree):
        scale, factor = (shift, -weight * shift) if inverse else (1 / shift, weight / shift)
        R = spd_solve(identity + scale * X, identity.expand_as(X))
        RG, RD = R @ G, R @ D
        RGR, RDR = RG @ R, RD @ R
        K = RG @ RDR
        value = value + weight * (R if inverse else identity - R)
        along_G, along_D = along_G + factor * RGR, along_D + factor * RDR
        second = second - factor * scale * (K + K.mT)
    return value, along_G, along_D, second


def taylor_second(X: Tensor, G: Tensor, D: Tensor, degree: int, power: float) -> Second:
    """Horner's rule in W = I - X."""
    W, zero = identity_like(X) - X, torch.zeros_like(X)
    c = taylor_coefficients(degree, power)
    value, along_G, along_D, second = identity_like(X, c[-1]).expand_as(X), zero, zero, zero
    for c_k in reversed(c[:-1]):
        second = second @ W - along_G @ D - along_D @ G
        along_G, along_D = along_G @ W - value @ G, along_D @ W - value @ D
        value = value @ W + identity_like(X, c_k)
    return value, along_G, along_D, second


def newton_schulz_second(X: Tensor, G: Tensor, D: Tensor, iterations: int, power: float) -> Second:
    """The steps of `newton_schulz`, each matrix with its derivatives."""
    identity, zero = identity_like(X), torch.zeros_like(X)

    def product(A: Second, B: Second) -> Second:
        a, a_G, a_D, a_GD = A
        b, b_G, b_D, b_GD = B
        return a @ b, a_G @ b + a @ b_G, a_D @ b + a @ b_D, a_GD @ b + a_G @ b_D + a_D @ b_G + a @ b_GD

    def symmetric(A: Second) -> Second:
        a, a_G, a_D, a_GD = A
        return symmetric_part(a), symmetric_part(a_G), symmetric_part(a_D), symmetric_part(a_GD)

    M: Second = (X, G, D, zero)
    Y: Second = (identity.expand_as(X), zero, zero, zero) if power < 0 else M
    for _ in range(iterations):
        m, m_G, m_D, m_GD = M
        P = (3 * identity - m) / 2, m_G / -2, m_D / -2, m_GD / -2
        Y = symmetric(product(Y, P))
        M = symmetric(product(product(M, P), P))
    return Y


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


# The map computed is homogeneous, f(A) = nu^p r(X) with p = 1/2, for the inverse root p = -1/2. These derivatives are
# plain torch, which differentiates them further.


def _dot(A: Tensor, B: Tensor) -> Tensor:
    return (A * B).sum((-2, -1), keepdim=True)


def _over_power(Y: Tensor, nu: Tensor, power: float) -> Tensor:
    """Y / nu^power for a half-integer, one factor after the other, so that none overflows; 0 at zero, with its
    derivatives.
    """
    Y, positive = Y / sqrt_of_norm(nu), torch.where(nu == 0, 1, nu)
    for _ in range(int(power)):
        Y = Y / positive
    return torch.where(nu == 0, 0, symmetric_part(Y))


def derivative_along(A: Tensor, D: Tensor, p: float, series: Callable[[Tensor, Tensor], tuple]) -> Tensor:
    """f'(A)[D] = nu^(p - 1) (r'(X)[E] + p u r(X)) with u = <X, D> and E = D - u X."""
    X, nu = normalise(A)
    u = _dot(X, D)
    derivative, value = series(X, D - u * X)
    return _over_power(derivative + p * u * value, nu, 1 - p)


def gradient_along(
    A: Tensor, G: Tensor, D: Tensor, p: float, series: Callable[[Tensor, Tensor, Tensor], Second]
) -> tuple[Tensor, Tensor]:
    """The gradient of <G, f'(A)[D]> in A, and f'(A)[D]. The first is also the derivative along D of the gradient of
    <G, f(A)>.

    <G, f'(A)[D]> = nu^(p - 1) K with K = <L, E> + p u <G, r> for L = r'(X)[G]. The gradient of K in X is
    r''(X)[G, E] - (1 - p) u L + (p <G, r> - <L, X>) D, because the derivatives of a function of one matrix are
    symmetric in their directions.
    """
    X, nu = normalise(A)
    u = _dot(X, D)
    E = D - u * X
    value, L, along_E, second = series(X, G, E)
    along = p * _dot(G, value)
    K = _dot(L, E) + u * along
    gradient = second - (1 - p) * u * L
    gradient = gradient + (along - _dot(L, X)) * D
    gradient = gradient - ((1 - p) * K + _dot(gradient, X)) * X
    return _over_power(gradient, nu, 2 - p), _over_power(along_E + p * u * value, nu, 1 - p)


def _widened(*tensors: Tensor) -> list[Tensor]:
    """The symmetric parts in the precision of the ops."""
    precision = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return [symmetric_part(x.to(precision)) for x in tensors]


def _set_rules(root: Definition, backward: Definition, power: float, first: Callable, second: Callable) -> None:
    """Sets the rules of a root and of its gradient from the derivatives of r."""

    def root_jvp(A: Tensor, numbers: tuple, D: Tensor) -> Tensor:
        if A.numel() == 0:
            return A + D
        wide, D = _widened(A, D)
        return derivative_along(wide, D, power, lambda X, E: first(X, E, *numbers, power)).to(A.dtype)

    def backward_vjp(A: Tensor, G: Tensor, numbers: tuple, D: Tensor) -> tuple[Tensor, Tensor]:
        if A.numel() == 0:
            return A + G + D, A + D
        wide, G, D = _widened(A, G, D)
        gradient, derivative = gradient_along(wide, G, D, power, lambda X, G, E: second(X, G, E, *numbers, power))
        return gradient.to(A.dtype), derivative.to(A.dtype)

    def backward_jvp(A: Tensor, G: Tensor, numbers: tuple, D: Tensor, dG: Tensor) -> Tensor:
        return backward_vjp(A, G, numbers, D)[0] + call(backward.op.name, A, dG, *numbers)

    root.rule = Rule(lambda A, _: (A,), backward.op.name, root_jvp)
    backward.rule = Rule(lambda A, G, _: (A, G), backward_vjp, backward_jvp)


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
    return exact_gradient(A, G, False, lambda X, G: pade_derivative(X, G, degree, 0.5))


@op
def mtp_backward(A: Tensor, G: Tensor, degree: int) -> Tensor:
    return exact_gradient(A, G, False, lambda X, G: taylor_derivative(X, G, degree, 0.5))


@op
def ns_backward(A: Tensor, G: Tensor, iterations: int) -> Tensor:
    return exact_gradient(A, G, False, lambda X, G: newton_schulz_derivative(X, G, iterations, 0.5))


@op
def mpa_inv_backward(A: Tensor, G: Tensor, degree: int) -> Tensor:
    return exact_gradient(A, G, True, lambda X, G: pade_derivative(X, G, degree, -0.5))


@op
def mtp_inv_backward(A: Tensor, G: Tensor, degree: int) -> Tensor:
    return exact_gradient(A, G, True, lambda X, G: taylor_derivative(X, G, degree, -0.5))


@op
def ns_inv_backward(A: Tensor, G: Tensor, iterations: int) -> Tensor:
    return exact_gradient(A, G, True, lambda X, G: newton_schulz_derivative(X, G, iterations, -0.5))


_set_rules(mpa, mpa_backward, 0.5, pade_derivative, pade_second)
_set_rules(mtp, mtp_backward, 0.5, taylor_derivative, taylor_second)
_set_rules(ns, ns_backward, 0.5, newton_schulz_derivative, newton_schulz_second)
_set_rules(mpa_inv, mpa_inv_backward, -0.5, pade_derivative, pade_second)
_set_rules(mtp_inv, mtp_inv_backward, -0.5, taylor_derivative, taylor_second)
_set_rules(ns_inv, ns_inv_backward, -0.5, newton_schulz_derivative, newton_schulz_second)


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
