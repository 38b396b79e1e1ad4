"""Inverse fourth roots at the blocks of Shampoo, in float32: ``python -m bench.shampoo``.

The contenders are written out here in torch: the coupled Newton iteration of Distributed Shampoo (Guo and Higham, SIAM
J. Matrix Anal. Appl. 28(3), 2006), which stops at 1e-6 or where it no longer improves; Newton-Schulz steps with the
best cubic polynomial for the interval (CANS, arXiv 2506.10935), told the true condition number, for the root and then
for the inverse root of that; and the eigendecomposition. Errors are the relative ones in the Frobenius norm against
float64.
"""

import argparse
import functools
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fastsqrtm
from bench.run import about, finish
from fastsqrtm.testing import relative_error, spd, time_in_turn

ROOT = 4


def eigh(A: Tensor) -> Tensor:
    w, V = torch.linalg.eigh(A)
    w = w.clamp_min(torch.finfo(A.dtype).eps * w[..., -1:])
    return (V * w[..., None, :] ** (-1 / ROOT)) @ V.mT


def coupled_newton(A: Tensor) -> Tensor:
    """X <- X T, M <- T^4 M with T = ((p + 1) I - M)/p, one matrix at a time because each has its own end."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype)
    roots = []
    for matrix in A:
        z = (1 + ROOT) / (2 * torch.linalg.matrix_norm(matrix))
        M, X, error = z * matrix, z ** (1 / ROOT) * identity, math.inf
        for _ in range(100):
            T = ((ROOT + 1) * identity - M) / ROOT
            following = X @ T
            square = T @ T
            M = square @ square @ M
            before, error = error, (M - identity).abs().max().item()
            if not error < before * 1.2:  # as in Distributed Shampoo: it diverges
                break
            X = following
            if error < 1e-6:
                break
        roots.append(X)
    return torch.stack(roots)


def newton_schulz_pair(A: Tensor, low: float) -> tuple[Tensor, Tensor]:
    """Root and inverse root of matrices whose roots have eigenvalues from `low` to 1: Y <- Y T, Z <- T Z with
    T = c (a^2 + a b + b^2) I - c Z Y, whose odd polynomial is nearest to 1 on [a, b].
    """
    identity = torch.eye(A.shape[-1], dtype=A.dtype).expand_as(A)
    Y, Z, a, b = A, identity, low, 1.0
    while b - a > 1e-6:
        squares = a * a + a * b + b * b
        largest = 2 * (squares / 3) ** 1.5
        c = 2 / (largest + a * b * (a + b))
        T = c * squares * identity - c * (Z @ Y)
        Y, Z = Y @ T, T @ Z
        a, b = c * a * b * (a + b), c * largest
    return Y, Z


def cans(A: Tensor, kappa: float) -> Tensor:
    """A^(-1/4) = (A^(1/2))^(-1/2)."""
    scale = torch.linalg.matrix_norm(A, ord=2, keepdim=True)
    low = kappa**-0.5 / 1.1  # rounding may leave the interval
    root, _ = newton_schulz_pair(A / scale, low)
    return newton_schulz_pair(root, low**0.5)[1] * scale ** (-1 / ROOT)


def contenders(kappa: float) -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "inv_root": lambda A: fastsqrtm.inv_root(A, ROOT),
        "inv_root, rtol=1e-2": lambda A: fastsqrtm.inv_root(A, ROOT, rtol=1e-2),
        "coupled Newton": coupled_newton,
        "CANS": lambda A: cans(A, kappa),
        "eigh": eigh,
    }


def measure(seconds: float, sizes: list[int]) -> dict:
    torch.set_num_threads(1)
    rows = []
    for n in sizes:
        for kappa in (1e2, 1e4, 1e6):
            exact = spd(n, kappa, (2,), dtype=torch.float64)
            A = exact.float()
            w, V = torch.linalg.eigh(A.double())
            expected = (V * w[..., None, :] ** (-1 / ROOT)) @ V.mT
            functions = contenders(kappa)
            times = time_in_turn({name: functools.partial(f, A) for name, f in functions.items()}, seconds)
            for name, f in functions.items():
                row = {"n": n, "kappa": kappa, "method": name, "ms": 1e3 * statistics.median(times[name]) / 2}
                rows.append({**row, "error": relative_error(f(A), expected).max().item()})
    return {**about({"threads": 1}), "input": "fastsqrtm.testing.spd(n, kappa, (2,)), seed 0", "blocks": rows}


def table(record: dict) -> str:
    out = ["| n | kappa | method | ms a matrix | error |", "|---|---|---|---|---|"]
    for row in record["blocks"]:
        out.append(f"| {row['n']} | {row['kappa']:.0e} | {row['method']} | {row['ms']:.2f} | {row['error']:.1e} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.shampoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="json file")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each contender and case (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    options = parser.parse_args()
    record = measure(options.seconds, options.sizes)
    finish(record, " ".join(["python -m bench.shampoo", *sys.argv[1:]]), options.output, table(record))


if __name__ == "__main__":
    main()
