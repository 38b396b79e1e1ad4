"""Square roots and inverse square roots for everyday use; docs/design.md and docs/method.md have the mathematics."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ._ops import check as _check
from ._ops import sharding
from ._ops.hermitian import embedded, restored
from ._ops.route import call, call_all, under_autocast, without_autocast
from ._ops.table import OPS
from ._reference.eigen import eigenvalues_are_faster
from ._reference.matrix import identity_like
from ._reference.pseudo import pseudo_inverse_root
from ._reference.scalars import FINEST_TOLERANCE


def sqrtm(
    A: Tensor, *, rtol: float | None = None, eps: float = 0.0, rel_eps: float = 0.0, check: bool = False
) -> Tensor:
    """Compute the square root of each symmetric positive semidefinite matrix, with its exact gradient.

    Args:
        A: (..., n, n), float16, bfloat16, float32, float64, complex64 or complex128. Its symmetric part is used, of a
            complex matrix the Hermitian part; the half precisions are computed in float32.
        rtol: Largest relative error of the root, from 0 to 1; None asks for the precision of the dtype, and no smaller
            value reaches more. A larger one is faster. The normwise error of the gradient is of this order, up to ten
            times as large where the cotangent lies in the directions that converge last.
        eps: Added to the diagonal of A before the root is taken, in the precision of the computation.
        rel_eps: The same in units of the Frobenius norm of each matrix: A + rel_eps ||A||_F I. Differentiated through.
        check: Raise if a matrix did not converge or is not symmetric. This waits for the device; `root_info` does not.

    Returns:
        A^(1/2), symmetric (Hermitian) positive semidefinite, in the shape and dtype of A, at condition numbers up to
        1e6 (float32) or 1e12 (float64) by steps that are faster than an eigendecomposition; large matrices in float64
        on a CPU, where LAPACK is faster, by that (`fastsqrtm.plan` says so). Matrices beyond, singular
        ones and those that rounding made indefinite get the root of their positive semidefinite part, by an
        eigendecomposition: an eigenvalue w counts as max(w, 0). One below -1/64 of the largest gives NaN. The root of a
        diagonal matrix is taken entry by entry. NaN and Inf give NaN, in that matrix alone.

    Gradient:
        X with S X + X S = sym(G) for the root S and the cotangent G; symmetric, differentiable to any order. At
        singular matrices, where the derivative is infinite, each eigenvalue s of S counts as s + d^2 / (s + d), where
        d = eps^(1/2) ||S|| with the eps of the precision of the computation: the gradient is at most ||G|| / (2 d). At
        the zero matrix it is 0. An `eps` bounds it by ||G|| / (2 sqrt(eps)).

    Cost:
        A complex matrix costs what a real one of twice the size does. In float32 6 n^3 flop forward (4 n^3 at
        rtol=1e-2) and 6 to 18 n^3 backward, more for larger condition numbers; in float64 10 n^3 forward; several times
        as long forward where the eigendecomposition is needed. On CPU at most 5 matrices of workspace per thread. The
        root is saved for backward, and with it the eigenvectors where they were found.

    Raises:
        RuntimeError: A is not square or has another dtype or layout; a number is out of range; `check` found a matrix
            that did not converge or is not symmetric.

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
    shifted = prepared("sqrtm", A, eps, rel_eps)
    rtol = tolerance("sqrtm", rtol)
    S = in_dtype(_root(shifted, rtol), A)
    if check:
        _check_converged("sqrtm", shifted, _info(shifted, S, None, rtol))
    return S


