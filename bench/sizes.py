"""Every size of matrix next to its floor and to the eigendecomposition: ``python -m bench sizes``.

The floor of a case is the larger of two times: its floating-point operations at the best rate that a product or an
inverse reaches at any size of the same run, and the memory traffic that it cannot avoid at the rate of `A + 1`. The
forward pass reads a matrix and writes one, as `A + 1` does; with the backward pass there are five: A, the root, its
cotangent, the root again and the gradient. The operations are those of the iterative method, also where the roots go by
eigenvalues or in closed form.

The process keeps the memory that tensors leave behind. glibc may give large ones back to the system at once, and then
every result, that of `A + 1` too, costs its pages anew: of the smallest matrices the record has such calls as well, in
which it always does.

The paper's ops stand next to the floor of their operations at the same rate.

Beside them the host's time of a call, which is all there is to one small matrix, next to that of `torch.linalg.inv`.
"""

import argparse
import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from tqdm import tqdm

import fastsqrtm
from bench import peers
from bench.accurate import flops, runner
from bench.report import geomean, spread
from bench.run import about, finish
from fastsqrtm.testing import spd, time_in_turn

CASES = [
    *((1_000_000, n) for n in (2, 3, 4)),
    *((100_000, n) for n in (6, 8)),
    *((20_000, 12), (4096, 16), (2048, 24), (1024, 32), (256, 48), (256, 64), (64, 96), (64, 128)),
    *((32, 200), (16, 256), (4, 512), (1, 1024), (1, 2048)),
]
QUICK = [(10_000, 3), (64, 16)]
KAPPAS = (1e2, 1e6)
LARGEST_FRESH = 4
DISTINCT = 10_000  # matrices, repeated to fill a batch
EIGH = 20_000  # matrices that the eigendecomposition is measured on, as it takes the same time for each
# The paper's ops and the orders they are measured at; their operations in units of n^3.
PAPER = {"mpa": 5, "sqrtm_lya_backward": 46, "mtp": 5, "mpa_backward": 20, "ns": 10, "ns_backward": 30}
PAPER_ORDERS = range(12, 97)
FORWARD_FLOPS = {torch.float32: 6, torch.float64: 10}  # in units of n^3; the docstring of sqrtm


