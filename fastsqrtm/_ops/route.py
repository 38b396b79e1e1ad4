"""The derivatives of an op in the dispatcher: a kernel under the Autograd keys that applies its rule in reverse and in
forward mode, and one for vmap. Under torch.func and in a compiled or exported graph the op is one of torch's own.

torch.library.register_autograd gives an op neither forward mode, where its tangent is silently zero, nor torch.func:
pytorch issues 168393, 170834 and 179652.
"""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _any_requires_grad,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
    _is_any_autocast_enabled,
    _is_tracing,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
    is_grad_enabled,
)
from torch._C._functorch import get_single_level_autograd_function_allowed, set_single_level_autograd_function_allowed
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.compiler import is_compiling
from torch.nn import Parameter

from . import check, sharding
from .definition import DEFINITIONS, TORCH_ONLY, Definition, Results, unpacked

_is_key_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
_is_key_included = torch._C._dispatch_tls_is_dispatch_key_included
_AUTOGRAD, _PRE_DISPATCH = torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.PreDispatch


def under_autocast(A: Tensor) -> bool:
    # A graph that is being made knows the second question alone; the first one spares the usual call its time.
    if not (is_compiling() or _is_any_autocast_enabled()):
        return False
    return A.device.type != "meta" and torch.is_autocast_enabled(A.device.type)


def without_autocast(A: Tensor) -> contextlib.AbstractContextManager:
    """Disables autocast around torch products inside our own methods, which compute in float32 as the ops do."""
    return torch.autocast(A.device.type, enabled=False) if under_autocast(A) else contextlib.nullcontext()


