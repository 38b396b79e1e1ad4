"""Looks from an isolated build into the environment that fastsqrtm is installed into, without importing from it.

Run as a program it prints the directory of that environment's torch package; CMake runs it when it has no other path.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST_TORCH = (2, 11)
_PROBE = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"


def native_wanted():
    """False under FASTSQRTM_NATIVE=OFF: a pure-torch package, no compiler needed."""
    choice = os.environ.get("FASTSQRTM_NATIVE", "ON").upper()
    if choice not in ("ON", "1", "OFF", "0"):
        raise SystemExit(f"fastsqrtm: FASTSQRTM_NATIVE must be ON or OFF, got {choice}")
    return choice in ("ON", "1")


def find_torch():
    """Directory of the torch to build against, or None.

    pip isolates a build by PYTHONPATH alone, which -E ignores: the first probe sees the torch that fastsqrtm will be
    installed next to. The second one sees a torch that the build itself required, where there was none (uv, build).
    """
    for flags in (["-E"], []):
        probe = subprocess.run([sys.executable, *flags, "-c", _PROBE], capture_output=True, text=True)
        torch = Path(probe.stdout.strip() or "/nonexistent")
        if torch_version(torch) >= OLDEST_TORCH:
            return torch
    return None


def torch_version(torch):
    """(major, minor) out of torch/version.py, (0, 0) without one."""
    version_file = torch / "version.py"
    found = version_file.is_file() and re.search(r"__version__ = '(\d+)\.(\d+)", version_file.read_text())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def has_program(name):
    """Whether `name` runs in this build. The cmake of an active venv is on PATH but broken in an isolated build."""
    return shutil.which(name) is not None and subprocess.run([name, "--version"], capture_output=True).returncode == 0


if __name__ == "__main__":
    print(find_torch() or "")
