"""The principal root of any square matrix, and the Sylvester equation of its derivative: ops without kernels.

Both are Newton's iteration for the matrix sign, B <- (B + B^-1)/2, which takes the right half plane to 1, in float64
and scaled so that the determinant has modulus 1. With M_0 = X_0 = A the product form of Denman and Beavers (Higham,
Functions of Matrices, SIAM 2008, equation 6.29) is X <- X (I + M^-1)/2, M <- (I + (M + M^-1)/2)/2, and X goes to
A^(1/2), M to I. For B X + X B = C the iteration of [[B, C], [0, -B]] goes to [[I, 2 X], [0, -I]] (Roberts, Int. J.
Control 32, 1980).
"""

import math
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from .._ops.definition import Rule, torch_op
from .._ops.route import call
from .matrix import anticommutator, identity_like, may_stop

STEPS = 30  # near the end the error squares; an eigenvalue at an angle d from the negative axis takes log2(1/d) before
WANTED = (1e-9, torch.finfo(torch.float64).eps)  # residuals in float32 and in float64, in units of ||X||^2
# From here on matrices go one by one on a CPU, with as many steps as each needs. MKL's batched LU in float64 may hang
# from 200 on, and its products may round a matrix by its place in the batch.
SMALLEST_ONE_BY_ONE = 128


def _one_by_one(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, of each large matrix on a CPU by itself and in memory of its own."""

    @wraps(function)
    def wrapped(*tensors: Tensor) -> Tensor:
        A = tensors[0]
        n = A.shape[-1]
        if A.is_cuda or n < SMALLEST_ONE_BY_ONE or A.numel() == 0:
            return function(*tensors)
        of_each = zip(*(x.reshape(-1, n, n) for x in tensors), strict=True)
        return torch.stack([function(*(x.clone() for x in own)) for own in of_each]).reshape(A.shape)

    return wrapped


def _inverse(A: Tensor) -> tuple[Tensor, Tensor]:
    """A^-1 and |det A|^(-1/n), (..., 1, 1), by LU; Inf or NaN where A is singular."""
    factors, pivots, _ = torch.linalg.lu_factor_ex(A)
    diagonal = factors.diagonal(dim1=-2, dim2=-1).abs()
    inverse = torch.linalg.lu_solve(factors, pivots, identity_like(A).expand_as(A))
    return inverse, (-diagonal.log().mean(-1)).exp()[..., None, None]


def _norm(A: Tensor) -> Tensor:
    return torch.linalg.vector_norm(A, dim=(-2, -1), keepdim=True)


def solve_sylvester(B: Tensor, C: Tensor) -> Tensor:
    """X with B X + X B = C, for eigenvalues of B in the right half plane; NaN where the iteration does not converge."""
    identity = identity_like(B)
    apart = _norm(B - identity)
    done = torch.zeros_like(apart, dtype=torch.bool)
    for _ in range(STEPS):
        W, scale = _inverse(B)
        scale = torch.where(apart < 1e-2, 1, scale)
        C = torch.where(done, C, (scale * C + W @ C @ W / scale) / 2)
        B = torch.where(done, B, (scale * B + W / scale) / 2)
        apart = _norm(B - identity)
        done = done | (apart < 1e-7)  # and 1e-14 after the step that follows
        if may_stop(done | apart.isnan()):
            break
    # B = I + E at the end: X + (E X + X E)/2 = C/2 to first order.
    X, E = C / 2, (B - identity) / 2
    return torch.where(done, X - E @ X - X @ E, math.nan)


def denman_beavers(A: Tensor) -> Tensor:
    """A^(1/2) for A in float64; NaN where the iteration does not converge."""
    identity = identity_like(A)
    X = M = A
    apart = _norm(M - identity)
    done = torch.zeros_like(apart, dtype=torch.bool)
    for _ in range(STEPS):
        inverse, scale = _inverse(M)
        scale = torch.where(apart < 1e-2, 1, scale)
        X = torch.where(done, X, (X + X @ inverse / scale) * scale.sqrt() / 2)
        M = torch.where(done, M, (identity + (scale * M + inverse / scale) / 2) / 2)
        apart = _norm(M - identity)
        done = done | (apart < 1e-7)
        if may_stop(done | apart.isnan()):
            break
    # A M = X^2 at every step. At the end M = I + E, and the root X M^(-1/2) is X (I - E/2) to first order.
    return torch.where(done, X @ (identity - (M - identity) / 2), math.nan)


@torch_op("(Tensor A) -> Tensor", "nn -> nn")
@_one_by_one
def sqrtm_general(A: Tensor) -> Tensor:
    """X = A^(1/2), eigenvalues in the right half plane; NaN where A has one on the negative axis or is singular."""
    finite = A.isfinite().all(-1, True).all(-2, True)
    X = torch.where(finite, A, 0).double()
    largest = X.abs().amax((-2, -1), keepdim=True)
    zero = largest == 0
    half = (torch.where(zero, 1, largest).log2() / 2).floor()  # of the binary exponent; scaling by it rounds nothing
    X = torch.where(zero, identity_like(X), X * (-half).exp2() * (-half).exp2())
    root = denman_beavers(X)
    residual = X - root @ root
    enough = _norm(residual) <= WANTED[A.dtype == torch.float64] * _norm(root).square()
    if not may_stop(enough | root.isnan()):
        correction = solve_sylvester(root, residual)  # a Newton step
        root = torch.where(enough | ~correction.isfinite(), root, root + correction)
    accurate = _norm(X - root @ root) <= 1e-9 * _norm(root).square()
    root = torch.where(accurate & finite, root * half.exp2(), math.nan)
    return torch.where(zero & finite, 0, root).to(A.dtype)


# X dX + dX X = dA, and the adjoint of that.
sqrtm_general.rule = Rule(
    lambda A, X: (X,),
    lambda X, _, G: call("sylvester", X.mT, G),
    lambda X, _, dA: call("sylvester", X, dA),
)


@torch_op("(Tensor B, Tensor C) -> Tensor", "nn, nn -> nn")
@_one_by_one
def sylvester(B: Tensor, C: Tensor) -> Tensor:
    """X with B X + X B = C, for eigenvalues of B in the right half plane; 0 for B = 0."""
    zero = (B == 0).all(-1, True).all(-2, True)
    X = solve_sylvester(torch.where(zero, identity_like(B), B).double(), C.double())
    return torch.where(zero, 0, X).to(B.dtype)


def _sylvester_vjp(B: Tensor, X: Tensor, _: tuple, G: Tensor) -> tuple[Tensor, Tensor]:
    Y = call("sylvester", B.mT, G)
    return -anticommutator(Y, X.mT), Y


def _sylvester_jvp(B: Tensor, X: Tensor, _: tuple, dB: Tensor, dC: Tensor) -> Tensor:
    return call("sylvester", B, dC - anticommutator(dB, X))


sylvester.rule = Rule(lambda B, C, X: (B, X), _sylvester_vjp, _sylvester_jvp)
