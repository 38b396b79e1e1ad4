"""The documented functions; the mathematics is in docs/design.md.

`sqrtm`, `inv_sqrtm` and `sqrtm_and_inv` are for everyday use. Below them are the ops of the paper, by their names:
Song, Sebe, Wang, *Fast Differentiable Matrix Square Root*, ICLR 2022 (arXiv 2201.08663), and for the inverse roots
*Fast Differentiable Matrix Square Root and Inverse Square Root* (arXiv 2201.12543).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _check, combinations
from ._derivatives import call, under_autocast, without_autocast
from ._library import load_cuda, native
from .reference import FINEST_TOLERANCE, root_design

DEFAULT_DEGREE = {"mpa": 5, "mtp": 10, "ns": 5, "pi": 10}

# Newton-Schulz with a gradient that takes its result for the root must have converged (docs/method.md). So many steps
# are enough for every eigenvalue that the rounding of the largest leaves; a matrix that needs fewer takes fewer.
CONVERGED_STEPS = {False: 28, True: 52}  # float64 or not


class System(NamedTuple):
    """A method with a backward. Where `combined`, these are forward functions; combinations.py joins the backward."""

    root: str
    inverse: str | None
    combined: bool = False


# method -> backward -> system. The first backward of a row is what "auto" means.
METHODS = {
    "auto": {"exact": System("sqrtm", "inv_sqrtm")},
    "mpa": {
        "exact": System("mpa", "mpa_inv"),
        "lyapunov": System("mpa_lya", "mpa_lya_inv"),
        "bartels_stewart": System("mpa", "mpa_inv", combined=True),
    },
    "mtp": {
        "exact": System("mtp", "mtp_inv"),
        "lyapunov": System("mtp_lya", "mtp_lya_inv"),
        "bartels_stewart": System("mtp", "mtp_inv", combined=True),
    },
    "ns": {
        "ns": System("ns", "ns_inv"),
        "exact": System("ns", "ns_inv"),
        "lyapunov": System("ns", "ns_inv", combined=True),
        "bartels_stewart": System("ns", "ns_inv", combined=True),
    },
    "eigh": dict.fromkeys(
        ("exact", "lyapunov", "svd_pi", "svd_taylor", "svd_pade", "bartels_stewart"),
        System("eigh", "eigh", combined=True),
    ),
    "pi": {"exact": System("power_iteration", None, combined=True)},
}


class RootInfo(NamedTuple):
    """How good each root is, in the leading dimensions of A; on its device, so that looking at it is what waits.

    residual: ||S S - A||_F / ||A||_F for the root S, ||Z A Z - I||_F / sqrt(n) for the inverse root Z, the larger of
        the two for both. For small errors it is about twice the relative error of the root.
    iterations: the rational start and the Newton steps of method "auto"; the degree of the others.
    converged: the residual is what `rtol` and the rounding at this condition number leave. False for NaN, mostly for
        "mpa" and "mtp", and for matrices that are singular to working precision: where the inverse root is asked for,
        and in float64 often for the root as well.
    """

    residual: Tensor
    iterations: Tensor
    converged: Tensor


def sqrtm(
    A: Tensor,
    *,
    method: str = "auto",
    backward: str = "auto",
    rtol: float | None = None,
    eps: float = 0.0,
    degree: int | None = None,
    iterations: int | None = None,
    return_info: bool = False,
    check: bool = False,
) -> Any:
    """Square root of each matrix, to the accuracy of its dtype unless told otherwise, with its exact gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive semidefinite.
            The half precisions are computed in float32.
        method: "auto", Zolotarev's rational approximation and Newton steps: right at any condition number up to 1e6
            (float32) or 1e12 (float64). "mpa" and "mtp": the paper's Pade approximant and Taylor polynomial. "ns":
            Newton-Schulz steps. For comparison, in plain torch: "eigh", the eigendecomposition, and "pi", power
            iteration, the dominant eigenpair alone (for that there is no inverse root).
        backward: "exact", the gradient of the map computed, which "auto" means; "ns" is its name for Newton-Schulz.
            "lyapunov", the paper's: that of the exact root at the point computed, for "mpa" and "mtp" by a truncated
            iteration; there the two agree where approximant and iteration have converged, at condition numbers near 1,
            and at 1e3 and default degree they differ by about 0.3 of the gradient. "bartels_stewart": the same equation
            solved by eigendecomposition. Of "eigh" also "svd_pi", "svd_taylor" and "svd_pade", the approximations of
            1/(l_i - l_j) that others took. What goes with what: `fastsqrtm.functional.METHODS`, or any wrong name.
        rtol: for method "auto": largest relative error of the root. That of the gradient, normwise, is of this order,
            up to ten times as large where the cotangent is all in the directions that converge last. Smaller is slower,
            and at most the precision of the dtype is reached; None: that precision.
        eps: what is added to the diagonal of A first, in the precision of the computation.
        degree: of the method: of "mpa" (1 to 32, default 5) and "mtp" (1 to 128, default 10), steps of "ns" (1 to 100,
            default 5) and of "pi" (1 to 100, default 10). With "lyapunov" or "bartels_stewart", "ns" goes on until it
            has converged, because that gradient at an unfinished root makes training diverge (docs/paper.md).
        iterations: of the backward: of "lyapunov" (1 to 100; default 8 for "mpa" and "mtp", else until solved), terms
            of "svd_pi" and "svd_taylor" (1 to 100, default 9).
        return_info: return (root, RootInfo) instead of the root; a product and an inverse more per matrix, no waiting.
        check: raise if a matrix did not converge; this waits for the device.

    Returns:
        A^(1/2), symmetric positive definite, in the shape and dtype of A; with return_info (root, RootInfo).
        At eigenvalues below 1e-7 (float64: 1e-13) of ||A|| the root is too large, by at most 4e-4 (2e-6) ||A||^(1/2).
        By "auto", where A is not positive definite in its precision, it is that of A + d I with the first d of 1, 8, 64
        and 1024 eps ||A|| that makes it so; an eigenvalue below about -1024 eps ||A|| gives NaN. (||A|| is the smaller
        one of Frobenius and 1-norm, eps the precision of the computation; for half types the last d covers the
        rounding of their entries.) The polynomials of "mtp" and "ns" are defined for indefinite matrices as well; "ns"
        with "lyapunov" or "bartels_stewart" gives NaN where it does not converge, as at singular matrices. The root of
        the zero matrix is zero. NaN and Inf give NaN, in that matrix alone.

    Gradient:
        X with S X + X S = sym(G) for the root S returned and the cotangent G; symmetric, differentiable to any order
        (a root combined with the backward of another method: once). At singular matrices it is finite, at most ||G||
        over twice the smallest eigenvalue of S, which is at least 2e-4 (8e-8) ||A||^(1/2); at the zero matrix it is 0.
        An `eps` of yours bounds it by ||G|| / (2 sqrt(eps)). For half types S is saved as rounded to them, which may
        leave it singular or indefinite: there the gradient can be large, and rarely NaN, without an `eps`.

    Cost:
        Method "auto" in float32: 6 n^3 flop forward (4 n^3 at rtol=1e-2) and 6 to 18 n^3 backward, more for larger
        condition numbers; in float64 10 n^3 forward. On CPU at most 5 matrices of workspace per thread; the root is
        saved for backward. "mpa" and "mtp" forward as `mpa_lya` and `mtp_lya`; their exact gradient takes 4 degree n^3
        and 1.5 degree n^3, in at most 5 and 8 matrices of workspace. "ns": 2.5 (degree - 1) n^3 and three times as much
        backward, in 5 and 10 matrices; a matrix stops when it has converged.

    Raises:
        RuntimeError: A is not square, of another dtype or layout; a number is out of range; method or backward do not
            exist or do not take this argument; `check` found a matrix that did not converge.

    Source:
        Nakatsukasa and Freund, SIAM Review 58(3), 2016, and Higham, Numer. Algorithms 15, 1997, for "auto"; Song, Sebe,
        Wang, ICLR 2022, for "mpa", "mtp" and "lyapunov"; Roberts, Int. J. Control 32, 1980, for the Lyapunov equation;
        docs/method.md for what they are compared with.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=1e4, batch=(3,))
        >>> S = fastsqrtm.sqrtm(A)
        >>> torch.allclose(S @ S, A, rtol=1e-4, atol=1e-6)
        True
        >>> S, info = fastsqrtm.sqrtm(A, rtol=1e-2, return_info=True)
        >>> bool(info.converged.all()), bool((info.residual < 0.03).all())
        (True, True)
    """
    return _roots("sqrtm", A, (0,), method, backward, rtol, eps, degree, iterations, return_info, check)


def inv_sqrtm(
    A: Tensor,
    *,
    method: str = "auto",
    backward: str = "auto",
    rtol: float | None = None,
    eps: float = 0.0,
    degree: int | None = None,
    iterations: int | None = None,
    return_info: bool = False,
    check: bool = False,
) -> Any:
    """Inverse square root of each matrix, to the accuracy of its dtype unless told otherwise, with its exact gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive definite.
        method, backward, rtol, eps, degree, iterations, return_info, check: as for `sqrtm`.

    Returns:
        A^(-1/2), symmetric positive definite, in the shape and dtype of A; with return_info (inverse, RootInfo). For
        singular matrices it is finite, at most about 4e3 (float64: 1e9) / ||A||^(1/2), without meaning in the
        directions of the zero eigenvalues: give an `eps` there. The zero matrix gives +inf on the diagonal and 0
        elsewhere. Otherwise as for `sqrtm`.

    Gradient:
        X with S X + X S = -Z sym(G) Z for Z = A^(-1/2), S = Z^-1 and the cotangent G; symmetric, differentiable to any
        order, 0 at the zero matrix.

    Cost:
        As `sqrtm`, and 3 n^3 more backward. The inverse root is saved for backward.

    Raises:
        RuntimeError: as `sqrtm`.

    Source:
        As `sqrtm`; Song, Sebe, Wang, arXiv 2201.12543, for the inverse roots of the paper.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=1e4, batch=(3,), dtype=torch.float64)
        >>> Z = fastsqrtm.inv_sqrtm(A)
        >>> torch.allclose(Z @ A @ Z, torch.eye(8, dtype=torch.float64).expand(3, 8, 8), atol=1e-10)
        True
    """
    return _roots("inv_sqrtm", A, (1,), method, backward, rtol, eps, degree, iterations, return_info, check)


def sqrtm_and_inv(
    A: Tensor,
    *,
    method: str = "auto",
    backward: str = "auto",
    rtol: float | None = None,
    eps: float = 0.0,
    degree: int | None = None,
    iterations: int | None = None,
    return_info: bool = False,
    check: bool = False,
) -> Any:
    """Square root and inverse square root of each matrix from one forward, with one backward for both.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive definite.
        method, backward, rtol, eps, degree, iterations, return_info, check: as for `sqrtm`. "mpa" and "mtp" share
            nothing between the two roots.

    Returns:
        (A^(1/2), A^(-1/2)), those of `sqrtm` and `inv_sqrtm`; with return_info (root, inverse, RootInfo).

    Gradient:
        X with S X + X S = sym(G) - Z sym(H) Z for the cotangents G of S = A^(1/2) and H of Z = A^(-1/2).

    Cost:
        As `sqrtm` and n^3 more forward, 3 n^3 more backward. Both roots are saved for backward.

    Raises:
        RuntimeError: as `sqrtm`.

    Source:
        As `sqrtm`.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=100, batch=(3,))
        >>> S, Z = fastsqrtm.sqrtm_and_inv(A)
        >>> torch.allclose(S @ Z, torch.eye(8).expand(3, 8, 8), atol=1e-4)
        True
    """
    return _roots("sqrtm_and_inv", A, (0, 1), method, backward, rtol, eps, degree, iterations, return_info, check)


def _fail(function: str, expected: str, came: object) -> None:
    raise RuntimeError(f"fastsqrtm.{function}: {expected}, got {came}")


def _roots(function, A, which, method, backward, rtol, eps, degree, iterations, return_info, check) -> Any:
    """What the three functions share: the choice of the op, its number, and what is told about the result."""
    if not isinstance(method, str) or method not in METHODS:
        _fail(function, f"method must be one of {', '.join(METHODS)}", repr(method))
    backwards = METHODS[method]
    if not isinstance(backward, str) or (backward != "auto" and backward not in backwards):
        _fail(function, f"backward of method {method} must be auto or one of {', '.join(backwards)}", repr(backward))
    backward = next(iter(backwards)) if backward == "auto" else backward
    system = backwards[backward]
    for name, value, belongs in (
        ("rtol", rtol, method == "auto"),
        ("degree", degree, method in DEFAULT_DEGREE),
        ("iterations", iterations, backward in combinations.DEFAULT_ITERATIONS),
    ):
        if value is not None and not belongs:
            _fail(function, f"{name} is not an argument of method {method} with backward {backward}", value)
    if 1 in which and system.inverse is None:
        _fail(function, "a method with an inverse root is needed", f"method {method}")
    _check.matrices(function, "A", A)
    _check.number(function, "eps", eps)
    if not 0 <= eps < float("inf"):
        _fail(function, "eps must be finite and not negative", f"{eps:g}")
    if under_autocast(A):  # every system computes in float32 there and leaves it at that, as the ops do
        A = A.to(torch.promote_types(A.dtype, torch.float32))
    dtype = A.dtype
    if eps:  # of half types in float32: their own precision would lose it
        A = A.to(torch.promote_types(dtype, torch.float32))
        A = A + torch.full_like(A[..., 0], eps).diag_embed()
    converge = degree is None and method == "ns" and system.combined
    if degree is None:
        degree = CONVERGED_STEPS[A.dtype == torch.float64] if converge else DEFAULT_DEGREE.get(method)
    if system.combined and iterations is None:
        iterations = combinations.DEFAULT_ITERATIONS.get(backward)
    for name, value in (("degree", degree), ("iterations", iterations)):
        if value is not None:
            _check.count(function, name, value, method)
    if rtol is not None:
        _check.tolerance(function, "rtol", rtol)
    if system.combined:
        roots = tuple(
            combinations.combine(A, system[i], bool(i), degree, backward, iterations, converge) for i in which
        )
    else:
        numbers = (0.0 if rtol is None else rtol,) if method == "auto" else (degree,)
        if backward == "lyapunov":
            numbers += (8 if iterations is None else iterations,)
        if method == "auto" and len(which) == 2:
            roots = call("sqrtm_and_inv", A, *numbers).unbind(-3)
        else:
            roots = tuple(call(system[i], A, *numbers) for i in which)
    if A.dtype != dtype:
        roots = tuple(root.to(dtype) for root in roots)
    if return_info or check:
        info = _info(A, roots, which, 0.0 if rtol is None else rtol, degree)
        if check:
            _check_converged(function, info)
        if return_info:
            return *roots, info
    return roots if len(which) == 2 else roots[0]


@torch.compiler.assume_constant_result
def _newton_steps(rtol: float, precision: torch.dtype) -> int:
    return len(root_design(rtol, precision).scales)


def _spectral_norm(product: Callable[[Tensor], Tensor], A: Tensor) -> Tensor:
    """Of the symmetric matrices that `product` multiplies by, from below and close: power iteration from the longest
    column of A.
    """
    if A.numel() == 0:
        return A.new_zeros(A.shape[:-2])
    longest = torch.linalg.vector_norm(A, dim=-2, keepdim=True).argmax(-1, keepdim=True)
    v = A.gather(-1, longest.expand(*A.shape[:-1], 1))
    for _ in range(5):
        size = torch.linalg.vector_norm(v, dim=-2, keepdim=True)
        v = product(v / torch.where(size == 0, 1, size))
    return torch.linalg.vector_norm(v, dim=(-2, -1))


@torch.no_grad()
def _info(A: Tensor, roots: tuple[Tensor, ...], which: tuple[int, ...], rtol: float, degree: int | None) -> RootInfo:
    precision = torch.promote_types(A.dtype, torch.float32)
    A = A.to(precision)
    A = A / 2 + A.mT / 2
    scale = A.abs().amax((-2, -1), keepdim=True) if A.numel() else A.new_ones(())
    scale = torch.where(scale == 0, 1, scale)
    A = A / scale
    size = torch.linalg.matrix_norm(A)
    identity = torch.eye(A.shape[-1], dtype=precision, device=A.device)
    residual, singular = torch.zeros_like(size), torch.zeros_like(size, dtype=torch.bool)
    rounding, allowed = torch.finfo(precision).eps, 16 * torch.finfo(roots[0].dtype).eps
    with without_autocast(A):
        for i, root in zip(which, roots, strict=True):
            if i == 0:
                S = root.to(precision) / scale.sqrt()
                error = torch.linalg.matrix_norm(S @ S - A)
                residual = torch.maximum(residual, torch.where(error == 0, 0, error / size))
            else:
                Z = root.to(precision) * scale.sqrt()
                error = torch.linalg.matrix_norm(Z @ A @ Z - identity) / max(A.shape[-1], 1) ** 0.5
                residual = torch.maximum(residual, error)
        kappa = _spectral_norm(lambda v: A @ v, A)
        if 1 in which:
            kappa = kappa * _spectral_norm(lambda v: Z @ v, Z) ** 2
            singular = rounding * kappa > 1
        else:  # torch's inverses raise for a singular matrix, and wait for the device to ask
            factor, failed = torch.linalg.cholesky_ex(S)
            failed = failed != 0
            factor = torch.where(failed[..., None, None], identity, factor)
            W = torch.linalg.solve_triangular(factor, identity.expand_as(S), upper=False)
            kappa = kappa * _spectral_norm(lambda v: W.mT @ (W @ v), W.mT) ** 2
            kappa = kappa.masked_fill(failed, float("inf"))
    allowed = allowed * kappa.clamp(1, 1 / rounding).sqrt()
    if 1 in which:
        allowed = allowed + 4 * rounding * kappa
    converged = (residual <= allowed + 4 * max(rtol, FINEST_TOLERANCE[precision])) & ~singular
    steps = 1 + _newton_steps(rtol, precision) if degree is None else degree
    return RootInfo(residual, torch.full_like(size, steps, dtype=torch.int64), converged)


def _check_converged(function: str, info: RootInfo) -> None:
    if info.converged.all():
        return
    index = tuple((~info.converged).nonzero()[0].tolist())
    _fail(
        function,
        f"every matrix must converge ({int((~info.converged).sum())} of {info.converged.numel()} did not)",
        f"a residual of {info.residual[index].item():.1e} at matrix {index}",
    )


def _paper(op: str, A: Tensor, degree: int, iterations: int) -> Tensor:
    _check.matrices(op, "A", A)
    _check.count(op, "degree", degree)
    _check.count(op, "iterations", iterations)
    return call(op, A, degree, iterations)


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
    return _paper("mpa_lya", A, degree, iterations)


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
    return _paper("mtp_lya", A, degree, iterations)


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
    return _paper("mpa_lya_inv", A, degree, iterations)


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
    return _paper("mtp_lya_inv", A, degree, iterations)


def lyapunov(B: Tensor, C: Tensor, iterations: int | None = None, *, rtol: float | None = None) -> Tensor:
    """Solution X of the Lyapunov equation B X + X B = C for each pair of matrices.

    Args:
        B: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive definite.
            The half precisions are computed in float32.
        C: (..., n, n) of the same dtype and device, symmetric or not. Leading dimensions are broadcast.
        iterations: of the paper's iteration, 1 to 100, default 8. One more resolves eigenvalues of B smaller by a
            factor 1.5; eight reach float32 precision for eigenvalues above 0.17 ||B||_F.
        rtol: take Newton steps instead, until X is right to this relative error, at any condition number of B up to
            about 1e4 (float32) or 1e8 (float64); 0: to the precision of the dtype.

    Returns:
        X, of the broadcast shape. With iterations from B_0 = B/||B||_F, C_0 = C/||B||_F and the steps
        B <- B (3 I - B^2)/2, C <- (C (3 I - B^2) - B^2 C + B C B)/2; X = C/2. With rtol by the steps
        C <- (m C + B^-1 C B^-1/m)/2, B <- (m B + B^-1/m)/2 and a correction at the end. B = 0 gives X = 0; B that is
        singular to working precision gets a multiple of I first that makes it definite, and with rtol an indefinite
        B gives NaN.

    Gradient:
        dC = lyapunov(B, G) for the cotangent G, and dB = -sym(dC X^T + X^T dC). Differentiable to any order.

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
        _fail("lyapunov", "iterations and rtol exclude each other", f"{iterations} and {rtol}")
    for name, value, check in (("iterations", iterations, _check.count), ("rtol", rtol, _check.tolerance)):
        if value is not None:
            check("lyapunov", name, value)
    for name, tensor in (("B", B), ("C", C)):
        _check.strided("lyapunov", name, tensor)
    if B.shape[:-2] != C.shape[:-2] and B.dim() > 1 and C.dim() > 1:
        try:
            batch = torch.broadcast_shapes(B.shape[:-2], C.shape[:-2])
        except RuntimeError:
            _fail("lyapunov", f"C must broadcast with B {tuple(B.shape)}", tuple(C.shape))
        B, C = B.expand(*batch, *B.shape[-2:]), C.expand(*batch, *C.shape[-2:])
    if rtol is not None:
        return call("lyapunov_newton", B, C, rtol)
    return call("lyapunov", B, C, 8 if iterations is None else iterations)