def inv_sqrtm(
    A: Tensor,
    *,
    rtol: float | None = None,
    eps: float = 0.0,
    rel_eps: float = 0.0,
    null: str = "ridge",
    null_rtol: float | None = None,
    check: bool = False,
) -> Tensor:
    """Compute the inverse square root of each symmetric positive definite matrix, with its exact gradient.

    Args:
        A: (..., n, n), real or complex as for `sqrtm`; its symmetric or Hermitian part is used.
        rtol, eps, rel_eps, check: As for `sqrtm`.
        null: What becomes of null directions. With "ridge" an eigenvalue counts as at least eps times the largest, with
            the eps of the precision of the computation, so that the result is finite. With "zero" they map to zero: the
            pseudo-inverse of the root, as whitening with dead channels and rank-deficient covariances need it.
        null_rtol: With null="zero", eigenvalues up to this part of the largest are null; None stands for n times the
            eps of A's dtype. A matrix that was rounded before, as a float32 covariance cast to float64, needs a larger
            one.

    Returns:
        A^(-1/2), symmetric positive definite, in the shape and dtype of A; for singular matrices finite, at most
        eps^(-1/2) / ||A||^(1/2), or with null="zero" the positive semidefinite Z with Z A Z the projector on the range
        of A. The zero matrix gives +inf on the diagonal and 0 elsewhere, with null="zero" 0. An eigenvalue below -1/64
        of the largest gives NaN. Otherwise as for `sqrtm`.

    Gradient:
        X with S X + X S = -Z sym(G) Z for Z = A^(-1/2), S = Z^-1 and the cotangent G; symmetric, differentiable to any
        order, 0 at the zero matrix. With null="zero" that of the map among matrices of the same rank: X as above within
        the range, and Z^3 sym(G) Q + Q sym(G) Z^3 between it and the null space, whose projector is Q = I - Z A Z.

    Cost:
        As `sqrtm`, and 3 n^3 more backward. The inverse root is saved for backward. With null="zero" torch's
        eigendecomposition and four products; `rtol` is not used.

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
    shifted = prepared("inv_sqrtm", A, eps, rel_eps)
    rtol = tolerance("inv_sqrtm", rtol)
    limit = null_limit("inv_sqrtm", A, null, null_rtol)
    if limit is not None:
        Z = in_dtype(pseudo_inverse_root(shifted, limit), A)
        if check:
            _raise_unless("inv_sqrtm", Z.isfinite().all(-1).all(-1), A, "a finite inverse root", lambda _: "NaN")
        return Z
    Z = in_dtype(_inverse_root(shifted, rtol), A)
    if check:
        _check_converged("inv_sqrtm", shifted, _info(shifted, None, Z, rtol))
    return Z


def sqrtm_and_inv(
    A: Tensor, *, rtol: float | None = None, eps: float = 0.0, rel_eps: float = 0.0, check: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute the square root and the inverse square root of each matrix in one forward, with one backward for both.

    Args:
        A: (..., n, n), real or complex as for `sqrtm`; its symmetric or Hermitian part is used, positive definite.
        rtol, eps, rel_eps, check: As for `sqrtm`.

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
    shifted = prepared("sqrtm_and_inv", A, eps, rel_eps)
    rtol = tolerance("sqrtm_and_inv", rtol)
    S, Z = (in_dtype(root, A) for root in _both_roots(shifted, rtol))
    if check:
        _check_converged("sqrtm_and_inv", shifted, _info(shifted, S, Z, rtol))
    return S, Z


def _root(A: Tensor, rtol: float) -> Tensor:
    if eigenvalues_are_faster(A, rtol):
        return call_all("sqrtm_by_eigenvalues", A)[0]
    return call("sqrtm", A, rtol)


def _inverse_root(A: Tensor, rtol: float) -> Tensor:
    if eigenvalues_are_faster(A, rtol):
        return call_all("sqrtm_and_inv_by_eigenvalues", A)[1]
    return call("inv_sqrtm", A, rtol)


def _both_roots(A: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
    if eigenvalues_are_faster(A, rtol):
        S, Z, *_ = call_all("sqrtm_and_inv_by_eigenvalues", A)
    else:
        S, Z = call_all("sqrtm_and_inv", A, rtol)
    return S, Z


class RootInfo(NamedTuple):
    """The accuracy of each root, one entry per matrix. The tensors stay on A's device; only reading them synchronizes.

    residual: For a root S the relative error to first order, ||E||_F / ||S||_F with S E + E S = A - S S, in which an
        eigenvalue of S below eps^(1/2) ||S|| counts as that; for a singular matrix at least eps^(1/2) / 4, because its
        root is not known better. The error is at most 8 times as large. For an inverse root Z the residual is
        ||Z A Z - I||_F / sqrt(n), about twice its error. The larger of the two for both. NaN for a matrix with NaN or
        Inf.
    converged: Whether the residual is what `rtol` and the rounding at this condition number leave. False for NaN,
        mostly for the paper's approximants, for roots of matrices that are more indefinite than their own rounding
        explains, and for every inverse root of a matrix that is singular in its precision: with a condition number
        above 1 / (4 eps).
    asymmetry: ||A - A^H||_F / ||A||_F, of which the roots see nothing. 0 for the zero matrix.
    """

    residual: Tensor
    converged: Tensor
    asymmetry: Tensor


def root_info(A: Tensor, S: Tensor | None = None, Z: Tensor | None = None, *, rtol: float | None = None) -> RootInfo:
    """Measure how accurate the roots of A are, without waiting for the device.

    Args:
        A: (..., n, n), the matrices whose roots these are, with any `eps` on their diagonal already.
        S: Their roots, by any method.
        Z: Their inverse roots, by any method; S, Z or both.
        rtol: The tolerance the roots were asked for; None stands for the precision of the dtype.

    Returns:
        A RootInfo of `residual`, `converged` and `asymmetry`, in the leading dimensions of A.

    Gradient:
        None.

    Cost:
        For a root a product in float64 and a Lyapunov equation, as the backward pass of `sqrtm`; for an inverse root
        two products.

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
    _check.real_or_complex("root_info", _A, A)
    for name, root in (("S", S), ("Z", Z)):
        if root is not None:
            _check.strided("root_info", name, root)
            if root.shape != A.shape:
                _check.fail("root_info", f"{name} must have the shape of A {tuple(A.shape)}", tuple(root.shape))
            if root.is_complex() != A.is_complex():
                _check.fail("root_info", f"{name} must be complex where A is, and only there", root.dtype)
    if S is None and Z is None:
        _check.fail("root_info", "a root S or an inverse root Z is needed", "neither")
    return _info(A, S, Z, tolerance("root_info", rtol))


