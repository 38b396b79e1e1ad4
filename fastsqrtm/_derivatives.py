"""The derivative rules of the ops, one row per op in one table, and the call that picks the route through autograd.

Every rule is made of the ops themselves and of torch products, so it can be differentiated again to any order. All
gradients and tangents are those of maps of symmetric parts; the notation is that of docs/design.md.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import reference
from .reference import symmetric_part


class Rule(NamedTuple):
    """save(*tensor_inputs, output) gives what the other two get first, followed by the op's last number: the
    iterations, the tolerance or the degree of its backward.
    """

    save: Callable[..., tuple[Tensor, ...]]
    vjp: Callable[..., tuple[Tensor | None, ...]]  # cotangent of the output -> cotangents of the tensor inputs
    jvp: Callable[..., Tensor]  # tangents of the tensor inputs -> tangent of the output


def under_autocast(A: Tensor) -> bool:
    return A.device.type != "meta" and torch.is_autocast_enabled(A.device.type)


def without_autocast(A: Tensor) -> contextlib.AbstractContextManager:
    """For products of torch that are part of a method of ours: the ops compute in float32 under autocast, and so do
    these.
    """
    return torch.autocast(A.device.type, enabled=False) if under_autocast(A) else contextlib.nullcontext()


def _anticommutator(A: Tensor, B: Tensor) -> Tensor:
    return A @ B + B @ A


# Root S of A. S dS + dS S = dA, so both directions are the same Lyapunov solve. The inverse root has the same shape of
# rule: Z dZ + dZ Z = -Z^2 dA Z^2.


def _solved_by(backward: str, save: Callable[..., tuple[Tensor, ...]]) -> Rule:
    def solve(*saved_number_and_direction):
        *saved, number, direction = saved_number_and_direction
        return call(backward, *saved, direction, number)

    return Rule(save, lambda *args: (solve(*args),), solve)


def _both_roots_vjp(R, rtol, G):
    return (call("sqrtm_and_inv_backward", R, G, rtol),)


def _both_roots_jvp(R, rtol, dA):
    S, Z = R.unbind(-3)
    dS = call("sqrtm_backward", S, dA, rtol)
    return torch.stack((dS, -Z @ dS @ Z), -3)


# The methods of the paper with the gradient of what they compute: the approximant as a torch function, differentiated
# by torch wherever more than its first derivative is asked for.


def _approximant(name: str, degree: int) -> Callable[[Tensor], Tensor]:
    twin = getattr(reference, name).__wrapped__

    def root(A):
        if A.numel() == 0:
            return A + 0
        precision = torch.float64 if A.dtype == torch.float64 else torch.float32
        return twin(A.to(precision), degree).to(A.dtype)

    return root


def _jvp(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """Along the tangents as the transpose of the transpose: torch nests no forward mode in forward mode."""
    output, pullback = torch.func.vjp(function, *inputs)
    return torch.func.vjp(pullback, torch.zeros_like(output))[1](tangents)[0]


def _exact(name: str) -> Rule:
    def vjp(A, degree, G):
        return (call(f"{name}_backward", A, G, degree),)

    def jvp(A, degree, dA):
        return _jvp(_approximant(name, degree), (A,), (dA,))

    return Rule(lambda A, _: (A,), vjp, jvp)


def _exact_backward(name: str) -> Rule:
    def gradient(degree):
        root = _approximant(name, degree)
        return lambda A, G: torch.func.vjp(root, A)[1](G)[0]

    def vjp(A, G, degree, cotangent):
        return torch.func.vjp(gradient(degree), A, G)[1](cotangent)

    def jvp(A, G, degree, dA, dG):
        return _jvp(gradient(degree), (A, G), (dA, dG))

    return Rule(lambda A, G, _: (A, G), vjp, jvp)


# X of B X + X B = C: B dX + dX B = dC - dB X - X dB.


def _lyapunov(name: str) -> Rule:
    def vjp(B, X, number, G):
        Y = call(name, B, G, number)
        return -symmetric_part(_anticommutator(Y, X.mT)), Y

    def jvp(B, X, number, dB, dC):
        return call(name, B, dC - _anticommutator(symmetric_part(dB), X), number)

    return Rule(lambda B, C, X: (B, X), vjp, jvp)


# X of S X + X S = sym(G). With iterations, A gives the scale and has no part in the solution.


def _sqrtm_backward_vjp(S, X, rtol, cotangent):
    Y = call("sqrtm_backward", S, cotangent, rtol)
    return -_anticommutator(Y, X), Y


def _sqrtm_backward_jvp(S, X, rtol, dS, dG):
    return call("sqrtm_backward", S, dG - _anticommutator(symmetric_part(dS), X), rtol)


def _sqrtm_lya_backward_vjp(A, S, X, iterations, cotangent):
    Y = call("sqrtm_lya_backward", A, S, cotangent, iterations)
    return None, -_anticommutator(Y, X), Y


def _sqrtm_lya_backward_jvp(A, S, X, iterations, dA, dS, dG):
    return call("sqrtm_lya_backward", A, S, dG - _anticommutator(symmetric_part(dS), X), iterations)


# X of Z X + X Z = -Z^2 sym(G) Z^2, self-adjoint in G because Z^2 commutes with the solve.


def _inverse_root_backward(name: str, lyapunov: str) -> Rule:
    def vjp(Z, G, X, number, cotangent):
        Z, G, cotangent = symmetric_part(Z), symmetric_part(G), symmetric_part(cotangent)
        Y = call(lyapunov, Z, cotangent, number)
        K = Y @ Z @ Z @ G  # <K + K^T, dZ Z + Z dZ> is the derivative of <Y, Z^2 G Z^2>
        dZ = -_anticommutator(Y, X) - _anticommutator(K + K.mT, Z)
        return symmetric_part(dZ), call(name, Z, cotangent, number)

    def jvp(Z, G, X, number, dZ, dG):
        Z, G, dZ, dG = symmetric_part(Z), symmetric_part(G), symmetric_part(dZ), symmetric_part(dG)
        M, dM = Z @ Z, _anticommutator(dZ, Z)
        right_side = _anticommutator(dZ, X) + dM @ G @ M + M @ dG @ M + M @ G @ dM
        return -call(lyapunov, Z, right_side, number)

    return Rule(lambda Z, G, X: (Z, G, X), vjp, jvp)


# X of S X + X S = sym(G_S) - Z sym(G_Z) Z, for the pairs R = (S, Z) and G = (G_S, G_Z).


def _both_roots_backward_vjp(R, G, X, rtol, cotangent):
    (S, Z), (_, H) = symmetric_part(R).unbind(-3), symmetric_part(G).unbind(-3)
    Y = call("sqrtm_backward", S, cotangent, rtol)
    K = Y @ Z @ H
    return torch.stack((-_anticommutator(Y, X), -(K + K.mT)), -3), torch.stack((Y, -Z @ Y @ Z), -3)


def _both_roots_backward_jvp(R, G, X, rtol, dR, dG):
    S, Z, dS, dZ, dG_S, dH = (y for x in (R, dR, dG) for y in symmetric_part(x).unbind(-3))
    H = symmetric_part(G).select(-3, 1)
    K = dZ @ H @ Z
    return call("sqrtm_backward", S, dG_S - K - K.mT - Z @ dH @ Z - _anticommutator(dS, X), rtol)


RULES = {
    "mpa_lya": _solved_by("sqrtm_lya_backward", lambda A, S: (A, S)),
    "mtp_lya": _solved_by("sqrtm_lya_backward", lambda A, S: (A, S)),
    "mpa_lya_inv": _solved_by("inv_sqrtm_lya_backward", lambda A, Z: (Z,)),
    "mtp_lya_inv": _solved_by("inv_sqrtm_lya_backward", lambda A, Z: (Z,)),
    "lyapunov": _lyapunov("lyapunov"),
    "sqrtm": _solved_by("sqrtm_backward", lambda A, S: (S,)),
    "inv_sqrtm": _solved_by("inv_sqrtm_backward", lambda A, Z: (Z,)),
    "sqrtm_and_inv": Rule(lambda A, R: (R,), _both_roots_vjp, _both_roots_jvp),
    "mpa": _exact("mpa"),
    "mtp": _exact("mtp"),
    "mpa_inv": _exact("mpa_inv"),
    "mtp_inv": _exact("mtp_inv"),
    "ns": _exact("ns"),
    "ns_inv": _exact("ns_inv"),
    "lyapunov_newton": _lyapunov("lyapunov_newton"),
    "sqrtm_lya_backward": Rule(lambda A, S, G, X: (A, S, X), _sqrtm_lya_backward_vjp, _sqrtm_lya_backward_jvp),
    "inv_sqrtm_lya_backward": _inverse_root_backward("inv_sqrtm_lya_backward", "lyapunov"),
    "sqrtm_backward": Rule(lambda S, G, X: (S, X), _sqrtm_backward_vjp, _sqrtm_backward_jvp),
    "inv_sqrtm_backward": _inverse_root_backward("inv_sqrtm_backward", "lyapunov_newton"),
    "sqrtm_and_inv_backward": Rule(lambda R, G, X: (R, G, X), _both_roots_backward_vjp, _both_roots_backward_jvp),
    "mpa_backward": _exact_backward("mpa"),
    "mtp_backward": _exact_backward("mtp"),
    "mpa_inv_backward": _exact_backward("mpa_inv"),
    "mtp_inv_backward": _exact_backward("mtp_inv"),
    "ns_backward": _exact_backward("ns"),
    "ns_inv_backward": _exact_backward("ns_inv"),
}


def save(name: str, ctx: Any, inputs: tuple, output: Tensor) -> tuple[Tensor, ...]:
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    saved = RULES[name].save(*tensors, output)
    ctx.numbers = len(inputs) - len(tensors)
    ctx.number = inputs[-1]
    ctx.save_for_backward(*saved)
    return saved


def vjp(name: str, ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    with without_autocast(cotangent):
        return *RULES[name].vjp(*ctx.saved_tensors, ctx.number, cotangent), *(None,) * ctx.numbers


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
        with forward_ad._set_fwd_grad_enabled(True), without_autocast(tangents[0]):
            saved = (forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors)
            return RULES[ctx.name].jvp(*saved, ctx.number, *tangents[: len(tangents) - ctx.numbers])

    @staticmethod
    def vmap(info, in_dims, name, *inputs):
        return call(name, *batch_first(info, in_dims[1:], inputs)), 0


def call(name: str, *inputs: Any) -> Tensor:
    """The op; under torch.func transforms and in forward mode through a Function that has rules for them."""
    compiling = torch.compiler.is_compiling()
    if not compiling and torch._C._are_functorch_transforms_active():
        return _Transformable.apply(name, *inputs)
    forward_mode = any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in inputs)
    if forward_mode and not compiling:
        return _Transformable.apply(name, *inputs)
    if forward_mode:  # the compiled op would give a tangent of zero without a word
        raise RuntimeError(f"fastsqrtm.{name}: forward-mode differentiation inside torch.compile is not supported")
    return op(name)(*inputs)
