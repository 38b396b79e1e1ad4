"""The figures of the report."""

from pathlib import Path

from bench.paper.training import SEEDS

COLOURS = {
    "MPA": "#0b6e4f",
    "MTP": "#3fa37c",
    "NS": "#edae49",
    "SVD": "#30638e",
    "Lyapunov": "#0b6e4f",
    "BS": "#30638e",
    "exact root": "#d1495b",
    "sqrtm": "#063d2b",
}


def _colour(name: str) -> str:
    return next((colour for key, colour in COLOURS.items() if name.startswith(key)), "#888888")


def _panels(count: int, width: float = 6.0):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, count, figsize=(width * count, 4.8), layout="constrained")
    for panel in axes:
        panel.grid(alpha=0.3, which="both", linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _finish(figure, record: dict, path: Path) -> None:
    from matplotlib import pyplot

    figure.suptitle(
        f"fastsqrtm {record['fastsqrtm']}, torch {record['torch']}, float32, {record['threads']} threads of "
        f"{record['machine']['cpu']}, commit {record['commit']}",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def figure_1(record: dict, path: Path) -> None:
    figure, (error, backward) = _panels(2)
    rows = record["degree_sweep"]
    for method in ("MPA", "MTP", "NS", "sqrtm", "SVD"):
        points = [r for r in rows if r["method"] == method]
        style = "o-" if len(points) > 1 else "s"
        error.plot([r["ms"] for r in points], [r["error"] for r in points], style, color=_colour(method), label=method)
        for r in points[:: len(points) - 1] if len(points) > 1 else []:
            error.annotate(
                str(r["setting"]), (r["ms"], r["error"]), textcoords="offset points", xytext=(5, 3), fontsize=8
            )
    error.set(xscale="log", yscale="log", xlabel="forward, ms (64 matrices 64 x 64)", ylabel="mean absolute error",
              title="(c) error against speed: degrees and steps")  # fmt: skip
    error.legend(frameon=False)
    rows = record["backward_sweep"]
    for method, style in (("Lyapunov", "o-"), ("NS", "o-")):
        points = [r for r in rows if r["method"] == method]
        label = "Lyapunov iterations" if method == "Lyapunov" else "Newton-Schulz, its own gradient"
        backward.plot([r["iterations"] for r in points], [r["ms"] for r in points], style, color=_colour(method),
                      label=label)  # fmt: skip
    for method, label in (("BS", "Bartels-Stewart"), ("Newton", "sqrtm_backward, converged")):
        (row,) = (r for r in rows if r["method"] == method)
        backward.axhline(row["ms"], color=_colour("BS" if method == "BS" else "sqrtm"), linestyle="--", label=label)
    backward.set(xlabel="iterations", ylabel="backward, ms", yscale="log", title="(d) backward against iterations")
    backward.set_ylim(top=2.2 * backward.get_ylim()[1])  # room for the legend
    backward.legend(frameon=False)
    _finish(figure, record, path)


def figure_2(record: dict, path: Path) -> None:
    figure, (batches, sizes, errors) = _panels(3, 5.4)
    for name in record["batch_sweep"][0]["ms"]:
        rows = record["batch_sweep"]
        batches.plot([r["batch"] for r in rows], [r["ms"][name] for r in rows], "o-", color=_colour(name), label=name)
    batches.set(xscale="log", yscale="log", xlabel="batch size, n = 64", ylabel="forward + backward, ms",
                title="(a) speed against batch size")  # fmt: skip
    batches.legend(frameon=False)
    small = [r for r in record["size_sweep"] if r["n"] <= 128]
    for name in small[0]["ms"]:
        sizes.plot([r["n"] for r in small], [r["ms"][name] for r in small], "o-", color=_colour(name), label=name)
    sizes.set(xscale="log", yscale="log", xlabel=f"n, batch {small[0]['batch']}", ylabel="forward + backward, ms",
              title="(b) speed against dimension")  # fmt: skip
    for name in record["size_sweep"][0]["error"]:
        rows = record["size_sweep"]
        errors.plot([r["n"] for r in rows], [r["error"][name] for r in rows], "o-", color=_colour(name), label=name)
    errors.set(xscale="log", yscale="log", xlabel="n", ylabel="mean absolute error of the root",
               title="(c) error against dimension")  # fmt: skip
    for panel in (batches, sizes, errors):
        panel.xaxis.set_major_formatter("{x:g}")
    _finish(figure, record, path)


def ns_lya(record: dict, path: Path) -> None:
    figure, (ratio, left, training) = _panels(3, 6.0)
    x = record["scalar"]["x"]
    for name, curve in record["scalar"]["curves"].items():
        style = "--" if "solved" in name else "-"
        colour = "#b5651d" if name.startswith("NS 8") else _colour(name)
        ratio.plot(x, curve["ratio"], style, color=colour, label=name)
        left.plot(x, [max(y, 1e-6) for y in curve["left"]], style, color=colour, label=name)
    ratio.set(xscale="log", yscale="log", xlabel="eigenvalue of A / ||A||", ylabel="K / f'",
              title="gradient ratio: by Lyapunov over that of the map")  # fmt: skip
    ratio.legend(frameon=False, fontsize=8)
    left.set(xscale="log", yscale="log", ylim=(1e-4, 1e3), xlabel="eigenvalue of A / ||A||", ylabel="2 x |K - f'| / f",
             title="what should have cancelled in a whitening layer")  # fmt: skip
    eps = min(r["eps"] for r in record["training"])
    for name in ("NS-Lya as printed", "SVD-Lya as printed", "NS-Lya (default)", "MPA-Lya", "NS"):
        for run in (r for r in record["training"] if (r["system"], r["eps"], r["seed"]) == (name, eps, SEEDS[0])):
            colour = {"NS-Lya as printed": "#d1495b", "NS-Lya (default)": "#063d2b"}.get(name, _colour(name))
            training.plot(run["losses"], color=colour, label=name, linewidth=2 if "NS-Lya" in name else 1)
    training.set(yscale="log", xlabel="step", ylabel="training loss", title=f"training with whitening, eps {eps:g}")
    training.legend(frameon=False, fontsize=9)
    _finish(figure, record, path)


FIGURES = {"figure-1": figure_1, "figure-2": figure_2, "ns-lya": ns_lya}
