"""QR factorisations by Householder reflections, with and without column pivoting, and their derivatives.

A = Q R, or A[:, P] = Q R, with the signs of LAPACK: the diagonal of R is real and has either sign. docs/guide/qr.md
derives the rule, after Walter and Lehmann (arXiv 1009.6112) and Roberts and Roberts (arXiv 2009.10071).
"""

import math

import torch
from torch import Tensor

from .._ops.definition import Rule, op
from .._ops.route import call


def safe_norm(x: Tensor, dim: int) -> Tensor:
    """The 2-norm along a dimension, of which no square over- or underflows; 0 where it has no entries."""
    if x.shape[dim] == 0:
        return x.abs().sum(dim)
    largest = x.abs().amax(dim, keepdim=True)
    scaled = x / torch.where(largest == 0, 1, largest)
    return torch.linalg.vector_norm(scaled, dim=dim) * largest.squeeze(dim)


def reflection(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """beta, tau and the tail of v, whose first entry is 1, with (I - tau v v^H)^H x = beta e_1 and beta real.

    tau is 0, and beta the first entry, where x is a real multiple of e_1: LAPACK's larfg.
    """
    alpha, tail = x[..., 0], x[..., 1:]
    norm = safe_norm(x, -1)
    real = alpha.real if x.is_complex() else alpha
    stays = (safe_norm(tail, -1) == 0) & (real == alpha)
    beta = torch.where(stays, real, -norm.copysign(real))
    tau = torch.where(stays, 0, (beta - alpha) / torch.where(stays, 1, beta))
    return beta, tau, tail / torch.where(stays, 1, alpha - beta)[..., None]


def swapped(order: Tensor, j: int, p: Tensor) -> Tensor:
    """0, 1, ... with j and p in each other's place."""
    return torch.where(order == j, p, torch.where(order == p, j, order))


def pivoted_reflections(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R, the reflections below its diagonal, their factors tau, and the permutation P: LAPACK's geqp3.

    At each step the longest remaining column comes next, the first of several. Norms are downdated, and computed again
    where too many digits have cancelled: Drmac and Bujanovic, ACM TOMS 35(2), 2008.
    """
    m, n = A.shape[-2:]
    order = torch.arange(n, device=A.device)
    P = order.expand(*A.shape[:-2], n)
    norms = known = safe_norm(A, -2)
    cancelled = (torch.finfo(A.dtype).eps / 2) ** 0.5
    factors = []
    A = A.clone()
    for j in range(min(m, n)):
        swap = swapped(order, j, norms[..., j:].argmax(-1, keepdim=True) + j)
        P, norms, known = (x.gather(-1, swap) for x in (P, norms, known))
        A = A.gather(-1, swap[..., None, :].expand_as(A))
        beta, tau, tail = reflection(A[..., j:, j])
        v = torch.cat((torch.ones_like(beta[..., None]).to(A.dtype), tail), -1)[..., None]
        rest = A[..., j:, j + 1 :]
        # Where torch runs the first call of a compiled graph, a lazy conjugate is never carried out.
        rest -= tau.conj_physical()[..., None, None] * v @ (v.mT.conj_physical() @ rest)
        A[..., j, j], A[..., j + 1 :, j] = beta, tail
        factors.append(tau)
        ratio = A[..., j, :].abs() / torch.where(norms == 0, 1, norms)
        left = (1 - ratio.square()).clamp_min(0)
        exact = left * (norms / torch.where(known == 0, 1, known)).square() <= cancelled
        recomputed = safe_norm(A[..., j + 1 :, :], -2)
        known = torch.where(exact, recomputed, known)
        norms = torch.where(exact, recomputed, norms * left.sqrt())
    return A, torch.stack(factors, -1), P


def factorise(A: Tensor, complete: bool, pivoted: bool) -> tuple[Tensor, ...]:
    """Q, R and, with pivoting, P. Where A is not finite, Q and R are NaN and P is 0, 1, ..."""
    m, n = A.shape[-2:]
    finite = A.isfinite().all(-1, True).all(-2, True)
    good = torch.where(finite, A, 0)
    reflections, tau, *P = pivoted_reflections(good) if pivoted else torch.geqrf(good)
    columns = m if complete else min(m, n)
    R = reflections.triu()[..., :columns, :]
    vectors = torch.nn.functional.pad(reflections[..., : tau.shape[-1]], (0, columns - tau.shape[-1]))
    Q = torch.linalg.householder_product(vectors, tau)
    return torch.where(finite, Q, math.nan), torch.where(finite, R, math.nan), *P


# The leading k = min(m, n) columns of A, in the order of P, have to be independent. The letters of the guide:
# Q = [Q1 Q2] with k and m - k columns, R = [R1 R2] with k and n - k; of the rest of R, which is zero, nothing depends.


def upper_part(M: Tensor) -> Tensor:
    """T, upper triangular with a real diagonal, for which M - T is skew-Hermitian."""
    diagonal = M.diagonal(dim1=-2, dim2=-1)
    diagonal = (diagonal.real.to(M.dtype) if M.is_complex() else diagonal).diag_embed()
    return M.triu(1) + M.tril(-1).mH + diagonal


def hermitian_from_lower(M: Tensor) -> Tensor:
    """The Hermitian matrix with the lower triangle of M and the real part of its diagonal."""
    return M.tril(-1) + upper_part(M.tril())


def over(M: Tensor, R1: Tensor) -> Tensor:
    """M R1^-1."""
    return torch.linalg.solve_triangular(R1, M, upper=True, left=False)


def over_adjoint(M: Tensor, R1: Tensor) -> Tensor:
    """M R1^-H."""
    return torch.linalg.solve_triangular(R1.mH, M, upper=False, left=False)


def _widened(*tensors: Tensor) -> list[Tensor]:
    """Half precisions in float32, as torch solves in no other."""
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def blocks(Q: Tensor, R: Tensor) -> tuple[Tensor, ...]:
    """Q1, Q2, R1 and R2; split, because the vmap of torch.autograd has no rule for a slice of everything."""
    (m, q), n = Q.shape[-2:], R.shape[-1]
    k = min(m, n)
    return *Q.split((k, q - k), -1), *R.narrow(-2, 0, k).split((k, n - k), -1)


def qr_vjp(Q: Tensor, R: Tensor, gQ: Tensor, gR: Tensor) -> Tensor:
    """The gradient of A[:, P]."""
    if Q.shape[-1] == R.shape[-2] == R.shape[-1]:
        return call("qr_backward", Q, R, gQ, gR)
    dtype = gQ.dtype
    Q, R, gQ, gR = _widened(Q, R, gQ, gR)
    Q1, Q2, R1, R2 = blocks(Q, R)
    gQ1, gQ2, gR1, gR2 = blocks(gQ, gR)
    if Q2.shape[-1] > 0:
        gQ1 = gQ1 - Q2 @ (gQ2.mH @ Q1)
    if R2.shape[-1] > 0:
        gQ1 = gQ1 + (Q1 @ R2) @ gR2.mH
    gA1 = call("qr_backward", Q1, R1, gQ1, gR1)
    return torch.cat((gA1, Q1 @ gR2), -1).to(dtype)


def qr_jvp(Q: Tensor, R: Tensor, dA: Tensor) -> tuple[Tensor, Tensor]:
    """The tangents of Q and R for that of A[:, P]."""
    dtype = dA.dtype
    Q, R, dA = _widened(Q, R, dA)
    Q1, Q2, R1, R2 = blocks(Q, R)
    dA1, dA2 = dA.split((R1.shape[-1], R2.shape[-1]), -1)
    X = over(dA1, R1)
    Y = Q1.mH @ X
    T = upper_part(Y)
    dQ1 = X - Q1 @ T
    dQ2 = -Q1 @ (dQ1.mH @ Q2)
    dR = torch.cat((T @ R1, (T - Y) @ R2 + Q1.mH @ dA2), -1)
    dR = torch.nn.functional.pad(dR, (0, 0, 0, R.shape[-2] - R1.shape[-2]))
    return torch.cat((dQ1, dQ2), -1).to(dtype), dR.to(dtype)


def _gradient_sum(Q: Tensor, R: Tensor, G: Tensor, H: Tensor) -> Tensor:
    """R H^H - G^H Q."""
    return R @ H.mH - G.mH @ Q


@op(complex_too=True)
def qr_backward(Q: Tensor, R: Tensor, G: Tensor, H: Tensor) -> Tensor:
    """X = (G + Q copyltu(R H^H - G^H Q)) R^-H, the gradient of A = Q R for the cotangents G of Q and H of R, which has
    as many columns as Q. Of R and H only the upper triangles count, and a matrix that is not finite gives NaN.
    """
    finite = torch.ones_like(Q[..., :1, :1], dtype=torch.bool)
    for x in (Q, R, G, H):
        finite = finite & x.isfinite().all(-1, True).all(-2, True)
    R, H = R.triu(), H.triu()
    X = over_adjoint(G + Q @ hermitian_from_lower(_gradient_sum(Q, R, G, H)), R)
    return torch.where(finite, X, math.nan)


def _qr_backward_vjp(
    Q: Tensor, R: Tensor, G: Tensor, H: Tensor, X: Tensor, _: tuple, cotangent: Tensor
) -> tuple[Tensor, ...]:
    dtype = cotangent.dtype
    Q, R, G, H, X, cotangent = _widened(Q, R.triu(), G, H.triu(), X, cotangent)
    D = over(cotangent, R)
    V = Q.mH @ D
    E = upper_part(V).mH  # the adjoint of hermitian_from_lower
    gQ = D @ hermitian_from_lower(_gradient_sum(Q, R, G, H)) - G @ E
    return tuple(x.to(dtype) for x in (gQ, (E @ H - D.mH @ X).triu(), D - Q @ E.mH, (E.mH @ R).triu()))


def _qr_backward_jvp(
    Q: Tensor, R: Tensor, G: Tensor, H: Tensor, X: Tensor, _: tuple, dQ: Tensor, dR: Tensor, dG: Tensor, dH: Tensor
) -> Tensor:
    dtype = dG.dtype
    Q, R, G, H, X, dQ, dR, dG, dH = _widened(Q, R.triu(), G, H.triu(), X, dQ, dR.triu(), dG, dH.triu())
    change = _gradient_sum(dQ, dR, G, H) + _gradient_sum(Q, R, dG, dH)
    S, dS = hermitian_from_lower(_gradient_sum(Q, R, G, H)), hermitian_from_lower(change)
    return over_adjoint(dG + dQ @ S + Q @ dS - X @ dR.mH, R).to(dtype)


qr_backward.rule = Rule(lambda Q, R, G, H, X: (Q, R, G, H, X), _qr_backward_vjp, _qr_backward_jvp)


def permuted(A: Tensor, P: Tensor) -> Tensor:
    """A[:, P] for each matrix."""
    return A.gather(-1, P[..., None, :].expand_as(A))


_RULE = Rule(
    save=lambda A, Q, R: (Q, R),
    vjp=lambda Q, R, _, gQ, gR: qr_vjp(Q, R, gQ, gR),
    jvp=lambda Q, R, _, dA: qr_jvp(Q, R, dA),
)
_PIVOTED_RULE = Rule(
    save=lambda A, Q, R, P: (Q, R, P),
    vjp=lambda Q, R, P, _, gQ, gR: permuted(qr_vjp(Q, R, gQ, gR), P.argsort(-1)),
    jvp=lambda Q, R, P, _, dA: qr_jvp(Q, R, permuted(dA, P)),
)


@op(complex_too=True)
def qr(A: Tensor) -> tuple[Tensor, ...]:
    """A = Q R with min(m, n) columns in Q."""
    return factorise(A, complete=False, pivoted=False)


@op(complex_too=True)
def qr_complete(A: Tensor) -> tuple[Tensor, ...]:
    """A = Q R with m columns in Q. The rule moves those beyond n as little as Q1 lets them, dQ2 = -Q1 dQ1^H Q2, which
    is right for all that depends on the space they span.
    """
    return factorise(A, complete=True, pivoted=False)


@op(complex_too=True)
def qr_pivoted(A: Tensor) -> tuple[Tensor, ...]:
    """A[:, P] = Q R with min(m, n) columns in Q, and P with entries from 0: LAPACK's jpvt less 1."""
    return factorise(A, complete=False, pivoted=True)


@op(complex_too=True)
def qr_pivoted_complete(A: Tensor) -> tuple[Tensor, ...]:
    """A[:, P] = Q R with m columns in Q, and the rule of `qr_complete`."""
    return factorise(A, complete=True, pivoted=True)


for _definition in (qr, qr_complete):
    _definition.rule = _RULE
for _definition in (qr_pivoted, qr_pivoted_complete):
    _definition.rule = _PIVOTED_RULE
