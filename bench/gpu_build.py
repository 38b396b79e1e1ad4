"""Builds the native libraries for this machine's GPU, in place: ``python -m bench.gpu_build``; prints one json line.

CMake alone, so that neither pip nor the network is needed. ptxas tells what each kernel takes of the chip.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def commands(arch: str, build: Path) -> list[list[str]]:
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DFASTSQRTM_CUDA={os.environ.get('FASTSQRTM_CUDA', 'ON')}",
        f"-DFASTSQRTM_CUDA_ARCHS={os.environ.get('FASTSQRTM_CUDA_ARCHS', arch)}", "-DCMAKE_CUDA_FLAGS=-Xptxas=-v",
        *os.environ.get("CMAKE_ARGS", "").split(),
    ]  # fmt: skip
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    compile_all = ["cmake", "--build", str(build), "--parallel", str(os.cpu_count()), "--verbose"]
    install = ["cmake", "--install", str(build), "--component", "python", "--prefix", str(ROOT / "fastsqrtm")]
    return [configure, compile_all, install]


def report(log: str) -> dict:
    """What ptxas said of the kernels: how many take how many barriers, the most registers, the bytes spilled."""
    barriers = [int(count) for count in re.findall(r"used (\d+) barriers", log)]
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", log)]
    return {
        "kernels": len(registers),
        "kernels_with_barriers": {count: barriers.count(count) for count in sorted(set(barriers))},
        "most_registers": max(registers, default=0),
        "spilled_bytes": sum(map(int, re.findall(r"(\d+) bytes spill stores", log))),
    }


def main() -> None:
    arch = "{}.{}".format(*torch.cuda.get_device_capability())
    log = ""
    for command in commands(arch, ROOT / "build" / "gpu"):
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        log += done.stdout
        if done.returncode:
            print(done.stdout[-6000:], file=sys.stderr)
            errors = [line for line in done.stdout.splitlines() if "error" in line.lower()]
            raise SystemExit((errors or [f"{command[:2]} failed"])[0][:500])
    print(json.dumps({"arch": arch, "processors": os.cpu_count(), **report(log)}), flush=True)


if __name__ == "__main__":
    main()
