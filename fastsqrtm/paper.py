"""The systems of Song, Sebe and Wang and those they compare with, to reproduce the paper: for everyday use there is
`fastsqrtm.sqrtm`.

Song, Sebe, Wang, *Fast Differentiable Matrix Square Root*, ICLR 2022 (arXiv 2201.08663), and for the inverse roots
*Fast Differentiable Matrix Square Root and Inverse Square Root* (arXiv 2201.12543).

`METHODS` lists which backward goes with which method: the paper's thirteen systems, PI, SVD-PI, SVD-Taylor, SVD-Pade,
SVD-BS, SVD-Lya, NS, and NS, MPA and MTP each with Lya and BS, and the exact gradients. Where a system is not one op, a
forward (an op, eigendecomposition or power iteration) is combined with any backward, in plain torch, and differentiable
once.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._ops import check as _check
from ._ops.route import call, unpack_dual, without_autocast
from ._ops.table import OPS, Number
from ._reference.matrix import symmetric_part
from .roots import in_dtype, prepared

__all__ = ["METHODS", "inv_sqrtm", "mpa_lya", "mpa_lya_inv", "mtp_lya", "mtp_lya_inv", "sqrtm"]

CONVERGED_STEPS = {torch.float32: 28, torch.float64: 52}
"""Newton-Schulz with a gradient that takes its result for the root must have converged (docs/method.md). This many
steps suffice for every eigenvalue that the rounding of the largest leaves; matrices that need fewer stop earlier."""


class System(NamedTuple):
    """A method with a backward: the ops of the root and of the inverse root, and the numbers it takes.

    Where it is `combined`, the ops are forward functions, and this module adds the backward. With `converge` the
    default degree is that at which Newton-Schulz has converged, and a root that has not is NaN.
    """

    root: str
    inverse: str | None
    degree: Number | None = None
    iterations: Number | None = None
    combined: bool = False
    converge: bool = False


def _degree(op: str) -> Number:
    return dataclasses.replace(OPS[op].numbers[0], name="degree")


# The Lyapunov iteration of the paper's gradient has 8 steps. After a root that has converged they leave a gradient that
# is not its own (docs/method.md), so there the default solves the equation to the precision of the dtype. In the SVD
# family the paper has 9 terms for whitening and 100 for covariance pooling.
_LYAPUNOV = OPS["lyapunov"].number("iterations")
_SOLVED = dataclasses.replace(_LYAPUNOV, default=None)
_TERMS = dataclasses.replace(_LYAPUNOV, default=9)

METHODS: dict[str, dict[str, System]] = {
    "mpa": {
        "exact": System("mpa", "mpa_inv", _degree("mpa")),
        "lyapunov": System("mpa_lya", "mpa_lya_inv", _degree("mpa"), _LYAPUNOV),
        "bartels_stewart": System("mpa", "mpa_inv", _degree("mpa"), combined=True),
    },
    "mtp": {
        "exact": System("mtp", "mtp_inv", _degree("mtp")),
        "lyapunov": System("mtp_lya", "mtp_lya_inv", _degree("mtp"), _LYAPUNOV),
        "bartels_stewart": System("mtp", "mtp_inv", _degree("mtp"), combined=True),
    },
    "ns": {
        "ns": System("ns", "ns_inv", _degree("ns")),
        "exact": System("ns", "ns_inv", _degree("ns")),
        "lyapunov": System("ns", "ns_inv", _degree("ns"), _SOLVED, combined=True, converge=True),
        "bartels_stewart": System("ns", "ns_inv", _degree("ns"), combined=True, converge=True),
    },
    "eigh": {
        "exact": System("eigh", "eigh", combined=True),
        "lyapunov": System("eigh", "eigh", None, _SOLVED, combined=True),
        "svd_pi": System("eigh", "eigh", None, _TERMS, combined=True),
        "svd_taylor": System("eigh", "eigh", None, _TERMS, combined=True),
        "svd_pade": System("eigh", "eigh", combined=True),
        "bartels_stewart": System("eigh", "eigh", combined=True),
    },
    "pi": {"exact": System("power_iteration", None, Number("degree", True, 10, 1, 100), combined=True)},
}
"""method -> backward -> system. The first backward of a row is what "auto" means."""


class _Options(NamedTuple):
    method: str
    backward: str
    degree: int | None
    iterations: int | None
    eps: float


def sqrtm(
    A: Tensor,
    *,
    method: str,
    backward: str = "auto",
    degree: int | None = None,
    iterations: int | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Compute the square root of each matrix by one of the systems that the paper compares.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive semidefinite. The
            half precisions are computed in float32.
        method: "mpa" and "mtp", the paper's Pade approximant and Taylor polynomial; "ns", Newton-Schulz steps. In plain
            torch: "eigh", the eigendecomposition, and "pi", power iteration, which finds the dominant eigenpair alone.
        backward: "exact", the gradient of the map computed, which "auto" means; for Newton-Schulz "ns" is another name
            of it. "lyapunov", the paper's: the gradient of the exact root at the point computed, for "mpa" and "mtp" by
            a truncated iteration. The two agree where approximant and iteration have converged, at condition numbers
            near 1; at 1e3 and default degree they differ by about 0.3 of the gradient. "bartels_stewart": the same
            equation solved by eigendecomposition. With "eigh" also "svd_pi", "svd_taylor" and "svd_pade", three
            published approximations of 1/(l_i - l_j). `METHODS` lists the valid combinations; an invalid one raises an
            error that lists them.
        degree: Degree of "mpa" (1 to 32, default 5) and "mtp" (1 to 128, default 10), steps of "ns" (1 to 100, default
            5) and of "pi" (1 to 100, default 10). With "lyapunov" or "bartels_stewart", "ns" goes on until it has
            converged by default, because that gradient at an unfinished root makes training diverge (docs/paper.md).
        iterations: Steps of the "lyapunov" backward (1 to 100; default 8 for "mpa" and "mtp", otherwise until the
            equation is solved), or terms of "svd_pi" and "svd_taylor" (1 to 100, default 9).
        eps: Added to the diagonal of A before the root is taken, in the precision of the computation.

    Returns:
        A^(1/2) as the method has it, symmetric, in the shape and dtype of A. The zero matrix gives zero; NaN and Inf
        give NaN, in that matrix alone. The polynomials of "mtp" and "ns" are defined for indefinite matrices as well;
        "ns" with "lyapunov" or "bartels_stewart" gives NaN where it does not converge, as at singular matrices; "eigh"
        where an eigenvalue is below -1024 eps of the largest.

    Gradient:
        As `backward` says. The exact ones of "mpa", "mtp" and "ns" and the "lyapunov" ones of "mpa" and "mtp" are
        differentiable to any order, the others once, in reverse or forward mode.

    Cost:
        "mpa" and "mtp" forward as `mpa_lya` and `mtp_lya`; their exact gradient takes 4 degree n^3 and 1.5 degree n^3
        flop, in at most 5 and 8 matrices of workspace. "ns": 2.5 (degree - 1) n^3 and three times as much backward, in
        5 and 10 matrices; a matrix stops when it has converged.

    Raises:
        RuntimeError: A is not square or has another dtype or layout; a number is out of range; method or backward do
            not exist or do not take this argument.

    Source:
        Song, Sebe, Wang, ICLR 2022, for "mpa", "mtp" and "lyapunov"; docs/method.md for what they are compared with.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=2, batch=(3,))
        >>> S = fastsqrtm.paper.sqrtm(A, method="eigh", backward="svd_taylor")
        >>> torch.allclose(S @ S, A, atol=1e-5)
        True
        >>> len([backward for row in fastsqrtm.paper.METHODS.values() for backward in row])
        17
    """
    return _root("paper.sqrtm", A, False, _Options(method, backward, degree, iterations, eps))


