"""The derivative rules of the ops, one row per op in one table, and the call that picks the route through autograd.

Every rule is made of the ops themselves and of torch products, so it can be differentiated again to any order. All
gradients and tangents are those of maps of symmetric parts; the notation is that of docs/design.md.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .reference import symmetric_part


class Rule(NamedTuple):
    """save(*tensor_inputs, output) gives what the other two get first, followed by the number of iterations."""

    save: Callable[..., tuple[Tensor, ...]]
    vjp: Callable[..., tuple[Tensor | None, ...]]  # cotangent of the output -> cotangents of the tensor inputs
    jvp: Callable[..., Tensor]  # tangents of the tensor inputs -> tangent of the output


def _anticommutator(A: Tensor, B: Tensor) -> Tensor:
    return A @ B + B @ A


# Root S of A. S dS + dS S = dA, so both directions are the same Lyapunov solve.


def _root_vjp(A, S, iterations, G):
    return (call("sqrtm_lya_backward", A, S, G, iterations),)


def _root_jvp(A, S, iterations, dA):
    return call("sqrtm_lya_backward", A, S, dA, iterations)


# Inverse root Z of A. Z dZ + dZ Z = -Z^2 dA Z^2.


def _inverse_root_vjp(Z, iterations, G):
    return (call("inv_sqrtm_lya_backward", Z, G, iterations),)


def _inverse_root_jvp(Z, iterations, dA):
    return call("inv_sqrtm_lya_backward", Z, dA, iterations)


# X of B X + X B = C: B dX + dX B = dC - dB X - X dB.


def _lyapunov_vjp(B, X, iterations, G):
    Y = call("lyapunov", B, G, iterations)
    return -symmetric_part(_anticommutator(Y, X.mT)), Y


def _lyapunov_jvp(B, X, iterations, dB, dC):
    return call("lyapunov", B, dC - _anticommutator(symmetric_part(dB), X), iterations)


# X of S X + X S = sym(G). Only the scale of the iteration depends on A, not the solution.


def _sqrtm_backward_vjp(A, S, X, iterations, cotangent):
    Y = call("sqrtm_lya_backward", A, S, cotangent, iterations)
    return None, -_anticommutator(Y, X), Y


def _sqrtm_backward_jvp(A, S, X, iterations, dA, dS, dG):
    return call("sqrtm_lya_backward", A, S, dG - _anticommutator(symmetric_part(dS), X), iterations)


# X of Z X + X Z = -Z^2 sym(G) Z^2, self-adjoint in G because Z^2 commutes with the solve.


def _inv_sqrtm_backward_vjp(Z, G, X, iterations, cotangent):
    Z, G, cotangent = symmetric_part(Z), symmetric_part(G), symmetric_part(cotangent)
    Y = call("lyapunov", Z, cotangent, iterations)
    K = Y @ Z @ Z @ G  # <K + K^T, dZ Z + Z dZ> is the derivative of <Y, Z^2 G Z^2>
    dZ = -_anticommutator(Y, X) - _anticommutator(K + K.mT, Z)
    return symmetric_part(dZ), call("inv_sqrtm_lya_backward", Z, cotangent, iterations)


def _inv_sqrtm_backward_jvp(Z, G, X, iterations, dZ, dG):
    Z, G, dZ, dG = symmetric_part(Z), symmetric_part(G), symmetric_part(dZ), symmetric_part(dG)
    M, dM = Z @ Z, _anticommutator(dZ, Z)
    right_side = _anticommutator(dZ, X) + dM @ G @ M + M @ dG @ M + M @ G @ dM
    return -call("lyapunov", Z, right_side, iterations)


ROOT = Rule(lambda A, S: (A, S), _root_vjp, _root_jvp)
INVERSE_ROOT = Rule(lambda A, Z: (Z,), _inverse_root_vjp, _inverse_root_jvp)

RULES = {
    "mpa_lya": ROOT,
    "mtp_lya": ROOT,
    "mpa_lya_inv": INVERSE_ROOT,
    "mtp_lya_inv": INVERSE_ROOT,
    "lyapunov": Rule(lambda B, C, X: (B, X), _lyapunov_vjp, _lyapunov_jvp),
    "sqrtm_lya_backward": Rule(lambda A, S, G, X: (A, S, X), _sqrtm_backward_vjp, _sqrtm_backward_jvp),
    "inv_sqrtm_lya_backward": Rule(lambda Z, G, X: (Z, G, X), _inv_sqrtm_backward_vjp, _inv_sqrtm_backward_jvp),
}


def save(name: str, ctx: Any, inputs: tuple, output: Tensor) -> tuple[Tensor, ...]:
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    saved = RULES[name].save(*tensors, output)
    ctx.numbers = len(inputs) - len(tensors)
    ctx.iterations = inputs[-1]
    ctx.save_for_backward(*saved)
    return saved


def vjp(name: str, ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    return *RULES[name].vjp(*ctx.saved_tensors, ctx.iterations, cotangent), *(None,) * ctx.numbers


def batch_first(info: Any, in_dims: tuple, inputs: tuple) -> list:
    """The ops take any leading dimensions: the mapped one goes first; where it is missing, as a view."""
    return [
        x if not isinstance(x, Tensor) else x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(inputs, in_dims, strict=True)
    ]


def op(name: str) -> torch._ops.OpOverload:
    return getattr(torch.ops.fastsqrtm, name).default


class _Transformable(torch.autograd.Function):
    """Any op, for torch.func and forward mode, which torch.library.register_autograd does not serve.

    pytorch issues 168393, 170834 and 179652.
    """

    @staticmethod
    def forward(name, *inputs):
        return op(name)(*inputs)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, *inputs = inputs
        ctx.save_for_forward(*save(ctx.name, ctx, inputs, output))

    @staticmethod
    def backward(ctx, cotangent):
        return None, *vjp(ctx.name, ctx, cotangent)

    @staticmethod
    def jvp(ctx, _, *tangents):
        # torch switches forward mode off around this, and jvp of jvp would lose every term of an outer tangent that
        # goes through a torch product. With it on, the saved tensors must come without their tangent of this level.
        with forward_ad._set_fwd_grad_enabled(True):
            saved = (forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors)
            return RULES[ctx.name].jvp(*saved, ctx.iterations, *tangents[: len(tangents) - ctx.numbers])

    @staticmethod
    def vmap(info, in_dims, name, *inputs):
        return call(name, *batch_first(info, in_dims[1:], inputs)), 0


def call(name: str, *inputs: Any) -> Tensor:
    """The op; under torch.func transforms and in forward mode through a Function that has rules for them."""
    forward_mode = any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in inputs)
    if not torch.compiler.is_compiling():
        if forward_mode or torch._C._are_functorch_transforms_active():
            return _Transformable.apply(name, *inputs)
    elif forward_mode:  # the compiled op would give a tangent of zero without a word
        raise RuntimeError(f"fastsqrtm.{name}: forward-mode differentiation inside torch.compile is not supported")
    return op(name)(*inputs)
