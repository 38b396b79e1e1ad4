"""Writes the record as one page of Markdown, every table next to the published numbers."""

from bench.paper import published
from bench.paper.claims import CLAIMS, CLEAR, converged
from bench.paper.systems import INPUT
from bench.paper.training import BATCH, CHANNELS, EPOCHS, EPSILONS, RATE, SEEDS, TRAINED
from bench.report import geomean

IMAGES = "images/paper"


def table(header: list[str], rows: list[list[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(x) for x in line) + " |" for line in lines) + "\n"


def _cell(x: object) -> str:
    if isinstance(x, float):
        return f"{x:.1e}" if x and (abs(x) < 1e-3 or abs(x) >= 1e5) else f"{x:.3g}"
    return "-" if x is None else str(x)


def markdown(record: dict) -> str:
    machine = record["machine"]
    parts = [
        "# The paper's numbers again\n",
        f"This page repeats every numerical study of {published.SOURCE}, with the code of this repository, next to the "
        "published values (Tesla K40). `" + record["command"] + f"` took {record['minutes']:.1f} minutes with "
        f"fastsqrtm {record['fastsqrtm']} ({record['backend']}), commit {record['commit']}, torch {record['torch']} "
        f"({record['torch_isa']}), Python {record['python']}, {record['threads']} threads of {machine['cpu']}, "
        f"{record['date']}. Nothing here was measured on a GPU.\n",
        f"Unless said otherwise, the input is {INPUT}. Times are medians in milliseconds, of contenders in turn; "
        "errors of roots are mean absolute errors, as in the paper; those of gradients are relative to the exact "
        "gradient in the Frobenius norm. [method.md](method.md) explains the names, and "
        "`fastsqrtm.paper.sqrtm(A, method=..., backward=...)` takes them.\n",
        "These results are not reproduced, because they need ImageNet or CIFAR: "
        + "; ".join(f"{where}: {what}" for where, what in published.NOT_REPRODUCED.items())
        + ".\n",
        "## Which conclusions hold here\n",
        f"Times that differ by less than {CLEAR - 1:.0%} count as equal.\n",
        _conclusions(record),
        "## Figure 1: error against speed, and backward speed\n",
        f"![Figure 1]({IMAGES}/figure-1.png)\n",
        "## Figure 2: batch size and dimension\n",
        f"![Figure 2]({IMAGES}/figure-2.png)\n",
        "## Table 2: operations\n",
        _operations(record),
        "## Tables 3 and 7: whitening, one 64 x 64 matrix\n",
        _layers(record, "whitening", published.WHITENING),
        "## Table 4: covariance pooling, 64 matrices 48 x 48\n",
        _layers(record, "pooling", published.POOLING),
        "## Table 5: degree of MPA\n",
        _degrees(record),
        "## Table 6: termination of the backward pass\n",
        _termination(record),
        "## Table 8: large matrices\n",
        _large(record),
        "## Table 9: covariance pooling of 256 x 256\n",
        _covariance_pooling(record),
        "## NS-Lya: the paper's open question\n",
        _ns_lya(record),
        "## Newton-Schulz against itself op by op\n",
        _newton_schulz(record),
    ]
    return "\n".join(parts)


def _conclusions(record: dict) -> str:
    rows = []
    for claim in CLAIMS:
        holds, evidence = claim.check(record)
        rows.append([claim.where, claim.text, "**yes**" if holds else "**no**", evidence, claim.why])
    return table(["where", "the paper", "here", "measured", "why"], rows)


def _operations(record: dict) -> str:
    rows = []
    for row in record["operation_counts"]:
        counts = [f"{p} products" + (f", {s} solve" if s else "") for p, s in row["counted"]]
        rows.append([row["method"], row["paper"][0], counts[0], row["gemms_of_ours"][0],
                     row["paper"][1], counts[1], row["gemms_of_ours"][1]])  # fmt: skip
    return (
        table(
            [
                "method",
                "forward, paper",
                "counted",
                "ours, GEMM times",
                "backward, paper",
                "counted",
                "ours, GEMM times",
            ],
            rows,
        )
        + "\nCounted: the calls of torch when each method is written op by op without products by the identity. "
        "Ours: time of the kernels over that of one batched product of the same size (8 matrices, n = 256).\n"
    )


def _layers(record: dict, application: str, values: dict) -> str:
    data = record["layers"][application]
    ms, ours, theirs = data["ms"], data["ms"]["MPA-Lya"], values["MPA-Lya"]
    header = ["method", "root, ms", "over MPA-Lya", "op by op, ms", "whole layer, ms", "published, ms", "over MPA-Lya"]
    rows = []
    for name in (n for n in ms if "op by op" not in n):
        value = values.get(name)
        times = [ms[name], ms[name] / ours, ms.get(f"{name}, op by op"), data["layer_ms"].get(name)]
        rows.append([name, *times, value, value and value / theirs, data["gradient_error"][name]])
    layer = "the whitening of" if application == "whitening" else "the covariance of"
    return (
        table([*header, "gradient error"], rows)
        + f"\nThe whole layer is {layer} {data['samples']:,} samples with it. NS differentiated by autograd, op by op: "
        f"{ms['NS, autograd, op by op']:.3g} ms. `sqrtm` is our default method. The gradient error of MPA-Lya, MTP-Lya "
        "and NS includes that of their root.\n"
    )


def _degrees(record: dict) -> str:
    rows = [
        [f"[{r['degree']}, {r['degree']}]", r["ms"], r["op_by_op_ms"], published.DEGREES[r["degree"]], r["error"]]
        for r in record["degrees"]
    ]
    return table(["degree", "ms", "op by op, ms", "published, ms", "error"], rows)


def _termination(record: dict) -> str:
    rows = []
    for r in record["backward_sweep"]:
        if r["method"] == "Lyapunov":
            rows.append([f"{r['iterations']} iterations", r["ms"], published.TERMINATION[r["iterations"]], r["error"]])
        elif r["method"] in ("BS", "Newton"):
            name = {"BS": "Bartels-Stewart", "Newton": "`sqrtm_backward`, ours"}[r["method"]]
            rows.append([name, r["ms"], published.TERMINATION.get(r["method"]), r["error"]])
    return (
        table(["backward", "ms", "published, ms", "error of the solution"], rows)
        + "\nAt the root of MPA, 64 matrices 64 x 64; the error is that of the Lyapunov equation, without that of the "
        "root. The published times are for one matrix.\n"
    )


def _large(record: dict) -> str:
    rows = []
    for row in (r for r in record["size_sweep"] if r["n"] >= 256):
        index = (256, 512, 1024).index(row["n"])
        for name in ("MTP-Lya", "MPA-Lya", "NS"):
            value = published.LARGE[name][index]
            rows.append([row["n"], name, row["ms"][name], row["ms"][name] / row["ms"]["MPA-Lya"], value,
                         value / published.LARGE["MPA-Lya"][index]])  # fmt: skip
    return table(["n", "method", "ms", "over MPA-Lya", "published, ms", "over MPA-Lya"], rows)


def _covariance_pooling(record: dict) -> str:
    ms = record["covariance_pooling"]["ms"]
    rows = [
        [name, ms[name], ms[name] / ms["MPA-Lya"], ms.get(f"{name}, op by op"), value,
         value and value / published.COVARIANCE_POOLING["MPA-Lya"]]
        for name in ("MPA-Lya", "NS", "sqrtm")
        for value in [published.COVARIANCE_POOLING.get(name)]
    ]  # fmt: skip
    return (
        table(["method", "ms", "over MPA-Lya", "op by op, ms", "published, ms", "over MPA-Lya"], rows)
        + f"\n{record['covariance_pooling']['batch']} matrices here; the published time is for a larger batch.\n"
    )


def _ns_lya(record: dict) -> str:
    rows = []
    for eps in EPSILONS:
        for name in TRAINED:
            runs = [r for r in record["training"] if r["system"] == name and r["eps"] == eps]
            good = sum(r["final_loss"] < r["losses"][0] / 2 for r in runs)
            rows.append([f"{eps:g}", name, f"{good} of {len(runs)}", max(r["final_loss"] for r in runs),
                         max(r["gradient_median"] for r in runs), max(r["gradient_max"] for r in runs),
                         min(r["accuracy"] for r in runs)])  # fmt: skip
    printed, remedy = converged(record, "NS-Lya as printed"), converged(record, "NS-Lya (default)")
    return (
        "The paper reports that Newton-Schulz with the Lyapunov gradient does not converge on any dataset, and leaves "
        f"the reason open. A network with one decorrelated batch normalisation ({CHANNELS} channels after a 3 x 3 "
        f"convolution of the 8 x 8 digits of scikit-learn, batches of {BATCH}, {EPOCHS} epochs, SGD with rate {RATE:g} "
        f"and momentum 0.9, seeds {', '.join(map(str, SEEDS))}) is enough to see it:\n\n"
        + table(
            [
                "eps",
                "system",
                "runs that converge",
                "final loss, worst",
                "gradient norm, median",
                "largest",
                "test accuracy, worst",
            ],
            rows,
        )
        + f"\n![NS-Lya]({IMAGES}/ns-lya.png)\n\n"
        "**Why.** A whitening layer z = S^-1 x does not see the scale of a principal direction: with x = s u, the "
        "computed root f(s^2) and K in place of its derivative, the derivative of z by log s is "
        "(s u/f)(1 - 2 s^2 K/f), which is zero for the exact root. Five Newton-Schulz steps compute f = 7.6 x near "
        "zero, whose derivative is 7.6; the Lyapunov equation at that root gives 1/(2 f), and 8 of its iterations "
        "give at most 12.8. So 2 x |K - f'|/f of a gradient that should cancel is left over, 1.4 for every small "
        "eigenvalue (middle panel), and whitening amplifies it by 1/f = 1/(7.6 x). The same happens to an exact root "
        "with 8 iterations, which stop at 12.8 where 1/(2 sqrt x) is larger. MPA and MTP are as inconsistent at small "
        "eigenvalues, a factor 1.5, but nothing is left over there, because f stays above 1/11, and nothing is "
        "amplified beyond 11.\n\n"
        "**Remedy.** Root and gradient must belong together. "
        '`paper.sqrtm(A, method="ns", backward="lyapunov")` iterates the root to convergence, each matrix separately, '
        "and solves the Lyapunov equation to convergence. "
        f"As printed {sum(printed)} of {len(printed)} runs converge at eps = {min(EPSILONS):g}, "
        f"with the remedy {sum(remedy)} of {len(remedy)}. The other remedy is the gradient of "
        'the iteration itself, `backward="ns"`.\n'
    )


def _newton_schulz(record: dict) -> str:
    rows = [
        [f"{r['batch']} x {r['n']}", r["ms"]["ours"], r["ratio"]["NS"], r["ratio"]["NS, autograd"],
         r["ms"]["ours"] / r["ms"]["gemm"] / 20]
        for r in record["newton_schulz"]
    ]  # fmt: skip
    means = [geomean([r["ratio"][name] for r in record["newton_schulz"]]) for name in ("NS", "NS, autograd")]
    return (
        table(["batch x n", "ours, ms", "times faster than the published adjoint", "than autograd", "over floor"], rows)
        + f"\nForward + backward, 5 steps; geometric means {means[0]:.2f} and {means[1]:.2f}. The floor is our 40 n^3 "
        "flop at the rate of torch's batched GEMM. Op by op the published adjoint takes 50 products, 100 n^3, and "
        "autograd, which keeps every iterate, 36 products, 72 n^3 flop: 2.5 and 1.8 times ours.\n"
    )
