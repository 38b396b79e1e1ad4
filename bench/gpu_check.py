"""Builds, checks and measures everything on a machine with a GPU: ``python -m bench.gpu_check``.

Each step is a separate process with a time limit: one that fails, hangs or is not installed is recorded, and the next
one runs. A step never takes the time of another. `--part` chooses one of three parts of less than ten minutes each:

check    the build, a smoke test of every op in a process of its own, the tests marked cuda, launch counts
times    our methods next to products and peers, all ops over sizes and batches, the host's share, layers
deep     sanitizers, graphs after larger calls, choices that need a measurement, steps of the path for large matrices,
         inputs beyond the cache, batched eigendecompositions, metrics of every kernel by ncu

Every step updates the record, bench/results/<gpu>.json or `--output`, with the summary as text beside it. The exit
status is 1 if a step failed.
"""

import argparse
import contextlib
import csv
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from bench.report import case_name
from bench.run import git_commit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PEERS = ("paper", "eigh", "newton_schulz")
PARTS = ("check", "times", "deep")
PYTHON = (sys.executable, "-m")
WORKER, TIMES = (*PYTHON, "bench.gpu_worker"), (*PYTHON, "bench.gpu_times")


@dataclass(frozen=True)
class Outcome:
    """The end of a process; `code` is None when it was killed at its limit."""

    code: int | None
    stdout: str
    stderr: str

    def last_words(self) -> str:
        if self.code is None:
            return "killed at its time limit"
        lines = (self.stderr.strip() or self.stdout.strip() or f"exit status {self.code}").splitlines()
        return lines[-1][:500]

    def status(self) -> str:
        return "timed out" if self.code is None else "failed" if self.code else "ok"

    def rows(self) -> list[dict]:
        """The json lines that a worker printed, even one that was cut off."""
        rows = []
        for line in self.stdout.splitlines():
            if line.startswith("{"):
                try:
                    rows.append(json.loads(line))
                except ValueError:  # cut off when the process was killed
                    break
        return rows


@dataclass(frozen=True)
class Step:
    name: str
    command: list[str]
    limit: float  # seconds
    read: Callable[[Outcome], dict]
    environment: dict[str, str] = field(default_factory=dict)
    part: str = "check"


