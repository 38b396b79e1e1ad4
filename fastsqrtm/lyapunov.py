"""The Lyapunov equation of symmetric positive definite matrices; docs/method.md has the mathematics."""

import torch
from torch import Tensor

from ._ops import check as _check
from ._ops.hermitian import embedded, restored
from ._ops.route import call
from ._ops.table import OPS


def lyapunov(B: Tensor, C: Tensor, iterations: int | None = None, *, rtol: float | None = None) -> Tensor:
    """Solve the Lyapunov equation B X + X B = C for X, for each pair of matrices.

    Args:
        B: (..., n, n), float16, bfloat16, float32, float64, complex64 or complex128. Its symmetric part is used, of a
            complex matrix the Hermitian part, positive definite. The half precisions are computed in float32, complex
            matrices as real ones of twice the size, [[Re, -Im], [Im, Re]].
        C: (..., n, n) of the same dtype and device, symmetric or not. Leading dimensions are broadcast.
        iterations: Number of steps of the paper's iteration, 1 to 100; 8 unless `rtol` is given. One more step resolves
            eigenvalues of B that are smaller by a factor of 1.5; eight reach float32 precision for eigenvalues above
            0.17 ||B||_F.
        rtol: Take Newton steps instead, until X has this relative error, at condition numbers of B up to about 1e4
            (float32) or 1e8 (float64). 0 asks for the precision of the dtype.

    Returns:
        X, of the broadcast shape. With iterations, from B_0 = B/||B||_F and C_0 = C/||B||_F by the steps
        B <- B (3 I - B^2)/2, C <- (C (3 I - B^2) - B^2 C + B C B)/2; X = C/2. With rtol, by the steps
        C <- (m C + B^-1 C B^-1/m)/2, B <- (m B + B^-1/m)/2 and a correction at the end. B = 0 gives X = 0. A B that is
        singular to working precision first gets a multiple of I that makes it definite, and with rtol an indefinite B
        gives NaN.

    Gradient:
        dC = lyapunov(B, G) for the cotangent G, and dB = -sym(dC X^H + X^H dC). Differentiable to any order.

    Cost:
        6 iterations n^3 flop, with rtol 6 to 18 n^3, if C is symmetric, twice that if not, and as much backward. On CPU
        at most 5 matrices of workspace per thread; B and X are saved for backward.

    Raises:
        RuntimeError: B is not square, C does not fit B, another dtype or layout, iterations or rtol are out of range,
            or both are given.

    Source:
        Song, Sebe, Wang, ICLR 2022, section 3.3; Roberts, Int. J. Control 32, 1980.

    Example:
        >>> B = fastsqrtm.testing.spd(8, kappa=2, batch=(3,))
        >>> C = torch.ones(8, 8)
        >>> X = fastsqrtm.lyapunov(B, C)
        >>> torch.allclose(B @ X + X @ B, C.expand(3, 8, 8), rtol=1e-4, atol=1e-4)
        True
        >>> B = fastsqrtm.testing.spd(8, kappa=1e3, dtype=torch.float64)
        >>> X = fastsqrtm.lyapunov(B, B @ B, rtol=1e-12)
        >>> torch.allclose(X, B / 2)
        True
    """
    if iterations is not None and rtol is not None:
        _check.fail("lyapunov", "iterations and rtol exclude each other", f"{iterations} and {rtol}")
    for op, value in (("lyapunov", iterations), ("lyapunov_newton", rtol)):
        if value is not None:
            _check.number("lyapunov", OPS[op].numbers[0], value)
    for name, tensor in (("B", B), ("C", C)):
        _check.strided("lyapunov", name, tensor)
    if B.shape[:-2] != C.shape[:-2] and B.dim() > 1 and C.dim() > 1:
        try:
            batch = torch.broadcast_shapes(B.shape[:-2], C.shape[:-2])
        except RuntimeError:
            _check.fail("lyapunov", f"C must broadcast with B {tuple(B.shape)}", tuple(C.shape))
        B, C = B.expand(*batch, *B.shape[-2:]), C.expand(*batch, *C.shape[-2:])
    if B.is_complex() or C.is_complex():  # otherwise the op checks them
        _check.real_or_complex("lyapunov", OPS["lyapunov"].tensors[0], B)
        _check.other("lyapunov", OPS["lyapunov"], 1, (B, C))
    if rtol is not None:
        X = call("lyapunov_newton", embedded(B), embedded(C), rtol)
    else:
        X = call("lyapunov", embedded(B), embedded(C), _ITERATIONS.default if iterations is None else iterations)
    return restored(X, B)


_ITERATIONS = OPS["lyapunov"].number("iterations")
