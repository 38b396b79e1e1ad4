"""The route of a call: the op itself, or under torch.func and in forward mode a Function that applies its rule."""

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import sharding
from .definition import DEFINITIONS, Definition, Results, unpacked


def under_autocast(A: Tensor) -> bool:
    return A.device.type != "meta" and torch.is_autocast_enabled(A.device.type)


def without_autocast(A: Tensor) -> contextlib.AbstractContextManager:
    """Disables autocast around torch products inside our own methods, which compute in float32 as the ops do."""
    return torch.autocast(A.device.type, enabled=False) if under_autocast(A) else contextlib.nullcontext()


def save(definition: Definition, ctx: Any, inputs: tuple, output: Results) -> tuple[Tensor, ...]:
    op, results = definition.op, unpacked(output)
    ctx.numbers = inputs[len(op.tensors) :]
    if False in op.differentiable:
        ctx.mark_non_differentiable(*(x for x, has in zip(results, op.differentiable, strict=True) if not has))
    assert definition.rule is not None
    saved = definition.rule.save(*inputs[: len(op.tensors)], *results)
    ctx.save_for_backward(*saved)
    return saved


def vjp(definition: Definition, ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    assert definition.rule is not None
    differentiable = definition.op.differentiable
    kept: Any = cotangents
    if False in differentiable:
        kept = [x for x, has in zip(cotangents, differentiable, strict=True) if has]
    kept = sharding.alike(kept)
    with without_autocast(kept[0]):
        gradients = definition.rule.vjp(*ctx.saved_tensors, ctx.numbers, *kept)
    gradients = (gradients,) if isinstance(gradients, Tensor) else gradients
    return *gradients, *(None,) * len(ctx.numbers)


def batch_first(info: Any, in_dims: tuple, inputs: tuple) -> list:
    """The inputs with the mapped dimension first, as ops take any leading dimensions; where it is missing, a view."""
    return [
        x if not isinstance(x, Tensor) else x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(inputs, in_dims, strict=True)
    ]


def out_dims(definition: Definition) -> int | tuple[int, ...]:
    """The mapped dimension of the results: the first, in each."""
    return 0 if len(definition.op.results) == 1 else (0,) * len(definition.op.results)


class _Transformable(torch.autograd.Function):
    """Any op under torch.func and in forward mode, which torch.library.register_autograd does not support.

    pytorch issues 168393, 170834 and 179652.
    """

    @staticmethod
    def forward(definition: Definition, *inputs: Any) -> Results:
        assert definition.overload is not None
        return definition.overload(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Results) -> None:
        ctx.definition, *arguments = inputs
        ctx.save_for_forward(*save(ctx.definition, ctx, tuple(arguments), output))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        return None, *vjp(ctx.definition, ctx, *cotangents)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> Tensor | tuple[Tensor | None, ...] | None:
        # torch switches forward mode off around this, and jvp of jvp would lose every term of an outer tangent that
        # goes through a torch product. With it on, the saved tensors must come without their tangent of this level.
        tangents = tangents[: len(tangents) - len(ctx.numbers)]
        with forward_ad._set_fwd_grad_enabled(True), without_autocast(tangents[0]):
            saved = (forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors)
            found = iter(unpacked(ctx.definition.rule.jvp(*saved, ctx.numbers, *tangents)))
        results = [next(found) if has else None for has in ctx.definition.op.differentiable]
        return results[0] if len(results) == 1 else tuple(results)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, definition: Definition, *inputs: Any) -> tuple[Results, int | tuple[int, ...]]:
        return apply(definition, *batch_first(info, in_dims[1:], inputs)), out_dims(definition)


def apply(definition: Definition, *inputs: Any) -> Results:
    """The op; under torch.func transforms and in forward mode through a Function that has rules for them."""
    compiling = torch.compiler.is_compiling()
    sharding.prepare(inputs)
    if not compiling and torch._C._are_functorch_transforms_active():
        return _Transformable.apply(definition, *inputs)
    forward_mode = any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in inputs)
    if forward_mode and not compiling:
        return _Transformable.apply(definition, *inputs)
    if forward_mode:  # the compiled op would silently give a tangent of zero
        raise RuntimeError(
            f"fastsqrtm.{definition.op.name}: forward-mode differentiation inside torch.compile is not supported"
        )
    assert definition.overload is not None
    return definition.overload(*inputs)


def call(name: str, *inputs: Any) -> Tensor:
    """Calls an op that has one result, by the route that its derivatives need."""
    result = apply(DEFINITIONS[name], *inputs)
    assert isinstance(result, Tensor)
    return result


def call_all(name: str, *inputs: Any) -> tuple[Tensor, ...]:
    """Calls an op that has several results, by the route that its derivatives need."""
    return unpacked(apply(DEFINITIONS[name], *inputs))
