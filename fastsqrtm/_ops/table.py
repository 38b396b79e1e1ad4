"""The table of ops: each line of ops.def as torch's own parser of schemas reads it. Its header has the columns."""

import inspect
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The dtypes of the first argument of an op, and of every other tensor whose dtype its line does not name."""
COMPLEX_DTYPES = (torch.complex64, torch.complex128)
"""The same for the form of an op that takes complex matrices."""

PUBLIC_DTYPES = DTYPES + COMPLEX_DTYPES
"""Those that the everyday functions take: `hermitian` makes complex matrices real where the op has no complex form."""


@dataclass(frozen=True)
class Matrix:
    """A tensor argument or a result: its dimensions behind the leading ones, one letter each.

    The dtype is that of the first argument where it is None.
    """

    name: str
    dims: str
    dtype: torch.dtype | None = None
    dtypes: tuple[torch.dtype, ...] = DTYPES

    def __post_init__(self) -> None:
        _ = self.equal  # now, as torch.compile cannot trace the first access of a cached property

    @cached_property
    def equal(self) -> tuple[tuple[int, int], ...]:
        """The pairs of dimensions that have one letter, counted from the last."""
        places = range(-len(self.dims), 0)
        return tuple((i, j) for i in places for j in places if i < j and self.dims[i] == self.dims[j])

    @property
    def expected_shape(self) -> str:
        """The shape in an error: "(..., n, n)"."""
        return f"({', '.join(('...', *self.dims))})"


@dataclass(frozen=True)
class Number:
    """A scalar argument and the range it must be in, both ends allowed."""

    name: str
    whole: bool
    default: float | None = None
    low: float = -float("inf")
    high: float = float("inf")


@dataclass(frozen=True)
class Op:
    """One line of the table. Tensors come before numbers in every schema."""

    name: str
    schema: str
    tensors: tuple[Matrix, ...]
    numbers: tuple[Number, ...]
    results: tuple[Matrix, ...]

    @cached_property
    def signature(self) -> inspect.Signature:
        """The arguments with the defaults of the schema, as a Python function would have them."""
        kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
        tensors = [inspect.Parameter(tensor.name, kind) for tensor in self.tensors]
        defaults = {number.name: empty if number.default is None else number.default for number in self.numbers}
        return inspect.Signature([*tensors, *(inspect.Parameter(n, kind, default=d) for n, d in defaults.items())])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the tensor arguments."""
        return tuple(tensor.name for tensor in self.tensors)

    @cached_property
    def differentiable(self) -> tuple[bool, ...]:
        """Which results have a gradient: those whose dtype is that of the first argument."""
        return tuple(result.dtype is None for result in self.results)

    def of_complex(self) -> "Op":
        """The same op for complex tensors."""
        return replace(self, tensors=tuple(replace(tensor, dtypes=COMPLEX_DTYPES) for tensor in self.tensors))

    @property
    def is_of_complex(self) -> bool:
        return self.tensors[0].dtypes == COMPLEX_DTYPES

    def number(self, name: str) -> Number:
        return next(number for number in self.numbers if number.name == name)

    def bound(self, *shapes: tuple[int, ...]) -> dict[str, int]:
        """The size of each letter, from the shapes of the tensor arguments given."""
        letters: dict[str, int] = {}
        for tensor, shape in zip(self.tensors, shapes, strict=False):
            for letter, size in zip(reversed(tensor.dims), reversed(shape), strict=False):
                letters.setdefault(letter, size)
        if "k" not in letters and letters.keys() >= {"m", "n"}:
            letters["k"] = min(letters["m"], letters["n"])
        return letters

    def result_shapes(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Shapes of the results for the shapes of the tensor arguments."""
        letters = self.bound(*shapes)
        batch = shapes[0][: len(shapes[0]) - len(self.tensors[0].dims)]
        return [(*batch, *(letters[letter] for letter in result.dims)) for result in self.results]


def _matrices(names: list[str], column: str) -> tuple[Matrix, ...]:
    found = []
    for name, text in zip(names, column.split(","), strict=True):
        dims, _, dtype = text.strip().partition(":")
        found.append(Matrix(name, "" if dims == "1" else dims, getattr(torch, dtype) if dtype else None))
    return tuple(found)


def parse(name: str, schema: str, shapes: str, ranges: str) -> Op:
    """The op of one line of the table, from its four columns."""
    parsed = torch._C.parse_schema(name + schema)
    tensors = [a for a in parsed.arguments if a.type.kind() == "TensorType"]
    numbers = parsed.arguments[len(tensors) :]
    kinds = {"IntType": True, "FloatType": False}
    if parsed.arguments[: len(tensors)] != tensors or any(a.type.kind() not in kinds for a in numbers):
        raise ValueError(f"{name}{schema}: an op takes tensors, then int or float numbers")
    limits = {what: (float(low), float(high)) for what, low, high in re.findall(r"(\w+) (\S+?)\.\.([^\s,]+)", ranges)}
    if unknown := limits.keys() - {a.name for a in numbers}:
        raise ValueError(f"{name}{schema}: there is no number {', '.join(unknown)}")
    inputs, outputs = shapes.split("->")
    return Op(
        name,
        schema,
        _matrices([a.name for a in tensors], inputs),
        tuple(Number(a.name, kinds[a.type.kind()], a.default_value, *limits.get(a.name, ())) for a in numbers),
        _matrices([r.name for r in parsed.returns], outputs),
    )


_LINE = re.compile(r"^OP\((\w+),\s+" + r",\s+".join([r'"([^"]*)"'] * 3) + r"\)$", re.MULTILINE)


def read(text: str) -> dict[str, Op]:
    """The ops of a table in the format of ops.def, by name and in its order."""
    return {columns[0]: parse(*columns) for columns in _LINE.findall(text)}


OPS: dict[str, Op] = read((Path(__file__).parent.parent / "ops.def").read_text(encoding="utf-8"))
