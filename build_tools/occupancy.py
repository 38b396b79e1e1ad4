"""Writes registers, shared memory and predicted occupancy of every pass's kernel to bench/results/occupancy.md.

    python build_tools/occupancy.py            compile csrc/cuda with nvcc and write the table; no GPU needed
    python build_tools/occupancy.py --check    only check: exit status 1 if a kernel spills registers or
                                               has too many barriers

The numbers come from `ptxas -v` and from the plan in csrc/cuda/plan.h, the limits of a multiprocessor from the CUDA
C++ programming guide, table "Technical specifications per compute capability", and for barriers from cuda_occupancy.h.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Type of a pass -> its file, which may hold several.
PASSES = dict(re.findall(r"^PASS\((\w+), (\w+)\)", (ROOT / "fastsqrtm" / "ops.def").read_text(), re.M))
INCLUDES = [f"-I{ROOT / directory}" for directory in ("csrc", "fastsqrtm")]


@dataclass(frozen=True)
class Chip:
    arch: str
    example: str
    shared: int  # bytes of a multiprocessor
    shared_per_block: int
    warps: int = 64
    blocks: int = 32
    registers: int = 65536
    barriers: int = 64


# __syncthreads and one for each of five teams. All 16 of a block, which a barrier with its id in a register takes,
# would leave room for four blocks at most.
MOST_BARRIERS = 6

CHIPS = (Chip("80", "A100", 167936, 166912), Chip("90", "H100, H200", 233472, 232448))

# Prints one line for each pass, element size and variant: the sizes in the plan with one team a matrix. The kernel of a
# thread for each n x n matrix has the variant -n.
PLANS = r"""
#include <cstdio>
#include <initializer_list>
using namespace fastsqrtm::cuda;
template <class Pass>
void print(const char* name) {
  for (int bytes : {4, 8})
    for (int v = 0; v < (bytes == 8 ? double_shape_count : float_shape_count); ++v) {
      const Shape& s = (bytes == 8 ? double_shapes : float_shapes)[v];
      const int matrices = s.threads < 32 ? 128 / s.threads : 1;
      std::printf("%s %d %d %d %d %d %d %d\n", name, bytes, v, s.padded, s.tile, s.threads, matrices,
                  Pass::shared_elements(s, 1) * bytes);
    }
  if constexpr (Pass::largest_tiny_order > 0)
    for (int bytes : {4, 8})
      for (int n = 1; n <= Pass::largest_tiny_order; ++n)
        std::printf("%s %d %d %d %d 1 %d %d\n", name, bytes, -n, n, n, tiny_threads(bytes),
                    Pass::tiny_operands * tiny_pitch(n) * bytes);
}
int main() {
#define PASS(Type, file) print<Type>(#Type);
#include "ops.def"
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
    barriers: int


def plans():
    """(kernel, element bytes, variant) -> (n, tile, threads of a team, matrices a block, shared bytes of a matrix)."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "plans"
        subprocess.run(
            ["g++", "-std=c++17", *INCLUDES, "-x", "c++", "-", "-o", str(program)],
            input="".join(f'#include "cuda/passes/{name}.cuh"\n' for name in sorted(set(PASSES.values()))) + PLANS,
            text=True,
            check=True,
        )
        lines = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()
    table = {}
    for line in lines:
        name, size, variant, *rest = line.split()
        table[name, int(size), int(variant)] = [int(number) for number in rest]
    return table


# In the mangled name of pass_kernel<Type, Variant<float, 3>> or tiny_kernel<Type, float, 3>: which of them, length and
# name of the type, f or d, the variant or n.
KERNEL = r"(pass|tiny)_kernelINS\d_\d+(\w+?)E(?:NS\d_7VariantI)?([fd])Li(\d+)"


def kernel_key(which, kernel, element, variant):
    return kernel, 8 if element == "d" else 4, -int(variant) if which == "tiny" else int(variant)


def parse_ptxas(text):
    """(pass, element bytes, variant) -> (registers, bytes of spills, barriers), from the output of ptxas -v."""
    found = {}
    entry = re.compile(
        rf"Compiling entry function '\S*?{KERNEL}\S*'"
        r".*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers(?:, used (\d+) barriers)?",
        re.DOTALL,
    )
    for *name, stores, loads, registers, barriers in entry.findall(text):
        found[kernel_key(*name)] = int(registers), int(stores) + int(loads), int(barriers or 0)
    return found


def compile_for(arch, nvcc):
    """Compiles every pass for one architecture, as cmake/cuda.cmake does, and parses the report of ptxas."""
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        for kernel, name in PASSES.items():
            source = Path(directory) / f"{kernel}.cu"
            lines = (
                '#include "cuda/launch.cuh"',
                f'#include "cuda/passes/{name}.cuh"',
                f"FASTSQRTM_INSTANTIATE({kernel})",
            )
            source.write_text("\n".join(lines))
            command = [nvcc, "-std=c++17", "-O3", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xptxas", "-v"]
            command += ["-Werror", "all-warnings", *INCLUDES, "-c", str(source), "-o", str(source.with_suffix(".o"))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found.update(parse_ptxas(done.stderr))
    return found


def blocks_per_multiprocessor(row, chip):
    """The least of five limits: warps, blocks, registers (a warp gets them in steps of 256, warps come in fours),
    shared memory and barriers.
    """
    warps = row.threads * row.matrices // 32
    per_warp = (row.registers * 32 + 255) // 256 * 256
    by_registers = chip.registers // per_warp // 4 * 4 // warps
    by_shared = chip.shared // (row.shared + 1024)  # the system takes a kilobyte of each block
    by_barriers = chip.barriers // max(1, row.barriers)
    return max(0, min(chip.warps // warps, chip.blocks, by_registers, by_shared, by_barriers))


def rows_of(chip, nvcc):
    registers = compile_for(chip.arch, nvcc)
    rows = []
    for (kernel, size, variant), (n, tile, threads, matrices, shared) in plans().items():
        used, spills, barriers = registers[kernel, size, variant]
        dtype = "float64" if size == 8 else "float32"
        rows.append(Row(kernel, dtype, n, tile, threads, matrices, shared * matrices, used, spills, barriers))
    return rows


def document(tables):
    lines = [
        "# Registers, shared memory and occupancy of the fused kernels",
        "",
        "`python build_tools/occupancy.py` writes this page from `ptxas -v` and the plan. The numbers are predicted,",
        "not measured: no GPU was used. One team works on a matrix, or up to n = 4 one thread: the last rows of a",
        "kernel, with the matrices of a block as its threads. Half types run the float32 kernels. *Blocks* is the",
        "most that share a multiprocessor, *occupancy* their warps over the 64 that fit. A dash means that the",
        "kernel does not fit, so that the plan takes the path for large matrices.",
    ]
    for chip, rows in tables:
        lines += [
            "",
            f"## sm_{chip.arch} ({chip.example})",
            "",
            "| kernel | dtype | n up to | tile | threads | matrices a block | registers | spills (bytes) |"
            " barriers | shared (bytes) | blocks | occupancy |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            fits = row.shared <= chip.shared_per_block
            blocks = blocks_per_multiprocessor(row, chip) if fits else 0
            share = f"{blocks * row.threads * row.matrices / 32 / chip.warps:.0%}" if fits else "-"
            lines.append(
                f"| {row.kernel} | {row.dtype} | {row.n} | {row.tile} | {row.threads} | {row.matrices} |"
                f" {row.registers} | {row.spills} | {row.barriers} | {row.shared} | {blocks or '-'} | {share} |"
            )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    tables = [(chip, rows_of(chip, arguments.nvcc)) for chip in CHIPS]
    if not arguments.check:
        (ROOT / "bench" / "results" / "occupancy.md").write_text(document(tables))
    launched = [(chip, row) for chip, rows in tables for row in rows if row.shared <= chip.shared_per_block]
    spilling = [(chip.arch, row) for chip, row in launched if row.spills]
    for arch, row in spilling:
        print(f"sm_{arch}: {row.kernel} {row.dtype} n <= {row.n} spills {row.spills} bytes")
    crowded = [(chip.arch, row) for chip, rows in tables for row in rows if row.barriers > MOST_BARRIERS]
    for arch, row in crowded:
        print(f"sm_{arch}: {row.kernel} {row.dtype} n <= {row.n} takes {row.barriers} barriers of a multiprocessor")
    return 1 if spilling or crowded else 0


if __name__ == "__main__":
    sys.exit(main())
