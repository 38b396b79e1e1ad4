"""Time and accuracy of whitening layers: ``python -m bench layers``.

Every contender does one forward and backward of the layer in training, each in turn. The peers are written as their
papers and public codes have them, op by op in torch: channels first, centred, covariance, root, product, affine.
"""

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import fastsqrtm
import fastsqrtm.nn
import fastsqrtm.statistics
from bench import peers
from bench.run import ROOT, about, machine_kind

SHAPES = [(128, 64, 32, 32), (32, 64, 112, 112), (64, 48, 14, 14), (32, 256, 14, 14)]
QUICK = [(8, 16, 8, 8)]
EPS = 1e-5


class OpByOp(torch.nn.Module):
    """A whitening layer for 2-D images in training, with any inverse root of (1, C, C)."""

    def __init__(self, channels: int, inverse_root: Callable[[Tensor], Tensor], momentum: float = 0.1) -> None:
        super().__init__()
        self.inverse_root, self.momentum = inverse_root, momentum
        self.weight = torch.nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = torch.nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("running_mean", torch.zeros(1, channels, 1))
        self.register_buffer("running_matrix", torch.eye(channels)[None])

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(0, 1).reshape(1, x.shape[1], -1)
        mean = rows.mean(-1, keepdim=True)
        centred = rows - mean
        eye = torch.eye(x.shape[1], dtype=x.dtype)
        matrix = self.inverse_root(centred @ centred.mT / rows.shape[-1] + EPS * eye)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_matrix.lerp_(matrix, self.momentum)
        white = (matrix @ centred).view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1).contiguous()
        return white * self.weight + self.bias


def newton_schulz_by_trace(A: Tensor, steps: int = 5) -> Tensor:
    """The inverse root of IterNorm (Huang et al., CVPR 2019): uncoupled steps on A over its trace."""
    trace = A.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    normed = A / trace
    P = torch.eye(A.shape[-1], dtype=A.dtype).expand_as(A)
    for _ in range(steps):
        P = 1.5 * P - 0.5 * (P @ P @ P @ normed)
    return P / trace.sqrt()


def contenders(channels: int) -> dict[str, torch.nn.Module]:
    kjs = lambda A: torch.inverse(peers.mpa_lya(A))  # noqa: E731
    return {
        "BatchWhitening2d": fastsqrtm.nn.BatchWhitening2d(channels, eps=EPS, shrinkage=0.0),
        "BatchWhitening2d, rtol=1e-2": fastsqrtm.nn.BatchWhitening2d(channels, eps=EPS, shrinkage=0.0, rtol=1e-2),
        "BatchNorm2d": torch.nn.BatchNorm2d(channels),
        "IterNorm, T = 5": OpByOp(channels, newton_schulz_by_trace),
        "MPA-Lya and inverse (ZCANorm)": OpByOp(channels, kjs),
        "eigendecomposition": OpByOp(channels, functools.partial(peers.eigh, inverse=True)),
    }


def _step(layer: Callable[[Tensor], Tensor], x: Tensor, cotangent: Tensor, parameters: list) -> Callable[[], object]:
    return lambda: torch.autograd.grad(layer(x), [x, *parameters], cotangent)


def correlated(shape: tuple[int, ...]) -> Tensor:
    """Standard deviations from 1 to 30 in random directions: a condition number of about 1e3."""
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    basis, _ = torch.linalg.qr(torch.randn(channels, channels, generator=generator))
    deviations = torch.logspace(0, 1.5, channels)
    return torch.einsum("ij,nj...->ni...", basis * deviations, torch.randn(shape, generator=generator)).contiguous()


