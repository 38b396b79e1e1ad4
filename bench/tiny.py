"""Time per matrix of small orders in large batches, next to the memory traffic that it cannot avoid:
``python -m bench.tiny``.

The floor is `A + 1`, which reads and writes each matrix once. A forward and backward pass moves five matrices for the
two of the floor: it reads A, the root and its cotangent, and writes the root and the gradient. The eigendecomposition
is measured on fewer matrices, as it takes the same time for each.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fastsqrtm
from bench import peers
from bench.run import about, finish
from fastsqrtm.testing import spd, time_in_turn

CASES = [(1_000_000, 2), (1_000_000, 3), (1_000_000, 4), (100_000, 6), (100_000, 8), (20_000, 12)]
DISTINCT = 10_000  # matrices, repeated to fill a batch
EIGH = 20_000


def make(batch: int, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    A = spd(n, 1e2, (DISTINCT,), dtype=dtype)
    G = torch.randn(DISTINCT, n, n, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return A.repeat(batch // DISTINCT, 1, 1), (G + G.mT).repeat(batch // DISTINCT, 1, 1)


def both(function: Callable[[Tensor], Tensor], A: Tensor, G: Tensor) -> Callable[[], object]:
    leaf = A.detach().requires_grad_()
    return lambda: torch.autograd.grad(function(leaf), leaf, G)


def measure(seconds: float, cases: list[tuple[int, int]]) -> dict:
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.float64):
            for batch, n in cases:
                A, G = make(batch, n, dtype)
                few = min(batch, EIGH)
                work = {
                    "A + 1": (lambda A=A: A + 1, batch),
                    "forward": (lambda A=A: fastsqrtm.sqrtm(A), batch),
                    "forward+backward": (both(fastsqrtm.sqrtm, A, G), batch),
                    "eigh forward+backward": (both(peers.eigh, A[:few], G[:few]), few),
                }
                times = time_in_turn({name: run for name, (run, _) in work.items()}, seconds)
                ns = {name: 1e9 * statistics.median(times[name]) / matrices for name, (_, matrices) in work.items()}
                case = {"threads": threads, "dtype": str(dtype).removeprefix("torch."), "batch": batch, "n": n}
                rows.append({**case, "ns": {name: round(value, 2) for name, value in ns.items()}})
    return {**about({"threads": 2}), "times": rows}


def table(record: dict) -> str:
    columns = ["threads", "dtype", "batch x n", "A + 1, ns a matrix", "forward", "over A + 1", "forward and backward"]
    columns += ["over its traffic", "eigh, times as long"]
    out = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in record["times"]:
        floor, forward, total, eigh = row["ns"].values()
        cells = [row["threads"], row["dtype"], f"{row['batch']} x {row['n']}", f"{floor:.1f}", f"{forward:.1f}"]
        cells += [f"{forward / floor:.1f}", f"{total:.1f}", f"{total / (2.5 * floor):.1f}", f"{eigh / total:.0f}"]
        out.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tiny", description=__doc__)
    parser.add_argument("--output", type=Path, help="json file")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contender and case (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one small case")
    options = parser.parse_args()
    record = measure(options.seconds, [(DISTINCT, 3)] if options.quick else CASES)
    finish(record, " ".join(["python -m bench.tiny", *sys.argv[1:]]), options.output, table(record))


if __name__ == "__main__":
    main()