def run_command(command: list[str], limit: float, environment: dict[str, str]) -> Outcome:
    """Output goes to files: a pipe held open by a grandchild would outlive the limit."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=out, stderr=err, start_new_session=True,
            # A shell starts background jobs with interrupts ignored, and the child would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # An interrupt first: pytest then writes the results so far.
            for kill, grace in ((signal.SIGINT, 5), (signal.SIGKILL, None)):
                if process.poll() is None:
                    os.killpg(process.pid, kill)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(grace)
        out.seek(0)
        err.seek(0)
        return Outcome(code, out.read(), err.read())


def read_rows(outcome: Outcome) -> dict:
    rows = outcome.rows()
    status = outcome.status()
    if status != "ok":
        return {"status": status, "message": outcome.last_words(), "rows": rows}
    failed = [row for row in rows if row.get("status") == "failed"]
    if failed or not rows:
        message = f"{len(failed)} cases failed, the first: {failed[0]['message']}" if failed else "no results"
        return {"status": "failed", "message": message, "rows": rows}
    return {"status": "ok", "rows": rows}


def read_sanitizer(outcome: Outcome) -> dict:
    """Passes only with a summary of no errors and no hazards, exit status 0, and the line that all cases ran."""
    lines = [line.removeprefix("=========").strip() for line in (outcome.stdout + "\n" + outcome.stderr).splitlines()
             if line.startswith("=========")]  # fmt: skip
    rows = outcome.rows()
    result = {"cases": sum("n" in row for row in rows)}
    unsupported = [line for line in lines if "not supported" in line.lower()]
    if unsupported:
        return {**result, "status": "not available", "message": unsupported[0]}
    summaries = [line for line in lines if "SUMMARY:" in line]
    counts = [int(n) for line in summaries for n in re.findall(r"SUMMARY: (\d+) (?:error|hazard)", line)]
    result["summary"] = summaries
    result["findings"] = [line for line in lines if line and line not in summaries][:40] if any(counts) else []
    if outcome.code is None:
        return {**result, "status": "timed out", "message": f"{result['cases']} groups of cases done"}
    if any(counts):
        return {**result, "status": "failed", "message": "; ".join(summaries)}
    if outcome.code or not counts or not any(row.get("complete") for row in rows):
        return {**result, "status": "failed", "message": outcome.last_words()}
    return {**result, "status": "ok"}


def read_tests(report: Path) -> Callable[[Outcome], dict]:
    """Reads pytest's junit file, which exists even after an interrupt at the limit."""

    def read(outcome: Outcome) -> dict:
        if not report.exists():
            return {"status": outcome.status() if outcome.code != 0 else "failed", "message": outcome.last_words(),
                    "output": outcome.stdout.splitlines()[-30:]}  # fmt: skip
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
        found = {"failed": [], "skipped": []}
        for case in cases:
            for kind, tags in {"failed": ("failure", "error"), "skipped": ("skipped",)}.items():
                for node in (node for tag in tags for node in case.findall(tag)):
                    found[kind].append(f"{case.get('name')}: {node.get('message', '').strip()}"[:400])
        counts = {"tests": len(cases), **{kind: len(names) for kind, names in found.items()}}
        if outcome.code == 0 and counts["tests"] > counts["skipped"]:
            return {"status": "ok", **counts, "skipped_tests": found["skipped"][:20]}
        message = f"{counts['failed']} of {counts['tests']} failed" if cases else "no tests ran"
        status = "failed" if outcome.code is not None or counts["failed"] else "timed out"
        message += ", killed at the time limit" if outcome.code is None else ""
        return {"status": status, "message": message, **counts, "failed_tests": found["failed"][:60],
                "skipped_tests": found["skipped"][:20]}  # fmt: skip

    return read


def find_tool(name: str) -> str | None:
    """Finds it on PATH, next to nvcc, or in the toolkit that CUDA_HOME names."""
    nvcc = shutil.which("nvcc")
    places = [Path(nvcc).resolve().parent] if nvcc else []
    places += [Path(os.environ[key]) / "bin" for key in ("CUDA_HOME", "CUDA_PATH") if key in os.environ]
    return shutil.which(name) or next((str(p / name) for p in places if os.access(p / name, os.X_OK)), None)


OWN_KERNELS = "(pass|tiny)_kernel"
# Per kernel: time, what bounds the blocks of a multiprocessor, how busy it is, and what its warps wait for.
METRICS = {
    "gpu__time_duration.sum": "ns",
    "launch__registers_per_thread": "registers",
    "launch__occupancy_limit_registers": "blocks by registers",
    "launch__occupancy_limit_shared_mem": "blocks by shared memory",
    "launch__occupancy_limit_barriers": "blocks by barriers",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps %",
    "sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active": "fma %",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue %",
    "l1tex__data_bank_conflicts_pipe_lsu.sum": "bank conflicts",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": "stall barrier",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "stall global",
    "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio": "stall shared",
}


def read_metrics(outcome: Outcome) -> dict:
    """Reads `ncu --csv --page raw`: a line of names, a line of units, a line for each launch."""
    text = outcome.stdout + outcome.stderr
    if "ERR_NVGPUCTRPERM" in text:
        return {"status": "not available", "message": "the driver does not let this user read performance counters"}
    lines = [line for line in outcome.stdout.splitlines() if line.startswith('"')]
    rows = []
    for cells in csv.DictReader(lines):
        if re.search(OWN_KERNELS, cells.get("Kernel Name", "")):
            known = {short: _number(cells[name]) for name, short in METRICS.items() if cells.get(name)}
            rows.append({"kernel": cells["Kernel Name"][:160], **known})
    if rows and outcome.status() == "ok":
        return {"status": "ok", "rows": rows}
    status = outcome.status() if outcome.code != 0 else "failed"
    return {"status": status, "message": outcome.last_words(), "rows": rows}


def _number(cell: str) -> float | str:
    try:
        return float(cell.replace(",", ""))
    except ValueError:
        return cell


