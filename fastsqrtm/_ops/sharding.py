"""How ops act on DTensors: a tensor sharded over its leading dimensions is computed where the shards are.

The rules are registered when an op first meets a DTensor, since torch.distributed.tensor takes long to import.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .definition import DEFINITIONS, TORCH_ONLY
from .table import Op


def meets_dtensor(inputs: tuple) -> bool:
    """Whether one of the inputs is a DTensor; None can be where nothing has imported its module."""
    module = sys.modules.get("torch.distributed.tensor")
    if module is not None:
        for x in inputs:  # no generator, because every call comes here
            if type(x) is not Tensor and isinstance(x, module.DTensor):
                return True
    return False


@functools.cache
def register() -> None:
    """Tells torch how each op may be sharded."""
    from torch.distributed.tensor.experimental import register_sharding

    for definition in (*DEFINITIONS.values(), *TORCH_ONLY.values()):
        overload: Any = definition.overload
        register_sharding(overload)(_placements(definition.op))


def _placements(op: Op) -> Callable[..., list]:
    def placements(*arguments: Any) -> list:
        """The ways to place inputs and results: all replicated, or all sharded over one leading dimension."""
        from torch.distributed.tensor import Replicate, Shard

        leading = arguments[0].ndim - len(op.tensors[0].dims)
        ways = [Replicate(), *(Shard(dim) for dim in range(leading))]
        numbers = [None] * (len(arguments) - len(op.tensors))
        return [([way] * len(op.results), [way] * len(op.tensors) + numbers) for way in ways]

    return placements


def alike(tensors: Any) -> Any:
    """Makes DTensors of the zeros that torch puts in the place of cotangents that are missing, next to DTensors."""
    if torch.compiler.is_compiling() or not meets_dtensor(tuple(tensors)):
        return tensors
    from torch.distributed.tensor import DTensor, Replicate

    mesh = next(x.device_mesh for x in tensors if isinstance(x, DTensor))
    everywhere = [Replicate()] * mesh.ndim
    return [x if isinstance(x, DTensor) else DTensor.from_local(x, mesh, everywhere) for x in tensors]


def prepare(inputs: tuple) -> None:
    """Registers the rules if the inputs need them."""
    if meets_dtensor(inputs) and not torch.compiler.is_compiling():
        register()