def make(batch: int, n: int, kappa: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    A = spd(n, kappa, (min(batch, DISTINCT),), dtype=dtype)
    G = torch.randn(A.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    times = max(1, batch // DISTINCT), 1, 1
    return A.repeat(times), (G + G.mT).repeat(times)


TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # of mallopt


def tell_malloc(options: dict[int, int]) -> None:
    """Does nothing where the allocator is not glibc's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)


def renew_memory() -> None:
    """From now on a large tensor has pages of its own, which the system clears when they are first written."""
    tell_malloc({MMAP_THRESHOLD: 2**20})


def keep_memory() -> None:
    """From now on malloc reuses memory instead of giving it back."""
    tell_malloc({MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1})


def fresh(seconds: float, cases: list[tuple[int, int]]) -> list[dict]:
    rows = []
    for dtype in (torch.float32, torch.float64):
        for batch, n in cases:
            A, G = make(batch, n, KAPPAS[0], dtype)
            work = {"A + 1": lambda A=A: A + 1, "forward": runner(fastsqrtm.sqrtm, A, None),
                    "forward+backward": runner(fastsqrtm.sqrtm, A, G)}  # fmt: skip
            ns = {key: 1e9 * median(times) / batch for key, times in time_in_turn(work, seconds).items()}
            rows.append({"dtype": str(dtype).removeprefix("torch."), "batch": batch, "n": n, "ns": ns})
    return rows


def fresh_table(record: dict) -> str:
    """What the passes take over `A + 1`, and over the memory traffic: 2.5 times that for both passes."""
    out = ["| batch x n | dtype | forward over `A + 1` | both over traffic |", "|---|---|---|---|"]
    for row in record["fresh"]:
        ns = row["ns"]
        over, both = ns["forward"] / ns["A + 1"], ns["forward+backward"] / (2.5 * ns["A + 1"])
        out.append(f"| {row['batch']} x {row['n']} | {row['dtype']} | {over:.1f} | {both:.1f} |")
    return "\n".join(out)


def measure(seconds: float, cases: list[tuple[int, int]]) -> dict:
    record = about({"threads": torch.get_num_threads(), "seconds": seconds})
    renew_memory()
    record["fresh"] = fresh(seconds, [case for case in cases if case[1] <= LARGEST_FRESH])
    keep_memory()
    rows = []
    bar = tqdm(total=len(cases) * len(KAPPAS) * 2, file=sys.stderr)
    for dtype in (torch.float32, torch.float64):
        for batch, n in cases:
            for kappa in KAPPAS:
                name = str(dtype).removeprefix("torch.")
                bar.set_description(f"{name}, {batch} x {n}, kappa {kappa:.0e}")
                A, G = make(batch, n, kappa, dtype)
                few = min(batch, EIGH)
                work: dict[str, Callable[[], object]] = {
                    "A + 1": lambda A=A: A + 1,
                    "product": lambda A=A: A @ A,
                    "inverse": lambda A=A: fastsqrtm.inv(A),
                    "forward": runner(fastsqrtm.sqrtm, A, None),
                    "forward+backward": runner(fastsqrtm.sqrtm, A, G),
                    "eigh": runner(peers.eigh, A[:few], G[:few]),
                }
                times = time_in_turn(work, seconds)
                each = {key: 1e9 * median(times[key]) / (few if key == "eigh" else batch) for key in times}
                row = {"dtype": name, "batch": batch, "n": n, "kappa": kappa, "ns": each}
                row["spread"] = {key: spread(times[key]) for key in times}
                row["flops"] = {"forward": FORWARD_FLOPS[dtype]}
                # As many as the first matrix takes, in float32; that count begins with the 6 of its forward.
                row["flops"]["forward+backward"] = FORWARD_FLOPS[dtype] + flops(A[:1].float(), G[:1].float()) - 6
                rows.append(row)
                bar.update()
    bar.close()
    of_paper = paper(seconds, [case for case in cases if case[1] in PAPER_ORDERS])
    return {**record, "sizes": rows, "paper": of_paper, "host": host(3 * seconds)}


def paper(seconds: float, cases: list[tuple[int, int]]) -> list[dict]:
    ops = torch.ops.fastsqrtm
    rows = []
    for dtype in (torch.float32, torch.float64):
        for batch, n in cases:
            A, G = make(batch, n, KAPPAS[0], dtype)
            S = ops.mpa(A)
            work = {"mpa": lambda A=A: ops.mpa(A), "mtp": lambda A=A: ops.mtp(A), "ns": lambda A=A: ops.ns(A),
                    "sqrtm_lya_backward": lambda A=A, S=S, G=G: ops.sqrtm_lya_backward(A, S, G),
                    "mpa_backward": lambda A=A, G=G: ops.mpa_backward(A, G),
                    "ns_backward": lambda A=A, G=G: ops.ns_backward(A, G)}  # fmt: skip
            times = time_in_turn(work, seconds)
            rows += [{"op": op, "dtype": str(dtype).removeprefix("torch."), "batch": batch, "n": n,
                      "ns": 1e9 * median(times[op]) / batch, "spread": spread(times[op])} for op in PAPER]  # fmt: skip
    return rows


def paper_table(record: dict) -> str:
    """How many times the floor each of the paper's ops takes."""
    rate = rates(record)
    lines: dict[tuple, dict] = {}
    for row in record["paper"]:
        floor = PAPER[row["op"]] * row["n"] ** 3 / rate[row["dtype"]]
        lines.setdefault((row["dtype"], row["batch"], row["n"]), {})[row["op"]] = row["ns"] / floor
    out = ["| dtype, batch x n | " + " | ".join(f"`{op}`" for op in PAPER) + " |", "|---" * (1 + len(PAPER)) + "|"]
    for (dtype, batch, n), over in lines.items():
        out.append(f"| {dtype}, {batch} x {n} | " + " | ".join(f"{over[op]:.1f}" for op in PAPER) + " |")
    return "\n".join(out)


def host(seconds: float) -> list[dict]:
    """One 4 x 4 matrix, which takes the machine less than a microsecond: the rest is the way of a call to it."""
    A, G = (x[0] for x in make(1, 4, KAPPAS[0], torch.float32))
    called = {
        "torch.linalg.inv": torch.linalg.inv,
        "sqrtm": fastsqrtm.sqrtm,
        "inv_sqrtm": fastsqrtm.inv_sqrtm,
        "mpa_lya": fastsqrtm.mpa_lya,
        "inv": fastsqrtm.inv,
    }
    times = {mode: time_in_turn({name: runner(f, A, cotangent) for name, f in called.items()}, seconds)
             for mode, cotangent in (("forward", None), ("forward+backward", G))}  # fmt: skip
    return [{"function": name, "mode": mode, "us": 1e6 * median(of_mode[name]), "spread": spread(of_mode[name])}
            for mode, of_mode in times.items() for name in called]  # fmt: skip


def host_table(record: dict) -> str:
    us = {(row["function"], row["mode"]): row["us"] for row in record["host"]}
    out = ["| one 4 x 4 | forward, us | both, us | both, times that of `torch.linalg.inv` |", "|---|---|---|---|"]
    for name in dict.fromkeys(name for name, _ in us):
        forward, both = us[name, "forward"], us[name, "forward+backward"]
        ratio = both / us["torch.linalg.inv", "forward+backward"]
        out.append(f"| `{name}` | {forward:.1f} | {both:.1f} | {ratio:.2f} |")
    return "\n".join(out)


def rates(record: dict) -> dict[str, float]:
    """The best rate of a product or an inverse at any size, in GFLOP/s."""
    best: dict[str, float] = {}
    for row in record["sizes"]:
        rate = max(2 * row["n"] ** 3 / row["ns"]["product"], row["n"] ** 3 / row["ns"]["inverse"])
        best[row["dtype"]] = max(best.get(row["dtype"], 0), rate)
    return best


def floors(record: dict) -> list[dict[str, float]]:
    """For each row the floors of forward and of forward and backward, in ns a matrix."""
    rate = rates(record)
    matrices = {"forward": 1.0, "forward+backward": 2.5}  # of the two that A + 1 moves
    return [
        {mode: max(row["flops"][mode] * row["n"] ** 3 / rate[row["dtype"]], moved * row["ns"]["A + 1"])
         for mode, moved in matrices.items()}
        for row in record["sizes"]
    ]  # fmt: skip


def table(record: dict) -> str:
    """The table of docs/performance.md: a line a size."""
    lines: dict[tuple, dict] = {}
    for row, floor in zip(record["sizes"], floors(record), strict=True):
        line = lines.setdefault((row["batch"], row["n"]), {})
        ns, kind = row["ns"], row["dtype"]
        line[kind, row["kappa"], "eigh"] = ns["eigh"] / ns["forward+backward"]
        if row["kappa"] == KAPPAS[0]:
            line[kind, "us"] = ns["forward+backward"] / 1e3
            for mode in floor:
                line[kind, mode] = ns[mode] / floor[mode]
    head = ["batch x n"]
    for kind in ("float32", "float64"):
        head += [f"{kind}: us", "forward over floor", "both over floor"]
        head += [f"eigh, times as long, {kappa:.0e}" for kappa in KAPPAS]
    out = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (batch, n), line in lines.items():
        cells = [f"{batch} x {n}"]
        for kind in ("float32", "float64"):
            cells += [
                f"{line[kind, 'us']:.4g}",
                f"{line[kind, 'forward']:.1f}",
                f"{line[kind, 'forward+backward']:.1f}",
            ]
            cells += [f"{line[kind, kappa, 'eigh']:.2g}" for kappa in KAPPAS]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def tables(record: dict) -> str:
    found = [table, fresh_table, host_table]
    if record.get("paper"):
        found.insert(1, paper_table)
    return "\n\n".join(f(record) for f in found)


def means(record: dict) -> str:
    """The geometric means of what eigh takes over what sqrtm takes, n from 16 to 512."""
    out = []
    for kind in ("float32", "float64"):
        ratios = [row["ns"]["eigh"] / row["ns"]["forward+backward"] for row in record["sizes"]
                  if row["dtype"] == kind and 16 <= row["n"] <= 512]  # fmt: skip
        if ratios:
            out.append(f"{kind}, n = 16 to 512: geometric mean {geomean(ratios):.2f}, worst {min(ratios):.2f}")
    return "\n".join(out)


def draw(record: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = ("float32", "float64")
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for kind, panel in zip(kinds, axes, strict=True):
        rows = [(row, floor) for row, floor in zip(record["sizes"], floors(record), strict=True)
                if row["dtype"] == kind and row["kappa"] == KAPPAS[0]]  # fmt: skip
        n = [row["n"] for row, _ in rows]
        both = [floor["forward+backward"] for _, floor in rows]
        panel.plot(n, [row["ns"]["eigh"] / f for (row, _), f in zip(rows, both, strict=True)], "s--",
                   color="#30638e", label="eigendecomposition, forward and backward")  # fmt: skip
        panel.plot(n, [row["ns"]["forward+backward"] / f for (row, _), f in zip(rows, both, strict=True)], "o-",
                   color="#0b6e4f", linewidth=2.5, label="sqrtm, forward and backward")  # fmt: skip
        panel.plot(n, [row["ns"]["forward"] / floor["forward"] for row, floor in rows], "o-",
                   color="#9bd1b8", label="sqrtm, forward")  # fmt: skip
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks([2**k for k in range(1, 12)], [str(2**k) for k in range(1, 12)])
        panel.yaxis.set_major_formatter("{x:g}")
        panel.grid(alpha=0.3, which="both", linewidth=0.5)
        panel.set_title(kind)
        panel.set_xlabel("n")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("time over floor")
    axes[1].legend(frameon=False)
    figure.suptitle(
        f"Time over floor, condition number {KAPPAS[0]:.0e}. fastsqrtm {record['fastsqrtm']}, torch {record['torch']},"
        f" {record['threads']} threads of {record['machine']['cpu']}, commit {record['commit']}", fontsize=9,
    )  # fmt: skip
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench sizes", description=__doc__)
    parser.add_argument("--output", type=Path, help="json file; the figure is written beside it")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each contender and case (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="two small cases")
    parser.add_argument("--from", dest="source", type=Path, help="print and draw this file; measure nothing")
    options = parser.parse_args(argv)
    if options.source:
        record, output = json.loads(options.source.read_text()), options.source
        print(tables(record))
    else:
        record, output = measure(options.seconds, QUICK if options.quick else CASES), options.output
        finish(record, " ".join(["python -m bench sizes", *argv]), output, tables(record))
    print(means(record))
    if output:
        draw(record, output.with_suffix(".png"))
