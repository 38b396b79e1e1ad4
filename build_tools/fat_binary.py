"""Checks the contents of the installed libfastsqrtm_cuda.so: every kernel as real code for every architecture that
build_info.json names, as PTX for the last one alone, and no registers spilled where a kernel can be launched.

    python build_tools/fat_binary.py    for the fastsqrtm that this interpreter imports; exit status 1 on failure

It needs cuobjdump, from a CUDA toolkit or from the triton that comes with a CUDA torch.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from occupancy import KERNEL, kernel_key, plans

# Bytes that a block can have; a variant that needs more is never launched there. From the CUDA C++ programming guide,
# table "Technical specifications per compute capability". Where a chip is not named, every variant counts.
SHARED_PER_BLOCK = {"7.5": 65536, "8.0": 166912, "8.6": 101376, "8.7": 166912, "8.9": 101376, "12.0": 101376}
FUSED = re.compile(KERNEL)


def package_directory(name):
    """Finds it without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec else None


def find_cuobjdump():
    places = [shutil.which("cuobjdump")]
    if nvcc := shutil.which("nvcc"):
        places.append(Path(nvcc).resolve().parent / "cuobjdump")
    if triton := package_directory("triton"):
        places.append(triton / "backends" / "nvidia" / "bin" / "cuobjdump")
    found = [place for place in places if place and Path(place).is_file()]
    return found[0] if found else sys.exit("fat_binary.py: cuobjdump is not found")


def parse(text):
    """{architecture: {kernel: bytes of stack}} of the real code, and {architectures} of the PTX.

    From cuobjdump --dump-resource-usage --list-ptx; a file of PTX is named after its source and its architecture.
    """
    real, ptx = {}, set()
    for kind, arch, body in re.findall(r"Fatbin (\w+) code:\n=+\narch = sm_(\d+)\w*\n(.*?)(?=\nFatbin|\Z)", text, re.S):
        version = f"{arch[:-1]}.{arch[-1]}"
        if kind == "ptx":
            ptx.add(version)
            continue
        usage = re.findall(r"Function (\S+):\s+REG:\d+ STACK:(\d+)", body)
        real.setdefault(version, {}).update((name, int(stack)) for name, stack in usage)
    return real, ptx


def problems(archs, real, ptx, shared):
    """The faults, a line each. `shared`: bytes of a block for each (pass, element bytes, variant)."""
    lines = []
    kernels = set().union(*real.values())
    if len({found.groups() for name in kernels if (found := FUSED.search(name))}) != len(shared):
        lines.append(f"not {len(shared)} kernels of passes: {len(kernels)} kernels in all")
    for arch in archs:
        missing = kernels - set(real.get(arch, {}))
        if missing or not kernels:
            lines.append(f"{arch}: {len(missing)} of {len(kernels)} kernels have no real code")
    if extra := set(real) - set(archs):
        lines.append(f"real code that build_info.json does not name: {sorted(extra)}")
    if ptx != {archs[-1]}:
        lines.append(f"PTX of {sorted(ptx)}, expected of {archs[-1]}")
    for arch, stacks in real.items():
        for name, stack in stacks.items():
            if fused := FUSED.search(name):
                fits = shared[kernel_key(*fused.groups())] <= SHARED_PER_BLOCK.get(arch, 1 << 30)
            if stack and (not fused or fits):
                lines.append(f"{arch}: {name} has {stack} bytes of stack")
    return lines


def main():
    library = package_directory("fastsqrtm") / "lib" / "libfastsqrtm_cuda.so"
    archs = json.loads(library.with_name("build_info.json").read_text())["cuda"]["archs"]
    command = [find_cuobjdump(), "--dump-resource-usage", library]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shared = {key: matrices * size for key, (_, _, _, matrices, size) in plans().items()}
    real, ptx = parse(text)
    lines = problems(archs, real, ptx, shared)
    print("\n".join(lines) or f"{len(real[archs[0]])} kernels as real code for {', '.join(archs)}, PTX of {archs[-1]}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
