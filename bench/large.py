"""Roots of one large matrix by steps and by its eigenvalues, next to a plain eigendecomposition with the gradient from
the same factors: ``python -m bench.large``. The order from which roots in float64 go by eigenvalues is from it.

Times are of one thread, by its own clock, so that a busy machine does not disturb them; contenders take turns.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fastsqrtm  # noqa: F401  (registers the ops)
from bench import peers
from bench.accurate import runner
from bench.run import about, finish
from fastsqrtm.testing import spd, time_in_turn

ORDERS = [128, 192, 224, 256, 320, 384, 512, 640, 768, 1024]
ROOTS: dict[str, Callable[[Tensor], Tensor]] = {
    "steps": lambda A: torch.ops.fastsqrtm.sqrtm(A, 0.0),
    "eigenvalues": lambda A: torch.ops.fastsqrtm.sqrtm_by_eigenvalues(A)[0],
    "eigh": peers.eigh,
}


def measure(orders: list[int], seconds: float) -> dict:
    torch.set_num_threads(1)
    rows = []
    for n in orders:
        A = spd(n, 1e4, (1,), dtype=torch.float64)
        G = torch.randn(A.shape, generator=torch.Generator().manual_seed(1), dtype=A.dtype)
        for mode, cotangent in (("forward", None), ("forward and backward", G + G.mT)):
            runs = {name: runner(root, A, cotangent) for name, root in ROOTS.items()}
            times = time_in_turn(runs, seconds, time.thread_time)
            ms = {name: round(1e3 * statistics.median(values), 2) for name, values in times.items()}
            rows.append({"n": n, "mode": mode, "ms": ms})
    return {**about({"threads": 1}), "times": rows}


def table(record: dict) -> str:
    """The table of docs/design.md."""
    out = ["| n | | steps, ms | eigenvalues | eigh | steps, times as long as eigh | eigenvalues |", "|---" * 7 + "|"]
    for row in record["times"]:
        steps, eigenvalues, eigh = row["ms"].values()
        cells = [row["n"], row["mode"], f"{steps:.1f}", f"{eigenvalues:.1f}", f"{eigh:.1f}"]
        cells += [f"{steps / eigh:.2f}", f"{eigenvalues / eigh:.2f}"]
        out.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.large", description=__doc__)
    parser.add_argument("--output", type=Path, help="json file")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contender and case (%(default)s)")
    options = parser.parse_args()
    record = measure(ORDERS, options.seconds)
    finish(record, " ".join(["python -m bench.large", *sys.argv[1:]]), options.output, table(record))


if __name__ == "__main__":
    main()
