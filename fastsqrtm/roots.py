"""Square roots and inverse square roots for everyday use; docs/design.md and docs/method.md have the mathematics."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ._ops import check as _check
from ._ops.route import call, call_all, under_autocast, without_autocast
from ._ops.table import OPS
from ._reference.scalars import FINEST_TOLERANCE


def sqrtm(A: Tensor, *, rtol: float | None = None, eps: float = 0.0, check: bool = False) -> Tensor:
    """Compute the square root of each symmetric positive semidefinite matrix, with its exact gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64. Its symmetric part is used; the half precisions are
            computed in float32.
        rtol: Largest relative error of the root, from 0 to 1; None asks for the precision of the dtype, and no smaller
            value reaches more. A larger one is faster. The normwise error of the gradient is of this order, up to ten
            times as large where the cotangent lies in the directions that converge last.
        eps: Added to the diagonal of A before the root is taken, in the precision of the computation.
        check: Raise if a matrix did not converge. This waits for the device; `root_info` does not.

    Returns:
        A^(1/2), symmetric positive definite, in the shape and dtype of A, accurate at condition numbers up to 1e6
        (float32) or 1e12 (float64). Eigenvalues below 1e-7 (float64: 1e-13) of ||A|| make the root too large, by at
        most 4e-4 (2e-6) ||A||^(1/2). Where A is not positive definite in its precision, the result is the root of
        A + d I with the first d of 1, 8, 64 and 1024 eps ||A|| that makes it so; an eigenvalue below about -1024 eps
        ||A|| gives NaN. (||A|| is the smaller of Frobenius and 1-norm, eps the precision of the computation; for half
        types the last d covers the rounding of their entries.) The root of the zero matrix is zero. NaN and Inf give
        NaN, in that matrix alone.

    Gradient:
        X with S X + X S = sym(G) for the root S and the cotangent G; symmetric, differentiable to any order. At
        singular matrices it is finite, at most ||G|| over twice the smallest eigenvalue of S, which is at least
        2e-4 (8e-8) ||A||^(1/2); at the zero matrix it is 0. An `eps` bounds it by ||G|| / (2 sqrt(eps)). For half
        types S is saved as rounded to them, which may leave it singular or indefinite: the gradient can be large
        there, and rarely NaN, without an `eps`.

    Cost:
        In float32 6 n^3 flop forward (4 n^3 at rtol=1e-2) and 6 to 18 n^3 backward, more for larger condition numbers;
        in float64 10 n^3 forward. On CPU at most 5 matrices of workspace per thread. The root is saved for backward.

    Raises:
        RuntimeError: A is not square or has another dtype or layout; a number is out of range; `check` found a matrix
            that did not converge.

    Source:
        Nakatsukasa and Freund, SIAM Review 58(3), 2016; Higham, Numer. Algorithms 15, 1997; for the Lyapunov equation
        Roberts, Int. J. Control 32, 1980.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=1e4, batch=(3,))
        >>> S = fastsqrtm.sqrtm(A)
        >>> torch.allclose(S @ S, A, rtol=1e-4, atol=1e-6)
        True
        >>> rough = fastsqrtm.sqrtm(A, rtol=1e-2)
        >>> bool((fastsqrtm.root_info(A, rough).residual < 0.03).all())
        True
    """
    shifted = prepared("sqrtm", A, eps)
    rtol = _tolerance("sqrtm", rtol)
    S = in_dtype(call("sqrtm", shifted, rtol), A)
    if check:
        _check_converged("sqrtm", _info(shifted, S, None, rtol))
    return S


def inv_sqrtm(A: Tensor, *, rtol: float | None = None, eps: float = 0.0, check: bool = False) -> Tensor:
    """Compute the inverse square root of each symmetric positive definite matrix, with its exact gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used.
        rtol, eps, check: As for `sqrtm`.

    Returns:
        A^(-1/2), symmetric positive definite, in the shape and dtype of A. For singular matrices it is finite, at most
        about 4e3 (float64: 1e9) / ||A||^(1/2), without meaning in the directions of the zero eigenvalues: give an `eps`
        there. The zero matrix gives +inf on the diagonal and 0 elsewhere. Otherwise as for `sqrtm`.

    Gradient:
        X with S X + X S = -Z sym(G) Z for Z = A^(-1/2), S = Z^-1 and the cotangent G; symmetric, differentiable to any
        order, 0 at the zero matrix.

    Cost:
        As `sqrtm`, and 3 n^3 more backward. The inverse root is saved for backward.

    Raises:
        RuntimeError: As `sqrtm`.

    Source:
        As `sqrtm`.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=1e4, batch=(3,), dtype=torch.float64)
        >>> Z = fastsqrtm.inv_sqrtm(A)
        >>> torch.allclose(Z @ A @ Z, torch.eye(8, dtype=torch.float64).expand(3, 8, 8), atol=1e-10)
        True
    """
    shifted = prepared("inv_sqrtm", A, eps)
    rtol = _tolerance("inv_sqrtm", rtol)
    Z = in_dtype(call("inv_sqrtm", shifted, rtol), A)
    if check:
        _check_converged("inv_sqrtm", _info(shifted, None, Z, rtol))
    return Z


def sqrtm_and_inv(
    A: Tensor, *, rtol: float | None = None, eps: float = 0.0, check: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute the square root and the inverse square root of each matrix in one forward, with one backward for both.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; its symmetric part is used, positive definite.
        rtol, eps, check: As for `sqrtm`.

    Returns:
        (A^(1/2), A^(-1/2)), those of `sqrtm` and `inv_sqrtm`.

    Gradient:
        X with S X + X S = sym(G) - Z sym(H) Z for the cotangents G of S = A^(1/2) and H of Z = A^(-1/2).

    Cost:
        As `sqrtm` and n^3 more forward, 3 n^3 more backward. Both roots are saved for backward.

    Raises:
        RuntimeError: As `sqrtm`.

    Source:
        As `sqrtm`.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=100, batch=(3,))
        >>> S, Z = fastsqrtm.sqrtm_and_inv(A)
        >>> torch.allclose(S @ Z, torch.eye(8).expand(3, 8, 8), atol=1e-4)
        True
    """
    shifted = prepared("sqrtm_and_inv", A, eps)
    rtol = _tolerance("sqrtm_and_inv", rtol)
    S, Z = (in_dtype(root, A) for root in call_all("sqrtm_and_inv", shifted, rtol))
    if check:
        _check_converged("sqrtm_and_inv", _info(shifted, S, Z, rtol))
    return S, Z