_A, _RTOL = OPS["sqrtm"].tensors[0], OPS["sqrtm"].number("rtol")


def tolerance(function: str, rtol: float | None) -> float:
    if rtol is None:
        return 0.0
    _check.number(function, _RTOL, rtol)
    return rtol


def null_limit(function: str, A: Tensor, null: str, null_rtol: float | None) -> float | None:
    """The part of the largest eigenvalue up to which eigenvalues are null; None for null="ridge"."""
    if null not in ("ridge", "zero"):
        _check.fail(function, 'null must be "ridge" or "zero"', repr(null))
    if null == "ridge":
        if null_rtol is not None:
            _check.fail(function, 'null_rtol needs null="zero"', f"null={null!r}")
        return None
    null_rtol = A.shape[-1] * torch.finfo(A.dtype).eps if null_rtol is None else null_rtol
    _check.kind(function, "null_rtol", null_rtol)
    if not 0 <= null_rtol < 1:
        _check.fail(function, "null_rtol must be at least 0 and less than 1", f"{null_rtol:g}")
    return null_rtol


def prepared(function: str, A: Tensor, eps: float, rel_eps: float = 0.0) -> Tensor:
    """A as the ops take it, with its ridges on its diagonal: real; in float32 under autocast, and with a ridge at half
    precisions, which would lose it. `in_dtype` is the way back.
    """
    _check.real_or_complex(function, _A, A)
    if not (type(eps) is type(rel_eps) is float and eps == rel_eps == 0):  # as in most calls, which need not wait
        for name, ridge in (("eps", eps), ("rel_eps", rel_eps)):
            _check.kind(function, name, ridge)
            if not 0 <= ridge < float("inf"):
                _check.fail(function, f"{name} must be finite and not negative", f"{ridge:g}")
    if A.dtype.is_complex:
        A, rel_eps = embedded(A), rel_eps / 2**0.5  # whose norm is larger by that
    ridged = eps or rel_eps
    if ridged or (A.dtype.itemsize < 4 and under_autocast(A)):
        A = A.to(torch.promote_types(A.dtype, torch.float32))
    if not ridged:
        return A
    added: Tensor | float = eps
    if rel_eps and A.numel():
        largest = A.detach().abs().amax((-2, -1), keepdim=True)  # keeps the squares of the norm in range
        largest = torch.where(largest > 0, largest, 1)
        added = eps + rel_eps * largest * torch.linalg.vector_norm(A / largest, dim=(-2, -1), keepdim=True)
    # A product with the identity, since a DTensor would be gathered for the diagonal.
    A, identity = sharding.alike((A, identity_like(A)))
    return A + added * identity


