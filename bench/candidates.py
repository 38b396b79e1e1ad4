"""The cost of one square root by each candidate for the method of `sqrtm`: ``python -m bench.candidates``.

Counts of inverses and symmetric products come from the scalar iterations on 4000 eigenvalues in [1/kappa, 1], times
from the kernels: a sweep as the difference of `mpa` at degrees 8 and 1, a product as a sixth of a Lyapunov step.
"""

import argparse
import itertools
import math
import sys
from pathlib import Path

import torch

from bench.accurate import make
from bench.run import about, finish
from fastsqrtm._reference.scalars import design, root_design
from fastsqrtm.testing import time_in_turn

SIZES = [(256, 32), (64, 64), (64, 128), (16, 256), (8, 512)]


def eigenvalues(kappa: float) -> torch.Tensor:
    return torch.logspace(-math.log10(kappa), 0, 4000, dtype=torch.float64)


def newton_schulz(kappa: float, tolerance: float) -> tuple[int, int]:
    """The coupled iteration: three symmetric products a step, two in the first and in the last."""
    nu = eigenvalues(kappa).sqrt()
    for step in itertools.count(1):
        nu = nu * (3 - nu * nu) / 2
        if (1 - nu).abs().max() <= tolerance:
            return 0, 3 * step - 2


def pade(kappa: float, tolerance: float) -> tuple[int, int]:
    """MPA about the geometric mean of the interval, which must be known."""
    x = eigenvalues(kappa) * kappa**0.5
    for degree in itertools.count(1):
        q = ((1 - x.sqrt()) / (1 + x.sqrt())) ** (2 * degree + 1)
        if (2 * q / (1 - q)).abs().max() <= tolerance:
            return degree, 0


def scaled_newton(kappa: float, tolerance: float) -> tuple[int, int]:
    """Denman and Beavers with the best scaling, for a known interval; one inverse in the first and in the last step."""
    h = kappa**0.5
    for step in itertools.count(1):
        h = (h**0.5 + h**-0.5) / 2
        if h**0.5 - 1 <= tolerance:
            return max(1, 2 * step - 2), 0


def zolotarev(kappa: float, tolerance: float) -> tuple[int, int]:
    """One rational approximation, no Newton steps; the interval must be known."""
    for poles in itertools.count(1):
        if design(poles, 0, 1 / kappa).error <= tolerance:
            return poles, 0


def ours(kappa: float, tolerance: float) -> tuple[int, int]:
    """The design for [1e-6, 1], at any kappa."""
    chosen = root_design(tolerance, torch.float32)
    return len(chosen.terms) + 2 * len(chosen.scales) - 1, 0


CANDIDATES = {
    "Newton-Schulz": newton_schulz,
    "Pade about the geometric mean": pade,
    "Newton, scaled": scaled_newton,
    "Zolotarev": zolotarev,
    "Zolotarev and Newton": ours,
}


def unit_times(batch: int, n: int) -> tuple[float, float]:
    """Seconds of one sweep and of one symmetric product for the batch."""
    A, G = make(batch, n, 1e2)
    ops = torch.ops.fastsqrtm
    S = ops.sqrtm(A)
    times = time_in_turn(
        {
            "mpa 8": lambda: ops.mpa(A, 8),
            "mpa 1": lambda: ops.mpa(A, 1),
            "lya 10": lambda: ops.sqrtm_lya_backward(A, S, G, 10),
            "lya 2": lambda: ops.sqrtm_lya_backward(A, S, G, 2),
        },
        0.3,
    )
    best = {name: min(t) for name, t in times.items()}
    return (best["mpa 8"] - best["mpa 1"]) / 7, (best["lya 10"] - best["lya 2"]) / 48


def measure() -> dict:
    units = {f"{batch}x{n}": dict(zip(("sweep", "product"), unit_times(batch, n), strict=True)) for batch, n in SIZES}
    counts = [
        {"kappa": kappa, "method": name, **dict(zip(("inverses", "products"), count(kappa, tolerance), strict=True))}
        for kappa, tolerance in ((1e2, 1e-6), (1e4, 1e-6), (1e6, 1e-5))
        for name, count in CANDIDATES.items()
    ]
    return {**about({"threads": torch.get_num_threads()}), "seconds": units, "counts": counts}


def table(record: dict) -> str:
    units = record["seconds"].values()
    out = ["| method | kappa | " + " | ".join("n = " + case.split("x")[1] for case in record["seconds"]) + " |"]
    out.append("|---" * (2 + len(units)) + "|")
    out.append("| *one inverse* | | " + " | ".join(f"{u['sweep'] / u['product']:.2f}" for u in units) + " |")
    for row in record["counts"]:
        inverses, products = row["inverses"], row["products"]
        cost = f"{inverses} I" if inverses else f"{products} P"
        times = (f"{inverses * u['sweep'] / u['product'] + products:.1f}" for u in units)
        out.append(f"| {row['method']}, {cost} | {row['kappa']:.0e} | " + " | ".join(times) + " |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.candidates", description=__doc__)
    parser.add_argument("--output", type=Path, help="json file")
    output = parser.parse_args().output
    record = measure()
    finish(record, " ".join(["python -m bench.candidates", *sys.argv[1:]]), output, table(record))


if __name__ == "__main__":
    main()