def inv_sqrtm(
    A: Tensor,
    *,
    method: str,
    backward: str = "auto",
    degree: int | None = None,
    iterations: int | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Compute the inverse square root of each matrix by one of the systems that the paper compares.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive definite.
        method, backward, degree, iterations, eps: As for `fastsqrtm.paper.sqrtm`. "pi" has no inverse root.

    Returns:
        A^(-1/2) as the method has it, in the shape and dtype of A. The zero matrix gives +inf on the diagonal and 0
        elsewhere. Otherwise as `fastsqrtm.paper.sqrtm`.

    Gradient:
        As `fastsqrtm.paper.sqrtm`.

    Cost:
        As `fastsqrtm.paper.sqrtm`.

    Raises:
        RuntimeError: As `fastsqrtm.paper.sqrtm`.

    Source:
        As `fastsqrtm.paper.sqrtm`; Song, Sebe, Wang, arXiv 2201.12543.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=2, batch=(3,))
        >>> Z = fastsqrtm.paper.inv_sqrtm(A, method="mpa", degree=20)
        >>> torch.allclose(Z @ A @ Z, torch.eye(8).expand(3, 8, 8), atol=1e-4)
        True
    """
    return _root("paper.inv_sqrtm", A, True, _Options(method, backward, degree, iterations, eps))


def _root(function: str, A: Tensor, inverse: bool, options: _Options) -> Tensor:
    """Shared body of sqrtm and inv_sqrtm: validate the arguments, find the system, run its op or its combination."""
    system, backward = _system(function, options)
    forward = system.inverse if inverse else system.root
    if forward is None:
        _check.fail(function, "a method with an inverse root is needed", f"method {options.method}")
    _check.first(function, OPS["sqrtm"].tensors[0], A)  # real: the paper's bounds of the spectrum are of such matrices
    shifted = prepared(function, A, options.eps)
    degree = _number(function, options.degree, system.degree)
    iterations = _number(function, options.iterations, system.iterations)
    if not system.combined:
        root = call(forward, shifted, degree, *(() if system.iterations is None else (iterations,)))
    else:
        converge = system.converge and options.degree is None
        if converge:
            degree = CONVERGED_STEPS[torch.float64 if shifted.dtype == torch.float64 else torch.float32]
        root = combine(shifted, forward, degree, Backward(backward, inverse, iterations), converge)
    return in_dtype(root, A)


def _system(function: str, options: _Options) -> tuple[System, str]:
    """The system that the options name, and its backward by its own name."""
    method, backward = options.method, options.backward
    if not isinstance(method, str) or method not in METHODS:
        _check.fail(function, f"method must be one of {', '.join(METHODS)}", repr(method))
    row = METHODS[method]
    if not isinstance(backward, str) or (backward != "auto" and backward not in row):
        _check.fail(function, f"backward of method {method} must be auto or one of {', '.join(row)}", repr(backward))
    backward = next(iter(row)) if backward == "auto" else backward
    system = row[backward]
    for name, value, taken in (
        ("degree", options.degree, system.degree),
        ("iterations", options.iterations, system.iterations),
    ):
        if value is not None and taken is None:
            _check.fail(function, f"{name} is not an argument of method {method} with backward {backward}", value)
    return system, backward


def _number(function: str, value: int | None, expected: Number | None) -> Any:
    """The number given, checked, or the default of the system."""
    if value is None or expected is None:
        return None if expected is None else expected.default
    _check.number(function, expected, value)
    return value


# The ops of the paper by their names.


def _paper(name: str, A: Tensor, degree: int, iterations: int) -> Tensor:
    op = OPS[name]
    _check.first(name, op.tensors[0], A)
    of_degree, of_iterations = op.numbers
    _check.number(name, of_degree, degree)
    _check.number(name, of_iterations, iterations)
    return call(name, A, degree, iterations)


def mpa_lya(A: Tensor, degree: int = 5, iterations: int = 8) -> Tensor:
    """Compute the square root of each matrix by a Pade approximant, with the Lyapunov gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive semidefinite. The
            half precisions are computed in float32.
        degree: Degree of numerator and denominator, 1 to 32.
        iterations: Steps of the Lyapunov solve in the backward pass, 1 to 100.

    Returns:
        A^(1/2), symmetric, in the shape and dtype of A. With nu = ||A||_F and X = A/nu it is sqrt(nu) r(X), where r is
        the diagonal Pade approximant of sqrt(x) about x = 1. Its relative error at an eigenvalue x of X is
        2 q/(1 - q) with q = ((1 - sqrt(x))/(1 + sqrt(x)))^(2 degree + 1): small for well-conditioned matrices, and at
        x = 0 the root is sqrt(nu)/(2 degree + 1) instead of zero. The zero matrix gives zero; a matrix with NaN, Inf,
        or an eigenvalue below -0.086 nu (at degree 5) gives NaN, in that matrix alone.

    Gradient:
        X with A^(1/2) X + X A^(1/2) = sym(G) for the cotangent G; symmetric. It is the gradient of the exact
        root at the point computed, not that of the approximant. Differentiable to any order.

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
    """Compute the square root of each matrix by a Taylor polynomial, with the Lyapunov gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive semidefinite. The
            half precisions are computed in float32.
        degree: Degree of the polynomial, 1 to 128.
        iterations: Steps of the Lyapunov solve in the backward pass, 1 to 100.

    Returns:
        A^(1/2), symmetric, in the shape and dtype of A. With nu = ||A||_F and W = I - A/nu it is
        sqrt(nu) sum_k binom(1/2, k) (-W)^k, k = 0..degree. It is cheaper than `mpa_lya`, and less accurate at
        ill-conditioned matrices. The zero matrix gives zero; a matrix with NaN or Inf gives NaN, in that matrix alone.

    Gradient:
        As `mpa_lya`.

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
    """Compute the inverse square root of each matrix by a Pade approximant, with the Lyapunov gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive definite. The half
            precisions are computed in float32.
        degree: Degree of numerator and denominator, 1 to 32.
        iterations: Steps of the Lyapunov solve in the backward pass, 1 to 100.

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
        Song, Sebe, Wang, ICLR 2022 and its longer version; their gradient is scaled by the norm of the whole
        batch, this one by that of each matrix.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=2, batch=(3,))
        >>> Z = fastsqrtm.mpa_lya_inv(A, degree=20)
        >>> torch.allclose(Z @ A @ Z, torch.eye(8).expand(3, 8, 8), atol=1e-4)
        True
    """
    return _paper("mpa_lya_inv", A, degree, iterations)


def mtp_lya_inv(A: Tensor, degree: int = 10, iterations: int = 8) -> Tensor:
    """Compute the inverse square root of each matrix by a Taylor polynomial, with the Lyapunov gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive definite. The half
            precisions are computed in float32.
        degree: Degree of the polynomial, 1 to 128.
        iterations: Steps of the Lyapunov solve in the backward pass, 1 to 100.

    Returns:
        A^(-1/2), symmetric, in the shape and dtype of A. With nu = ||A||_F and W = I - A/nu it is
        sum_k binom(-1/2, k) (-W)^k / sqrt(nu), k = 0..degree. The zero matrix gives +inf on the diagonal and 0
        elsewhere; a matrix with NaN or Inf gives NaN, in that matrix alone.

    Gradient:
        As `mpa_lya_inv`.

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


