"""The orthogonal polar factor U of A = U P, (..., m, n) with m >= n, and its derivative: ops without kernels.

float32: U = A (A^T A)^(-1/2) in float64, whose digits bear the square of the condition number, and Newton-Schulz steps.
float64: on a CPU the singular value decomposition, which LAPACK has at the cost of a few products. On a GPU, where it
takes one matrix after the other, the same as for float32 and steps that give the lost digits back: of S = U^T A the
part that is not symmetric is turned away, U <- U (I + K) with S K + K S = S - S^T. Where no digits are left, and where
A has not full rank, there as well the singular value decomposition.

The derivative of U along D is U K + (I - U U^T) D P^-1 with P K + K P = U^T D - D^T U. U is the gradient of the sum of
the singular values, so this is symmetric in D and serves reverse and forward mode.
"""

import math

import torch
from torch import Tensor

from .._ops.definition import Rule, torch_op
from .._ops.hermitian import embedded, to_complex
from .._ops.route import call
from .lyapunov import rule_of_lyapunov
from .matrix import identity_like, symmetric_part

ROUGH = 1e-4  # the precision of the root in float32, and of U^T U before a step, which squares it
TURNS = 4  # at most; each leaves 1e-3 of the error


def _any(wanted: Tensor) -> bool:
    """Whether one is. This waits for a GPU; it is no where the graph of one is being captured."""
    if wanted.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return bool(wanted.any())


def _norm(A: Tensor) -> Tensor:
    return torch.linalg.vector_norm(A, dim=(-2, -1), keepdim=True)


def by_singular_values(A: Tensor, copies: int = 1) -> Tensor:
    """U, which maps to zero what A maps to zero to working precision."""
    if copies == 2:
        return embedded(by_singular_values(to_complex(A)))
    W, s, Vh = torch.linalg.svd(A, full_matrices=False)
    live = s > max(A.shape[-2:]) * torch.finfo(A.dtype).eps * s[..., :1]
    return (W * live[..., None, :]) @ Vh


def orthogonalised(U: Tensor) -> tuple[Tensor, Tensor]:
    """U after Newton-Schulz steps, and whether it was nearly orthogonal, (..., 1, 1)."""
    identity, good = identity_like(U), None
    for _ in range(3):
        N = U.mT @ U
        apart = _norm(N - identity)
        good = apart < 0.1 if good is None else good  # NaN is not
        U = torch.where(good, U @ (1.5 * identity - N / 2), 0)
        if not _any(good & (apart > ROUGH)):
            break
    assert good is not None
    return U, good


def _times_inverse_root(A: Tensor, rtol: float, copies: int) -> Tensor:
    U = A @ call("inv_sqrtm", A.mT @ A, rtol)
    return embedded(to_complex(U)) if copies == 2 else U


def by_root(A: Tensor, copies: int = 1) -> tuple[Tensor, Tensor]:
    """U in float32 for A in float64, and whether it is accurate."""
    return orthogonalised(_times_inverse_root(A, ROUGH, copies).float())


def by_root_and_turns(A: Tensor, copies: int = 1) -> tuple[Tensor, Tensor]:
    """U for A in float64, and whether it is accurate."""
    identity, eps = identity_like(A), torch.finfo(A.dtype).eps
    U, good = orthogonalised(_times_inverse_root(A, 0.0, copies))
    for turn in range(TURNS + 1):
        S = U.mT @ A
        skew = S - S.mT
        accurate = _norm(skew) <= 4 * eps * _norm(A)
        if turn == TURNS or not _any(good & ~accurate):
            break
        K = call("lyapunov_newton", torch.where(good, S, identity), skew, 1e-3)
        U = U + U @ K
        U, still = orthogonalised(embedded(to_complex(U)) if copies == 2 else U)
        good = good & still
    return U, good & accurate


@torch_op("(Tensor A, int copies=1) -> Tensor", "mn -> mn", "copies 1..2")
def polar_factor(A: Tensor, copies: int) -> Tensor:
    """U = A P^-1 with P = (A^T A)^(1/2), for m >= n; a partial isometry where A has not full rank. Of two copies, it is
    that of a complex matrix, and keeps its form also where rounding would show.
    """
    finite = A.isfinite().all(-1, True).all(-2, True)
    X = torch.where(finite, A, 0)
    largest = X.abs().amax((-2, -1), keepdim=True)
    X = X.double() / torch.where(largest == 0, 1, largest).double().log2().floor().exp2()  # which rounds nothing
    if A.dtype == torch.float64 and not A.is_cuda:
        U = by_singular_values(X, copies)
    else:
        U, accurate = by_root(X, copies) if A.dtype == torch.float32 else by_root_and_turns(X, copies)
        if _any(~accurate):
            hard = ~accurate[..., 0, 0]
            U[hard] = by_singular_values(X[hard], copies).to(A.dtype)
    return torch.where(finite, U, math.nan)


@torch_op("(Tensor B, Tensor C) -> Tensor", "nn, nn -> nn")
def semidefinite_lyapunov(B: Tensor, C: Tensor) -> Tensor:
    """X with B X + X B = C for positive semidefinite B of any rank; in its eigenbasis x_ij = 0 where b_i + b_j is."""
    eps, n = torch.finfo(B.dtype).eps, B.shape[-1]
    finite = (B.isfinite() & C.isfinite()).all(-1, True).all(-2, True)
    B, C = (torch.where(finite, x, 0) for x in (symmetric_part(B), C))
    X = call("lyapunov_newton", B, C, 0.0)
    size = _norm(B) * _norm(X)
    residual = _norm(B @ X + X @ B - C)
    hard = ~((residual <= 8 * n**0.5 * eps * size) & (size <= eps**-0.5 * _norm(C)))[..., 0, 0]
    if _any(hard):
        w, V = torch.linalg.eigh(B[hard].double())
        sums = w[..., :, None] + w[..., None, :]
        live = sums > n * torch.finfo(w.dtype).eps * w[..., -1:, None].abs()
        X[hard] = (V @ torch.where(live, V.mT @ C[hard].double() @ V / torch.where(live, sums, 1), 0) @ V.mT).to(
            X.dtype
        )
    return torch.where(finite, X, math.nan)


semidefinite_lyapunov.rule = rule_of_lyapunov("semidefinite_lyapunov")


def _derivative(A: Tensor, U: Tensor, _: tuple, direction: Tensor) -> Tensor:
    P = symmetric_part(U.mT @ A)
    M = U.mT @ direction
    change = U @ call("semidefinite_lyapunov", P, M - M.mT)
    if A.shape[-2] == A.shape[-1]:
        return change
    inverse = call("semidefinite_lyapunov", P, identity_like(P, 2.0).expand_as(P))
    return change + (direction - U @ M) @ inverse


polar_factor.rule = Rule(lambda A, U: (A, U), _derivative, _derivative)
