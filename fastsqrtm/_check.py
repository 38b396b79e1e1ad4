"""Argument checks, one function per kind of argument: op, argument, what is expected, what came.

Counterpart in C++, with the same texts: csrc/check.h.
"""

import functools
import inspect
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LIMITS = {"mpa": 32, "mtp": 128, "iterations": 100}  # csrc/coefficients.h


def _name(value: Any) -> str:
    return str(value).removeprefix("torch.")


def _fail(op: str, expected: str, came: Any) -> None:
    raise RuntimeError(f"fastsqrtm.{op}: {expected}, got {came}")


def strided(op: str, name: str, A: Tensor) -> None:
    if not isinstance(A, Tensor):
        _fail(op, f"{name} must be a tensor", type(A).__name__)
    if A.layout != torch.strided:
        _fail(op, f"{name} must be a strided tensor", _name(A.layout))


def matrices(op: str, name: str, A: Tensor) -> None:
    strided(op, name, A)
    if A.dtype not in DTYPES:
        _fail(op, f"{name} must be float16, bfloat16, float32 or float64", _name(A.dtype))
    if A.dim() < 2 or A.shape[-1] != A.shape[-2]:
        _fail(op, f"{name} must be (..., n, n)", tuple(A.shape))


def like(op: str, name: str, C: Tensor, first: str, B: Tensor) -> None:
    strided(op, name, C)
    if C.shape != B.shape:
        _fail(op, f"{name} must have the shape of {first} {tuple(B.shape)}", tuple(C.shape))
    if C.dtype != B.dtype:
        _fail(op, f"{name} must have the dtype of {first} ({_name(B.dtype)})", _name(C.dtype))
    if C.device != B.device:
        _fail(op, f"{name} must be on the device of {first} ({B.device})", C.device)


def number(op: str, name: str, value: Any, whole: bool = False) -> None:
    if type(value) is int or (type(value) is float and not whole):
        return  # what nearly all are; the question below, for numpy's, takes longer
    kinds = (Integral, torch.SymInt) if whole else (Real, torch.SymInt, torch.SymFloat)
    if isinstance(value, bool) or not isinstance(value, kinds):
        _fail(op, f"{name} must be a {'whole ' if whole else ''}number", repr(value))


def count(op: str, name: str, value: int, method: str | None = None) -> None:
    number(op, name, value, whole=True)
    limit = LIMITS.get((method or op)[:3] if name == "degree" else name, LIMITS["iterations"])
    if not 1 <= value <= limit:
        _fail(op, f"{name} must be from 1 to {limit}", value)


def tolerance(op: str, name: str, value: float) -> None:
    number(op, name, value)
    if not 0 <= value <= 1:
        _fail(op, f"{name} must be from 0 to 1", f"{value:g}")


@functools.cache
def _signature(op: Callable) -> inspect.Signature:
    """Without what only a caller inside the package gives, the keyword-only arguments."""
    signature = inspect.signature(op)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.kind != p.KEYWORD_ONLY])


def call(op: Callable, args: tuple, kwargs: dict | None = None) -> dict[str, Any]:
    """Checks a call of one op, given by its reference twin, and returns the arguments by name, defaults filled in.

    The first argument is a tensor; the other tensors must be like it.
    """
    bound = _signature(op).bind(*args, **(kwargs or {}))
    bound.apply_defaults()
    (first, A), *others = bound.arguments.items()
    matrices(op.__name__, first, A)
    for name, value in others:
        if isinstance(value, Tensor):
            like(op.__name__, name, value, first, A)
            if op.__name__ == "sqrtm_and_inv_backward" and (A.dim() < 3 or A.shape[-3] != 2):
                _fail(op.__name__, f"{first} must be (..., 2, n, n)", tuple(A.shape))
        elif name == "rtol":
            tolerance(op.__name__, name, value)
        else:
            count(op.__name__, name, value)
    return bound.arguments
