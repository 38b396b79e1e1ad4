"""The other systems of the paper: eigendecomposition and power iteration, and backward methods for any root.

For comparison, in plain torch: one forward function per method, one backward function per name, and one Function that
joins them. The table of what goes with what is METHODS in functional.py. Differentiable once.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ._derivatives import call, without_autocast
from .reference import symmetric_part

DEFAULT_ITERATIONS = {"lyapunov": None, "svd_pi": 9, "svd_taylor": 9}
"""Of the backward methods that take a number. The paper has 9 for whitening and 100 for covariance pooling in the SVD
family, and 8 for the Lyapunov iteration; None solves the equation to the precision of the dtype, because 8 steps at a
root that has converged leave a gradient that is not its own (docs/method.md)."""


def _column(x: Tensor) -> Tensor:
    return x[..., :, None]


def _row(x: Tensor) -> Tensor:
    return x[..., None, :]


def _floor(values: Tensor) -> Tensor:
    """Eigenvalues, none smaller than the rounding of the largest: what gradients and inverse roots divide by."""
    return torch.maximum(values, torch.finfo(values.dtype).eps * values[..., -1:])


def eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors. NaN where A is not finite, or so indefinite that `sqrtm` refuses it."""
    finite = A.isfinite().all(-1, True).all(-2, True)  # LAPACK would refuse the whole batch
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
    q = l_j/l_i < 1; what is approximated is 1/(1 - q):

    svd_taylor: the first iterations + 1 terms of the geometric series (Wang et al., TPAMI 2021).
    svd_pi: the gradient of so many power iterations with deflation (Wang et al., NeurIPS 2019): so many terms for the
        vector of the larger eigenvalue, and one less for that of the smaller.
    svd_pade: its diagonal Pade approximant (Song et al., ICCV 2021). The series is a rational function, so of every
        degree it is 1/(1 - q) itself; 1 - q is kept above rounding.
    exact: none of this, the quotient is 1/(s_i + s_j), s^2 = l; for l^(-1/2) -1/(s_i s_j (s_i + s_j)).
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
    f_of_large, f_of_small = (torch.minimum, torch.maximum) if inverse else (torch.maximum, torch.minimum)
    f_of_large, f_of_small = (pick(_column(f), _row(f)) for pick in (f_of_large, f_of_small))
    quotient = (of_large * f_of_large - of_small * f_of_small) / large
    diagonal = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    return torch.where(diagonal, _column(derivative), quotient)


def root_gradient(
    A: Tensor,
    root: Tensor,
    G: Tensor,
    inverse: bool,
    backward: str,
    iterations: int | None = None,
    spectrum: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Gradient of <G, root> for symmetric G. `spectrum` of A is what "exact" and the SVD family go by."""
    if backward == "lyapunov" and iterations is None:
        return call("inv_sqrtm_backward", root, G, 0.0) if inverse else call("sqrtm_backward", root, G, 0.0)
    if backward == "lyapunov":
        if inverse:
            return call("inv_sqrtm_lya_backward", root, G, iterations)
        return call("sqrtm_lya_backward", A, root, G, iterations)
    if backward == "bartels_stewart":  # S X + X S = G, by the Schur form of S, which is diagonal
        values, V = eigh(root)
        values = values.square().reciprocal().flip(-1) if inverse else values.clamp_min(0).square()
        V = V.flip(-1) if inverse else V
    else:
        values, V = spectrum
    gradient = V @ (divided_differences(values, inverse, backward, iterations) * (V.mT @ G @ V)) @ V.mT
    return torch.where((A == 0).all(-1, True).all(-2, True), 0, symmetric_part(gradient))


def _converged_or_nan(A: Tensor, root: Tensor, inverse: bool) -> Tensor:
    """The root of a Newton-Schulz iteration that was to converge, and NaN where tr S^2 is not tr A: an eigenvalue that
    rounding took below zero has grown without bound there.
    """
    with torch.no_grad():
        S = A @ root if inverse else root
        trace = A.diagonal(dim1=-2, dim2=-1).sum(-1)
        off = (torch.linalg.matrix_norm(S).square() - trace).abs() / trace
        kept = (off <= 1e-3) | (A == 0).all(-1).all(-1)
    return root * torch.where(kept, 1.0, math.nan)[..., None, None].to(root.dtype)


class _Once(torch.autograd.Function):
    """A gradient that says so if it is differentiated: torch's once_differentiable leaves such terms out in silence."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient, A, G):
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, *_: Tensor):
        raise RuntimeError("fastsqrtm: systems that combine a root with another method's backward differentiate once")


class _Combination(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(A, op, inverse, degree, backward, iterations):
        if op == "eigh":
            return _eigh_root(A, inverse)
        return call(op, A, degree), A.new_empty(0), A.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        A, _, *ctx.rest = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(A, *output)

    @staticmethod
    def backward(ctx: Any, G: Tensor | None, *_: None):
        if G is None:
            return (None,) * 6
        inverse, _, backward, iterations = ctx.rest
        A, root, *spectrum = ctx.saved_tensors
        with torch.no_grad(), without_autocast(A):
            gradient = root_gradient(A, root, symmetric_part(G), inverse, backward, iterations, spectrum)
        if torch.is_grad_enabled():
            gradient = _Once.apply(gradient, A, G)
        return gradient, *(None,) * 5


def combine(
    A: Tensor, forward: str, inverse: bool, degree: int | None, backward: str, iterations: int, converge: bool
) -> Tensor:
    """The root by eigh, by power_iteration or by a forward op, with the gradient by `backward`. `converge`: a root that
    has not is NaN.
    """
    if A.numel() == 0:
        return A + 0
    A, dtype = A.to(torch.float64 if A.dtype == torch.float64 else torch.float32), A.dtype
    with without_autocast(A):
        if forward == "power_iteration":
            return power_iteration(A, degree).to(dtype)
        A = symmetric_part(A)
        root = _Combination.apply(A, forward, inverse, degree, backward, iterations)[0]
        return (_converged_or_nan(A, root, inverse) if converge else root).to(dtype)
