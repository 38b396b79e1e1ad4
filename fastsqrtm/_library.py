"""Loads the native library. Three states: loaded; not built; present but unloadable, which warns once.

FASTSQRTM_NATIVE=0 leaves it unloaded. Otherwise FASTSQRTM_REQUIRE_NATIVE=1 makes its absence an error.
"""

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

_DIRECTORY = Path(__file__).parent / "lib"
_LIBRARY = _DIRECTORY / ("libfastsqrtm_cpu.dylib" if sys.platform == "darwin" else "libfastsqrtm_cpu.so")


@dataclass(frozen=True)
class Native:
    """What became of the native library. `C` is the module `fastsqrtm._C`; None, with a `reason`, when not loaded.

    `warned`: the user has been told at import, so nothing else needs to.
    """

    loaded: bool
    reason: str | None = None
    C: ModuleType | None = None
    warned: bool = False


def _load():
    if os.environ.get("FASTSQRTM_NATIVE", "").upper() in ("0", "OFF"):
        return Native(False, "the native library is switched off (FASTSQRTM_NATIVE=0)")
    broken = False
    if not _DIRECTORY.exists():
        reason = "the native library is not built (FASTSQRTM_NATIVE=OFF, or a source tree that is not installed)"
    else:
        try:
            # _C first: it needs no torch, and once the library is in, its ops cannot be taken back.
            module = importlib.import_module("._C", __package__)
            torch.ops.load_library(_LIBRARY)
            return Native(True, C=module)
        except (ImportError, OSError, RuntimeError) as error:
            reason, broken = _explain(error.__cause__ or error), True
    if os.environ.get("FASTSQRTM_REQUIRE_NATIVE", "").upper() in ("1", "ON"):
        raise ImportError(f"fastsqrtm: {reason}\nFASTSQRTM_REQUIRE_NATIVE=1 does not allow the pure-torch path.")
    if broken:
        warnings.warn(f"fastsqrtm: {reason}\nUsing the slower pure-torch path.", RuntimeWarning, stacklevel=2)
    return Native(False, reason, warned=broken)


def _explain(error):
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
        "  to mend:   pip install --force-reinstall --no-deps --no-cache-dir <where fastsqrtm came from>"
    )


native = _load()