def make_steps(report: Path) -> list[Step]:
    """`report`: where pytest writes its junit file."""
    # The host computes the references of the tests: several processes at a time where pytest-xdist is installed.
    processes = str(min(12, os.cpu_count() or 1))
    together = ["-n", processes, "--dist", "worksteal"] if importlib.util.find_spec("xdist") else []
    # A kernel that hangs ends its process, which xdist replaces, and no other test.
    limited = ["--timeout", "60", "--timeout-method", "thread"] if importlib.util.find_spec("pytest_timeout") else []
    pytest = [*PYTHON, "pytest", "-m", "cuda", "-q", *together, *limited, "--maxfail", "200", "-p", "no:cacheprovider"]
    strict = {"FAIL_WITHOUT_CUDA": "1", "FASTSQRTM_REQUIRE_NATIVE": "1", "FASTSQRTM_FALLBACK": "error"}
    sanitizer = find_tool("compute-sanitizer") or "compute-sanitizer"
    profiler = [find_tool("ncu") or "ncu", "--csv", "--page", "raw", "--clock-control", "none", "--metrics"]
    profiler += [",".join(METRICS), "--kernel-name", f"regex:{OWN_KERNELS}"]
    # A separate allocation for each tensor: an index beyond its end does not fall into its neighbour.
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    shared_memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def sanitize(tool: str, limit: float) -> Step:
        options = ["--tool", tool, "--error-exitcode", "9", "--target-processes", "all", "--print-limit", "20"]
        if tool == "memcheck":
            options += ["--report-api-errors", "no"]  # torch and cuBLAS probe the driver for features
        command = [sanitizer, *options, *WORKER, "sanitized", tool]
        return Step(tool, command, limit, read_sanitizer, uncached, "deep")

    def work(name: str, limit: float, part: str, program: tuple[str, ...] = WORKER, environment=None) -> Step:
        return Step(name, [*program, name], limit, read_rows, environment or {}, part)

    return [
        Step("build", [*PYTHON, "bench.gpu_build"], 200, read_rows),
        work("environment", 30, "check"),
        work("smoke", 60, "check"),
        Step("tests", [*pytest, f"--junitxml={report}", "tests"], 240, read_tests(report), strict),
        work("launches", 50, "check"),
        work("ours", 60, "times"),
        work("scaling", 110, "times", TIMES),
        work("ops", 110, "times"),
        work("overhead", 30, "times", TIMES),
        *(work(peer, 60, "times") for peer in PEERS),
        work("layers", 30, "times", TIMES),
        work("growth", 30, "deep"),
        work("choices", 100, "deep"),
        work("steps", 30, "deep", TIMES),
        work("shifts", 20, "deep", TIMES),
        Step("shifts_blocked", [*TIMES, "shifts"], 20, read_rows, {"FASTSQRTM_BLOCKED_SWEEP": "1"}, "deep"),
        work("cold", 30, "deep", TIMES),
        work("eigen", 50, "deep", TIMES, shared_memory),
        Step("ncu", [*profiler, *WORKER, "once"], 100, read_metrics, part="deep"),
        sanitize("memcheck", 130),
        sanitize("racecheck", 80),
    ]


def run_step(step: Step, left: float) -> dict:
    """The step's result with its status and seconds, whatever happens."""
    start = time.monotonic()
    limit = min(step.limit, left)
    result: dict = {"status": "not run", "message": "no time left"}
    if shutil.which(step.command[0]) is None:
        result = {"status": "not available", "message": f"{step.command[0]} is not installed"}
    elif limit >= 5:
        try:
            result = step.read(run_command(step.command, limit, step.environment))
        except Exception as error:
            result = {"status": "failed", "message": f"{type(error).__name__}: {error}"[:500]}
    return {**result, "limit": round(limit, 1), "seconds": round(time.monotonic() - start, 1)}


def gpu_name(record: dict) -> str:
    rows = record["steps"].get("environment", {}).get("rows")
    if rows:
        return rows[0]["gpu"]
    try:  # also where the package does not import
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown gpu"


def slug(name: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))


