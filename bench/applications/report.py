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


def mean_and_deviation(values: list[float | None], sign: str = "") -> str:
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return f"diverged ({len(values) - len(finite)} of {len(values)})"
    deviation = f" ± {100 * statistics.stdev(finite):.1f}" if len(finite) > 1 else ""
    return f"{100 * statistics.mean(finite):{sign}.1f}{deviation}"


def table(networks: dict[str, list[dict]]) -> str:
    """A row for each network; with the accuracies in the middle of training if they were measured."""
    columns = {
        "running statistics": lambda run: run["running"],
        "population statistics": lambda run: run["population"],
    }
    if all(run["halfway"] for runs in networks.values() for run in runs):
        columns["running, halfway"] = lambda run: run["halfway"]["running"]
        columns["population, halfway"] = lambda run: run["halfway"]["population"]
    heads = ["network", "seeds", "parameters", *columns, "final loss", "seconds"]
    out = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, runs in networks.items():
        losses = [run["final_loss"] for run in runs if not run["diverged"]]
        cells = [name, str(len(runs)), f"{runs[0]['parameters']:,}"]
        cells += [mean_and_deviation([value(run) for run in runs]) for value in columns.values()]
        cells += [f"{statistics.mean(losses):.3f}" if losses else "-"]
        cells += [f"{statistics.mean(run['seconds'] for run in runs):.1f}"]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def closeness(networks: dict[str, list[dict]]) -> str:
    """Which networks lose less than a standard deviation by running statistics."""
    close, apart = [], []
    for name, runs in networks.items():
        pairs = [(run["population"], run["running"]) for run in runs if not run["diverged"]]
        if len(pairs) < 3:
            continue
        lost = statistics.mean(p - r for p, r in pairs)
        within = lost <= statistics.stdev(p for p, _ in pairs)
        (close if within else apart).append(f"{name} ({100 * lost:.1f} points)")
    text = (
        f"At the end of training, running statistics are within one standard deviation of population statistics for"
        f" {', '.join(close) or 'none'}" + (f", and not for {', '.join(apart)}." if apart else ".")
    )
    halfway = []
    for name, runs in networks.items():
        lost = [run["halfway"]["population"] - run["halfway"]["running"] for run in runs if run["halfway"]]
        halfway += [f"{name} ({100 * statistics.mean(lost):.1f} points)"] if lost else []
    return text + f" Halfway, where weights move fast, running statistics lag and lose more: {', '.join(halfway)}."


def verdicts(study: Study, networks: dict[str, list[dict]]) -> list[str]:
    """A line for each claim whose networks were trained: the difference over pairs of the same seed."""
    lines = []
    for better, worse in study.claims:
        by_seed = [{run["seed"]: run for run in networks.get(name, [])} for name in (better, worse)]
        seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
        found = []
        for kind in ("running", "population"):
            values = [[by_one[seed][kind] for seed in seeds] for by_one in by_seed]
            if not seeds or None in values[0] + values[1]:
                break
            found.append((kind, [x - y for x, y in zip(*values, strict=True)]))
        else:
            means = [statistics.mean(differences) for _, differences in found]
            noise = [statistics.stdev(d) if len(d) > 1 else 0.0 for _, d in found]
            verdict = "does not hold"
            if all(mean >= -deviation for mean, deviation in zip(means, noise, strict=True)):
                verdict = "holds" if min(means) >= 0 else "holds within the deviation"
            shown = ", ".join(f"{mean_and_deviation(d, sign='+')} with {kind} statistics" for kind, d in found)
            lines.append(f"- {better} is at least as accurate as {worse}: {verdict} ({shown}).")
    return lines


def spread(study: Study, networks: dict[str, list[dict]]) -> list[str]:
    """How far apart the networks are that should train alike, and those that should not."""
    alike, lines = {}, []
    for name, runs in networks.items():
        values = [run["population"] for run in runs]
        if name in study.apart or None in values or len(values) < 2:
            lines.append(f"- {name}: {mean_and_deviation(values)}.")
        else:
            alike[name] = values
    if len(alike) > 1:
        means = [100 * statistics.mean(values) for values in alike.values()]
        noise = 100 * statistics.mean(statistics.stdev(values) for values in alike.values())
        lines.insert(
            0,
            f"- The means of {', '.join(alike)} lie within {max(means) - min(means):.1f} points; the standard deviation"
            f" over the seeds is {noise:.1f}.",
        )
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
    for axis, label in zip(axes, ("epochs", "seconds of the processor"), strict=True):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("training loss")
    axes[1].legend(fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def draw_default(networks: dict[str, list[dict]], path: Path) -> None:
    """Accuracy with running and population statistics for each regulariser, halfway and at the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for axis, title in zip(axes, ("after half of the epochs", "at the end of training"), strict=True):
        for kind, colour, shift in (("running", "#d1495b", -0.12), ("population", "#0b6e4f", 0.12)):
            for place, runs in enumerate(networks.values()):
                found = [run["halfway"] if axis is axes[0] else run for run in runs if not run["diverged"]]
                values = [100 * run[kind] for run in found if run]
                label = f"{kind} statistics" if place == 0 else None
                axis.plot([place + shift] * len(values), values, "o", color=colour, alpha=0.7, label=label)
                if values:
                    mean = statistics.mean(values)
                    axis.plot([place + shift - 0.1, place + shift + 0.1], [mean, mean], color=colour)
        axis.set_xticks(range(len(networks)), list(networks), rotation=25, ha="right")
        axis.set_title(f"{title}: every seed, and the mean", fontsize="medium")
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("test accuracy, %")
    axes[1].legend(loc="lower right")
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
        f" thread(s), torch {place['torch']}. The [record]({record}) was made by `{place['command']}`. Seconds are"
        " those of the processor in training. [Layers](guide/layers.md) has the time of each layer alone.",
    ]  # fmt: skip
    for name, study in STUDIES.items():
        if name not in studies:
            continue
        out += ["", f"## {study.title}", "", study.question, "", table(studies[name])]
        out += ["", *verdicts(study, studies[name]), *(spread(study, studies[name]) if study.apart else [])]
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
