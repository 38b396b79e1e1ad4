"""The figure of a run: how many times faster than each peer, time over floor, and errors, one row per method."""

from pathlib import Path

from bench.cases import MODES, PEERS
from bench.report import case_name, geomean

# One colour per function, the same in every panel.
OURS, OTHER = "#0b6e4f", "#888888"
COLOURS = {"paper": "#d1495b", "newton_schulz": "#edae49", "eigh": "#30638e", "matrix_sqrth": "#7d5ba6"}


def draw(record: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    methods = list(dict.fromkeys(row["method"] for row in record["rows"]))
    size = (19, 0.9 + 4.8 * len(methods))
    figure, axes = pyplot.subplots(
        len(methods), 3, figsize=size, squeeze=False, width_ratios=[2.1, 1, 1.3], layout="constrained"
    )
    for panels, method in zip(axes, methods, strict=True):
        rows = [row for row in record["rows"] if row["method"] == method]
        for panel, fill in zip(panels, (_speed, _floor, _errors), strict=True):
            fill(panel, rows, method)
            panel.set_xticks(range(len(rows)), [case_name(row["case"]) for row in rows], rotation=35, ha="right")
            panel.grid(axis="y", alpha=0.3)
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[-1]:
        panel.set_xlabel("batch x n")
    figure.suptitle(
        f"fastsqrtm {record['fastsqrtm']} ({record['backend']}), torch {record['torch']}, {record['dtype']}, "
        f"{record['threads']} threads of {record['machine']['cpu']}, commit {record['commit']}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _speed(panel, rows: list[dict], method: str) -> None:
    """Bars from the line of equal speed, up where we are faster and down where we are slower."""
    peers = list(rows[0]["peers"])
    width = 0.84 / len(peers)
    shown, means = [1.0], {}
    for k, peer in enumerate(peers):
        ratios = [row["peers"][peer].get("forward+backward", {}).get("ratio") for row in rows]
        measured = [ratio for ratio in ratios if ratio]
        shown += measured
        means[peer] = geomean(measured)
        at = [i + (k - (len(peers) - 1) / 2) * width for i in range(len(rows))]
        label = f"{PEERS.get(peer, peer)}: " + (f"{means[peer]:.1f}x" if measured else "not measured")
        heights = [(ratio or 1) - 1 for ratio in ratios]
        panel.bar(at, heights, 0.93 * width, bottom=1, color=COLOURS.get(peer, OTHER), label=label)
        for x, ratio, row in zip(at, ratios, rows, strict=True):
            text = f"{ratio:.1f}" if ratio else row["peers"][peer]["status"]
            up = (ratio or 1) >= 1
            panel.annotate(
                text, (x, ratio or 1), (0, 2 if up else -2), textcoords="offset points", fontsize=8,
                ha="center", va="bottom" if up else "top", rotation=0 if ratio else 90,
            )  # fmt: skip
    panel.set_yscale("log")
    low = 0.75 * min(shown)
    high = max(shown) * (max(shown) / low) ** 0.4  # room above for the legend
    panel.set_ylim(low, high)
    panel.set_yticks([t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= t <= high])
    panel.yaxis.set_major_formatter("{x:g}x")
    panel.yaxis.set_minor_formatter("")
    panel.axhline(1, color="black", linewidth=1)
    panel.legend(ncols=2, loc="upper center", fontsize=9.5, title="peer: geometric mean", title_fontsize=9.5)
    paper = f": {means['paper']:.1f} times the speed of the paper op by op" if means.get("paper") else ""
    panel.set_title(f"{method}, forward + backward{paper}", fontweight="bold")


def _floor(panel, rows: list[dict], method: str) -> None:
    for mode, marker, filled in zip(MODES, "so", ("none", OURS), strict=True):
        values = [row["ours"].get(mode, {}).get("over_floor", float("nan")) for row in rows]
        panel.plot(values, marker, color=OURS, markerfacecolor=filled, label=mode.replace("+", " + "))
    panel.set_ylim(0, 1.25 * panel.get_ylim()[1])
    panel.axhline(1, color="black", linewidth=1)
    panel.legend(fontsize=9.5, ncols=2, loc="upper center")
    panel.set_title(f"{method}: time over floor\n(1 = all its flops at the speed of GEMM)", fontsize=11)


def _errors(panel, rows: list[dict], method: str) -> None:
    """Root filled, gradient hollow; ours in front."""
    series = [(PEERS.get(peer, peer), COLOURS.get(peer, OTHER), 9, lambda row, peer=peer: row["peers"][peer], "errors")
              for peer in rows[0]["peers"]]  # fmt: skip
    series.append((method, OURS, 5, lambda row: row["ours"], "errors"))
    series.append((f"{method} against itself in float64", "black", 5, lambda row: row["ours"], "rounding"))
    for label, colour, size, part, kind in series:
        for key, filled in (("root_error", colour), ("gradient_error", "none")):
            values = [part(row).get(kind, {}).get(key, float("nan")) for row in rows]
            panel.plot(values, "o", color=colour, markerfacecolor=filled, markersize=size,
                       label=label if filled == colour else None)  # fmt: skip
    panel.set_yscale("log")
    low, high = panel.get_ylim()
    panel.set_ylim(low, high * (high / low) ** 0.42)  # room above for the legend
    panel.legend(fontsize=8.5, loc="upper center")
    panel.set_title("relative error against float64, worst matrix\n(filled: root, hollow: gradient)", fontsize=11)
