"""Makes the ops known to torch: schemas where the native library is missing, the pure-torch fallback, and the rules
for fake tensors, autograd, vmap and autocast. Nothing numerical; the derivatives are in _derivatives.py.
"""

import functools
import os
import warnings

import torch

from . import _check, _derivatives, reference
from ._library import load_cuda, native
from ._schema import SCHEMAS, result_shape

AUTOCAST_DEVICES = ("cpu", "cuda")

_library = torch.library.Library("fastsqrtm", "FRAGMENT")
_reported: set[str] = set()


def _report_fallback(device: str) -> None:
    """Once per process and device; FASTSQRTM_FALLBACK=error makes it an error, =silent silences it."""
    policy = os.environ.get("FASTSQRTM_FALLBACK", "warn")
    if policy == "silent" or (policy != "error" and (native.warned or device in _reported)):
        return
    reason = load_cuda() if device == "cuda" else native.reason or "there are none"
    reason = reason.splitlines()[0]
    message = f"fastsqrtm: no native kernels for {device} tensors ({reason}): using the slower pure-torch path"
    if policy == "error":
        raise RuntimeError(message)
    _reported.add(device)
    warnings.warn(message, stacklevel=2)


def _register(name: str) -> None:
    twin = getattr(reference, name)
    qualified = f"fastsqrtm::{name}"

    def fallback(*args):
        _check.call(twin, args)
        if args[0].device.type == "cuda" and not load_cuda():
            return _derivatives.op(name)(*args)  # the library, loaded just now, goes before this from here on
        _report_fallback(args[0].device.type)
        return twin(*args)

    def fake(*args):
        A = next(iter(_check.call(twin, args).values()))
        return A.new_empty(result_shape(name, A.shape))

    def vmap(info, in_dims, *args):
        return _derivatives.op(name)(*_derivatives.batch_first(info, in_dims, args)), 0

    if not native.loaded:
        _library.define(name + SCHEMAS[name], tags=torch.Tag.pt2_compliant_tag)
    # The lowest in rank: a native kernel for the device of the tensors goes before it.
    _library.impl(name, fallback, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_library)
    torch.library.register_autograd(
        qualified,
        functools.partial(_derivatives.vjp, name),
        setup_context=functools.partial(_derivatives.save, name),
        lib=_library,
    )
    torch.library.register_vmap(qualified, vmap, lib=_library)
    for device in AUTOCAST_DEVICES:
        torch.library.register_autocast(qualified, device, torch.float32, lib=_library)


def register() -> None:
    for name in _derivatives.RULES:
        _register(name)