# The printed summary, and its comparison with the targets.


def step_rows(record: dict, name: str) -> list[dict]:
    return record["steps"].get(name, {}).get("rows", [])


def measured_cases(record: dict, name: str) -> dict[tuple[int, int], dict]:
    return {tuple(row["case"]): row for row in step_rows(record, name) if "case" in row}


def method_rows(record: dict) -> list[dict]:
    """One flat row per case, method and mode: times, times over floor, how many times faster than each peer."""
    ours = measured_cases(record, "ours")
    peers = {peer: measured_cases(record, peer) for peer in PEERS}
    rows = []
    for case, row in ours.items():
        for method, modes in row.get("methods", {}).items():
            rounding, twin = (modes[key] for key in ("rounding", "twin_rounding"))
            for mode in ("forward", "forward+backward"):
                device = row.get("device", {}).get(method, {}).get(mode, {})
                error = "root_error" if mode == "forward" else "gradient_error"
                ratios = {
                    peer: cases.get(case, {}).get("methods", {}).get(method, {}).get(mode, {}).get("ratio")
                    for peer, cases in peers.items()
                }
                rows.append({
                    "case": list(case), "method": method, "mode": mode,
                    "ms": modes[mode]["time_ms"], "over_bmm_floor": modes[mode]["over_floor"],
                    **dict.fromkeys(("device_ms", "device_over_bmm_floor", "device_over_chip_floor")), **device,
                    "ratios": ratios, "error": rounding[error], "twin_error": twin[error],
                })  # fmt: skip
    return rows


FLOAT32_EPS = 2.0**-23
SPEED = "times faster than {}, forward + backward"


def find_targets(record: dict) -> list[dict]:
    """Every target with the worst value found and where; `met` is None where nothing was measured.

    The targets of speed hold for an H200 only; elsewhere they are a comparison.
    """
    rows = method_rows(record)
    both = [row for row in rows if row["mode"] == "forward+backward"]
    launches = [row for row in step_rows(record, "launches") if row["promised"]]

    def target(text: str, limit: float, at_least: bool, values: list[tuple[float | None, str]]) -> dict:
        known = [(value, place) for value, place in values if value is not None]
        nan = [(value, place) for value, place in known if value != value]  # worse than any number
        worst, at = nan[0] if nan else (min if at_least else max)(known, default=(None, None))
        met = None if worst is None else (worst >= limit if at_least else worst <= limit)
        missing = len(values) - len(known)
        return {"target": text, "limit": limit, "worst": worst, "at": at, "met": met, "not_measured": missing}

    def place(row: dict) -> str:
        return f"{row['method']} {row['case'][0]} x {row['case'][1]} {row['mode']}"

    def faster(peer: str, limit: float, chosen: Callable[[int, int], bool], which: str) -> dict:
        values = [(row["ratios"][peer], place(row)) for row in both if chosen(*row["case"])]
        return target(f"{SPEED.format(peer)}, {which}", limit, True, values)

    def floor(limit: float, chosen: Callable[[int], bool], key: str, which: str) -> dict:
        values = [(row[key], place(row)) for row in rows if chosen(row["case"][1])]
        return target(f"time over floor ({which})", limit, False, values)

    def errors(row: dict) -> float:
        return row["error"] / (2 * row["twin_error"] + 3 * FLOAT32_EPS)

    counts = {mode: [(row[mode], f"{row['op']} {row['dtype']} n = {row['n']}") for row in launches]
              for mode in ("forward", "backward")}  # fmt: skip
    return [
        target("launches forward, fused range", 1, False, counts["forward"]),
        target("launches backward, fused range", 1, False, counts["backward"]),
        faster("paper", 20, lambda b, n: n <= 64 and b <= 256, "n <= 64, B <= 256"),
        faster("paper", 10, lambda b, n: (b, n) == (256, 128), "256 x 128"),
        faster("paper", 3, lambda b, n: 256 <= n <= 1024, "n = 256..1024"),
        faster("eigh", 10, lambda b, n: 32 <= n <= 256, "n = 32..256"),
        floor(3, lambda n: n <= 128, "device_over_chip_floor", "kernels, rate of the chip, n <= 128"),
        floor(3, lambda n: n <= 128, "device_over_bmm_floor", "kernels, rate of bmm, n <= 128"),
        floor(1.7, lambda n: n >= 512, "device_over_chip_floor", "kernels, rate of the chip, n >= 512"),
        floor(1.7, lambda n: n >= 512, "device_over_bmm_floor", "kernels, rate of bmm, n >= 512"),
        target("error over 2x the float32 error of the twin + 3 eps", 1, False, [(errors(r), place(r)) for r in rows]),
    ]


