"""Roots of one large matrix by steps and by its eigenvalues, next to a plain eigendecomposition with the gradient from
the same factors: ``python -m bench.large``; powers by steps and by eigenvalues. The orders from which roots in float64,
powers and logarithms go by eigenvalues are from it.

Times are of one thread, by its own clock, so that a busy machine does not disturb them; contenders take turns.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

import fastsqrtm
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


# Exponents, 0 for the logarithm, and orders.
POWERS = [
    (torch.float64, 0.0, [32, 48, 64]),
    (torch.float64, 0.3, [32, 48, 64]),
    (torch.float64, 0.25, [96, 128, 192, 256]),
    (torch.float32, 0.0, [192, 256, 384, 512]),
    (torch.float32, 0.3, [192, 256, 384, 512, 768]),
    (torch.float32, 0.25, [384, 512, 1024]),
]


def with_rule(run: Callable[[], None], by_eigenvalues: bool) -> None:
    with patch("fastsqrtm.powers.powers_by_eigenvalues_are_faster", lambda *_: by_eigenvalues):
        run()


def measure_powers(seconds: float) -> list[dict]:
    rows = []
    for dtype, exponent, orders in POWERS:
        function = partial(fastsqrtm.powm, exponent=exponent) if exponent else fastsqrtm.logm
        for n in orders:
            A = spd(n, 1e4, (1,), dtype=dtype)
            G = torch.randn(A.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
            run = runner(function, A, G + G.mT)
            runs = {"steps": partial(with_rule, run, False), "eigenvalues": partial(with_rule, run, True)}
            times = time_in_turn(runs, seconds, time.thread_time)
            ms = {name: round(1e3 * statistics.median(values), 2) for name, values in times.items()}
            rows.append({"dtype": str(dtype).removeprefix("torch."), "exponent": exponent, "n": n, "ms": ms})
    return rows


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
    record["powers"] = measure_powers(options.seconds)
    finish(record, " ".join(["python -m bench.large", *sys.argv[1:]]), options.output, table(record))


if __name__ == "__main__":
    main()
