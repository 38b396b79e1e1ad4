"""Optimal transport between centred Gaussians: factors of covariances, overlap, map; all in float64.

`metrics` and `transfer` call it. A covariance C is taken as F F^T. For P = F1^T F2 = U diag(s) V^T the overlap
tr (C1^(1/2) C2 C1^(1/2))^(1/2) is the sum of s, and the map from C1 to C2 is W diag(1/s) W^T with W = F2 V. The
singular values of a product of factors keep the digits that the eigenvalues of a product of covariances lose.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._ops.route import unpack_dual

EPS = torch.finfo(torch.float64).eps
SMALL = 64  # up to this size LAPACK's decompositions of the whole batch; above, ours of one matrix after the other
BLOCK = 128  # rows and columns that products of triangular matrices take together
FLOOR = 8 * EPS  # of the largest variance: below it a residual variance is the rounding of float64
# Squares of singular values that one eigendecomposition resolves, of the largest: for vectors, and for sums alone.
DEFLATED, SUMMED = 1e-3, 1e-8
RESOLVED = 1e-7  # of the distance: an estimated error of the overlap; the measured one is 1e-4 of the estimate
NEAR = 1e-3  # share of the variances: nearer Gaussians get their distance from the difference of their factors


class Singular(NamedTuple):
    """P = U diag(s) V^T for (..., k1, k2), with r = min(k1, k2); U and V have a column of zeros where s is zero."""

    U: Tensor  # (..., k1, r)
    s: Tensor  # (..., r)
    V: Tensor  # (..., k2, r)


def symmetric(C: Tensor) -> Tensor:
    return (C + C.mT).div_(2)


def rounding(values: Tensor, largest: Tensor) -> Tensor:
    """What counts as zero among eigenvalues or residual variances: a negative one is rounding, which has no sign, so
    four times the most negative; at least FLOOR times the largest.
    """
    return torch.maximum(-4 * values.amin(-1), FLOOR * largest)


def factor(C: Tensor) -> Tensor:
    """F (..., d, k) with F F^T = C for symmetric C (..., d, d), or the nearest positive semidefinite matrix.

    The Cholesky factor; of a singular or indefinite matrix one with as many columns as the rank of the batch, so that
    what is rounding adds no directions.
    """
    L, info = torch.linalg.cholesky_ex(C)
    failed = info != 0
    if not failed.any():
        return L
    if C.shape[-1] <= SMALL:
        values, V = torch.linalg.eigh(C)
        kept = values > rounding(values, values[..., -1])[..., None]
        return torch.where(failed[..., None, None], V * torch.where(kept, values, 0).sqrt()[..., None, :], L)
    matrices, factors = C.reshape(-1, *C.shape[-2:]), L.reshape(-1, *C.shape[-2:])
    found = [_pivoted(A) if bad else F for A, F, bad in zip(matrices, factors, failed.reshape(-1), strict=True)]
    width = max(F.shape[1] for F in found)
    padded = [torch.nn.functional.pad(F, (0, width - F.shape[1])) for F in found]
    return torch.stack(padded).reshape(*C.shape[:-1], width)


def _pivoted(C: Tensor, block: int = 64) -> Tensor:
    """Cholesky of one matrix (d, d) by blocks of the largest residual variances, until those left are rounding."""
    d = len(C)
    Ft, k = torch.empty_like(C), 0  # F^T, whose rows are contiguous
    residual = C.diagonal().clone()
    largest = residual.max()
    while k < d:
        cut = rounding(residual, largest)
        top, pivots = residual.topk(min(block, d - k))
        if not top[0] > cut:
            break
        pivots = pivots[top > torch.maximum(cut, top[0] / 100)]
        rows = C[pivots] - Ft[:k, pivots].T @ Ft[:k]
        values, V = torch.linalg.eigh(symmetric(rows[:, pivots]))
        # Pivots that depend on one another share a direction; the rest of them comes with a later block.
        kept = values > torch.maximum(cut, values[-1] / 100)
        if not kept.any():  # what the residual said is left was rounding
            break
        rows = V[:, kept].T @ rows / values[kept].sqrt()[:, None]
        Ft[k : k + len(rows)] = rows
        k += len(rows)
        residual = residual - rows.square().sum(0)
    return Ft[:k].T


def singular(P: Tensor, resolution: float = DEFLATED) -> Singular:
    """The singular value decomposition of P (..., k1, k2), small singular values relative to the largest to 1e-12."""
    if P.shape[-2] > P.shape[-1]:
        V, s, U = singular(P.mT, resolution)
        return Singular(U, s, V)
    if P.shape[-2] <= SMALL:
        U, s, Vh = torch.linalg.svd(P, full_matrices=False)
        live = s > P.shape[-1] * EPS * s.amax(-1, keepdim=True) if s.shape[-1] else s > 0
        return Singular(U * live[..., None, :], torch.where(live, s, 0), Vh.mT * live[..., None, :])
    found = [_deflated(matrix, resolution) for matrix in P.reshape(-1, *P.shape[-2:])]
    U, s, V = (torch.stack(x).reshape(*P.shape[:-2], *x[0].shape) for x in zip(*found, strict=True))
    return Singular(U, s, V)


def _deflated(P: Tensor, resolution: float) -> Singular:
    """The singular values of one matrix (k1, k2), k1 <= k2, by eigendecompositions of P P^T, which are several times
    faster than LAPACK's singular values at d = 2048.

    Each one resolves the singular values down to a share of the largest; the remaining left vectors, times P, are a
    smaller problem that is orthogonal to those, so squaring loses digits relative to its own largest value only.
    """
    size = P.abs().max()
    P = P / torch.where(size > 0, size, 1)
    basis = torch.eye(len(P), dtype=P.dtype, device=P.device)
    rest, least = P, EPS * torch.linalg.vector_norm(P)
    left, right, values = [], [], []
    while len(rest):
        squares, U = torch.linalg.eigh(rest @ rest.mT)
        resolved = squares > resolution * squares[-1]
        if not squares[-1] > least**2:
            break
        basis, rows = basis @ U, U.mT @ rest
        s = torch.linalg.vector_norm(rows[resolved], dim=1)
        left.append(basis[:, resolved])
        right.append((rows[resolved] / s[:, None]).mT)
        values.append(s)
        basis, rest = basis[:, ~resolved], rows[~resolved]
        if len(rest):  # orthogonal to the right vectors found, to its own precision
            for V in right:
                rest = rest - (rest @ V) @ V.mT
    zeros = P.new_zeros(len(rest))
    left.append(zeros.expand(len(P), -1))
    right.append(zeros.expand(P.shape[1], -1))
    return Singular(torch.cat(left, 1), torch.cat([*values, zeros]) * size, torch.cat(right, 1))


def squared_distance(F1: Tensor, F2: Tensor, found: Singular | None) -> Tensor:
    """|| F1 - F2 Q^T ||^2 at the best orthogonal Q: tr C1 + tr C2 - 2 overlap, (...), never negative.

    Far from zero it is the difference of these; near it, of the factors, which cancels nothing.
    """
    P = F1.mT @ F2
    if found is not None:
        s = found.s
    elif min(P.shape[-2:]) > SMALL:
        s = singular(P, SUMMED).s
    else:
        s = torch.linalg.svdvals(P)
    total = F1.square().sum((-2, -1)) + F2.square().sum((-2, -1))
    distance = total - 2 * s.sum(-1)
    near = distance < NEAR * total
    if not near.any():
        return distance
    U, _, V = singular(P) if found is None else found
    moved = F2 @ V
    aligned = (F1 - moved @ U.mT).square().sum((-2, -1))
    outside = (F2 - moved @ V.mT).square().sum((-2, -1))  # directions of F2 that no direction of F1 answers
    return torch.where(near, aligned + outside, distance)


def _divided(X: Tensor, s: Tensor) -> Tensor:
    """x_ij / (s_i + s_j), and 0 where both are zero."""
    sums = s[..., :, None] + s[..., None, :]
    return torch.where(sums > 0, X / torch.where(sums > 0, sums, 1), 0)


def _map_gradients(G: Tensor, T: Tensor, s: Tensor, W1: Tensor, W2: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of <G, T> for the map T from A to B: to B and to A, as in `Bures`."""
    inverse = torch.where(s > 0, 1 / s, 0)
    G, B = symmetric(G), symmetric(B)
    if _regular(s, G):
        left = inverse[..., None] * W2.mT  # W1^-1
        X = W1 @ _divided(left @ G @ left.mT, s) @ W1.mT
        return X, -T @ X @ T
    # T = B F1 (F1^T B F1)^(-3/2) F1^T B by B, and F2 (F2^T A F2)^(-1/2) F2^T by A, where `rest` pairs with no direction
    inner = W2.mT @ G @ W2
    outer, weight = _weights(s, inverse)
    side = (G @ W2) * inverse[..., None, :] ** 2 @ W1.mT
    to_B = side + side.mT - W1 @ _divided(outer * weight * inner, s) @ W1.mT
    rest = W2 * inverse[..., None, :] ** 3 @ (W2.mT @ G @ (B - W2 @ W2.mT))
    return to_B, rest + rest.mT - W2 @ _divided(outer * inner, s) @ W2.mT


