"""The pseudo-inverse of the root: A^(-1/2) on the range of A and zero on its null space.

Its counterpart in C++, to the last bit: PseudoInverseRoot in csrc/include/fastsqrtm/autograd.h.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .._ops.route import call, without_autocast
from .matrix import identity_like, symmetric_part
from .scalars import MOST_NEGATIVE_EIGENVALUE


def pseudo_inverse_root(A: Tensor, null_rtol: float) -> Tensor:
    """Z >= 0 with Z A Z the projector on the range of A; eigenvalues up to null_rtol times the largest are null."""
    precision = torch.float64 if A.dtype == torch.float64 else torch.float32
    if A.numel() == 0:
        return A.clone()
    with without_autocast(A):
        function = _PseudoInverseRoot if torch.compiler.is_compiling() else _WithTangents
        Z = function.apply(symmetric_part(A.to(precision)), null_rtol)
    assert isinstance(Z, Tensor)
    return Z


def _solve(Z: Tensor, A: Tensor, direction: Tensor) -> Tensor:
    """The derivative of Z in the direction of a symmetric change of A that keeps its rank; self-adjoint in it.

    Within the range S X + X S = -Z D Z for the root S = A Z, which Newton steps solve after the identity has taken the
    place of the zeros of S; between range and null space, of projector Q, X = Z^3 D Q + Q D Z^3.
    """
    D = symmetric_part(direction)
    Q = identity_like(A) - Z @ A @ Z
    S = symmetric_part(A @ Z)
    scale = torch.linalg.matrix_norm(S.detach(), keepdim=True)
    within = call("lyapunov_newton", S + scale * Q, Z @ D @ Z, 0.0)
    across = Z @ Z @ Z @ D @ Q
    return torch.where(scale == 0, 0, symmetric_part(2 * across - within))


class _PseudoInverseRoot(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, null_rtol: float) -> Tensor:
        finite = A.isfinite().all(-1, True).all(-2, True)  # LAPACK would reject the whole batch
        w, V = torch.linalg.eigh(torch.where(finite, A, identity_like(A)))
        size = w.abs().amax(-1, True)
        good = finite & (w >= MOST_NEGATIVE_EIGENVALUE * size).all(-1, True)[..., None]
        keep = w > null_rtol * size
        g = torch.where(keep, w, 1).rsqrt() * keep
        return ((V * g[..., None, :]) @ V.mT).where(good, math.nan)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.null_rtol = inputs[1]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None]:
        (A,) = ctx.saved_tensors
        return _solve(pseudo_inverse_root(A, ctx.null_rtol), A, G), None


class _WithTangents(_PseudoInverseRoot):
    """The same in forward mode: Dynamo cannot trace a Function that has one."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _PseudoInverseRoot.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        (A,) = ctx.saved_tensors
        return _solve(pseudo_inverse_root(A, ctx.null_rtol), A, tangent)