def number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def op_table(record: dict) -> list[str]:
    """A table with an op in each line and a case in each column."""
    rows = step_rows(record, "ops")
    if not rows:
        return []
    lines = [f"  {'microseconds of the kernels':<28}" + "".join(f"{case_name(row['case']):>11}" for row in rows)]
    for name in rows[0]["ms"]:
        lines.append(f"  {name:<28}" + "".join(f"{1e3 * row['ms'][name]:>11.1f}" for row in rows))
    return ["", *lines]


def time_table(record: dict, step: str, title: str, key: str = "ms") -> list[str]:
    """A line for each row of a step that has times, with its case."""
    lines = []
    for row in step_rows(record, step):
        if key in row:
            place = [case_name(row["case"])] if "case" in row else [" x ".join(map(str, row["shape"]))]
            place += [str(row[k]) for k in ("op", "dtype") if k in row]
            found = ", ".join(f"{name} {value:.4g}" for name, value in row[key].items())
            lines.append(f"  {' '.join(place):<22}{found}"[:138])
    return ["", f"{title}", *lines] if lines else []


def other_tables(record: dict) -> list[str]:
    out = time_table(record, "scaling", "milliseconds of the kernels over sizes and batches")
    out += time_table(record, "overhead", "microseconds as called", "us")
    out += time_table(record, "overhead", "microseconds of a replayed graph", "graph_us")
    for step, title in {
        "steps": "milliseconds of the steps on large matrices",
        "shifts": "milliseconds of mpa on large matrices by the libraries",
        "shifts_blocked": "the same by sweeps in blocks",
        "cold": "milliseconds of the kernels with inputs in the cache and beyond it",
        "eigen": "milliseconds of roots by batched eigendecompositions",
        "layers": "milliseconds of layers in training, forward and backward",
    }.items():
        out += time_table(record, step, title)
    for row in step_rows(record, "build"):
        barriers = ", ".join(f"{count} take {used}" for used, count in row["kernels_with_barriers"].items())
        found = f"{row['kernels']} kernels, {row['spilled_bytes']} bytes spilled"
        out += ["", f"build for {row['arch']}: {found}; barriers: {barriers}"]
    return out


def choice_table(record: dict) -> list[str]:
    """Times and errors of the alternatives for the path for large matrices, and which depend on the batch."""
    rows = step_rows(record, "choices")
    lines = []
    for row in (row for row in rows if row["choice"] != "batch"):
        found = ", ".join(f"{name} {ms:.3g} ms ({row['error'][name]:.0e})" for name, ms in row["ms"].items())
        lines.append(f"  {row['choice']:<8}{row['dtype']:<8}{case_name(row['case']):>9}  {found}")
    batched = [row for row in rows if row["choice"] == "batch"]
    moved = [row for row in batched if row["difference"] != 0]
    if batched:
        worst = max(moved, key=lambda row: row["difference"], default=None)
        largest = (
            f", most {worst['op']} {worst['dtype']} n = {worst['case'][1]}: {worst['difference']:.0e}" if worst else ""
        )
        lines.append(f"  large matrices that depend on their batch: {len(moved)} of {len(batched)} cases{largest}")
    return ["", *lines] if lines else []