def in_dtype(root: Tensor, A: Tensor) -> Tensor:
    """The root in the dtype of A; unchanged under autocast, as from the ops."""
    if root.dtype is A.dtype:
        return root
    if A.dtype.is_complex:
        return restored(root, A)
    return root if under_autocast(A) else root.to(A.dtype)


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
    A, S, Z = embedded(A), *(None if root is None else embedded(root) for root in (S, Z))
    storage = next(root.dtype for root in (S, Z) if root is not None)
    precision = torch.promote_types(A.dtype, torch.float32)
    A = A.to(precision)
    scale = A.abs().amax((-2, -1), keepdim=True) if A.numel() else A.new_ones(())
    scale = torch.where(scale == 0, 1, scale)
    A = A / scale
    size = torch.linalg.matrix_norm(A)
    asymmetry = torch.linalg.matrix_norm(A - A.mT) / torch.where(size == 0, 1, size)
    A = A / 2 + A.mT / 2
    n, identity = A.shape[-1], torch.eye(A.shape[-1], dtype=precision, device=A.device)
    rounding, allowed = torch.finfo(precision).eps, 16 * torch.finfo(storage).eps
    residual, converged = torch.zeros_like(size), torch.ones_like(size, dtype=torch.bool)
    reach = 4 * max(rtol, FINEST_TOLERANCE[precision])
    with without_autocast(A):
        norm = _spectral_norm(lambda v: A @ v, A)
        if S is not None:
            S = (S.to(precision) / scale.sqrt()).contiguous()
            exact = S.double()
            difference = (A - exact @ exact).to(precision)
            E = call("sqrtm_backward", S, difference, 0.0) if A.numel() else S
            error = torch.linalg.matrix_norm(E) / torch.linalg.matrix_norm(S)
            factor, failed = torch.linalg.cholesky_ex(S)
            factor = torch.where((failed != 0)[..., None, None], identity, factor)
            W = torch.linalg.solve_triangular(factor, identity.expand_as(S), upper=False)
            kappa = norm * _spectral_norm(lambda v: W.mT @ (W @ v), W.mT) ** 2
            kappa = kappa.masked_fill(failed != 0, float("inf"))
            # Of a singular matrix the root is known to the root of its rounding, and its negative part shows in S S.
            singular = kappa * rounding > 0.25
            error = torch.where(singular, error.clamp_min(rounding**0.5 / 4), error)
            error = torch.where(torch.linalg.matrix_norm(difference) == 0, 0, error)
            residual = torch.maximum(residual, error)
            close = error <= allowed * kappa.clamp(1, 1 / rounding).sqrt() + reach
            negative = _spectral_norm(lambda v: difference @ v, difference)
            close_where_singular = negative <= (allowed * max(1, n**0.5 / 8) + reach) * norm
            converged = converged & torch.where(singular, close_where_singular, close)
        if Z is not None:
            Z = Z.to(precision) * scale.sqrt()
            error = torch.linalg.matrix_norm(Z @ A @ Z - identity) / max(n, 1) ** 0.5
            residual = torch.maximum(residual, error)
            kappa = norm * _spectral_norm(lambda v: Z @ v, Z) ** 2
            bound = allowed * kappa.clamp(1, 1 / rounding).sqrt() + 4 * rounding * kappa
            converged = converged & (error <= bound + reach) & (rounding * kappa <= 0.25)
    return RootInfo(residual, converged, asymmetry)


def _raise_unless(function: str, good: Tensor, A: Tensor, expected: str, found: Callable[[tuple], str]) -> None:
    """Raises with what was `found` at the first matrix that is not good."""
    _check.known(function, "check=True", good, "call fastsqrtm.root_info(A, root) instead")
    if good.all():
        return
    index = tuple((~good).nonzero()[0].tolist())
    if not A[index].isfinite().all():
        _check.fail(function, "A must be finite", f"NaN or Inf in matrix {index}")
    _check.fail(function, f"{expected} ({int((~good).sum())} of {good.numel()} did not)", f"{found(index)} at {index}")


def _check_converged(function: str, A: Tensor, info: RootInfo) -> None:
    rounding = 4 * max(A.shape[-1], 1) * torch.finfo(A.dtype).eps
    symmetric = (info.asymmetry <= rounding) | info.asymmetry.isnan()
    _raise_unless(
        function,
        symmetric,
        A,
        f"every matrix must be symmetric to {rounding:.0e}, because only its symmetric part is used",
        lambda index: f"an asymmetry of {info.asymmetry[index].item():.1e}",
    )
    _raise_unless(
        function,
        info.converged,
        A,
        "every matrix must converge",
        lambda index: f"a residual of {info.residual[index].item():.1e}",
    )