# The combinations.


def _column(x: Tensor) -> Tensor:
    return x[..., :, None]


def _row(x: Tensor) -> Tensor:
    return x[..., None, :]


def _floor(values: Tensor) -> Tensor:
    """Eigenvalues clamped to the rounding of the largest, because gradients and inverse roots divide by them."""
    return torch.maximum(values, torch.finfo(values.dtype).eps * values[..., -1:])


def eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors. NaN where A is not finite, or so indefinite that `sqrtm` refuses it."""
    finite = A.isfinite().all(-1, True).all(-2, True)  # LAPACK would reject the whole batch
    values, V = torch.linalg.eigh(torch.where(finite, A, 0))
    indefinite = values[..., :1] < -1024 * torch.finfo(A.dtype).eps * values[..., -1:].abs()
    return torch.where(finite[..., 0] & indefinite.logical_not(), values, math.nan), V


def _eigh_root(A: Tensor, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    values, V = eigh(A)
    f = _floor(values).rsqrt() if inverse else values.clamp_min(0).sqrt()
    root = (V * _row(f)) @ V.mT
    if inverse:  # of the zero matrix, as everywhere
        root = torch.where(values[..., -1:, None] == 0, torch.full_like(values, math.inf).diag_embed(), root)
    return root, values, V


def power_iteration(A: Tensor, iterations: int = 10) -> Tensor:
    """sqrt(l) v v^T for the dominant eigenpair after `iterations` steps; torch differentiates through them."""
    A = symmetric_part(A)
    start = torch.linalg.vector_norm(A.detach(), dim=-2).argmax(-1)
    v = torch.nn.functional.one_hot(start, A.shape[-1]).to(A.dtype).unsqueeze(-1)
    zero = (A.detach() == 0).all(-1, True).all(-2, True)
    A = torch.where(zero, torch.eye(A.shape[-1], dtype=A.dtype, device=A.device), A)
    for _ in range(iterations):
        v = A @ v
        v = v / torch.linalg.vector_norm(v, dim=-2, keepdim=True)
    root = (v.mT @ A @ v).sqrt() * (v @ v.mT)
    return torch.where(zero, 0, root)


def divided_differences(values: Tensor, inverse: bool, backward: str, iterations: int) -> Tensor:
    """[f(l_i) - f(l_j)]/(l_i - l_j) of f = l^(1/2) or l^(-1/2), f'(l_i) on the diagonal, as `backward` computes it.

    The gradient of an eigenvector divides by the difference of two eigenvalues, 1/(l_i - l_j) = (1/l_i)/(1 - q) for
    q = l_j/l_i < 1. These approximate 1/(1 - q):

    svd_taylor: the first iterations + 1 terms of the geometric series (Wang et al., TPAMI 2021).
    svd_pi: the gradient of `iterations` power iterations with deflation (Wang et al., NeurIPS 2019): as many terms for
        the vector of the larger eigenvalue, and one less for that of the smaller.
    svd_pade: its diagonal Pade approximant (Song et al., ICCV 2021). The series is a rational function, so of every
        degree it is 1/(1 - q) itself; 1 - q is kept above rounding.
    exact: no approximation, the quotient is 1/(s_i + s_j), s^2 = l; for l^(-1/2) -1/(s_i s_j (s_i + s_j)).
    """
    values = _floor(values)
    s = values.sqrt()
    if backward in ("exact", "bartels_stewart"):
        sums = _column(s) + _row(s)
        return -1 / (sums * _column(s) * _row(s)) if inverse else 1 / sums
    f = 1 / s if inverse else s
    derivative = (-0.5 if inverse else 0.5) * f / values
    large, small = torch.maximum(_column(values), _row(values)), torch.minimum(_column(values), _row(values))
    q = small / large
    if backward == "svd_pade":
        of_large = of_small = 1 / (1 - q).clamp_min(torch.finfo(q.dtype).eps)
    else:
        of_small = torch.zeros_like(q)
        for _ in range(iterations - 1):
            of_small = 1 + q * of_small
        of_large = 1 + q * of_small
        if backward == "svd_taylor":
            of_large = of_small = 1 + q * of_large
    of_larger, of_smaller = (torch.minimum, torch.maximum) if inverse else (torch.maximum, torch.minimum)
    f_of_large, f_of_small = (pick(_column(f), _row(f)) for pick in (of_larger, of_smaller))
    quotient = (of_large * f_of_large - of_small * f_of_small) / large
    diagonal = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    return torch.where(diagonal, _column(derivative), quotient)


class Backward(NamedTuple):
    """A backward of METHODS by its own name, for the root or the inverse root, with its iterations where it has any."""

    name: str
    inverse: bool = False
    iterations: int | None = None


def root_gradient(
    A: Tensor, root: Tensor, G: Tensor, backward: Backward, spectrum: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Gradient of <G, root> for symmetric G. "exact" and the SVD family take the `spectrum` of A."""
    name, inverse, iterations = backward
    if name == "lyapunov" and iterations is None:
        return call("inv_sqrtm_backward", root, G, 0.0) if inverse else call("sqrtm_backward", root, G, 0.0)
    if name == "lyapunov":
        if inverse:
            return call("inv_sqrtm_lya_backward", root, G, iterations)
        return call("sqrtm_lya_backward", A, root, G, iterations)
    if name == "bartels_stewart":  # S X + X S = G, by the Schur form of S, which is diagonal
        values, V = eigh(root)
        values = values.square().reciprocal().flip(-1) if inverse else values.clamp_min(0).square()
        V = V.flip(-1) if inverse else V
    else:
        assert spectrum is not None
        values, V = spectrum
    quotients = divided_differences(values, inverse, name, iterations or 0)
    gradient = V @ (quotients * (V.mT @ G @ V)) @ V.mT
    return torch.where((A == 0).all(-1, True).all(-2, True), 0, symmetric_part(gradient))


