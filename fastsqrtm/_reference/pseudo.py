"""The pseudo-inverse of the root: A^(-1/2) on the range of A and zero on its null space.

Its counterpart in C++: PseudoInverseRoot in csrc/include/fastsqrtm/autograd.h.
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
        Z: Tensor = function.apply(symmetric_part(A.to(precision)), null_rtol)[0]
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


def _solve_by_eigenvectors(V: Tensor, z: Tensor, direction: Tensor) -> Tensor:
    """The same by divided differences of the eigenvalues z of Z, which is faster and not differentiable."""
    zi, zj = z[..., :, None], z[..., None, :]
    sums = zi + zj
    # -z_i z_j / (1/z_i + 1/z_j) within the range, z^3 from there to the null space
    differences = torch.where((zi == 0) | (zj == 0), sums**3, -zi * zj * (zi * (zj / torch.where(sums == 0, 1, sums))))
    return symmetric_part(V @ (differences * (V.mT @ symmetric_part(direction) @ V)) @ V.mT)


class _PseudoInverseRoot(torch.autograd.Function):
    """Z, with its eigenvectors and eigenvalues for the derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, null_rtol: float) -> tuple[Tensor, Tensor, Tensor]:
        finite = A.isfinite().all(-1, True).all(-2, True)  # LAPACK would reject the whole batch
        w, V = torch.linalg.eigh(torch.where(finite, A, identity_like(A)))
        size = w.abs().amax(-1, True)
        good = finite[..., 0] & (w >= MOST_NEGATIVE_EIGENVALUE * size).all(-1, True)
        keep = w > null_rtol * size
        z = (torch.where(keep, w, 1).rsqrt() * keep).where(good, math.nan)
        return (V * z[..., None, :]) @ V.mT, V, z

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx: Any, G: Tensor, *_: Any) -> tuple[Tensor, None]:
        A, Z, V, z = ctx.saved_tensors
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return _solve(Z, A, G), None
        return _solve_by_eigenvectors(V, z, G), None


class _WithTangents(_PseudoInverseRoot):
    """The same in forward mode: Dynamo cannot trace a Function that has one."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _PseudoInverseRoot.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], *output)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor, None, None]:
        A, Z, *_ = ctx.saved_tensors
        return _solve(Z, A, tangent), None, None
