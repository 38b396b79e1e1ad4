"""The documented functions. Each one calls the op of its name; the mathematics is in docs/design.md.

Source of the four roots and of their gradient: Song, Sebe, Wang, *Fast Differentiable Matrix Square Root*, ICLR 2022
(arXiv 2201.08663), and for the inverse roots *Fast Differentiable Matrix Square Root and Inverse Square Root*
(arXiv 2201.12543).
"""

import torch
from torch import Tensor

from . import _check
from ._derivatives import call
from ._library import load_cuda, native


def mpa_lya(A: Tensor, degree: int = 5, iterations: int = 8) -> Tensor:
    """Square root of each matrix by a Pade approximant, with the Lyapunov gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive semidefinite.
            The half precisions are computed in float32.
        degree: of numerator and denominator, 1 to 32.
        iterations: of the Lyapunov solve in the backward pass, 1 to 100.

    Returns:
        A^(1/2), symmetric, in the shape and dtype of A. With nu = ||A||_F and X = A/nu it is sqrt(nu) r(X), where r is
        the diagonal Pade approximant of sqrt(x) about x = 1. Its relative error at an eigenvalue x of X is
        2 q/(1 - q) with q = ((1 - sqrt(x))/(1 + sqrt(x)))^(2 degree + 1): small for well-conditioned matrices, and at
        x = 0 the root is sqrt(nu)/(2 degree + 1) instead of zero. The zero matrix gives zero; a matrix with NaN, Inf,
        or an eigenvalue below -0.086 nu (at degree 5) gives NaN, in that matrix alone.

    Gradient:
        X with A^(1/2) X + X A^(1/2) = sym(G) for the cotangent G; symmetric. The one of the exact root at the point
        computed, not that of the approximant. Differentiable to any order.

    Cost:
        degree n^3 flop forward, 6 iterations n^3 backward. On CPU at most 4 matrices of workspace per thread; A and
        the root are saved for backward.

    Raises:
        RuntimeError: A is not square, of another dtype or layout, or degree or iterations are out of range.

    Source:
        Song, Sebe, Wang, ICLR 2022.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=2, batch=(3,))
        >>> S = fastsqrtm.mpa_lya(A)
        >>> torch.allclose(S @ S, A, rtol=1e-2, atol=1e-3)
        True
        >>> S = fastsqrtm.mpa_lya(A, degree=20)
        >>> torch.allclose(S @ S, A, rtol=1e-4, atol=1e-5)
        True
    """
    return call("mpa_lya", A, degree, iterations)


def mtp_lya(A: Tensor, degree: int = 10, iterations: int = 8) -> Tensor:
    """Square root of each matrix by a Taylor polynomial, with the Lyapunov gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive semidefinite.
            The half precisions are computed in float32.
        degree: of the polynomial, 1 to 128.
        iterations: of the Lyapunov solve in the backward pass, 1 to 100.

    Returns:
        A^(1/2), symmetric, in the shape and dtype of A. With nu = ||A||_F and W = I - A/nu it is
        sqrt(nu) sum_k binom(1/2, k) (-W)^k, k = 0..degree. Cheap, and less accurate than `mpa_lya` at ill-conditioned
        matrices. The zero matrix gives zero; a matrix with NaN or Inf gives NaN, in that matrix alone.

    Gradient:
        As that of `mpa_lya`.

    Cost:
        degree/2 n^3 flop forward, 6 iterations n^3 backward. On CPU at most 4 matrices of workspace per
        thread; A and the root are saved for backward.

    Raises:
        RuntimeError: A is not square, of another dtype or layout, or degree or iterations are out of range.

    Source:
        Song, Sebe, Wang, ICLR 2022.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=2, batch=(3,))
        >>> S = fastsqrtm.mtp_lya(A, degree=100)
        >>> torch.allclose(S @ S, A, rtol=1e-3, atol=1e-4)
        True
    """
    return call("mtp_lya", A, degree, iterations)


def mpa_lya_inv(A: Tensor, degree: int = 5, iterations: int = 8) -> Tensor:
    """Inverse square root of each matrix by a Pade approximant, with the Lyapunov gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive definite.
            The half precisions are computed in float32.
        degree: of numerator and denominator, 1 to 32.
        iterations: of the Lyapunov solve in the backward pass, 1 to 100.

    Returns:
        A^(-1/2), symmetric, in the shape and dtype of A: with nu = ||A||_F, r(A/nu)^-1 / sqrt(nu), where r is the
        approximant of `mpa_lya`. It is (2 degree + 1)/sqrt(nu) where A is singular. The zero matrix gives +inf on the
        diagonal and 0 elsewhere; a matrix with NaN, Inf, or an eigenvalue below -0.02 nu (at degree 5) gives NaN, in
        that matrix alone.

    Gradient:
        X with Z X + X Z = -Z^2 sym(G) Z^2 for Z = A^(-1/2) and the cotangent G; symmetric. Differentiable to any
        order.

    Cost:
        degree n^3 flop forward, (6 iterations + 4) n^3 backward. On CPU at most 4 matrices of workspace per thread;
        the inverse root is saved for backward.

    Raises:
        RuntimeError: A is not square, of another dtype or layout, or degree or iterations are out of range.

    Source:
        Song, Sebe, Wang, ICLR 2022 and its longer version; their gradient scaled by the norm of the whole batch, this
        one by that of each matrix.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=2, batch=(3,))
        >>> Z = fastsqrtm.mpa_lya_inv(A, degree=20)
        >>> torch.allclose(Z @ A @ Z, torch.eye(8).expand(3, 8, 8), atol=1e-4)
        True
    """
    return call("mpa_lya_inv", A, degree, iterations)


