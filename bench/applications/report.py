"""docs/applications.md and its figures, from the record."""

import statistics
from pathlib import Path

from bench.applications.studies import STUDIES, Study

IMAGES = "images/applications"


def grouped(lines: list[dict]) -> dict[str, dict[str, list[dict]]]:
    """study -> network -> runs."""
    studies: dict[str, dict[str, list[dict]]] = {}
    for line in lines[1:]:
        if line["network"] in STUDIES[line["study"]].networks:
            studies.setdefault(line["study"], {}).setdefault(line["network"], []).append(line)
    return studies


def mean_and_deviation(values: list[float | None]) -> str:
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return f"diverged ({len(values) - len(finite)} of {len(values)})"
    spread = f" ± {100 * statistics.stdev(finite):.1f}" if len(finite) > 1 else ""
    return f"{100 * statistics.mean(finite):.1f}{spread}"


def table(networks: dict[str, list[dict]]) -> str:
    out = [
        "| network | seeds | parameters | running statistics | population statistics | final loss | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in networks.items():
        losses = [run["final_loss"] for run in runs if not run["diverged"]]
        loss = f"{statistics.mean(losses):.3f}" if losses else "-"
        cells = [mean_and_deviation([run[kind] for run in runs]) for kind in ("running", "population")]
        seconds = statistics.mean(run["seconds"] for run in runs)
        out.append(
            f"| {name} | {len(runs)} | {runs[0]['parameters']:,} | {cells[0]} | {cells[1]} | {loss} | {seconds:.0f} |"
        )
    return "\n".join(out)


def closeness(networks: dict[str, list[dict]]) -> str:
    """Which networks lose less than a standard deviation by running statistics."""
    close, apart = [], []
    for name, runs in networks.items():
        pairs = [(run["population"], run["running"]) for run in runs if not run["diverged"]]
        population = [pair[0] for pair in pairs]
        if len(pairs) >= 3:
            lost = statistics.mean(p - r for p, r in pairs)
            (close if lost <= statistics.stdev(population) else apart).append(f"{name} ({100 * lost:.1f} points)")
    return (
        f"Of those with three seeds, running statistics are within one standard deviation of population statistics for"
        f" {', '.join(close) or 'none'}, and not for {', '.join(apart) or 'any'}."
    )


def verdicts(study: Study, networks: dict[str, list[dict]]) -> list[str]:
    """A line for each claim whose networks were trained."""
    lines = []
    for better, worse in study.claims:
        values = [[run["population"] for run in networks.get(name, [])] for name in (better, worse)]
        if not all(values) or None in values[0] + values[1]:
            continue
        means = [100 * statistics.mean(of_one) for of_one in values]
        verdict = "holds" if means[0] >= means[1] else "does not hold"
        lines.append(f"- {better} is at least as accurate as {worse}: {verdict} ({means[0]:.1f} and {means[1]:.1f}).")
    return lines


def smoothed(runs: list[dict], window: int) -> list[float]:
    """The mean loss over seeds, and over the last `window` steps."""
    steps = min(len(run["losses"]) for run in runs)
    mean = [statistics.mean(run["losses"][k] for run in runs) for k in range(steps)]
    return [statistics.mean(mean[max(0, k - window + 1) : k + 1]) for k in range(steps)]


def draw_losses(networks: dict[str, list[dict]], epochs: int, path: Path) -> None:
    """Training loss against epochs and against seconds, mean over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
    for name, runs in networks.items():
        trained = [run for run in runs if not run["diverged"]]
        if not trained:
            continue
        losses = smoothed(trained, 10)
        seconds = statistics.mean(run["seconds"] for run in trained)
        for axis, whole in zip(axes, (epochs, seconds), strict=True):
            axis.plot([whole * (k + 1) / len(losses) for k in range(len(losses))], losses, label=name, linewidth=1.2)
    for axis, label in zip(axes, ("epochs", "seconds of training"), strict=True):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("training loss")
    axes[1].legend(fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def draw_default(networks: dict[str, list[dict]], path: Path) -> None:
    """Accuracy with running and population statistics against the shrinkage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in networks if "momentum" not in name]
    figure, axis = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for kind, colour, shift in (("running", "#d1495b", -0.12), ("population", "#0b6e4f", 0.12)):
        for place, name in enumerate(names):
            values = [100 * run[kind] for run in networks[name] if run[kind] is not None]
            label = f"{kind} statistics" if place == 0 else None
            axis.plot([place + shift] * len(values), values, "o", color=colour, alpha=0.7, label=label)
            if values:
                mean = statistics.mean(values)
                axis.plot([place + shift - 0.1, place + shift + 0.1], [mean, mean], color=colour)
    axis.set_xticks(range(len(names)), names, rotation=25, ha="right")
    axis.set_ylabel("test accuracy, %")
    axis.set_title("whitening after the first convolution: every seed, and the mean")
    axis.grid(axis="y", alpha=0.3)
    axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def write(lines: list[dict], output: Path, record: str) -> Path:
    place, studies = lines[0], grouped(lines)
    size = place["size"]
    out = [
        "# Applications",
        "",
        "Networks with the layers of `fastsqrtm.nn`, trained on real images by `python -m bench applications`.",
        "Accuracies are percentages of test images, mean and standard deviation over the seeds. *Running statistics*",
        "are those that training left behind, *population statistics* those of the training images at the final",
        "weights, which `fastsqrtm.nn.calibrate` computes.",
        "",
        f"Size `{size['name']}`: {size['train']:,} training and {size['test']:,} test images, {size['epochs']} epochs"
        f" in batches of {size['batch']}, up to {size['seeds']} seeds; {place['machine']['cpu']}, {place['threads']}"
        f" thread(s), torch {place['torch']}. The [record]({record}) was made by `{place['command']}`; the seconds of"
        f" training are those of a machine that did other work as well (load average {place['load_average_before']}).",
    ]  # fmt: skip
    for name, study in STUDIES.items():
        if name not in studies:
            continue
        out += ["", f"## {study.title}", "", study.question, "", table(studies[name])]
        out += ["", *verdicts(study, studies[name])]
        out += ["", study.published] if study.published else []
        draw_losses(studies[name], size["epochs"], output / IMAGES / f"{name}-losses.png")
        out += ["", f"![loss against epochs and seconds]({IMAGES}/{name}-losses.png)"]
        if name == "default":
            out += ["", closeness(studies[name])]
            draw_default(studies[name], output / IMAGES / "default.png")
            out += ["", f"![accuracy against the regulariser]({IMAGES}/default.png)"]
    page = output / "applications.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(out) + "\n")
    return page
