"""GFLOP/s of the inverse of SPD matrices next to torch's: ``python -m bench.inverse``.

All contenders are counted with the n^3 flop of a symmetric inverse. `torch.linalg.inv` is MKL's getrf and getrs, and
`cholesky_inverse` behind `cholesky_ex` MKL's potrf and potri, one matrix after the other.
"""

import argparse
import functools
import statistics
import sys
from pathlib import Path

import torch

import fastsqrtm
from bench.run import about, finish
from fastsqrtm.testing import spd, time_in_turn

CASES = [(1024, 16), (512, 32), (256, 64), (128, 96), (64, 128)]
CONTENDERS = {
    "fastsqrtm.inv": fastsqrtm.inv,
    "torch.linalg.inv": torch.linalg.inv,
    "cholesky_inverse": lambda A: torch.cholesky_inverse(torch.linalg.cholesky_ex(A).L),
}


def measure(seconds: float) -> dict:
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.float64):
            for batch, n in CASES:
                A = spd(n, 1e2, (batch,), dtype=dtype)
                times = time_in_turn({name: functools.partial(f, A) for name, f in CONTENDERS.items()}, seconds)
                case = {"threads": threads, "dtype": str(dtype).removeprefix("torch."), "batch": batch, "n": n}
                rates = {name: batch * n**3 / statistics.median(t) / 1e9 for name, t in times.items()}
                rows.append({**case, "gflops": {name: round(rate, 2) for name, rate in rates.items()}})
    return {**about({"threads": 2}), "rates": rows}


def table(record: dict) -> str:
    out = ["| threads | dtype | batch x n | " + " | ".join(CONTENDERS) + " |", "|---" * (3 + len(CONTENDERS)) + "|"]
    for row in record["rates"]:
        rates = (f"{row['gflops'][name]:.1f}" for name in CONTENDERS)
        out.append(f"| {row['threads']} | {row['dtype']} | {row['batch']} x {row['n']} | " + " | ".join(rates) + " |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.inverse", description=__doc__)
    parser.add_argument("--output", type=Path, help="json file")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contender and case (%(default)s)")
    options = parser.parse_args()
    record = measure(options.seconds)
    finish(record, " ".join(["python -m bench.inverse", *sys.argv[1:]]), options.output, table(record))


if __name__ == "__main__":
    main()