class RootInfo(NamedTuple):
    """The accuracy of each root, one entry per matrix. The tensors stay on A's device; only reading them synchronizes.

    residual: ||S S - A||_F / ||A||_F for a root S, ||Z A Z - I||_F / sqrt(n) for an inverse root Z, the larger of the
        two for both. For small errors it is about twice the relative error of the root.
    converged: Whether the residual is what `rtol` and the rounding at this condition number leave. False for NaN,
        mostly for the paper's approximants, and for matrices that are singular to working precision: where an inverse
        root is given, and in float64 often for a root as well.
    """

    residual: Tensor
    converged: Tensor


def root_info(A: Tensor, S: Tensor | None = None, Z: Tensor | None = None, *, rtol: float | None = None) -> RootInfo:
    """Measure how accurate the roots of A are, without waiting for the device.

    Args:
        A: (..., n, n), the matrices whose roots these are, with any `eps` on their diagonal already.
        S: Their roots, by any method.
        Z: Their inverse roots, by any method; S, Z or both.
        rtol: The tolerance the roots were asked for; None stands for the precision of the dtype.

    Returns:
        A RootInfo of `residual` and `converged`, in the leading dimensions of A.

    Gradient:
        None.

    Cost:
        A product for each root, and for a root alone an inverse, in plain torch.

    Raises:
        RuntimeError: Neither S nor Z is given, one is not like A, or rtol is out of range.

    Source:
        The bounds on rounding: docs/method.md.

    Example:
        >>> A = fastsqrtm.testing.spd(8, kappa=1e4, batch=(3,))
        >>> info = fastsqrtm.root_info(A, fastsqrtm.sqrtm(A))
        >>> bool(info.converged.all()), bool((info.residual < 1e-5).all())
        (True, True)
    """
    _check.first("root_info", OPS["sqrtm"].tensors[0], A)
    for name, root in (("S", S), ("Z", Z)):
        if root is not None:
            _check.strided("root_info", name, root)
            if root.shape != A.shape:
                _check.fail("root_info", f"{name} must have the shape of A {tuple(A.shape)}", tuple(root.shape))
    if S is None and Z is None:
        _check.fail("root_info", "a root S or an inverse root Z is needed", "neither")
    return _info(A, S, Z, _tolerance("root_info", rtol))


