"""Rational functions r of a matrix, for its powers and its logarithm, and their derivatives, by shifted inverses.

The derivative of r(A) along D, sum_j slope_j R_j D R_j with R_j = (I + scale_j A)^-1, is self-adjoint in D. There is no
normaliser: the eigenvalues of A are in the interval of r.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._ops.definition import Definition, Rule, op
from .._ops.route import call
from .matrix import identity_like, spd_solve, symmetric_part
from .scalars import PartialFractions, fractions_of_logarithm, fractions_of_power


def _finite_part(A: Tensor) -> Tensor:
    """The symmetric part; NaN where a matrix is not finite, as the inverse of infinity would be finite."""
    finite = A.isfinite().all(-1, True).all(-2, True)
    return symmetric_part(A).where(finite, math.nan)


def rational(A: Tensor, series: PartialFractions) -> Tensor:
    """constant I + sum_j weight_j Q_j with Q_j = H (I + H)^-1 or (I + H)^-1, H = scale_j A."""
    A, identity = _finite_part(A), identity_like(A)
    Y = identity_like(A, series.constant)
    for scale, weight in series.terms:
        H = scale * A
        Y = Y + weight * spd_solve(identity + H, H if series.quotient else identity.expand_as(A))
    return symmetric_part(Y)


def rational_derivative(A: Tensor, G: Tensor, series: PartialFractions) -> Tensor:
    """sum_j slope_j R_j sym(G) R_j."""
    A, G, identity = _finite_part(A), symmetric_part(G), identity_like(A)
    L = torch.zeros_like(A)
    for (scale, _), slope in zip(series.terms, series.slopes(), strict=True):
        R = spd_solve(identity + scale * A, identity.expand_as(A))
        L = L + slope * (R @ G @ R)
    return symmetric_part(L)


def rational_second(A: Tensor, G: Tensor, D: Tensor, series: PartialFractions) -> Tensor:
    """The derivative of `rational_derivative` along D, symmetric in G and D and self-adjoint in each."""
    A, G, D, identity = symmetric_part(A), symmetric_part(G), symmetric_part(D), identity_like(A)
    second = torch.zeros_like(A)
    for (scale, _), slope in zip(series.terms, series.slopes(), strict=True):
        R = spd_solve(identity + scale * A, identity.expand_as(A))
        K = R @ G @ R @ D @ R
        second = second - slope * scale * (K + K.mT)
    return second


def _set_rules(value: Definition, backward: Definition, series: Callable[..., PartialFractions]) -> None:
    name = backward.op.name

    def second(A: Tensor, G: Tensor, D: Tensor, numbers: tuple) -> Tensor:
        if A.numel() == 0:
            return A + G + D
        precision = torch.float64 if A.dtype == torch.float64 else torch.float32
        return rational_second(A.to(precision), G.to(precision), D.to(precision), series(*numbers)).to(A.dtype)

    def backward_vjp(A: Tensor, G: Tensor, numbers: tuple, D: Tensor) -> tuple[Tensor, Tensor]:
        return second(A, G, D, numbers), call(name, A, D, *numbers)

    def backward_jvp(A: Tensor, G: Tensor, numbers: tuple, D: Tensor, dG: Tensor) -> Tensor:
        return second(A, G, D, numbers) + call(name, A, dG, *numbers)

    value.rule = Rule(lambda A, _: (A,), name, name)
    backward.rule = Rule(lambda A, G, _: (A, G), backward_vjp, backward_jvp)


@op
def rational_power(A: Tensor, exponent: float, lowest: float, poles: int) -> Tensor:
    """A^exponent, -1 <= exponent <= 1, where the eigenvalues of A are from `lowest` to 1."""
    return rational(A, fractions_of_power(exponent, lowest, poles))


@op
def rational_power_backward(A: Tensor, G: Tensor, exponent: float, lowest: float, poles: int) -> Tensor:
    """The gradient of <G, rational_power(A)>."""
    return rational_derivative(A, G, fractions_of_power(exponent, lowest, poles))


@op
def rational_log(A: Tensor, lowest: float, poles: int) -> Tensor:
    """log(A) (A - I)^-1, where the eigenvalues of A are from `lowest` to 2."""
    return rational(A, fractions_of_logarithm(lowest, poles))


@op
def rational_log_backward(A: Tensor, G: Tensor, lowest: float, poles: int) -> Tensor:
    """The gradient of <G, rational_log(A)>."""
    return rational_derivative(A, G, fractions_of_logarithm(lowest, poles))


_set_rules(rational_power, rational_power_backward, fractions_of_power)
_set_rules(rational_log, rational_log_backward, fractions_of_logarithm)
