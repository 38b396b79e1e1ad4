"""The record of a run in words: geometric means, worst cases, and the tables for the terminal."""

from math import exp, log
from statistics import median, quantiles

from bench.cases import MODES, PEERS

DISTURBED = 0.05  # share of the processors that others may have had while a worker measured


def summarise(record: dict) -> list[dict]:
    """Per method, mode and peer: geometric mean of the ratios, the same for n from 32 to 256, and the worst case."""
    summary = []
    rows = record["rows"]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        for mode in MODES:
            for peer in mine[0]["peers"]:
                ratios = {tuple(row["case"]): row["peers"][peer].get(mode, {}).get("ratio") for row in mine}
                measured = {case: ratio for case, ratio in ratios.items() if ratio}
                worst = min(measured, key=measured.get, default=None)
                summary.append({
                    "method": method, "mode": mode, "peer": peer,
                    "geomean": geomean(list(measured.values())),
                    "geomean_32_to_256": geomean([r for (_, n), r in measured.items() if 32 <= n <= 256]),
                    "worst": measured.get(worst), "worst_case": worst,
                    "not_measured": [case for case, ratio in ratios.items() if not ratio],
                })  # fmt: skip
    return summary


def geomean(ratios: list[float]) -> float | None:
    return exp(sum(map(log, ratios)) / len(ratios)) if ratios else None


def spread(times: list[float]) -> float:
    """Half the interquartile range over the median: how much one round differs from another by chance."""
    first, _, third = quantiles(times, n=4)
    return (third - first) / (2 * median(times))


def tables(record: dict) -> str:
    """The whole report for the terminal, at most 120 columns wide."""
    rows = record["rows"]
    machine = record["machine"]
    out = [
        f"fastsqrtm {record['fastsqrtm']} ({record['backend']}), torch {record['torch']}, {record['dtype']},"
        f" {record['threads']} threads of {machine['cpu']} ({machine['cores']} cores)",
        f"input: {record['input']}",
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        for mode in MODES:
            out += ["", *_time_table(mine, method, mode)]
        out += ["", *_error_table(mine, method)]
    out += ["", *_memory_table(record["memory"])] if record["memory"] else []
    out += ["", *_summary_table(record["summary"])]
    notes = {
        f"  {case_name(row['case'])}, {who}: {note}": None  # a dict, for its order; methods share most of their notes
        for row in rows
        for who, part in {"ours": row["ours"], **row["peers"]}.items()
        for note in _notes(part)
    }
    return "\n".join(out + (["", "notes", *notes] if notes else []))


def _notes(part: dict) -> list[str]:
    notes = [part["note"]] if "note" in part else []
    if part["status"] != "ok":
        notes.append(f"{part['status']}, {part['message']}")
    elif part["cpu_of_others"] > DISTURBED:
        notes.append(f"disturbed, other processes had {part['cpu_of_others']:.0%} of the processors: repeat it")
    return notes


def case_name(case) -> str:
    return f"{case[0]} x {case[1]}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _line(first: str, cells: list[str]) -> str:
    return f"  {first:<12}" + "".join(f"{cell:>15}" for cell in cells)


def _time_table(rows: list[dict], method: str, mode: str) -> list[str]:
    peers = list(rows[0]["peers"])
    out = [f"{method}, {mode}: time, time over floor, and how many times faster than each peer"]
    out.append(_line("B x n", ["ms", "over floor", *(_short(peer) for peer in peers)]))
    for row in rows:
        ours = row["ours"].get(mode, {})
        cells = [_number(ours.get("time_ms"), ".3f"), _number(ours.get("over_floor"), ".2f")]
        for peer in peers:
            part = row["peers"][peer]
            cells.append(_number(part[mode]["ratio"], ".2f") if part["status"] == "ok" else part["status"])
        out.append(_line(case_name(row["case"]), cells))
    return out


def _error_table(rows: list[dict], method: str) -> list[str]:
    """Root and gradient in one cell: 5.3e-03 / 3.8e-02."""
    peers = list(rows[0]["peers"])
    out = [f"{method}: relative error of root/gradient against float64 truth; rounding: against itself in float64"]
    names = ["ours", "ours rounding", "twin rounding", *map(_short, peers)]
    out.append(f"  {'B x n':<12}" + "".join(f"{name:>15}" for name in names))
    for row in rows:
        ours = row["ours"]
        parts = [ours.get("errors"), ours.get("rounding"), ours.get("twin_rounding")]
        parts += [row["peers"][peer].get("errors") for peer in peers]
        cells = ["-" if p is None else f"{p['root_error']:.0e}/{p['gradient_error']:.0e}" for p in parts]
        out.append(f"  {case_name(row['case']):<12}" + "".join(f"{cell:>15}" for cell in cells))
    return out


def _memory_table(rows: list[dict]) -> list[str]:
    out = [f"peak memory of forward + backward at {case_name(rows[0]['case'])} beyond A, G, the root and the gradient"]
    for row in rows:
        if row["status"] == "ok":
            size = f"{row['extra_bytes'] / 2**20:8.1f} MiB, {row['extra_matrices_per_thread']:7.1f} matrices per thread"
        else:
            size = row["status"]
        out.append(f"  {row['method']:<10}{row['function']:<8}{size}")
    return out


def _summary_table(summary: list[dict]) -> list[str]:
    out = ["how many times faster: geometric mean over all cases, over n = 32..256, and the worst case"]
    for s in summary:
        worst = f"worst {s['worst']:.2f} at {case_name(s['worst_case'])}" if s["worst"] else "not measured"
        means = f"{_number(s['geomean'], '7.2f')} {_number(s['geomean_32_to_256'], '7.2f')}"
        out.append(f"  {s['method']:<9}{s['mode']:<18}{PEERS.get(s['peer'], s['peer']):<42}{means}   {worst}")
    return out


def _short(peer: str) -> str:
    return peer.split(":")[-1]
