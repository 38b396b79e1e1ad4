"""What others run, in plain torch, and how to time it: for ``bench`` and ``python -m fastsqrtm demo``.

Each method is written as a careful user of torch would write it from its paper: batched, one normaliser per matrix, no
product that is known beforehand to be useless, and none of this package's shortcuts. Every one maps
(..., n, n) SPD matrices to their root, or to their inverse root with ``inverse=True``, and is differentiable.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from .testing import paper_pade_coefficients, paper_taylor_coefficients


def mpa_lya(A: Tensor, degree: int = 5, iterations: int = 8, inverse: bool = False) -> Tensor:
    """Pade approximant of A^(1/2) by matrix powers and one solve; Lyapunov gradient (Song et al., arXiv 2201.08663).

    12.7 n^3 flop forward at degree 5, 96 n^3 backward at 8 iterations.
    """
    return _PaperRoot.apply(A, lambda W: _pade(W, degree, inverse), iterations, inverse)


def mtp_lya(A: Tensor, degree: int = 10, iterations: int = 8, inverse: bool = False) -> Tensor:
    """Taylor polynomial of A^(1/2) by matrix powers; Lyapunov gradient (Song et al., arXiv 2201.08663).

    18 n^3 flop forward at degree 10, 96 n^3 backward at 8 iterations.
    """
    return _PaperRoot.apply(A, lambda W: _taylor(W, degree, inverse), iterations, inverse)


def newton_schulz(A: Tensor, iterations: int = 5, inverse: bool = False) -> Tensor:
    """Coupled Newton-Schulz iteration, differentiated by autograd (Li et al., arXiv 1712.01034; Lin and Maji)."""
    norm = torch.linalg.matrix_norm(A)[..., None, None]
    three_eye = 3 * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    Y = A / norm
    T = (three_eye - Y) / 2  # the first step, where Z is the identity
    Y, Z = Y @ T, T
    for step in range(1, iterations):
        T = (three_eye - Z @ Y) / 2
        if step < iterations - 1:
            Y, Z = Y @ T, T @ Z
        elif inverse:  # the last step needs only the root that is asked for
            Z = T @ Z
        else:
            Y = Y @ T
    return Z / norm.sqrt() if inverse else Y * norm.sqrt()


def eigh(A: Tensor, inverse: bool = False) -> Tensor:
    """Eigendecomposition, gradient by the Loewner matrix of the same decomposition: exact, and finite at ties."""
    return _EighRoot.apply(A, inverse)


def matrix_sqrth(A: Tensor) -> Tensor:
    """``torch.linalg.matrix_sqrth``, in torch since 2.14."""
    return torch.linalg.matrix_sqrth(A)


def time_in_turn(contenders: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds a call of every contender, in turn (A B A B) for about `seconds` each and at least three rounds.

    In turn, so that ratios within a round hold on a machine whose speed drifts. One time is the mean of as many calls
    as fill a millisecond.
    """
    calls = {}
    for name, contender in contenders.items():
        contender()
        start = time.perf_counter()
        contender()
        calls[name] = math.ceil(1e-3 / (time.perf_counter() - start))
    times = {name: [] for name in contenders}
    end = time.perf_counter() + seconds * len(contenders)
    while min(map(len, times.values())) < 3 or time.perf_counter() < end:
        for name, contender in contenders.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                contender()
            times[name].append((time.perf_counter() - start) / calls[name])
    return times


class _PaperRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, A: Tensor, approximant, iterations: int, inverse: bool) -> Tensor:
        norm = torch.linalg.matrix_norm(A)[..., None, None]
        eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        root = approximant(eye - A / norm)
        root = root / norm.sqrt() if inverse else root * norm.sqrt()
        # The tightest scale at hand that bounds the spectrum of the result, as the authors' code does for the root.
        ctx.save_for_backward(root, torch.linalg.matrix_norm(root)[..., None, None] if inverse else norm.sqrt())
        ctx.iterations, ctx.inverse = iterations, inverse
        return root

    @staticmethod
    def backward(ctx, G: Tensor):
        S, scale = ctx.saved_tensors
        if ctx.inverse:  # Z X + X Z = -Z^2 G Z^2
            Z2 = S @ S
            G = -(Z2 @ G @ Z2)
        B, C = S / scale, G / scale
        three_eye = 3 * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
        for _ in range(ctx.iterations):
            B2 = B @ B
            T = three_eye - B2
            C = (C @ T - B2 @ C + B @ C @ B) / 2
            B = B @ T / 2
        return C / 2, None, None, None


def _taylor(W: Tensor, degree: int, inverse: bool) -> Tensor:
    """Taylor polynomial of (I - W)^(1/2), or of (I - W)^(-1/2)."""
    (result,) = _combine_powers(W, paper_taylor_coefficients(degree, -0.5 if inverse else 0.5))
    return result


def _pade(W: Tensor, degree: int, inverse: bool) -> Tensor:
    """Diagonal Pade approximant of (I - W)^(1/2), or of (I - W)^(-1/2): powers of W, then one solve."""
    P, Q = _combine_powers(W, *paper_pade_coefficients(degree))
    return _solve(P, Q) if inverse else _solve(Q, P)


def _combine_powers(W: Tensor, *coefficients: list[float]) -> list[Tensor]:
    """sum_k c_k W^k for each list of coefficients, every power computed once."""
    eye = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
    sums = [c[0] * eye + c[1] * W for c in coefficients]
    power = W
    for k in range(2, len(coefficients[0])):
        power = power @ W
        sums = [total + c[k] * power for total, c in zip(sums, coefficients, strict=True)]
    return sums


def solve_needs_one_thread(A: Tensor) -> bool:
    """Whether torch.linalg.solve may hang in MKL: batches of n >= 200 on two or more CPU threads (pytorch #141358)."""
    return A.device.type == "cpu" and A.shape[-1] >= 200 and A.shape[:-2].numel() > 1 and torch.get_num_threads() > 1


def _solve(Q: Tensor, P: Tensor) -> Tensor:
    if not solve_needs_one_thread(Q):
        return torch.linalg.solve(Q, P)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return torch.linalg.solve(Q, P)
    finally:
        torch.set_num_threads(threads)


class _EighRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, A: Tensor, inverse: bool) -> Tensor:
        values, V = torch.linalg.eigh(A)
        s = values.clamp_min(torch.finfo(A.dtype).tiny).sqrt()
        ctx.save_for_backward(s, V)
        ctx.inverse = inverse
        return (V / s[..., None, :] if inverse else V * s[..., None, :]) @ V.mT

    @staticmethod
    def backward(ctx, G: Tensor):
        s, V = ctx.saved_tensors
        # Divided differences of the function on the eigenvalues s^2: no difference of eigenvalues appears.
        loewner = s[..., :, None] + s[..., None, :]
        if ctx.inverse:
            loewner = -loewner * s[..., :, None] * s[..., None, :]
        return V @ ((V.mT @ G @ V) / loewner) @ V.mT, None
