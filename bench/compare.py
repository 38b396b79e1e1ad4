"""``python -m bench compare old.json new.json``: the times of two records, case by case, the worst first.

Reads what `python -m bench`, `bench sizes`, `bench.accurate` and `bench.gpu_check` write. The exit status is 1 where
one of our functions became slower by more than the threshold beyond the spread of its two measurements, and 2 where the
records cannot be compared.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import accurate
from bench.report import case_name, geomean

SLOWER = 1
UNITS = ("ms", "gemm")


class Mismatch(Exception):
    """Two records that cannot be compared."""


@dataclass(frozen=True)
class Time:
    """One median. Spread: half the interquartile range over the median; 0 in records from before it was kept."""

    ms: float
    gemms: float | None
    spread: float
    ours: bool


@dataclass(frozen=True)
class Change:
    name: str
    old: float
    new: float
    spread: float

    @property
    def ratio(self) -> float:
        return self.new / self.old

    def is_slower(self, threshold: float) -> bool:
        return self.ratio > 1 + threshold + self.spread


# The readers of the four kinds of records: pairs of the name of a case and its time.


def _bench_times(record: dict) -> Iterator[tuple[str, Time]]:
    for row in record["rows"]:
        for who, part in {"ours": row["ours"], **row["peers"]}.items():
            for mode in ("forward", "forward+backward"):
                if mode in part:
                    yield _from_bench(f"{row['method']} {mode} {case_name(row['case'])}", who, part[mode])


def _from_bench(name: str, who: str, measured: dict) -> tuple[str, Time]:
    ours = who == "ours"
    spread = measured.get("spread", 0.0)
    return name if ours else f"{name}, {who}", Time(measured["time_ms"], measured.get("over_floor"), spread, ours)


def _accurate_times(record: dict) -> Iterator[tuple[str, Time]]:
    for row in record["speed"]:
        place = f"{case_name(row['case'])} kappa {row['kappa']:.0e}"
        for part in ("exact", "tolerance", "gradient"):
            for name, measured in row.get(part, {}).items():
                # Named by its rtol: two records may have found another setting to be as accurate as eigh.
                known = f"sqrtm(rtol={row['equal_rtol']:g})" if name == "equal" else name
                yield f"{known} forward+backward {place}", _from_accurate(name, measured)
    for row in record["front"]:
        mode = "forward" if row["mode"] == "forward" else "forward+backward"
        for name, measured in row["points"].items():
            title = " ".join(name.split("|")).strip()
            yield f"{title} {mode} front kappa {row['kappa']:.0e}", _from_accurate(name.split("|")[0], measured)


def _from_accurate(name: str, measured: dict) -> Time:
    return Time(measured["ms"], measured.get("over_gemm"), measured.get("spread", 0.0), name not in accurate.PEERS)


def _gpu_times(record: dict) -> Iterator[tuple[str, Time]]:
    steps = record["steps"]
    for row in steps.get("ours", {}).get("rows", []):
        for method, modes in row.get("methods", {}).items():
            for mode in ("forward", "forward+backward"):
                yield _from_bench(f"{method} {mode} {case_name(row['case'])}", "ours", modes[mode])
    for row in steps.get("ops", {}).get("rows", []):
        for op, ms in row["ms"].items():
            spread = row.get("spread", {}).get(op, 0.0)
            yield f"op {op} {case_name(row['case'])}", Time(ms, ms / row["ms"]["bmm"], spread, op != "bmm")


def _sizes_times(record: dict) -> Iterator[tuple[str, Time]]:
    for row in record["sizes"]:
        place = f"{row['dtype']} {row['batch']} x {row['n']} kappa {row['kappa']:.0e}"
        for name, ns in row["ns"].items():
            ours = name in ("inverse", "forward", "forward+backward")
            yield f"{name} {place}", Time(ns / 1e6, ns / row["ns"]["product"], row["spread"][name], ours)
    for row in record.get("paper", []):
        yield (
            f"{row['op']} {row['dtype']} {row['batch']} x {row['n']}",
            Time(row["ns"] / 1e6, None, row["spread"], True),
        )
    for row in record.get("host", []):
        ours = row["function"] != "torch.linalg.inv"
        yield f"host {row['function']} {row['mode']}", Time(row["us"] / 1e3, None, row["spread"], ours)


READERS = {"rows": _bench_times, "speed": _accurate_times, "sizes": _sizes_times, "steps": _gpu_times}


def kind_of(record: dict, name: str) -> str:
    for key in READERS:
        if key in record:
            return key
    raise Mismatch(f"{name} is no record of timings: it has none of {', '.join(READERS)}")


def conditions(record: dict) -> dict:
    """The conditions that both must share: another processor, input or number of threads is another measurement."""
    environment = next(iter(record.get("steps", {}).get("environment", {}).get("rows", [])), {})
    machine = record.get("machine", environment.get("machine", {}))
    return {
        "processor": machine.get("cpu"),
        "gpu": record.get("gpu"),
        **{key: record.get(key, environment.get(key)) for key in ("input", "dtype", "threads", "torch_isa")},
    }


def compare(old: dict, new: dict, unit: str = "ms") -> tuple[list[Change], list[Change], list[str]]:
    """Changes of our functions and of the peers', each with the worst first, and the cases that only one record has."""
    kinds = [kind_of(record, name) for record, name in ((old, "the old file"), (new, "the new file"))]
    if kinds[0] != kinds[1]:
        raise Mismatch(f"the records are of different kinds: the old one has {kinds[0]!r}, the new one {kinds[1]!r}")
    before, after = conditions(old), conditions(new)
    different = [f"{key}: {before[key]} and {after[key]}" for key in before if before[key] != after[key]]
    if different:
        raise Mismatch("the records were made under different conditions:\n  " + "\n  ".join(different))
    times = [dict(READERS[kinds[0]](record)) for record in (old, new)]
    found: dict[bool, list[Change]] = {True: [], False: []}
    for name in (name for name in times[0] if name in times[1]):
        one, other = (t[name] for t in times)
        a, b = (one.ms, other.ms) if unit == "ms" else (one.gemms, other.gemms)
        if a and b:
            found[one.ours].append(Change(name, a, b, one.spread + other.spread))
    if not found[True]:
        what = "no time of ours" + (" in units of a GEMM" if unit == "gemm" else "")
        raise Mismatch(f"the records have {what} in common")
    for changes in found.values():
        changes.sort(key=lambda change: change.ratio, reverse=True)
    alone = [f"{name} (only in the {which} record)"
             for which, mine, others in (("old", *times), ("new", *reversed(times)))
             for name in mine if name not in others]  # fmt: skip
    return found[True], found[False], alone


