"""Joins the twin of each op, in plain torch, and its derivative rule under one name, for `_reference`.

    @op
    def lyapunov(B: Tensor, C: Tensor, iterations: int) -> Tensor: ...

    lyapunov.rule = Rule(save=..., vjp=..., jvp=...)

The decorator replaces the function by a `Definition`, which is called as the op is and computes in plain torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor
from torch._ops import OpOverload

from . import check
from .table import OPS, Op, parse

Results = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Rule:
    """The derivatives of an op, each made of ops and of torch products, so that it can be differentiated again.

    `save(*tensors, *results)` chooses the tensors to keep. `vjp` and `jvp` receive those, then all numbers of the op as
    a tuple, then the cotangents of its differentiable results or the tangents of its tensors. `vjp` returns a gradient
    for each tensor, or None; `jvp` a tangent for each differentiable result. One alone needs no tuple. Where either is
    the name of an op, it is that op of the saved tensors, the cotangents or tangents, and the numbers.
    """

    save: Callable[..., tuple[Tensor, ...]]
    vjp: str | Callable[..., Tensor | tuple[Tensor | None, ...]]
    jvp: str | Callable[..., Results]


class Definition:
    """An op: its line of the table, its twin, its rule and, once registered, its entry in the dispatcher."""

    def __init__(
        self, op: Op, compute: Callable[..., Results], entry_precision: bool = False, complex_too: bool = False
    ) -> None:
        self.op = op
        self.compute = compute
        self.entry_precision = entry_precision
        self.rule: Rule | None = None
        self.defaults = tuple(number.default for number in op.numbers)
        self.tensor_count = len(op.tensors)
        self.all_differentiable = False not in op.differentiable
        self.of_complex = Definition(op.of_complex(), compute, entry_precision) if complex_too else None
        self.overload: OpOverload | None = None
        self.bare: Any = None  # the overload without the Python function around it
        self.__name__ = op.name
        self.__doc__ = compute.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Results:
        """Runs the twin under the input policy of every op: checks, half precision in float32, contiguous results.

        Where the first tensor is empty, nothing is computed; a result that is not empty is zero.
        """
        tensors, numbers = check.call(self.op, args, kwargs)
        A = tensors[0]
        if A.numel() == 0:
            return packed(empty_results(self.op, tensors))
        precision = torch.promote_types(A.dtype, torch.float32)
        inputs = [
            x.to(precision).resolve_conj().contiguous() if matrix.dtype is None else x
            for x, matrix in zip(tensors, self.op.tensors, strict=True)
        ]
        entries = {"entry_precision": torch.finfo(A.dtype).eps / 2} if self.entry_precision else {}
        results = unpacked(self.compute(*inputs, *numbers, **entries))
        return packed(
            [x.to(matrix.dtype or A.dtype).contiguous() for x, matrix in zip(results, self.op.results, strict=True)]
        )


def unpacked(results: Results) -> tuple[Tensor, ...]:
    """The results of an op as a tuple, one or several."""
    return (results,) if isinstance(results, Tensor) else tuple(results)


def packed(results: list[Tensor]) -> Results:
    """The return value of an op: a tensor, or a tuple of several."""
    return results[0] if len(results) == 1 else tuple(results)


def empty_results(op: Op, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Results of the right shapes and dtypes, zero where they have entries."""
    shapes = op.result_shapes(*(x.shape for x in tensors))
    return [tensors[0].new_zeros(s, dtype=m.dtype or tensors[0].dtype) for s, m in zip(shapes, op.results, strict=True)]


DEFINITIONS: dict[str, Definition] = {}

TORCH_ONLY: dict[str, Definition] = {}
"""Ops that have no kernels, and no line in ops.def: what they compute in plain torch looks at values, which a graph
could not, or has a rule of its own."""


def torch_op(schema: str, shapes: str, ranges: str = "") -> Callable[[Callable[..., Results]], Definition]:
    """Makes a function an op without a kernel; the columns are those of ops.def."""

    def define(compute: Callable[..., Results]) -> Definition:
        name = compute.__name__
        TORCH_ONLY[name] = Definition(parse(name, schema, shapes, ranges), compute)
        return TORCH_ONLY[name]

    return define


@overload
def op(compute: Callable[..., Results], /) -> Definition: ...
@overload
def op(
    *, entry_precision: bool = False, complex_too: bool = False
) -> Callable[[Callable[..., Results]], Definition]: ...
def op(
    compute: Callable[..., Results] | None = None, /, *, entry_precision: bool = False, complex_too: bool = False
) -> Definition | Callable[[Callable[..., Results]], Definition]:
    """Makes a function the twin of the op of its name. With `entry_precision` the twin also gets that keyword: the
    largest relative change of an entry by rounding to the dtype of the caller. With `complex_too` twin and rule hold
    for complex tensors as well: torch.ops.fastsqrtm_complex has that form of the op, the twin on every device.
    """

    def define(compute: Callable[..., Results]) -> Definition:
        name = compute.__name__
        if name in DEFINITIONS:
            raise ImportError(f"fastsqrtm: the op {name} is defined twice")
        DEFINITIONS[name] = Definition(OPS[name], compute, entry_precision, complex_too)
        return DEFINITIONS[name]

    return define if compute is None else define(compute)


def incomplete() -> list[str]:
    """The faults of the definitions: an op without a twin, or without a rule although a result is differentiable."""
    missing = [f"{name} has no twin" for name in OPS if name not in DEFINITIONS]
    return missing + [
        f"{name} has no rule"
        for name, definition in DEFINITIONS.items()
        if definition.rule is None and any(definition.op.differentiable)
    ]
