"""The peers that ``bench`` compares with: other published methods, in plain torch.

Each method is written as a careful user of torch would write it from its paper: batched, one normaliser per matrix, no
needless product, and none of this package's shortcuts. Every one maps
(..., n, n) SPD matrices to their root, or to their inverse root with ``inverse=True``, and is differentiable.
"""

import torch
from torch import Tensor

import fastsqrtm
from fastsqrtm.testing import paper_pade_coefficients, paper_taylor_coefficients


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
    *_, (Y, Z) = _coupled_steps(A / norm, iterations, "Z" if inverse else "Y")
    return Z / norm.sqrt() if inverse else Y * norm.sqrt()


def newton_schulz_adjoint(A: Tensor, iterations: int = 5) -> Tensor:
    """The root of `newton_schulz` with the adjoint written out (Li et al., arXiv 1712.01034), ten products a step."""
    return _NewtonSchulzRoot.apply(A, iterations)


def eigh(A: Tensor, inverse: bool = False) -> Tensor:
    """Eigendecomposition, gradient by the Loewner matrix of the same decomposition: exact, and finite at ties."""
    return (fastsqrtm.paper.inv_sqrtm if inverse else fastsqrtm.paper.sqrtm)(A, method="eigh")


def matrix_sqrth(A: Tensor) -> Tensor:
    """``torch.linalg.matrix_sqrth``, in torch since 2.14."""
    return torch.linalg.matrix_sqrth(A)


def _coupled_steps(X: Tensor, iterations: int, last: str):
    """The iterates (Y, Z), without products with the identity; the last step computes only the root that is wanted."""
    three_eye = 3 * torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    T = (three_eye - X) / 2  # the first step, where Z is the identity
    Y, Z = X @ T, T
    yield Y, Z
    for step in range(1, iterations):
        T = (three_eye - Z @ Y) / 2
        final = step == iterations - 1
        Y, Z = Y if final and last == "Z" else Y @ T, Z if final and last == "Y" else T @ Z
        yield Y, Z


class _NewtonSchulzRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, A: Tensor, iterations: int) -> Tensor:
        norm = torch.linalg.matrix_norm(A)[..., None, None]
        steps = list(_coupled_steps(A / norm, iterations, "Y"))
        ctx.save_for_backward(A, norm, *(x for step in steps for x in step))
        return steps[-1][0] * norm.sqrt()

    @staticmethod
    def backward(ctx, G: Tensor):
        A, norm, *steps = ctx.saved_tensors
        three_eye = 3 * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        dY, dZ = G * norm.sqrt(), None
        for Y, Z in zip(steps[-4::-2], steps[-3::-2], strict=True):  # the iterates before the last step, backwards
            T, ZY = three_eye - Y @ Z, Z @ Y
            if dZ is None:
                dY, dZ = (dY @ T - ZY @ dY) / 2, -(Y @ dY @ Y) / 2
            else:
                dY, dZ = (dY @ T - Z @ dZ @ Z - ZY @ dY) / 2, (T @ dZ - Y @ dY @ Y - dZ @ ZY) / 2
        X = A / norm
        dX = (dY @ (three_eye - X) - X @ dY) / 2
        dX = dX if dZ is None else dX - dZ / 2
        along = (G * steps[-2]).sum((-2, -1), keepdim=True) / (2 * norm.sqrt())
        return (dX - X * (dX * X).sum((-2, -1), keepdim=True)) / norm + along * X, None


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