def summary(record: dict) -> str:
    out = ["", f"{record['gpu']}, commit {record['commit']}, {record['date']}", "", "steps"]
    for name, step in record["steps"].items():
        words = step.get("message") or ", ".join(
            f"{key} {step[key]}" for key in ("tests", "skipped", "cases") if key in step
        )
        out.append(f"  {name:<14}{step['status']:<15}{step['seconds']:6.1f} s  {words}"[:118])
    for test in record["steps"].get("tests", {}).get("failed_tests", [])[:20]:
        out.append(f"    {test.splitlines()[0]}"[:118])
    rows = method_rows(record)
    if rows:
        out += [
            "",
            "milliseconds as called and of the kernels alone; kernels' time over two floors; times faster than peers",
        ]
        columns = [
            "as called",
            "kernels",
            "over bmm",
            "over chip",
            *(name.split("_")[0] for name in PEERS),
            "error/twin",
        ]
        out.append(f"  {'B x n':<10}{'method':<9}{'mode':<18}" + "".join(f"{c:>11}" for c in columns))
    for row in rows:
        cells = [number(row["ms"], ".4f"), number(row["device_ms"], ".4f"), number(row["device_over_bmm_floor"]),
                 number(row["device_over_chip_floor"]), *(number(row["ratios"][peer], ".1f") for peer in PEERS),
                 number(row["error"] / row["twin_error"] if row["twin_error"] else None)]  # fmt: skip
        case = "{} x {}".format(*row["case"])
        out.append(f"  {case:<10}{row['method']:<9}{row['mode']:<18}" + "".join(f"{c:>11}" for c in cells))
    launches = step_rows(record, "launches")
    if launches:
        out += ["", "launches forward/backward by n"]
        for op, dtype in dict.fromkeys((row["op"], row["dtype"]) for row in launches):
            mine = [row for row in launches if (row["op"], row["dtype"]) == (op, dtype)]
            out.append(f"  {op:<13}{dtype:<9}" + "".join(f"{r['n']:>5}: {r['forward']}/{r['backward']}" for r in mine))
    out += op_table(record) + choice_table(record) + other_tables(record)
    out += ["", "targets (those of speed are an H200's, in float32)"]
    for t in record["targets"]:
        verdict = {True: "met", False: "MISSED", None: "not measured"}[t["met"]]
        found = f"worst {t['worst']:.3g} at {t['at']}" if t["worst"] is not None else ""
        partly = f", {t['not_measured']} not measured" if t["met"] is not None and t["not_measured"] else ""
        out.append(f"  {verdict:<13}{t['target']}, {t['limit']:g}: {found}{partly}".rstrip(": "))
    return "\n".join(out)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    names = [step.name for step in make_steps(Path())]
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="the steps of one part; default all")
    parser.add_argument("--only", action="append", choices=names, metavar="STEP", help=f"one of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=math.inf, help="for all steps together, from the first on")
    parser.add_argument("--output", type=Path, help="json file (default for a whole run: bench/results/<gpu>.json)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    start = time.monotonic()
    record = {
        "command": " ".join(["python -m bench.gpu_check", *(sys.argv[1:] if argv is None else argv)]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": git_commit(),
        "gpu": None,
        "steps": {},
        "targets": [],
    }
    output = options.output
    with tempfile.TemporaryDirectory() as scratch:
        for step in make_steps(Path(scratch) / "tests.xml"):
            if (options.only and step.name not in options.only) or (options.part and step.part != options.part):
                continue
            elapsed = time.monotonic() - start
            print(f"[{elapsed:5.0f} s] {step.name} ...", flush=True)
            result = record["steps"][step.name] = run_step(step, options.seconds - elapsed)
            words = f"{step.name}: {result['status']} {result.get('message', '')}"
            print(f"[{time.monotonic() - start:5.0f} s] {words}"[:200], flush=True)
            record["gpu"] = record["gpu"] or gpu_name(record)
            record["targets"] = find_targets(record)
            if not output and not options.only:
                part = f"-{options.part}" if options.part else ""
                output = RESULTS / f"{slug(record['gpu'])}{part}.json"
            if output:
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(json.dumps(record, indent=1) + "\n")
                output.with_suffix(".txt").write_text(summary(record) + "\n")
    print(summary(record))
    return int(any(step["status"] not in ("ok", "not available") for step in record["steps"].values()))


if __name__ == "__main__":
    sys.exit(main())