def _converged_or_nan(A: Tensor, root: Tensor, inverse: bool) -> Tensor:
    """The root of a Newton-Schulz iteration that should have converged, or NaN where tr S^2 is not tr A: there rounding
    took an eigenvalue below zero, and it grew without bound.
    """
    with torch.no_grad():
        S = A @ root if inverse else root
        trace = A.diagonal(dim1=-2, dim2=-1).sum(-1)
        off = (torch.linalg.matrix_norm(S).square() - trace).abs() / trace
        kept = (off <= 1e-3) | (A == 0).all(-1).all(-1)
    return root * torch.where(kept, 1.0, math.nan)[..., None, None].to(root.dtype)


class _Once(torch.autograd.Function):
    """A derivative that raises when it is differentiated; torch's once_differentiable silently leaves terms out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(derivative: Tensor, A: Tensor, direction: Tensor) -> Tensor:
        return derivative.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple:
        raise RuntimeError(
            "fastsqrtm: systems that combine a root with another method's backward differentiate once; those that are "
            "one op, such as mpa with exact, and fastsqrtm.sqrtm differentiate to any order"
        )

    jvp = backward


class _Combination(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, op: str, degree: int | None, backward: Backward) -> tuple[Tensor, Tensor, Tensor]:
        if op == "eigh":
            return _eigh_root(A, backward.inverse)
        return call(op, A, degree), A.new_empty(0), A.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        A, *_, ctx.way = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(A, *output)
        ctx.save_for_forward(A, *output)

    @staticmethod
    def backward(ctx: Any, G: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        return (None if G is None else _once(ctx.saved_tensors, ctx.way, G)), None, None, None


class _DualCombination(_Combination):
    """The same with tangents: torch.compile does not trace a Function that has them."""

    @staticmethod
    def jvp(ctx: Any, D: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        with forward_ad._set_fwd_grad_enabled(True):  # torch switches it off around this
            return _once([unpack_dual(x)[0] for x in ctx.saved_tensors], ctx.way, D), None, None


def _once(saved: Sequence[Tensor], way: Backward, direction: Tensor) -> Tensor:
    """The gradient for a cotangent, or the tangent for a direction: every one of these maps is self-adjoint."""
    A, root, values, vectors = saved
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False), without_autocast(A):
        derivative = root_gradient(A, root, symmetric_part(direction), way, (values, vectors))
    return _Once.apply(derivative, A, direction)


def combine(A: Tensor, forward: str, degree: int | None, backward: Backward, converge: bool) -> Tensor:
    """The root by eigh, by power_iteration or by a forward op, with another backward. With `converge`, a root that has
    not converged is NaN.
    """
    if A.numel() == 0:
        return A + 0
    A, dtype = A.to(torch.float64 if A.dtype == torch.float64 else torch.float32), A.dtype
    with without_autocast(A):
        if forward == "power_iteration":
            assert degree is not None
            return power_iteration(A, degree).to(dtype)
        name = "paper.inv_sqrtm" if backward.inverse else "paper.sqrtm"
        one_op = "the method and backward must be one op, such as mpa with exact, or fastsqrtm.sqrtm be called"
        _check.not_functionalized(name, one_op, A)
        compiling = torch.compiler.is_compiling()
        if compiling and forward_ad._current_level >= 0:  # the graph would have the tangents of its forward method
            _check.fail(name, f"{one_op}, or it be called uncompiled", "forward mode in a compiled graph")
        A = symmetric_part(A)
        function = _Combination if compiling else _DualCombination
        root = function.apply(A, forward, degree, backward)[0]
        return (_converged_or_nan(A, root, backward.inverse) if converge else root).to(dtype)
