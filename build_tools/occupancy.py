"""Registers, shared memory and predicted occupancy of every fused CUDA kernel, written to docs/occupancy.md.

    python build_tools/occupancy.py            compile csrc/cuda with nvcc and write the table; no GPU needed
    python build_tools/occupancy.py --check    only check: exit status 1 if a fused kernel spills registers

The numbers come from `ptxas -v` and from the plan in csrc/cuda/variants.h; the limits of a multiprocessor from the CUDA
C++ programming guide, table "Technical specifications per compute capability".
"""

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "csrc" / "cuda"
KERNELS = (
    "mpa",
    "mtp",
    "ns",
    "sqrtm_lya_backward",
    "inv_sqrtm_lya_backward",
    "lyapunov",
    "mpa_backward",
    "mtp_backward",
    "ns_backward",
    "accurate_roots",
    "accurate_backward",
    "lyapunov_newton",
)


@dataclass(frozen=True)
class Chip:
    arch: str
    example: str
    shared: int  # bytes of a multiprocessor
    shared_per_block: int
    warps: int = 64
    blocks: int = 32
    registers: int = 65536


CHIPS = (Chip("80", "A100", 167936, 166912), Chip("90", "H100, H200", 233472, 232448))

# Prints one line for each kernel, element size, variant and number of teams: what the plan asks for.
PLANS = r"""
#include <cstdio>
#include <initializer_list>
#include "variants.h"
using namespace fastsqrtm::cuda;
int main() {
  for (int op = 0; op < fused_count; ++op)
    for (int bytes : {4, 8})
      for (int v = 0; v < (bytes == 8 ? double_shape_count : float_shape_count); ++v) {
        const Shape& s = (bytes == 8 ? double_shapes : float_shapes)[v];
        const int matrices = s.threads < 32 ? 128 / s.threads : 1;
        std::printf("%d %d %d %d %d %d %d %d\n", op, bytes, v, s.padded, s.tile, s.threads, matrices,
                    shared_elements(static_cast<Fused>(op), s, 1) * bytes);
      }
}
"""


@dataclass(frozen=True)
class Row:
    kernel: str
    dtype: str
    n: int
    tile: int
    threads: int
    matrices: int
    shared: int  # bytes of one block
    registers: int
    spills: int


def plans():
    """(kernel, element bytes, variant) -> (n, tile, threads of a team, matrices a block, shared bytes of a matrix)."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "plans"
        subprocess.run(
            ["g++", "-std=c++17", f"-I{SOURCES}", "-x", "c++", "-", "-o", str(program)],
            input=PLANS,
            text=True,
            check=True,
        )
        lines = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()
    table = {}
    for line in lines:
        op, size, variant, *rest = map(int, line.split())
        table[KERNELS[op], size, variant] = rest
    return table


def parse_ptxas(text):
    """(kernel, element bytes, variant) -> (registers, bytes of spills), from the output of ptxas -v."""
    found = {}
    entry = re.compile(
        r"Compiling entry function '\S*?cuda\d+(\w+?)_kernelINS\d_7VariantI([fd])Li(\d+)\S*'"
        r".*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        re.DOTALL,
    )
    for kernel, kind, variant, stores, loads, registers in entry.findall(text):
        found[kernel, 8 if kind == "d" else 4, int(variant)] = int(registers), int(stores) + int(loads)
    return found


def compile_for(arch, nvcc):
    """What ptxas says of every fused kernel for one architecture."""
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        for kernel in KERNELS:
            command = [nvcc, "-std=c++17", "-O3", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xptxas", "-v"]
            command += ["-Werror", "all-warnings", "-c", str(SOURCES / f"{kernel}.cu"), "-o", f"{directory}/{kernel}.o"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found.update(parse_ptxas(done.stderr))
    return found


def blocks_per_multiprocessor(row, chip):
    """Limits: warps, blocks, registers (given to a warp in steps of 256, warps in fours) and shared memory."""
    warps = row.threads * row.matrices // 32
    per_warp = (row.registers * 32 + 255) // 256 * 256
    by_registers = chip.registers // per_warp // 4 * 4 // warps
    by_shared = chip.shared // (row.shared + 1024)  # a block's own kilobyte for the system
    return max(0, min(chip.warps // warps, chip.blocks, by_registers, by_shared))


def rows_of(chip, nvcc):
    registers = compile_for(chip.arch, nvcc)
    rows = []
    for (kernel, size, variant), (n, tile, threads, matrices, shared) in plans().items():
        used, spills = registers[kernel, size, variant]
        dtype = "float64" if size == 8 else "float32"
        rows.append(Row(kernel, dtype, n, tile, threads, matrices, shared * matrices, used, spills))
    return rows


def document(tables):
    lines = [
        "# Registers, shared memory and occupancy of the fused kernels",
        "",
        "Written by `python build_tools/occupancy.py`, from `ptxas -v` and the plan. Predicted, not measured: no GPU",
        "was used. One team a matrix; half types run the float32 kernels. *Blocks* is how many share a multiprocessor,",
        "at most; *occupancy* is their warps over the 64 there can be. A dash: does not fit, the plan takes the path",
        "for large matrices.",
    ]
    for chip, rows in tables:
        lines += [
            "",
            f"## sm_{chip.arch} ({chip.example})",
            "",
            "| kernel | dtype | n up to | tile | threads | matrices a block | registers | spills (bytes) |"
            " shared (bytes) | blocks | occupancy |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            fits = row.shared <= chip.shared_per_block
            blocks = blocks_per_multiprocessor(row, chip) if fits else 0
            share = f"{blocks * row.threads * row.matrices / 32 / chip.warps:.0%}" if fits else "-"
            lines.append(
                f"| {row.kernel} | {row.dtype} | {row.n} | {row.tile} | {row.threads} | {row.matrices} |"
                f" {row.registers} | {row.spills} | {row.shared} | {blocks or '-'} | {share} |"
            )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    tables = [(chip, rows_of(chip, arguments.nvcc)) for chip in CHIPS]
    if not arguments.check:
        (ROOT / "docs" / "occupancy.md").write_text(document(tables))
    spilling = [(chip.arch, row) for chip, rows in tables for row in rows if row.spills]
    for arch, row in spilling:
        print(f"sm_{arch}: {row.kernel} {row.dtype} n <= {row.n} spills {row.spills} bytes")
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