_RTOL = OPS["sqrtm"].number("rtol")


def _tolerance(function: str, rtol: float | None) -> float:
    if rtol is None:
        return 0.0
    _check.number(function, _RTOL, rtol)
    return rtol


def prepared(function: str, A: Tensor, eps: float) -> Tensor:
    """A as the ops take it, with eps on its diagonal: in float32 under autocast, and with an eps at half precisions,
    which would lose it.
    """
    _check.first(function, OPS["sqrtm"].tensors[0], A)
    _check.kind(function, "eps", eps)
    if not 0 <= eps < float("inf"):
        _check.fail(function, "eps must be finite and not negative", f"{eps:g}")
    if eps or under_autocast(A):
        A = A.to(torch.promote_types(A.dtype, torch.float32))
    return A + torch.full_like(A.diagonal(dim1=-2, dim2=-1), eps).diag_embed() if eps else A


def in_dtype(root: Tensor, A: Tensor) -> Tensor:
    """The root in the dtype of A; unchanged under autocast, as from the ops."""
    return root if root.dtype == A.dtype or under_autocast(A) else root.to(A.dtype)


def _spectral_norm(product: Callable[[Tensor], Tensor], A: Tensor) -> Tensor:
    """A close lower bound of the spectral norm of the symmetric matrices that `product` multiplies by: power iteration
    from the longest column of A.
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
def _info(A: Tensor, S: Tensor | None, Z: Tensor | None, rtol: float) -> RootInfo:
    storage = next(root.dtype for root in (S, Z) if root is not None)
    precision = torch.promote_types(A.dtype, torch.float32)
    A = A.to(precision)
    A = A / 2 + A.mT / 2
    scale = A.abs().amax((-2, -1), keepdim=True) if A.numel() else A.new_ones(())
    scale = torch.where(scale == 0, 1, scale)
    A = A / scale
    size = torch.linalg.matrix_norm(A)
    identity = torch.eye(A.shape[-1], dtype=precision, device=A.device)
    residual, singular = torch.zeros_like(size), torch.zeros_like(size, dtype=torch.bool)
    rounding, allowed = torch.finfo(precision).eps, 16 * torch.finfo(storage).eps
    with without_autocast(A):
        kappa = _spectral_norm(lambda v: A @ v, A)
        if S is not None:
            S = S.to(precision) / scale.sqrt()
            error = torch.linalg.matrix_norm(S @ S - A)
            residual = torch.maximum(residual, torch.where(error == 0, 0, error / size))
        if Z is not None:
            Z = Z.to(precision) * scale.sqrt()
            error = torch.linalg.matrix_norm(Z @ A @ Z - identity) / max(A.shape[-1], 1) ** 0.5
            residual = torch.maximum(residual, error)
            kappa = kappa * _spectral_norm(lambda v: Z @ v, Z) ** 2
            singular = rounding * kappa > 1
        elif S is not None:  # torch's inverses raise for a singular matrix, and wait for the device
            factor, failed = torch.linalg.cholesky_ex(S)
            failed = failed != 0
            factor = torch.where(failed[..., None, None], identity, factor)
            W = torch.linalg.solve_triangular(factor, identity.expand_as(S), upper=False)
            kappa = kappa * _spectral_norm(lambda v: W.mT @ (W @ v), W.mT) ** 2
            kappa = kappa.masked_fill(failed, float("inf"))
    bound = allowed * kappa.clamp(1, 1 / rounding).sqrt()
    if Z is not None:
        bound = bound + 4 * rounding * kappa
    converged = (residual <= bound + 4 * max(rtol, FINEST_TOLERANCE[precision])) & ~singular
    return RootInfo(residual, converged)


def _check_converged(function: str, info: RootInfo) -> None:
    _check.known(function, "check=True", info.converged, "call fastsqrtm.root_info(A, root) instead")
    if info.converged.all():
        return
    index = tuple((~info.converged).nonzero()[0].tolist())
    _check.fail(
        function,
        f"every matrix must converge ({int((~info.converged).sum())} of {info.converged.numel()} did not)",
        f"a residual of {info.residual[index].item():.1e} at matrix {index}",
    )
