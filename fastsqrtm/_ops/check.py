"""Argument checks: one function per kind of argument, each given the name of the function, the argument and its value.

csrc/check.h has the same checks with the same texts.
"""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NoReturn

import torch
from torch import Tensor

from .table import PUBLIC_DTYPES, Matrix, Number, Op


def _name(value: Any) -> str:
    return str(value).removeprefix("torch.")


def fail(function: str, expected: str, got: Any) -> NoReturn:
    raise RuntimeError(f"fastsqrtm.{function}: {expected}, got {got}")


def strided(function: str, name: str, A: Any) -> None:
    if not isinstance(A, Tensor):
        fail(function, f"{name} must be a tensor{_how_to_trace(function, A)}", type(A).__name__)
    if A.layout != torch.strided:
        fail(function, f"{name} must be a strided tensor", _name(A.layout))
    if A.is_nested:
        stack = "stack matrices of one size, or take those of unbind() one by one"
        fail(function, f"{name} must be a strided tensor ({stack})", "a nested tensor")


def _how_to_trace(function: str, A: Any) -> str:
    if not isinstance(A, torch.fx.Proxy):
        return ""
    name = function.split(".")[-1]
    return f""" (torch.fx.symbolic_trace records a call after torch.fx.wrap("{name}") where {name} is imported)"""


def _wrapped_in(x: Tensor, is_wrapper: Callable[[Tensor], bool]) -> bool:
    """Whether a transform of torch.func holds x. Not asked while torch.compile traces, which cannot tell."""
    if torch.compiler.is_compiling():
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if is_wrapper(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


def known(function: str, argument: str, x: Tensor, instead: str) -> None:
    """Checks that the values of x can be read; under vmap and in an exported graph they cannot."""
    expected = f"{argument} must read whether each matrix converged: {instead}"
    if torch.compiler.is_exporting():
        fail(function, expected, "a graph that is being exported")
    if _wrapped_in(x, torch._C._functorch.is_batchedtensor):
        fail(function, expected, "a batch inside torch.vmap")


def not_functionalized(function: str, expected: str, A: Tensor) -> None:
    if _wrapped_in(A, torch._C._functorch.is_functionaltensor):
        fail(function, expected, "a tensor inside torch.func.functionalize")


def first(function: str, expected: Matrix, A: Any, dtypes: tuple[torch.dtype, ...] | None = None) -> None:
    """Checks the first tensor of an op, which the other tensors must match; `dtypes` replace those of its line."""
    if type(A) is not Tensor or A.layout is not torch.strided or A.is_nested:
        strided(function, expected.name, A)
    dtypes = dtypes or expected.dtypes
    if A.dtype not in dtypes:
        *others, last = map(_name, dtypes)
        fail(function, f"{expected.name} must be {', '.join(others)} or {last}", _name(A.dtype))
    shape = A.shape
    fits = len(shape) >= len(expected.dims)
    for i, j in expected.equal:  # no generator, because every call comes here
        fits = fits and shape[i] == shape[j]
    if not fits:
        fail(function, f"{expected.name} must be {expected.expected_shape}", tuple(A.shape))


def real_or_complex(function: str, expected: Matrix, A: Any) -> None:
    """Checks the first tensor of a function that also takes complex matrices."""
    first(function, expected, A, PUBLIC_DTYPES)


def other(function: str, op: Op, position: int, tensors: tuple) -> None:
    """Checks a later tensor of an op, which must share leading dimensions and letters with the earlier ones."""
    A, C, of_A, of_C = tensors[0], tensors[position], op.tensors[0], op.tensors[position]
    strided(function, of_C.name, C)
    letters = op.bound(*(x.shape for x in tensors[:position]))
    # A letter that no earlier tensor binds stands for any size.
    expected = [*A.shape[: A.dim() - len(of_A.dims)], *(letters.get(letter) for letter in of_C.dims)]
    fits = C.dim() == len(expected) and all(C.shape[i] == C.shape[j] for i, j in of_C.equal)
    if not (fits and all(e is None or e == s for e, s in zip(expected, C.shape, strict=True))):
        like = (
            f"have the shape of {of_A.name}"
            if of_C.dims == of_A.dims
            else f"be {of_C.expected_shape} where {of_A.name} is"
        )
        fail(function, f"{of_C.name} must {like} {tuple(A.shape)}", tuple(C.shape))
    if C.dtype != (of_C.dtype or A.dtype):
        dtype = f"{_name(of_C.dtype)}" if of_C.dtype else f"the dtype of {of_A.name} ({_name(A.dtype)})"
        fail(function, f"{of_C.name} must have {dtype}", _name(C.dtype))
    if C.device != A.device:
        fail(function, f"{of_C.name} must be on the device of {of_A.name} ({A.device})", C.device)


def kind(function: str, name: str, value: Any, whole: bool = False) -> None:
    if type(value) is int or (type(value) is float and not whole):
        return  # The check against the abstract classes below accepts numpy's scalars too, but is slower.
    kinds = (Integral, torch.SymInt) if whole else (Real, torch.SymInt, torch.SymFloat)
    if isinstance(value, bool) or not isinstance(value, kinds):
        fail(function, f"{name} must be a {'whole ' if whole else ''}number", repr(value))


def number(function: str, expected: Number, value: Any) -> None:
    if type(value) is not int:
        kind(function, expected.name, value, expected.whole)
    if not expected.low <= value <= expected.high:
        got = value if expected.whole else f"{value:g}"
        fail(function, f"{expected.name} must be from {expected.low:g} to {expected.high:g}", got)


def call(op: Op, args: tuple, kwargs: dict[str, Any] | None = None) -> tuple[tuple[Tensor, ...], tuple]:
    """Checks a call of an op and returns its tensors and its numbers, defaults filled in."""
    bound = op.signature.bind(*args, **(kwargs or {}))
    bound.apply_defaults()
    values = tuple(bound.arguments.values())
    tensors, numbers = values[: len(op.tensors)], values[len(op.tensors) :]
    first(op.name, op.tensors[0], tensors[0])
    for position in range(1, len(tensors)):
        other(op.name, op, position, tensors)
    for expected, value in zip(op.numbers, numbers, strict=True):
        number(op.name, expected, value)
    return tensors, numbers