def _map_tangent(
    dA: Tensor, dB: Tensor, T: Tensor, s: Tensor, W1: Tensor, W2: Tensor, B: Tensor
) -> tuple[Tensor]:  # fmt: skip
    """dT for the map T from A to B: the adjoint of `_map_gradients`."""
    inverse = torch.where(s > 0, 1 / s, 0)
    dA, dB, B = symmetric(dA), symmetric(dB), symmetric(B)
    if _regular(s, dA):
        left = inverse[..., None] * W2.mT
        return (left.mT @ _divided(W1.mT @ (dB - T @ dA @ T) @ W1, s) @ left,)
    outer, weight = _weights(s, inverse)
    side = dB @ W1 * inverse[..., None, :] ** 2 @ W2.mT
    rest = W2 * inverse[..., None, :] ** 3 @ (W2.mT @ dA @ (B - W2 @ W2.mT))
    inner = weight * (W1.mT @ dB @ W1) + W2.mT @ dA @ W2
    return (side + side.mT + rest + rest.mT - W2 @ (outer * _divided(inner, s)) @ W2.mT,)


def _regular(s: Tensor, G: Tensor) -> bool:
    return s.shape[-1] == G.shape[-1] and bool((s > 0).all())


def _weights(s: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    i, j = s[..., :, None], s[..., None, :]
    outer = inverse[..., :, None] * inverse[..., None, :]
    return outer, (i * i + i * j + j * j) * outer


def _polar_derivative(X: Tensor, U: Tensor, s: Tensor, V: Tensor) -> tuple[Tensor]:
    """The derivative of Q = U V^T in the direction X of P = U diag(s) V^T; self-adjoint."""
    inverse = torch.where(s > 0, 1 / s, 0)[..., None, :]
    inner = U.mT @ X @ V
    turned = U @ _divided(inner - inner.mT, s) @ V.mT
    return (turned + (X @ V - U @ inner) * inverse @ V.mT + U * inverse @ (U.mT @ X - inner @ V.mT),)


class _Batched(torch.autograd.Function):
    """A Function of tensors with any leading dimensions, to which vmap adds one."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple, *inputs: Any) -> Any:
        moved = [
            x if not isinstance(x, Tensor) else x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0)
            for x, d in zip(inputs, in_dims, strict=True)
        ]
        outputs: tuple = cls.apply(*moved)
        return outputs, (0,) * len(outputs)


class _Last(_Batched):
    """`formula` of tensors, the last derivative that there is: another raises, where it would lack terms."""

    @staticmethod
    def forward(formula: Callable[..., tuple], limit: str, *tensors: Tensor) -> tuple:
        return formula(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.limit = inputs[1]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(f"fastsqrtm.{ctx.limit}")

    jvp = backward


def _zeros_for_none(tangents: tuple, tensors: tuple) -> list[Tensor]:
    return [torch.zeros_like(x) if t is None else t for t, x in zip(tangents, tensors, strict=True)]


class Bures(_Batched):
    """(squared distance, map from A to B, map from B to A; s, W1, W2) of symmetric matrices (..., d, d).

    The distance is differentiable twice, the maps once. They solve T A T = B. With W = F1 U, A = W W^T and
    T = W^-T diag(s) W^-1, where W^-T diag(s) = F2 V. The derivative solves dT A T + T A dT = dB - T dA T, which W makes
    diagonal. Where A is singular T F1 = F2 V U^T decides what it can, and the rest is the least that leaves T positive
    semidefinite.
    """

    @staticmethod
    def forward(limit: str, A: Tensor, B: Tensor) -> tuple[Tensor, ...]:
        F1, F2 = factor(symmetric(A)), factor(symmetric(B))
        found = singular(F1.mT @ F2)
        W1, W2 = F1 @ found.U, F2 @ found.V
        inverse = torch.where(found.s > 0, 1 / found.s, 0)[..., None, :]
        T1, T2 = symmetric(W2 * inverse @ W2.mT), symmetric(W1 * inverse @ W1.mT)
        return squared_distance(F1, F2, found), T1, T2, found.s, W1, W2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.limit, A, B = inputs
        _, T1, T2, *parts = output
        ctx.mark_non_differentiable(*parts)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(A, B, T1, T2, *parts)
        ctx.save_for_forward(A, B, T1, T2, *parts)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        g, G1, G2, *_ = cotangents
        A, B, T1, T2, s, W1, W2 = ctx.saved_tensors
        parts_A, parts_B = [], []
        if g is not None:
            identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
            parts_A.append(g[..., None, None] * (identity - T1))
            parts_B.append(g[..., None, None] * (identity - T2))
        for G, T, W, other, C, to, source in (
            (G1, T1, W1, W2, B, parts_B, parts_A), (G2, T2, W2, W1, A, parts_A, parts_B)
        ):  # fmt: skip
            if G is not None:
                X, X_source = _Last.apply(_map_gradients, ctx.limit, G, T, s, W, other, C)
                to.append(X)
                source.append(X_source)
        return None, sum(parts_A) if parts_A else None, sum(parts_B) if parts_B else None

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> Any:
        A, B, T1, T2, s, W1, W2 = ctx.saved_tensors
        dA, dB = _zeros_for_none(tangents, (A, B))
        identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        distance = ((identity - T1) * dA + (identity - T2) * dB).sum((-2, -1))
        (dT1,) = _Last.apply(_map_tangent, ctx.limit, dA, dB, T1, s, W1, W2, B)
        (dT2,) = _Last.apply(_map_tangent, ctx.limit, dB, dA, T2, s, W2, W1, A)
        return distance, dT1, dT2, None, None, None


class Polar(_Batched):
    """(squared distance, Q = U V^T; U, s, V) for factors F1 (..., d, k1) and F2 (..., d, k2).

    The distance is differentiable twice. Q maximises tr Q^T F1^T F2; the gradient of the distance, 2 (F1 - F2 Q^T) and
    2 (F2 - F1 Q), has no divisor.
    """

    @staticmethod
    def forward(limit: str, F1: Tensor, F2: Tensor) -> tuple[Tensor, ...]:
        found = singular(F1.mT @ F2)
        return squared_distance(F1, F2, found), found.U @ found.V.mT, *found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.limit, F1, F2 = inputs
        _, Q, *found = output
        ctx.mark_non_differentiable(*found)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(F1, F2, Q, *found)
        ctx.save_for_forward(F1, F2, Q, *found)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        g, G, *_ = cotangents
        F1, F2, Q, *found = ctx.saved_tensors
        parts_1, parts_2 = [], []
        if g is not None:
            parts_1.append(2 * g[..., None, None] * (F1 - F2 @ Q.mT))
            parts_2.append(2 * g[..., None, None] * (F2 - F1 @ Q))
        if G is not None:
            (X,) = _Last.apply(_polar_derivative, ctx.limit, G, *found)
            parts_1.append(F2 @ X.mT)
            parts_2.append(F1 @ X)
        return None, sum(parts_1) if parts_1 else None, sum(parts_2) if parts_2 else None

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> Any:
        F1, F2, Q, *found = ctx.saved_tensors
        dF1, dF2 = _zeros_for_none(tangents, (F1, F2))
        distance = 2 * ((F1 - F2 @ Q.mT) * dF1).sum((-2, -1)) + 2 * ((F2 - F1 @ Q) * dF2).sum((-2, -1))
        (dQ,) = _Last.apply(_polar_derivative, ctx.limit, dF1.mT @ F2 + F1.mT @ dF2, *found)
        return distance, dQ, None, None, None


def transforming() -> bool:
    """Whether torch.func transforms this call, so that Python cannot decide by values."""
    return torch._C._are_functorch_transforms_active()


def _differentiated(*tensors: Tensor) -> bool:
    if transforming() or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
        return True
    return any(unpack_dual(x)[1] is not None for x in tensors)


def _limit(function: str, order: str = "second", got: str = "third") -> str:
    return f"{function}: derivatives exist to {order} order, got a {got}"


def transport(function: str, A: Tensor, B: Tensor) -> Tensor:
    """The map from A to B (..., d, d), float64."""
    T: Tensor = Bures.apply(_limit(function, "first", "second"), A, B)[1]
    return T


def bures(function: str, A: Tensor, B: Tensor) -> Tensor:
    """The squared Bures distance (...) of float64 matrices (..., d, d); singular vectors only where they are needed."""
    if _differentiated(A, B):
        distance: Tensor = Bures.apply(_limit(function), A, B)[0]
        return distance
    if A.shape[-1] <= SMALL:
        return squared_distance(factor(symmetric(A)), factor(symmetric(B)), None)
    size = A.shape[-2:]
    pairs = zip(A.reshape(-1, *size), B.reshape(-1, *size), strict=True)
    return torch.stack([_by_eigenvalues(A, B) for A, B in pairs]).reshape(A.shape[:-2])


def _by_eigenvalues(A: Tensor, B: Tensor) -> Tensor:
    """The squared distance of one pair by the eigenvalues of L^T B L, A = L L^T, which is fastest; by singular values
    where their squares may lose too much: independent errors e of eigenvalues x are e / (2 sqrt(x)) in the overlap.
    """
    L = _cholesky(A)
    if L is not None:
        values = torch.linalg.eigvalsh(_congruence(L, B)).clamp(min=0)
        total = A.trace() + B.trace()
        distance = total - 2 * values.sqrt().sum()
        if EPS * values[-1] * (1 / values).sum().sqrt() < RESOLVED * distance and distance > NEAR * total:
            return distance
    return squared_distance(factor(symmetric(A)), factor(symmetric(B)), None)


def _cholesky(A: Tensor, block: int = BLOCK) -> Tensor | None:
    """L with L L^T = A for the symmetric part of one matrix, None if it is not positive definite: by columns of blocks,
    which is half again as fast as symmetrising a copy and LAPACK. What is above the blocks of the diagonal is not set.
    """
    L = torch.empty_like(A)
    for k in range(0, len(A), block):
        end = min(k + block, len(A))
        panel = L[k:, k:end]
        torch.add(A[k:, k:end], A[k:end, k:].T, out=panel).div_(2)
        panel.addmm_(L[k:, :k], L[k:end, :k].T, alpha=-1)
        corner, failed = torch.linalg.cholesky_ex(panel[: end - k])
        if failed:
            return None
        panel[: end - k] = corner
        panel[end - k :] = torch.linalg.solve_triangular(corner.T, panel[end - k :], upper=True, left=False)
    return L


def _congruence(L: Tensor, B: Tensor, block: int = BLOCK) -> Tensor:
    """The lower triangle of L^T B L for L of `_cholesky` and the symmetric part of B; what is above it has no meaning.
    With the half T of B below the diagonal, B = T + T^T, it is L^T Y + Y^T L for Y = T L: a quarter of two products.
    """
    d = len(L)
    Y, K = torch.empty_like(B), torch.empty_like(B)
    starts = range(0, d, block)
    for k in starts:
        end = min(k + block, d)
        T = B[k:end, :end] + B[:end, k:end].T
        T /= 2
        T[:, k:] /= 2  # the block on the diagonal is in T and in T^T
        for j in range(0, end, block):
            torch.mm(T[:, j:], L[j:end, j : j + block], out=Y[k:end, j : min(j + block, end)])
    for i in starts:
        end = min(i + block, d)
        torch.mm(L[i:, i:end].T, Y[i:, :end], out=K[i:end, :end])
        K[i:end, :end].addmm_(Y[i:, i:end].T, L[i:, :end])
    return K


def bures_of_factors(function: str, F1: Tensor, F2: Tensor) -> Tensor:
    """As `bures`, of F1 F1^T and F2 F2^T, for factors with fewer columns than rows."""
    if _differentiated(F1, F2):
        distance: Tensor = Polar.apply(_limit(function), F1, F2)[0]
        return distance
    return squared_distance(F1, F2, None)