def mtp_lya_inv(A: Tensor, degree: int = 10, iterations: int = 8) -> Tensor:
    """Inverse square root of each matrix by a Taylor polynomial, with the Lyapunov gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive definite.
            The half precisions are computed in float32.
        degree: of the polynomial, 1 to 128.
        iterations: of the Lyapunov solve in the backward pass, 1 to 100.

    Returns:
        A^(-1/2), symmetric, in the shape and dtype of A. With nu = ||A||_F and W = I - A/nu it is
        sum_k binom(-1/2, k) (-W)^k / sqrt(nu), k = 0..degree. The zero matrix gives +inf on the diagonal and 0
        elsewhere; a matrix with NaN or Inf gives NaN, in that matrix alone.

    Gradient:
        As that of `mpa_lya_inv`.

    Cost:
        degree/2 n^3 flop forward, (6 iterations + 4) n^3 backward. On CPU at most 4 matrices of workspace
        per thread; the inverse root is saved for backward.

    Raises:
        RuntimeError: A is not square, of another dtype or layout, or degree or iterations are out of range.

    Source:
        Song, Sebe, Wang, ICLR 2022 and its longer version.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=2, batch=(3,))
        >>> Z = fastsqrtm.mtp_lya_inv(A, degree=128)
        >>> torch.allclose(Z @ A @ Z, torch.eye(8).expand(3, 8, 8), atol=1e-3)
        True
    """
    return call("mtp_lya_inv", A, degree, iterations)


def lyapunov(B: Tensor, C: Tensor, iterations: int = 8) -> Tensor:
    """Solution X of the Lyapunov equation B X + X B = C for each pair of matrices.

    Args:
        B: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive definite.
            The half precisions are computed in float32.
        C: (..., n, n) of the same dtype and device, symmetric or not. Leading dimensions are broadcast.
        iterations: 1 to 100. One more resolves eigenvalues of B smaller by a factor 1.5; eight reach float32 precision
            for eigenvalues above 0.17 ||B||_F.

    Returns:
        X, of the broadcast shape, from B_0 = B/||B||_F, C_0 = C/||B||_F and the steps B <- B (3 I - B^2)/2,
        C <- (C (3 I - B^2) - B^2 C + B C B)/2; X = C/2. B = 0 gives X = 0.

    Gradient:
        dC = lyapunov(B, G) for the cotangent G, and dB = -sym(dC X^T + X^T dC). Differentiable to any order.

    Cost:
        6 iterations n^3 flop if C is symmetric, twice that if not, and as much backward. On CPU at most 4 matrices of
        workspace per thread; B and X are saved for backward.

    Raises:
        RuntimeError: B is not square, C does not fit B, another dtype or layout, or iterations are out of range.

    Source:
        Song, Sebe, Wang, ICLR 2022, section 3.3.

    Example:
        >>> B = fastsqrtm.testing.spd(8, kappa=2, batch=(3,))
        >>> C = torch.ones(8, 8)
        >>> X = fastsqrtm.lyapunov(B, C)
        >>> torch.allclose(B @ X + X @ B, C.expand(3, 8, 8), rtol=1e-4, atol=1e-4)
        True
    """
    if B.shape[:-2] != C.shape[:-2] and B.dim() > 1 and C.dim() > 1:
        batch = torch.broadcast_shapes(B.shape[:-2], C.shape[:-2])
        B, C = B.expand(*batch, *B.shape[-2:]), C.expand(*batch, *C.shape[-2:])
    return call("lyapunov", B, C, iterations)


def plan(A: Tensor) -> dict[str, object]:
    """The path that the ops take for A now: native with its sizes, or the pure-torch reference with the reason.

    Native on CPU: the instruction set, how many matrices are computed by one thread each (alone) and how many by all
    threads together (shared), the number of threads, and the workspace in bytes. Native on CUDA: for `mpa_lya` and its
    backward the fused kernel and its grid, or None for the kernel where the libraries take over.

    Example:
        >>> fastsqrtm.plan(torch.eye(8))["path"] in ("native", "reference")
        True
    """
    _check.matrices("plan", "A", A)
    cuda = A.device.type == "cuda"
    reason = load_cuda() if cuda else native.reason
    if reason or not (cuda or A.device.type == "cpu"):
        return {"path": "reference", "reason": reason or f"there are no native kernels for {A.device.type}"}
    sizes = (A.shape[:-2].numel(), A.shape[-1], 8 if A.dtype == torch.float64 else 4)
    if not cuda:
        return {"path": "native", **native.C.plan(*sizes, torch.get_num_threads())}
    chip = torch.cuda.get_device_properties(A.device)
    limits = (chip.shared_memory_per_block_optin, chip.multi_processor_count)
    ops = {"forward": "mpa", "backward": "sqrtm_lya_backward"}
    return {"path": "native", **{pass_: native.C.plan_cuda(op, *sizes, *limits) for pass_, op in ops.items()}}
