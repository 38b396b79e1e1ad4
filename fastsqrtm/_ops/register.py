"""Makes ops known to torch: schemas where the native library is missing, the pure-torch fallback, and the rules for
fake tensors, autograd, vmap and autocast.
"""

import os
import warnings
from typing import Any

import torch

from . import check, route
from .definition import TORCH_ONLY, Definition, Results, incomplete, packed
from .native import load_cuda, native

AUTOCAST_DEVICES = ("cpu", "cuda")

_library = torch.library.Library("fastsqrtm", "FRAGMENT")
_complex_library = torch.library.Library("fastsqrtm_complex", "FRAGMENT")
_reported: set[str] = set()


def _report_fallback(device: str) -> None:
    """Warns once per process and device; FASTSQRTM_FALLBACK=error makes it an error, =silent silences it."""
    policy = os.environ.get("FASTSQRTM_FALLBACK", "warn")
    if policy == "silent" or (policy != "error" and (native.warned or device in _reported)):
        return
    reason = (load_cuda() if device == "cuda" else native.reason) or "there are none"
    reason = reason.splitlines()[0]
    message = f"fastsqrtm: no native kernels for {device} tensors ({reason}): using the slower pure-torch path"
    if policy == "error":
        raise RuntimeError(message)
    _reported.add(device)
    warnings.warn(message, stacklevel=2)


def register(definition: Definition, library: torch.library.Library, define: bool) -> None:
    """Registers one op in the namespace of `library`; `define` where the native library has not defined the schema."""
    op = definition.op
    qualified = f"{library.ns}::{op.name}"

    def fallback(*args: Any) -> Results:
        if op.is_of_complex or op.name in TORCH_ONLY:  # no device has kernels for it
            return definition(*args)
        device = check.call(op, args)[0][0].device.type
        if device == "cuda" and not load_cuda():
            # load_cuda() has just registered native kernels; they take precedence over this fallback from now on.
            assert definition.overload is not None
            return definition.overload(*args)
        _report_fallback(device)
        return definition(*args)

    def fake(*args: Any) -> Results:
        tensors, _ = check.call(op, args)
        shapes = op.result_shapes(*(x.shape for x in tensors))
        dtypes = (matrix.dtype or tensors[0].dtype for matrix in op.results)
        return packed([tensors[0].new_empty(s, dtype=dtype) for s, dtype in zip(shapes, dtypes, strict=True)])

    if define:
        library.define(op.name + op.schema, tags=torch.Tag.pt2_compliant_tag)
    # The lowest in rank: a native kernel for the device of the tensors takes precedence.
    library.impl(op.name, fallback, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=library)
    if definition.rule is not None:
        library.impl(op.name, route.autograd(definition), "Autograd", with_keyset=True)
    torch.library.register_vmap(qualified, route.vmap(definition), lib=library)
    for device in AUTOCAST_DEVICES:
        torch.library.register_autocast(qualified, device, torch.float32, lib=library)
    definition.overload = getattr(getattr(torch.ops, library.ns), op.name).default
    definition.bare = getattr(definition.overload, "_op", definition.overload)


def register_all(definitions: dict[str, Definition]) -> None:
    """Registers every op of the table as torch.ops.fastsqrtm.<name>, and what it is for complex tensors."""
    if missing := incomplete():
        raise ImportError(f"fastsqrtm: {', '.join(missing)}")
    for definition in definitions.values():
        register(definition, _library, define=not native.loaded)
        if definition.of_complex is not None:
            definition.of_complex.rule = definition.rule
            register(definition.of_complex, _complex_library, define=True)
    for definition in TORCH_ONLY.values():
        register(definition, _library, define=True)