def plan(A: Tensor, rtol: float | None = None) -> dict[str, object]:
    """The path that the ops take for A now: native with its sizes, or the pure-torch reference with the reason.

    `design`: what `sqrtm` computes at this rtol, and the largest relative error of an eigenvalue of the root.
    Native on CPU: the instruction set, how many matrices are computed by one thread each (alone) and how many by all
    threads together (shared), the number of threads, and the workspace in bytes. Native on CUDA: for `sqrtm` and its
    backward the fused kernel and its grid, or None for the kernel where the libraries take over.

    Example:
        >>> fastsqrtm.plan(torch.eye(8))["path"] in ("native", "reference")
        True
        >>> fastsqrtm.plan(torch.eye(8), rtol=1e-2)["design"]
        {'poles': 3, 'newton_steps': 1, 'error': 0.00097}
    """
    _check.matrices("plan", "A", A)
    rtol = 0.0 if rtol is None else rtol
    _check.tolerance("plan", "rtol", rtol)
    chosen = root_design(rtol, torch.float64 if A.dtype == torch.float64 else torch.float32)
    error = float(f"{chosen.error:.1e}")
    design = {"design": {"poles": len(chosen.terms), "newton_steps": len(chosen.scales), "error": error}}
    cuda = A.device.type == "cuda"
    reason = load_cuda() if cuda else native.reason
    if reason or not (cuda or A.device.type == "cpu"):
        return {"path": "reference", **design, "reason": reason or f"there are no native kernels for {A.device.type}"}
    sizes = (A.shape[:-2].numel(), A.shape[-1], 8 if A.dtype == torch.float64 else 4)
    if not cuda:
        return {"path": "native", **design, **native.C.plan(*sizes, torch.get_num_threads())}
    chip = torch.cuda.get_device_properties(A.device)
    limits = (chip.shared_memory_per_block_optin, chip.multi_processor_count)
    ops = {"forward": "accurate_roots", "backward": "accurate_backward"}
    poles = len(chosen.terms)
    kernels = {pass_: native.C.plan_cuda(op, *sizes, *limits, poles) for pass_, op in ops.items()}
    return {"path": "native", **design, **kernels}
