"""Loads the native libraries. The import loads the CPU one: it is loaded, was never built, or is present but cannot be
loaded; the last case warns once. The first call with CUDA tensors loads the CUDA one, because asking a GPU for its
architecture starts CUDA.

FASTSQRTM_NATIVE=0 leaves the CPU library unloaded. Otherwise FASTSQRTM_REQUIRE_NATIVE=1 makes its absence an error.
"""

import functools
import importlib
import json
import os
import platform
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

_DIRECTORY = Path(__file__).parent.parent / "lib"
_LIBRARY = _DIRECTORY / ("libfastsqrtm_cpu.dylib" if sys.platform == "darwin" else "libfastsqrtm_cpu.so")


@dataclass(frozen=True)
class Native:
    """The state of the native library. `C` is the module `fastsqrtm._C`; None, with a `reason`, when not loaded.

    `warned`: the import has warned, so nothing else needs to.
    """

    loaded: bool
    reason: str | None = None
    C: ModuleType | None = None
    warned: bool = False


def _load() -> Native:
    if os.environ.get("FASTSQRTM_NATIVE", "").upper() in ("0", "OFF"):
        return Native(False, "the native library is switched off (FASTSQRTM_NATIVE=0)")
    broken = False
    if not _DIRECTORY.exists():
        reason = "the native library is not built (FASTSQRTM_NATIVE=OFF, or a source tree that is not installed)"
    else:
        try:
            # _C first: it needs no torch, and once the library is in, its ops cannot be taken back.
            module = importlib.import_module("fastsqrtm._C")
            torch.ops.load_library(_LIBRARY)
            return Native(True, C=module)
        except (ImportError, OSError, RuntimeError) as error:
            reason, broken = _explain(error.__cause__ or error), True
    if os.environ.get("FASTSQRTM_REQUIRE_NATIVE", "").upper() in ("1", "ON"):
        raise ImportError(f"fastsqrtm: {reason}\nFASTSQRTM_REQUIRE_NATIVE=1 does not allow the pure-torch path.")
    if broken:
        warnings.warn(f"fastsqrtm: {reason}\nUsing the slower pure-torch path.", RuntimeWarning, stacklevel=2)
    return Native(False, reason, warned=broken)


def _explain(error: BaseException) -> str:
    you_have = f"torch {torch.__version__}, {platform.system()}-{platform.machine()}, {sys.implementation.cache_tag}"
    try:
        built = json.loads((_DIRECTORY / "build_info.json").read_text())
        built_for = "torch >= {torch_target} (headers of {torch_built_against}), {platform}, {python}".format(**built)
    except (OSError, ValueError, KeyError):
        built_for = "unknown (build_info.json is damaged or missing)"
    return (
        f"the native library does not load: {error}\n"
        f"  built for: {built_for}\n"
        f"  you have:  {you_have}\n"
        "  to fix:    pip install --force-reinstall --no-deps --no-cache-dir <where fastsqrtm came from>"
    )


native = _load()


# Integrated GPUs run only their own real code, which runs nowhere else; torch.cuda.DEVICE_REQUIREMENT has the same.
_INTEGRATED = {(7, 2), (8, 7), (10, 1), (11, 0)}


def has_code_for(chip: tuple[int, int], archs: list[str]) -> bool:
    """Whether a build for `archs`, as cmake/cuda.cmake makes it, runs on a chip of this compute capability.

    Real code runs on chips of the same major version and no smaller minor one, PTX on any chip that is not older. There
    is PTX of the last architecture only, whatever the order of the list.
    """
    built = [tuple(map(int, arch.split("."))) for arch in archs]
    for arch in built:
        own_only = chip in _INTEGRATED or arch in _INTEGRATED
        if arch == chip or (arch[0] == chip[0] and arch < chip and not own_only):
            return True
    return chip >= built[-1]


@functools.cache
def load_cuda() -> str | None:
    """Loads the CUDA kernels. Returns None, or the reason why there are none for the GPUs of this process."""
    if native.C is None:
        return native.reason
    built = native.C.build_info()["cuda"]
    if built is None:
        return "this build has none: build where torch is a CUDA build and nvcc is found, or with FASTSQRTM_CUDA=ON"
    for i in range(torch.cuda.device_count()):
        chip = torch.cuda.get_device_capability(i)
        if not has_code_for(chip, built["archs"]):
            return "built for {}, but GPU {} is {}.{}".format(", ".join(built["archs"]), i, *chip)
    try:
        torch.ops.load_library(_DIRECTORY / "libfastsqrtm_cuda.so")
    except OSError as error:
        return f"the CUDA library does not load: {error.__cause__ or error}"
    return None
