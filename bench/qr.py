"""QR factorisations next to torch's, and with pivots next to SciPy's: ``python -m bench.qr``.

torch and SciPy call LAPACK's geqrf with orgqr, and geqp3, for one matrix after the other. SciPy has no gradients, so
with pivots only the forward pass is compared.
"""

import argparse
import functools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.report import geomean
from bench.run import about, finish
from fastsqrtm import linalg
from fastsqrtm.testing import time_in_turn

SQUARE = [(4096, 4, 4), (2048, 8, 8), (1024, 16, 16), (512, 24, 24), (256, 32, 32), (128, 48, 48), (64, 64, 64)]
LARGE = [(16, 128, 128), (4, 256, 256), (1, 512, 512), (1, 1024, 1024)]
DEEP = [(1024, 32, 8), (256, 64, 16), (16, 1000, 8), (1, 1000, 20), (1, 20_000, 2), (1, 100_000, 8), (1, 5000, 50)]
WIDE = [(1024, 8, 32), (64, 50, 200)]
MODES = ("forward", "forward+backward", "pivoted")
CASES = SQUARE + LARGE + DEEP + WIDE
PIVOTED = SQUARE[:1] + SQUARE[2:] + LARGE + [(256, 64, 16), (1, 1000, 250), (1, 5000, 50), (1, 20_000, 2)]


def runner(factor: Callable[[Tensor], tuple[Tensor, Tensor]], A: Tensor, backward: bool) -> Callable[[], object]:
    if not backward:
        return lambda: factor(A)
    leaf = A.detach().requires_grad_()
    cotangents = [torch.ones_like(x) for x in factor(A)]
    return lambda: torch.autograd.grad(factor(leaf), leaf, cotangents)


def by_scipy(A: Tensor) -> list:
    from scipy.linalg import qr

    return [qr(matrix, mode="economic", pivoting=True, check_finite=False) for matrix in A.numpy()]


def measure(seconds: float, cases: list[tuple[int, int, int]], pivoted: list[tuple[int, int, int]]) -> dict:
    rows = []

    def add(case: tuple[int, int, int], mode: str, contenders: dict[str, Callable[[], object]]) -> None:
        times = time_in_turn(contenders, seconds)
        us = {name: round(1e6 * statistics.median(values) / case[0], 3) for name, values in times.items()}
        rows.append({"shape": case, "mode": mode, "us": us})

    for case in cases:
        A = torch.randn(case, generator=torch.Generator().manual_seed(0))
        for mode in MODES[:2]:
            contenders = {"ours": linalg.qr, "torch": torch.linalg.qr}
            add(case, mode, {name: runner(f, A, mode != "forward") for name, f in contenders.items()})
    for case in pivoted:
        A = torch.randn(case, generator=torch.Generator().manual_seed(0))
        ours = functools.partial(linalg.qr, A, pivoting=True)
        add(case, "pivoted", {"ours": ours, "scipy": functools.partial(by_scipy, A)})
    return {**about({"threads": torch.get_num_threads(), "dtype": "float32"}), "qr": rows}


def ratios(record: dict) -> dict[tuple, dict[str, float]]:
    """How many times as long the others take, by shape and mode."""
    found: dict[tuple, dict[str, float]] = {}
    for row in record["qr"]:
        ours, others = row["us"].values()
        found.setdefault(tuple(row["shape"]), {})[row["mode"]] = others / ours
    return found


def table(record: dict) -> str:
    """The table of docs/guide/qr.md."""
    us = {(tuple(row["shape"]), row["mode"]): row["us"]["ours"] for row in record["qr"]}
    head = ["batch x m x n", "us a matrix, forward", "torch, times as long", "us, forward and backward"]
    head += ["torch, times as long", "us, pivoted", "SciPy, times as long"]
    out = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for shape, found in ratios(record).items():
        cells = [" x ".join(map(str, shape))]
        for mode in MODES:
            cells += [f"{us[shape, mode]:.3g}", f"{found[mode]:.2g}"] if mode in found else ["", ""]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def means(record: dict) -> str:
    """The geometric means over the square matrices of n = 4 to 64."""
    found = ratios(record)
    out = []
    for mode in MODES:
        of_small = [found[case][mode] for case in SQUARE if mode in found.get(case, {})]
        if of_small:
            out.append(f"{mode}, n = 4 to 64: geometric mean {geomean(of_small):.1f}, worst {min(of_small):.1f}")
    return "\n".join(out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.qr", description=__doc__)
    parser.add_argument("--output", type=Path, help="json file")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contender and case (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    record = measure(options.seconds, CASES, PIVOTED)
    command = " ".join(["python -m bench.qr", *sys.argv[1:]])
    finish(record, command, options.output, f"{table(record)}\n{means(record)}")


if __name__ == "__main__":
    main()
