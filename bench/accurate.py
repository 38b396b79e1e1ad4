"""``python -m bench.accurate`` measures the accurate methods against other exact ones, and draws error against time
for every method, forward and gradient.

Everything runs in one process, contenders in turn (A B A B), in float32; errors are means over the batch, against
float64.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

import fastsqrtm
from bench import peers
from bench.report import case_name, geomean, spread
from bench.run import ROOT, about
from fastsqrtm.testing import exact_gradient, exact_sqrtm, relative_error, spd, time_in_turn, twin

CASES = [(256, 32), (64, 48), (64, 64), (256, 64), (64, 128), (16, 256), (8, 512)]
KAPPAS = [1e2, 1e4, 1e6]
EXACT_PEERS = [name for name in ("eigh", "matrix_sqrth") if name == "eigh" or hasattr(torch.linalg, name)]
FRONT_CASE = (64, 64)
FRONT_KAPPAS = [1e1, 1e2, 1e4, 1e6]
INPUT = "log-uniform eigenvalues from 1/kappa to 1, random eigenvectors, random symmetric cotangent"

Root = Callable[[Tensor], Tensor]


def sqrtm(**arguments) -> Root:
    """The everyday root, or with a `method` the root of that system of the paper."""
    return functools.partial(fastsqrtm.paper.sqrtm if "method" in arguments else fastsqrtm.sqrtm, **arguments)


# Curve of the figure -> its points, each a setting and the function.
FRONT: dict[str, dict[str, Root]] = {
    "sqrtm": {f"rtol={rtol:g}": sqrtm(rtol=rtol) for rtol in (1e-1, 1e-2, 1e-3, 1e-4, 0)},
    "mpa, exact gradient": {f"degree={d}": sqrtm(method="mpa", degree=d) for d in (1, 2, 3, 5, 8, 16, 32)},
    "mtp, exact gradient": {f"degree={d}": sqrtm(method="mtp", degree=d) for d in (2, 4, 10, 20, 50)},
    "mpa_lya": {
        f"degree={d}, iterations={k}": sqrtm(method="mpa", backward="lyapunov", degree=d, iterations=k)
        for d, k in ((3, 5), (5, 8), (10, 12), (32, 20))
    },
    "paper, op by op": {
        f"degree={d}, iterations={k}": functools.partial(peers.mpa_lya, degree=d, iterations=k)
        for d, k in ((3, 5), (5, 8), (10, 12))
    },
    "Newton-Schulz": {
        f"iterations={k}": functools.partial(peers.newton_schulz, iterations=k) for k in (3, 5, 8, 12, 20)
    },
    "eigendecomposition": {"": peers.eigh},
    **({"torch.linalg.matrix_sqrth": {"": peers.matrix_sqrth}} if "matrix_sqrth" in EXACT_PEERS else {}),
}
# Names in a record that are not ours.
PEERS = {*EXACT_PEERS, "matrix_sqrth", "paper", "paper, op by op", "Newton-Schulz", "eigendecomposition",
         "torch.linalg.matrix_sqrth"}  # fmt: skip
COLOURS = ["#0b6e4f", "#3fa37c", "#9bd1b8", "#d68910", "#d1495b", "#7d5ba6", "#30638e", "black"]


def make(batch: int, n: int, kappa: float) -> tuple[Tensor, Tensor]:
    A = spd(n, kappa, (batch,))
    G = torch.randn(batch, n, n, generator=torch.Generator().manual_seed(1))
    return A, G + G.mT


def runner(function: Root, A: Tensor, G: Tensor | None) -> Callable[[], object]:
    if G is None:
        return lambda: function(A)
    leaf = A.detach().requires_grad_()
    return lambda: torch.autograd.grad(function(leaf), leaf, G)


def errors(function: Root, A: Tensor, G: Tensor, truth: tuple[Tensor, Tensor]) -> dict[str, float]:
    leaf = A.detach().requires_grad_()
    root = function(leaf)
    (gradient,) = torch.autograd.grad(root, leaf, G)
    return {
        "root_error": relative_error(root.detach(), truth[0]).mean().item(),
        "gradient_error": relative_error(gradient, truth[1]).mean().item(),
    }


class CountInverses(TorchDispatchMode):
    """Counts the inverses, each from a Cholesky factor, that run inside it."""

    inverses = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.inverses += func is torch.ops.aten.cholesky_inverse.default
        return func(*args, **(kwargs or {}))


def flops(A: Tensor, G: Tensor) -> int:
    """Flop of sqrtm and its gradient in units of n^3, for the steps that the first matrix takes: 6 inverses forward;
    backward 4 for each step of an inverse and a congruence, and 2 for one correction.
    """
    with CountInverses() as counted:
        twin("sqrtm_backward")(exact_sqrtm(A[0]).float(), G[0])
    return 6 + 4 * counted.inverses + 2


def measure(contenders: dict[str, Root], A: Tensor, G: Tensor, seconds: float, mode: str) -> dict[str, dict]:
    """Milliseconds of each, the ratio of its time to the first one's in the same round and to a batched GEMM, and its
    errors.
    """
    running = {k: runner(f, A, None if mode == "forward" else G) for k, f in contenders.items()}
    times = time_in_turn({**running, "gemm": lambda: torch.bmm(A, A)}, seconds)
    first = next(iter(times.values()))
    truth = exact_sqrtm(A), exact_gradient(A, G)
    return {
        name: {
            "ms": 1e3 * median(times[name]),
            "spread": spread(times[name]),
            "ratio": median(t / ours for t, ours in zip(times[name], first, strict=True)),
            "over_gemm": median(t / gemm for t, gemm in zip(times[name], times["gemm"], strict=True)),
            **errors(function, A, G, truth),
        }
        for name, function in contenders.items()
    }


def equal_accuracy(A: Tensor, G: Tensor) -> float:
    """The loosest rtol at which neither root nor gradient is worse than those of the eigendecomposition."""
    truth = exact_sqrtm(A), exact_gradient(A, G)
    theirs = errors(peers.eigh, A, G, truth)
    for rtol in (1e-2, 1e-3, 1e-4, 1e-5):
        ours = errors(sqrtm(rtol=rtol), A, G, truth)
        if all(ours[kind] <= theirs[kind] for kind in theirs):
            return rtol
    return 0.0


def speed(seconds: float, cases: list, bar: tqdm) -> list[dict]:
    rows = []
    for kappa in KAPPAS:
        for case in cases:
            bar.set_description(f"{case_name(case)}, kappa {kappa:g}")
            A, G = make(*case, kappa)
            rtol = equal_accuracy(A, G)
            contenders = {"sqrtm": sqrtm(), "equal": sqrtm(rtol=rtol)}
            contenders |= {name: getattr(peers, name) for name in EXACT_PEERS}
            rows.append({"case": case, "kappa": kappa, "equal_rtol": rtol})
            rows[-1]["exact"] = measure(contenders, A, G, seconds, "both")
            rows[-1]["flops"] = flops(A, G)  # a GEMM is 2 n^3
            rows[-1]["over_floor"] = rows[-1]["exact"]["sqrtm"]["over_gemm"] * 2 / rows[-1]["flops"]
            if kappa == KAPPAS[0]:
                contenders = {"sqrtm(rtol=1e-3)": sqrtm(rtol=1e-3), "paper": peers.mpa_lya}
                rows[-1]["tolerance"] = measure(contenders, A, G, seconds, "both")
                contenders = {"mpa, exact": sqrtm(method="mpa"), "mpa_lya": fastsqrtm.mpa_lya}
                rows[-1]["gradient"] = measure(contenders, A, G, seconds, "both")
            bar.update()
    return rows


def front(seconds: float, bar: tqdm) -> list[dict]:
    rows = []
    for kappa in FRONT_KAPPAS:
        A, G = make(*FRONT_CASE, kappa)
        for mode in ("forward", "both"):
            bar.set_description(f"error against time, kappa {kappa:g}, {mode}")
            points = {f"{curve}|{setting}": f for curve, row in FRONT.items() for setting, f in row.items()}
            rows.append({"kappa": kappa, "mode": mode, "points": measure(points, A, G, seconds, mode)})
            bar.update()
    return rows


def tables(record: dict) -> str:
    peers = [name for name in record["speed"][0]["exact"] if name not in ("sqrtm", "equal")]
    out = [
        f"fastsqrtm {record['fastsqrtm']} ({record['backend']}), torch {record['torch']}, float32, {record['threads']}"
        f" threads of {record['machine']['cpu']}",
        f"input: {INPUT}",
        "",
        "sqrtm, forward + backward: how many times faster than the exact peers, in brackets at the rtol that makes it",
        "as accurate as eigh; errors of root / gradient",
        f"  {'kappa':<7}{'B x n':<10}{'ms':>9}{'over floor':>12}"
        + "".join(f"{p:>16}" for p in peers)
        + "".join(f"{p + ' errors':>22}" for p in ("our", *peers)),
    ]
    for row in record["speed"]:
        exact = row["exact"]
        line = (
            f"  {row['kappa']:<7.0e}{case_name(row['case']):<10}{exact['sqrtm']['ms']:>9.3f}{row['over_floor']:>12.2f}"
        )
        equal = {p: exact[p]["ratio"] / exact["equal"]["ratio"] for p in peers}
        line += "".join(f"{exact[p]['ratio']:.2f} ({equal[p]:.2f})".rjust(16) for p in peers)
        for p in ("sqrtm", *peers):
            line += f"{exact[p]['root_error']:.1e} / {exact[p]['gradient_error']:.1e}".rjust(22)
        out.append(line)
    for p in peers:
        for what, ours in (("", "sqrtm"), (" at equal accuracy", "equal")):
            ratios = {
                k: [r["exact"][p]["ratio"] / r["exact"][ours]["ratio"] for r in record["speed"] if r["kappa"] == k]
                for k in KAPPAS
            }
            means = ", ".join(f"kappa {k:.0e}: {geomean(v):.2f} (worst {min(v):.2f})" for k, v in ratios.items())
            total = geomean([x for v in ratios.values() for x in v])
            out.append(f"  geometric mean against {p}{what}: {total:.2f}; {means}")
    out += ["", "kappa 1e2: sqrtm(rtol=1e-3) against the paper op by op, and the exact gradient of mpa against mpa_lya"]
    out.append(f"  {'B x n':<10}{'times faster':>14}{'gradient error':>16}{'of the paper':>14}{'smaller by':>12}"
               f"{'mpa exact ms':>14}{'mpa_lya / it':>14}")  # fmt: skip
    for row in (r for r in record["speed"] if "tolerance" in r):
        ours, paper = row["tolerance"].values()
        exact, lya = row["gradient"].values()
        out.append(
            f"  {case_name(row['case']):<10}{paper['ratio']:>14.2f}{ours['gradient_error']:>16.1e}"
            f"{paper['gradient_error']:>14.1e}{paper['gradient_error'] / ours['gradient_error']:>12.0f}"
            f"{exact['ms']:>14.3f}{lya['ratio']:>14.2f}"
        )
    return "\n".join(out)


def performance_table(record: dict) -> str:
    """The table of docs/performance.md."""
    peers = [name for name in ("eigh", "matrix_sqrth") if name in record["speed"][0]["exact"]]
    head = ["batch x n", "condition number", "ms", "over floor", *(f"{peer}, times as long" for peer in peers)]
    rows = [
        [case_name(row["case"]), f"{row['kappa']:.0e}", f"{row['exact']['sqrtm']['ms']:.2f}",
         f"{row['over_floor']:.2f}", *(f"{row['exact'][peer]['ratio']:.2f}" for peer in peers)]
        for row in record["speed"]
    ]  # fmt: skip
    return _markdown(head, rows)


def accuracy_table(record: dict) -> str:
    """The first table of docs/guide/accuracy.md: mean errors by condition number."""
    peers = [name for name in ("sqrtm", "eigh", "matrix_sqrth") if name in record["speed"][0]["exact"]]
    head = ["condition number", "batch x n", *(f"{name} {kind}" for kind in ("root", "gradient") for name in peers)]
    rows = [
        [f"{row['kappa']:.0e}", case_name(row["case"]),
         *(f"{row['exact'][name][kind]:.0e}" for kind in ("root_error", "gradient_error") for name in peers)]
        for row in record["speed"]
    ]  # fmt: skip
    return _markdown(head, rows)


def tolerance_table(record: dict) -> str:
    """The second table of docs/guide/accuracy.md: error and time by rtol."""
    rows = []
    for row in (row for row in record["front"] if row["mode"] == "both"):
        for name, point in row["points"].items():
            curve, _, setting = name.partition("|")
            if curve == "sqrtm":
                errors = (f"{point[kind]:.0e}" for kind in ("root_error", "gradient_error"))
                rows.append([f"{row['kappa']:.0e}", setting.removeprefix("rtol="), *errors, f"{point['ms']:.2f}"])
    return _markdown(["condition number", "rtol", "root error", "gradient error", "ms"], rows)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)) + "\n"


def draw(record: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kappas = list(dict.fromkeys(row["kappa"] for row in record["front"]))
    figure, axes = pyplot.subplots(
        2, len(kappas), figsize=(4.6 * len(kappas), 8.4), sharey="row", layout="constrained", squeeze=False
    )
    for row in record["front"]:
        gradient = row["mode"] == "both"
        panel = axes[int(gradient)][kappas.index(row["kappa"])]
        curves: dict[str, list] = {}
        for name, point in row["points"].items():
            curve, setting = name.split("|")
            error = point["gradient_error" if gradient else "root_error"]
            curves.setdefault(curve, []).append((point["ms"], error, setting))
        for (curve, points), colour in zip(curves.items(), COLOURS, strict=False):
            ours = curve == "sqrtm"
            x, y = [p[0] for p in points], [p[1] for p in points]
            panel.plot(x, y, "o-" if len(x) > 1 else "s", color=colour, label=curve, linewidth=2.5 if ours else 1.2,
                       markersize=7 if ours else 5, zorder=3 if ours else 2)  # fmt: skip
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.grid(alpha=0.3, which="both", linewidth=0.5)
        panel.set_title(f"{'gradient' if gradient else 'root'}, condition number {row['kappa']:.0e}")
        panel.spines[["top", "right"]].set_visible(False)
    for panel, text in zip(axes[:, 0], ("relative error of the root", "relative error of the gradient"), strict=True):
        panel.set_ylabel(text)
    for panels, text in zip(axes, ("forward, ms", "forward + backward, ms"), strict=True):
        for panel in panels:
            panel.set_xlabel(text)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"{FRONT_CASE[0]} matrices, {FRONT_CASE[1]} x {FRONT_CASE[1]}, float32; a curve sweeps its accuracy setting."
        f" fastsqrtm {record['fastsqrtm']}, torch {record['torch']}, {record['threads']} threads of"
        f" {record['machine']['cpu']}, commit {record['commit']}"
    )
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.accurate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two cases, short measurements")
    parser.add_argument("--seconds", type=float, default=0.3, help="per contender (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "accurate.json")
    parser.add_argument("--from", dest="source", type=Path, help="print and draw this file; measure nothing")
    options = parser.parse_args()
    if options.source:
        record, output = json.loads(options.source.read_text()), options.source
    else:
        output = options.output
        seconds = min(options.seconds, 0.02) if options.quick else options.seconds
        cases = CASES[:2] if options.quick else CASES
        record = about({"threads": torch.get_num_threads(), "seconds": seconds})
        record["command"] = " ".join(["python -m bench.accurate", *sys.argv[1:]])
        record["input"] = INPUT
        with tqdm(total=len(cases) * len(KAPPAS) + 2 * len(FRONT_KAPPAS), file=sys.stderr) as bar:
            record["speed"] = speed(seconds, cases, bar)
            record["front"] = front(seconds / 3, bar)
        output.write_text(json.dumps(record, indent=1) + "\n")
    print(tables(record))
    draw(record, output.with_suffix(".png"))


if __name__ == "__main__":
    main()
