"""The check of `make cuda-check` finds the faults in made-up output of cuobjdump."""

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "build_tools"))
import fat_binary

FUSED = "_ZN9fastsqrtm4cuda11pass_kernelINS0_3MtpENS0_7VariantI{}Li{}EEEEEvNT_9ArgumentsINT0_6scalarEEE"
KERNELS = [FUSED.format("f", 0), FUSED.format("d", 6), "_ZN9fastsqrtm4cuda12scale_kernelIdEEvPT_"]
SHARED = {("Mtp", 4, 0): 4_000, ("Mtp", 8, 6): 200_000}  # bytes of a block


def section(kind, arch, stacks=()):
    head = f"\nFatbin {kind} code:\n================\narch = sm_{arch}\ncode version = [1,8]\n"
    usage = "".join(
        f" Function {name}:\n  REG:8 STACK:{stack} SHARED:0 LOCAL:0\n"
        for name, stack in zip(KERNELS, stacks, strict=False)
    )
    return head + (f"\nResource usage:\n Common:\n  GLOBAL:0\n{usage}" if stacks else "")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (section("elf", 86, (0, 0, 0)) + section("elf", 100, (0, 0, 0)) + section("ptx", 100), None),
        # On a chip with 99 KB the second variant is never launched.
        (section("elf", 86, (0, 8, 0)) + section("elf", 100, (0, 0, 0)) + section("ptx", 100), None),
        (section("elf", 86, (0, 0, 0)) + section("elf", 100, (0, 8, 0)) + section("ptx", 100), "10.0: .* 8 bytes"),
        (section("elf", 86, (8, 0, 0)) + section("elf", 100, (0, 0, 0)) + section("ptx", 100), "8.6: .* 8 bytes"),
        (section("elf", 86, (0, 0, 8)) + section("elf", 100, (0, 0, 0)) + section("ptx", 100), "8.6: .*scale_kernel"),
        (section("elf", 100, (0, 0, 0)) + section("ptx", 100), "8.6: 3 of 3 kernels have no real code"),
        (section("elf", 86, (0, 0)) + section("elf", 100, (0, 0, 0)) + section("ptx", 100), "8.6: 1 of 3 kernels"),
        (section("elf", 86, (0, 0, 0)) + section("elf", 100, (0, 0, 0)), r"PTX of \[\]"),
        (section("elf", 86, (0, 0, 0)) + section("elf", 100, (0, 0, 0)) + section("ptx", 86), r"PTX of \['8.6'\]"),
        (
            section("elf", 86, (0, 0, 0)) + section("elf", 90, (0, 0, 0)) + section("elf", 100, (0, 0, 0))
            + section("ptx", 100),
            r"does not name: \['9.0'\]",
        ),
        (section("elf", 86, (0,)) + section("elf", 100, (0,)) + section("ptx", 100), "not 2 kernels of passes"),
        ("", "not 2 kernels of passes"),
    ],
)  # fmt: skip
def test_problems(text, found):
    lines = fat_binary.problems(["8.6", "10.0"], *fat_binary.parse(text), SHARED)
    if found is None:
        assert lines == []
    else:
        assert any(re.search(found, line) for line in lines), lines