def table(old: dict, new: dict, threshold: float, unit: str) -> tuple[str, int]:
    """The text for the terminal, and how many cases are slower."""
    ours, peers, alone = compare(old, new, unit)
    slower = [change for change in ours if change.is_slower(threshold)]
    width = max(len(change.name) for change in ours)
    out = [f"{which}: commit {_known(r, 'commit')}, torch {_known(r, 'torch')}, {_known(r, 'backend')}, {r['date']}"
           for which, r in (("old", old), ("new", new))]  # fmt: skip
    out += ["", f"  {'case':<{width}}{'old ' + unit:>12}{'new ' + unit:>12}{'new / old':>11}{'spread':>8}"]
    for change in ours:
        mark = "  slower" if change in slower else ""
        spread = f"{change.spread:.0%}" if change.spread else "-"
        out.append(
            f"  {change.name:<{width}}{change.old:>12.4g}{change.new:>12.4g}{change.ratio:>11.3f}{spread:>8}{mark}"
        )
    out += ["", f"geometric mean of new / old: {geomean([c.ratio for c in ours]):.3f} over {len(ours)} cases"]
    if peers:
        out.append(f"the same of the peers, which did not change: {geomean([c.ratio for c in peers]):.3f}")
    out.append(f"slower by more than {threshold:.0%} beyond the spread: {len(slower)}")
    out += ["", "not compared", *(f"  {name}" for name in alone)] if alone else []
    return "\n".join(out), len(slower)


def _known(record: dict, key: str) -> str:
    environment = next(iter(record.get("steps", {}).get("environment", {}).get("rows", [])), {})
    return record.get(key, environment.get(key, "unknown"))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=__doc__)
    parser.add_argument("old", type=Path, help="json file that one of the benchmarks wrote")
    parser.add_argument("new", type=Path, help="json file of the same benchmark")
    parser.add_argument("--threshold", type=float, default=0.10, help="allowed slowdown (%(default)s)")
    parser.add_argument("--unit", choices=UNITS, default="ms",
                        help="ms, or gemm: time over that of a batched product in the same rounds, which cancels a"
                             " machine that is slower today (%(default)s)")  # fmt: skip
    options = parser.parse_args(argv)
    try:
        old, new = (json.loads(path.read_text()) for path in (options.old, options.new))
        text, slower = table(old, new, options.threshold, options.unit)
    except (OSError, ValueError, Mismatch) as error:
        parser.error(str(error))  # exit status 2
    print(text)
    return SLOWER if slower else 0
