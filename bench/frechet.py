"""Frechet distance and WCT next to the ways of others: ``python -m bench frechet``.

Contenders compute what torchmetrics 1.9 (eigenvalues of the product), pytorch-fid 0.3 (scipy's root of the product) and
PytorchWCT (one SVD a covariance) compute, on the same matrices. Errors are measured against LAPACK's singular values of
the samples in float64. Seconds are those of the processor, so that other programs on the machine matter less.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bench.run import about, finish
from fastsqrtm import metrics, transfer

INPUT = "Gaussian features with variances 1/k, the second set 1.3 times as wide; WCT: ReLU features of random images"
CASES = [(512, 128), (512, 1024), (1024, 256), (1024, 2048), (2048, 512), (2048, 4096)]
LIMIT_OF_SCIPY = 1024  # its root takes minutes beyond
CHANNELS, SIDE = 512, 64


def samples(n: int, d: int, seed: int) -> Tensor:
    """Features with the decaying spectrum of a network's, k^-1 in variance."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (1 + 0.3 * seed) * x * torch.arange(1, d + 1, dtype=torch.float64) ** -0.5 + 0.1 * seed


def exact(x: Tensor, y: Tensor) -> Tensor:
    X, Y = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    if len(X) > X.shape[1]:  # as accurate, and smaller: triangular factors
        X, Y = torch.linalg.qr(X).R, torch.linalg.qr(Y).R
    spread = X.square().sum() + Y.square().sum()
    return (x.mean(0) - y.mean(0)).square().sum() + spread - 2 * torch.linalg.svdvals(X @ Y.T).sum()


def by_eigenvalues(m1: Tensor, C1: Tensor, m2: Tensor, C2: Tensor) -> Tensor:
    """As torchmetrics."""
    overlap = torch.linalg.eigvals(C1 @ C2).sqrt().real.sum()
    return (m1 - m2).square().sum() + C1.trace() + C2.trace() - 2 * overlap


def by_scipy(m1: Tensor, C1: Tensor, m2: Tensor, C2: Tensor) -> Tensor:
    """As pytorch-fid."""
    from scipy.linalg import sqrtm

    root = torch.from_numpy(sqrtm((C1 @ C2).numpy()).real)
    return (m1 - m2).square().sum() + C1.trace() + C2.trace() - 2 * root.trace()


def by_svd(content: Tensor, style: Tensor) -> Tensor:
    """WCT as PytorchWCT has it, without the identity that it adds: one SVD for each covariance, in float64."""
    content, style = content.flatten(1).double(), style.flatten(1).double()

    def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        _, values, Vh = torch.linalg.svd(centred @ centred.T / (x.shape[1] - 1))
        kept = values > 1e-5
        return mean, centred, values[kept], Vh[kept]

    _, centred, values, Vh = parts(content)
    white = Vh.T * values**-0.5 @ Vh @ centred
    mean, _, values, Vh = parts(style)
    return (Vh.T * values**0.5 @ Vh @ white + mean).float()


def seconds(function: Callable[[], Tensor], calls: int = 3) -> tuple[float, Tensor]:
    """The least processor time of some calls, of one that takes more than two seconds, and the last result."""
    times: list[float] = []
    while len(times) < calls and sum(times) < 2:
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def measure() -> dict:
    rows = []
    for d, n in tqdm(CASES, desc="frechet", file=sys.stderr):
        x, y = samples(n, d, 0), samples(n, d, 1)
        expected = exact(x, y)
        moments = (x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))
        leaves = [z.clone().requires_grad_() for z in moments]
        contenders = {
            "frechet_distance": functools.partial(metrics.frechet_distance, *moments),
            "frechet_distance, gradient": lambda z=leaves: _with_gradient(z),
            "of samples": functools.partial(metrics.frechet_distance_of_samples, x, y),
            "eigenvalues (torchmetrics)": functools.partial(by_eigenvalues, *moments),
        }
        if d <= LIMIT_OF_SCIPY:
            contenders["scipy's root (pytorch-fid)"] = functools.partial(by_scipy, *moments)
        for name, contender in contenders.items():
            spent, value = seconds(contender, 1 if "scipy" in name else 3)
            error = abs(float((value.detach() - expected) / expected))
            rows.append({"d": d, "n": n, "contender": name, "seconds": round(spent, 4), "error": float(f"{error:.1e}")})
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, CHANNELS // 8, SIDE, SIDE, generator=generator).cumsum(dim) for dim in (2, 3)]
    mixing = torch.randn(CHANNELS, CHANNELS // 8, 1, 1, generator=generator)
    content, style = (torch.relu(torch.nn.functional.conv2d(image, mixing)) for image in images)
    wanted, wct = torch.cov(style.flatten(2)[0].double()), []
    for name, function in (
        ("whiten_color", lambda: transfer.whiten_color(content, style)[0]),
        ("SVD (PytorchWCT)", lambda: by_svd(content[0], style[0])),
    ):
        spent, result = seconds(function, 5)
        error = float(torch.linalg.matrix_norm(torch.cov(result.flatten(1).double()) - wanted))
        error /= float(torch.linalg.matrix_norm(wanted))
        wct.append({"contender": name, "seconds": round(spent, 4), "error of the covariance": float(f"{error:.1e}")})
    return {**about({"threads": torch.get_num_threads()}), "input": INPUT, "frechet": rows, "wct": wct}


def _with_gradient(leaves: list[Tensor]) -> Tensor:
    value = metrics.frechet_distance(*leaves)
    torch.autograd.grad(value, leaves)
    return value


def tables(record: dict) -> str:
    out = ["| d | n | contender | seconds | relative error |", "|---|---|---|---|---|"]
    for row in record["frechet"]:
        out.append(f"| {row['d']} | {row['n']} | {row['contender']} | {row['seconds']:.3f} | {row['error']:.0e} |")
    out += ["", f"| WCT, {CHANNELS} x {SIDE} x {SIDE} | seconds | error of the covariance |", "|---|---|---|"]
    for row in record["wct"]:
        out.append(f"| {row['contender']} | {row['seconds']:.3f} | {row['error of the covariance']:.0e} |")
    return "\n".join(out)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench frechet", description=__doc__)
    parser.add_argument("--output", type=Path, help="json file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    record = measure()
    finish(record, " ".join(["python -m bench frechet", *argv]), options.output, tables(record))