def clocks_in_turn(steps: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[tuple[float, float]]]:
    """Seconds on the wall and of the processor of each call, at least four rounds after one that warms up.

    On one thread the processor's are comparable on a machine that does other work as well.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    rounds, start = 0, 0.0
    while rounds < 5 or time.perf_counter() - start < seconds * len(steps):
        for name, step in steps.items():
            before = time.perf_counter(), time.process_time()
            step()
            found[name].append((time.perf_counter() - before[0], time.process_time() - before[1]))
        rounds += 1
        start = start or time.perf_counter()
    return {name: calls[1:] for name, calls in found.items()}


def measure(shapes: list[tuple[int, ...]], seconds: float) -> list[dict]:
    rows = []
    for shape in tqdm(shapes, unit="shape", file=sys.stderr):
        x = correlated(shape).requires_grad_()
        layers = contenders(shape[1])
        cotangent = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        steps = {name: _step(m, x, cotangent, list(m.parameters())) for name, m in layers.items()}
        planes = x.detach().flatten(2)
        cov = fastsqrtm.statistics.moments(planes, shape[1]).cov[0].requires_grad_()
        of_cov = torch.eye(shape[1]) + cov.detach() / cov.detach().norm()
        steps["share: root"] = _step(fastsqrtm.inv_sqrtm, cov, of_cov, [])
        steps["share: covariance"] = _step(
            lambda z, size=shape[1]: fastsqrtm.statistics.moments(z, size).cov[0], x.flatten(2), of_cov, []
        )
        clocks = clocks_in_turn(steps, seconds)
        eye = torch.eye(shape[1])
        row: dict = {"shape": shape, "milliseconds": {}, "processor": {}, "smallest": {}}
        for name, calls in clocks.items():
            for kind, values in zip(("milliseconds", "processor"), zip(*calls, strict=True), strict=True):
                row[kind][name] = round(1e3 * statistics.median(values), 3)
        for name, layer in layers.items():
            with torch.no_grad():
                _, after, _ = fastsqrtm.statistics.covariance(layer(x).double())
            row["smallest"][name] = torch.linalg.eigvalsh(after[0]).min().item()
            row.setdefault("error", {})[name] = (after[0] - eye).abs().max().item()
        rows.append(row)
    return rows


def table(record: dict) -> str:
    names = list(record["layers"][0]["error"])
    out: list[str] = []
    for kind, title in (("milliseconds", "Milliseconds"), ("processor", "Milliseconds of the processor")):
        out += [f"{title}, forward and backward, {record['threads']} thread(s):", ""]
        out += ["| N, C, H, W | " + " | ".join(names) + " | of ours: root | covariance |"]
        out += ["|---" * (3 + len(names)) + "|"]
        for row in record["layers"]:
            ms = row[kind]
            cells = [f"{ms[name]:.3g}" for name in names]
            cells += [f"{ms[s] / ms['BatchWhitening2d']:.0%}" for s in ("share: root", "share: covariance")]
            out.append(f"| {', '.join(map(str, row['shape']))} | " + " | ".join(cells) + " |")
        out += [""]
    out += ["Smallest eigenvalue of the covariance of the output, which should be 1:", ""]
    out += ["| N, C, H, W | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for row in record["layers"]:
        cells = (f"{row['smallest'][name]:.3g}" for name in names)
        out.append(f"| {', '.join(map(str, row['shape']))} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def guide_table(record: dict) -> str:
    """The table of docs/guide/layers.md: times of the processor."""
    names = [name for name in record["layers"][0]["error"] if "rtol" not in name]
    out = ["| N, C, H, W | " + " | ".join(names) + " | share of the root |", "|---" * (2 + len(names)) + "|"]
    for row in record["layers"]:
        times = row["processor"]
        cells = [f"{times[name]:.3g} ms" for name in names]
        cells.append(f"{times['share: root'] / times['BatchWhitening2d']:.0%}")
        out.append(f"| {', '.join(map(str, row['shape']))} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench layers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small shape; nothing is written")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contender and shape (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="default: bench/results/<machine>-layers.json")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    record = about({"threads": options.threads, "seconds": options.seconds})
    record["command"] = " ".join(["python -m bench", *sys.argv[1:]])
    record["input"] = "standard deviations 1 to 30 in random directions, float32, eps 1e-5, shrinkage 0"
    record["layers"] = measure(QUICK if options.quick else SHAPES, 0.02 if options.quick else options.seconds)
    if not options.quick or options.output:
        output = options.output or ROOT / "bench" / "results" / f"{machine_kind(record)}-layers.json"
        output.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))