def unpack_dual(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A tensor without its tangent, and that. The level is named, and torch has but one: where a compiled graph enters
    it, torch.autograd.forward_ad does not know of it.
    """
    return torch._C._VariableFunctions._unpack_dual(x, 0)


def _has_tangent(tensors: tuple) -> bool:
    for x in tensors:  # no generator, because every call comes here
        if x.layout == torch.strided and not x.is_nested and unpack_dual(x)[1] is not None:
            return True
    return False


def _is_plain(inputs: tuple) -> bool:
    for x in inputs:  # no generator, because every call comes here
        kind = type(x)
        if kind is not Tensor and kind is not float and kind is not int and kind is not Parameter:
            return False
    return True


def _goes_straight(inputs: tuple) -> bool:
    """Whether the dispatcher would find nothing but the kernel of `autograd` and below it that of the device: no mode,
    transform, tracer, subclass or level of forward mode. Then both are called without it, which takes less time.
    """
    return not (
        _is_key_excluded(_AUTOGRAD)
        or forward_ad._current_level >= 0
        or _len_torch_function_stack()
        or _len_torch_dispatch_stack()
        or _are_functorch_transforms_active()
        or _is_tracing()
        or _is_any_autocast_enabled()
        or _is_key_included(_PRE_DISPATCH)
    ) and _is_plain(inputs)


def _is_last_derivative(tensors: tuple) -> bool:
    """Whether the ops of a rule have nothing above their kernels but modes, which see them below autograd as well."""
    return not (
        is_grad_enabled()
        or is_compiling()
        or forward_ad._current_level >= 0
        or _is_any_autocast_enabled()
        or _are_functorch_transforms_active()
    ) and _is_plain(tensors)


def _refuse_compiled_kernels(name: str) -> None:
    """Raises where the code that inductor generates calls an op at a level of forward mode: its kernels drop the
    tangents of their inputs, and those of this op's inputs may be lost already.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("torch._inductor"):
            check.fail(
                name,
                "forward mode must be inside the compiled function, as torch.func.jvp, or the function be called "
                "uncompiled or compiled with backend='aot_eager'",
                "a call from a kernel of torch.compile, which has no tangents",
            )
        frame = frame.f_back


class _Modes:
    """Whether gradients and tangents are recorded: a Function switches both off in its forward, and then an outer
    transform of torch.func, to which the forward hands the op on, would record nothing.
    """

    def __init__(self) -> None:
        self.gradients, self.tangents = is_grad_enabled(), torch._C._is_fwd_grad_enabled()

    def set(self) -> None:
        torch._C._set_grad_enabled(self.gradients)
        torch._C._set_fwd_grad_enabled(self.tangents)


def _by_rule(rule: str | Callable[..., Any], saved: tuple, numbers: tuple, directions: tuple, last: bool) -> Any:
    if not isinstance(rule, str):
        return rule(*saved, numbers, *directions)
    definition = definition_of(rule)
    if last and definition.of_complex is None:
        return definition.bare(*saved, *directions, *numbers)
    return apply(definition, *saved, *directions, *numbers)


class FastsqrtmOp(_SingleLevelFunction):
    """Any op with its rule. The name is in the `grad_fn` of results.

    No torch.autograd.Function, whose `apply` hands it to the transforms of torch.func: they have called us.
    """

    _compiled_autograd_key = torch.autograd.Function._compiled_autograd_key

    @staticmethod
    def forward(ctx: Any, definition: Definition, keys: Any, modes: _Modes | None, *inputs: Any) -> Results:
        if modes is not None:
            modes.set()  # for this forward alone: torch restores them behind it
        output = below(definition, keys, inputs)
        rule, count = definition.rule, definition.tensor_count
        assert rule is not None
        results = (output,) if isinstance(output, Tensor) else output
        ctx.definition, ctx.numbers = definition, inputs[count:]
        if not definition.all_differentiable:
            differentiable = definition.op.differentiable
            ctx.mark_non_differentiable(*(x for x, has in zip(results, differentiable, strict=True) if not has))
        saved = rule.save(*inputs[:count], *results)
        ctx.save_for_backward(*saved)
        if keys is not None:  # a call that goes straight meets no forward mode
            ctx.save_for_forward(*saved)
        return output

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        definition, kept = ctx.definition, cotangents
        if not definition.all_differentiable:
            kept = tuple(x for x, has in zip(cotangents, definition.op.differentiable, strict=True) if has)
        saved, vjp = ctx.saved_tensors, definition.rule.vjp
        if _is_last_derivative((*saved, *kept)):  # then the ops of the rule need not come here again
            with _AutoDispatchBelowAutograd():
                gradients = _by_rule(vjp, saved, ctx.numbers, kept, True)
        else:
            with without_autocast(kept[0]):
                gradients = _by_rule(vjp, saved, ctx.numbers, sharding.alike(kept), False)
        if isinstance(gradients, Tensor):
            return None, None, None, gradients, *(None,) * len(ctx.numbers)
        return None, None, None, *gradients, *(None,) * len(ctx.numbers)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | tuple[Tensor | None, ...] | None:
        # torch switches forward mode off around this, and jvp of jvp would lose every term of an outer tangent that
        # goes through a torch product. With it on, the saved tensors must come without their tangent of this level.
        tangents = tangents[3 : len(tangents) - len(ctx.numbers)]
        with forward_ad._set_fwd_grad_enabled(True), without_autocast(tangents[0]):
            saved = tuple(unpack_dual(x)[0] for x in ctx.saved_tensors)
            found = iter(unpacked(_by_rule(ctx.definition.rule.jvp, saved, ctx.numbers, tangents, False)))
        results = [next(found) if has else None for has in ctx.definition.op.differentiable]
        return results[0] if len(results) == 1 else tuple(results)


_apply: Callable[..., Results] = FastsqrtmOp.apply  # type: ignore[attr-defined]


def below(definition: Definition, keys: Any, inputs: tuple) -> Results:
    """The op below the Autograd keys; `keys` are those that the dispatcher came with, or None."""
    assert definition.overload is not None
    try:
        with _AutoDispatchBelowAutograd():
            if keys is None:
                return definition.bare(*inputs)
            return definition.overload.redispatch(keys & torch._C._after_autograd_keyset, *inputs)
    except NotImplementedError:  # nested tensors have no kernel, and their own words for that
        check.call(definition.op, inputs)
        raise


def autograd(definition: Definition) -> Callable[..., Results]:
    """The kernel of an op under the Autograd keys."""
    defaults = definition.defaults
    count = definition.tensor_count

    def kernel(keys: Any, *inputs: Any) -> Results:
        inputs += defaults[len(inputs) - count :]  # the dispatcher leaves out what equals a default
        sharding.prepare(inputs)
        if _are_functorch_transforms_active():
            allowed = get_single_level_autograd_function_allowed()
            set_single_level_autograd_function_allowed(True)
            try:
                return _apply(definition, keys, _Modes(), *inputs)
            finally:
                set_single_level_autograd_function_allowed(allowed)
        if forward_ad._current_level >= 0:
            _refuse_compiled_kernels(definition.op.name)
        recorded = is_grad_enabled() and _any_requires_grad(*inputs)
        # In a graph that is being made, looking for a tangent would leave its trace.
        if recorded or _len_torch_dispatch_stack() or _has_tangent(inputs[:count]):
            return _apply(definition, keys, None, *inputs)
        return below(definition, keys, inputs)

    return kernel


def vmap(definition: Definition) -> Callable[..., tuple[Results, int | tuple[int, ...]]]:
    """The rule of an op for torch.library.register_vmap: ops take any leading dimensions."""
    dims = 0 if len(definition.op.results) == 1 else (0,) * len(definition.op.results)

    def rule(info: Any, in_dims: tuple, *inputs: Any) -> tuple[Results, int | tuple[int, ...]]:
        # Where the mapped dimension is missing, a view.
        first = list(inputs)
        for i, (x, dim) in enumerate(zip(inputs, in_dims, strict=True)):
            if isinstance(x, Tensor):
                first[i] = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        assert definition.overload is not None
        return definition.overload(*first), dims

    return rule


def apply(definition: Definition, *inputs: Any) -> Results:
    """The op. Under torch.func autocast ends before it, as the transforms bring it back below them, inside its rule."""
    if definition.of_complex is not None and inputs[0].is_complex():
        definition = definition.of_complex
    overload = definition.overload
    assert overload is not None
    if is_compiling():
        return overload(*inputs)
    if definition.rule is not None and _goes_straight(inputs):
        inputs += definition.defaults[len(inputs) - definition.tensor_count :]
        recorded = is_grad_enabled() and _any_requires_grad(*inputs)
        return _apply(definition, None, None, *inputs) if recorded else below(definition, None, inputs)
    # Below autograd, where a rule calls the ops of its own, the transforms have been.
    if not _is_key_excluded(_AUTOGRAD) and _are_functorch_transforms_active() and under_autocast(inputs[0]):
        halves = (torch.float16, torch.bfloat16)
        with without_autocast(inputs[0]):
            wide = (x.float() if isinstance(x, Tensor) and x.dtype in halves else x for x in inputs)
            return overload(*wide)
    return overload(*inputs)


def definition_of(name: str) -> Definition:
    return DEFINITIONS.get(name) or TORCH_ONLY[name]


def call(name: str, *inputs: Any) -> Tensor:
    """Calls an op that has one result."""
    return apply(definition_of(name), *inputs)  # type: ignore[return-value]


def call_all(name: str, *inputs: Any) -> tuple[Tensor, ...]:
    """Calls an op, and gives all of its results."""
    return unpacked(apply(definition_of(name), *inputs))
