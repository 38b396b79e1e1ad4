"""The Lyapunov equation B X + X B = C, by the paper's iteration (`lyapunov`) and Newton steps (`lyapunov_newton`)."""

import torch
from torch import Tensor

from .._ops.definition import Rule, op
from .._ops.route import call
from .matrix import (
    anticommutator,
    identity_like,
    inverse_with_ridge,
    may_stop,
    normalise,
    one_norm,
    spd_inverse,
    symmetric_part,
)
from .scalars import FINEST_TOLERANCE


def solve_newton_schulz(B: Tensor, C: Tensor, iterations: int) -> Tensor:
    """The paper's steps from B_0 = B, C_0 = C: B <- B(3I - B^2)/2, C <- (C(3I - B^2) - B^2 C + B C B)/2; X = C/2.

    They hold for any C; for symmetric C the native kernels need only four of the six products.
    """
    for _ in range(iterations):
        M = B @ B
        C = (3 * C - C @ M - M @ C + B @ C @ B) / 2
        B = (3 * B - B @ M) / 2
    return C / 2


def solve_newton(B: Tensor, W: Tensor, C: Tensor, tolerance: float) -> Tensor:
    """X with B X + X B = C for W = B^-1. Its twin in csrc/cpu/steps/newton_lyapunov.h has the formulas."""
    done = torch.zeros_like(B[..., :1, :1], dtype=torch.bool)
    identity = identity_like(B)
    for _ in range(12):
        mu = (one_norm(W) / one_norm(B)).sqrt()
        C = torch.where(done, C, (mu * C + W @ C @ W / mu) / 2)
        B = torch.where(done, B, (mu * B + W / mu) / 2)
        theta = B.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        E = B / theta - identity
        bound = torch.minimum(torch.linalg.vector_norm(E, dim=(-2, -1), keepdim=True), one_norm(E))
        done = done | (bound**3 > tolerance).logical_not()
        if may_stop(done):
            break
        W = spd_inverse(B)[0]
    C = C / (2 * theta)
    size = torch.linalg.vector_norm(C, dim=(-2, -1), keepdim=True)
    X, done, contraction = C, torch.zeros_like(done), None
    for _ in range(6):
        following = C - (E @ X + X @ E) / 2
        change = torch.linalg.vector_norm(following - X, dim=(-2, -1), keepdim=True) / size
        X = torch.where(done, X, following)
        contraction = change.clamp_max(0.5) if contraction is None else contraction
        done = done | (change * contraction > tolerance).logical_not()
        if may_stop(done):
            break
    return X


def reachable(rtol: float, dtype: torch.dtype) -> float:
    """The tolerance given, or the finest that the dtype reaches."""
    return max(rtol, FINEST_TOLERANCE[dtype])


# B X + X B = C: B dX + dX B = dC - dB X - X dB.


def rule_of_lyapunov(name: str) -> Rule:
    def vjp(B: Tensor, X: Tensor, numbers: tuple, G: Tensor) -> tuple[Tensor, Tensor]:
        Y = call(name, B, G, *numbers)
        return -symmetric_part(anticommutator(Y, X.mT)), Y

    def jvp(B: Tensor, X: Tensor, numbers: tuple, dB: Tensor, dC: Tensor) -> Tensor:
        return call(name, B, dC - anticommutator(symmetric_part(dB), X), *numbers)

    return Rule(lambda B, C, X: (B, X), vjp, jvp)


@op
def lyapunov(B: Tensor, C: Tensor, iterations: int) -> Tensor:
    """X with B X + X B = C, scaled by ||B||_F."""
    B_0, scale = normalise(symmetric_part(B))
    return torch.where(scale == 0, 0, solve_newton_schulz(B_0, C, iterations) / scale)


lyapunov.rule = rule_of_lyapunov("lyapunov")


@op(entry_precision=True)
def lyapunov_newton(B: Tensor, C: Tensor, rtol: float, entry_precision: float) -> Tensor:
    """X with B X + X B = C, to a tolerance."""
    B_0, s = normalise(symmetric_part(B))
    X = solve_newton(*inverse_with_ridge(B_0, entry_precision), C, reachable(rtol, B.dtype))
    return torch.where(s == 0, 0, X / s)


lyapunov_newton.rule = rule_of_lyapunov("lyapunov_newton")
