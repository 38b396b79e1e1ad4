"""``python -m bench peers``: run other packages' tests with our functions in place of theirs; write docs/peers.md.

Each suite runs twice, as it is and with ours. The packages are installed into build/peers/venv, which sees the packages
of the running Python behind them; the tests come from the packages' repositories at the release that is installed, and
stay in build/peers.
"""

import argparse
import json
import os
import re
import shutil
import site
import subprocess
import sys
import textwrap
import venv
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import fastsqrtm
from bench import run

BUILD = run.ROOT / "build" / "peers"
RESULTS = run.ROOT / "bench" / "results"
PAGE = run.ROOT / "docs" / "peers.md"


@dataclass(frozen=True)
class Suite:
    """A package at a release, and those of its tests that compute a root."""

    package: str
    version: str = ""
    repository: str = ""
    tag: str = ""
    folder: str = "tests"
    files: tuple[str, ...] = ()  # in the folder; all of it if empty
    options: tuple[str, ...] = ()
    replaced: str = ""


GEOMETRY = ("base", "distance", "geodesic", "kernel", "mean", "median", "tangentspace", "torch")
SUITES = {
    "pyRiemann": Suite(
        "pyriemann",
        "0.12",
        "https://github.com/pyRiemann/pyRiemann",
        "v0.12",
        files=(
            *(f"test_geometry_{name}.py" for name in GEOMETRY),
            *(f"test_{name}.py" for name in ("preprocessing", "sampling", "simulated", "tangentspace", "transfer")),
        ),
        replaced="`sqrtm`, `invsqrtm`, `powm`, `logm`, `expm`",
    ),
    "spd_learn": Suite(
        "spd_learn",
        "0.2.1",
        "https://github.com/spdlearn/spd_learn",
        "v0.2.1",
        options=("--ignore=tests/test_correctness.py",),  # trains on recordings that it downloads
        replaced="`matrix_sqrt`, `matrix_inv_sqrt`, `matrix_sqrt_inv`, `matrix_power`, `matrix_log`, `matrix_exp`",
    ),
    "geoopt": Suite(
        "geoopt",
        "0.5.1",
        "https://github.com/geoopt/geoopt",
        "v0.5.1",
        files=("test_manifold_basic.py", "test_rsgd.py", "test_siegel_distance.py"),
        options=(
            "-k",
            "spd or SymmetricPositiveDefinite or UpperHalf or BoundedDomain or real_pos_imag_pos",
        ),
        replaced="`sym_sqrtm`, `sym_inv_sqrtm1`, `sym_inv_sqrtm2`, `sym_logm`, `sym_expm`",
    ),
    "POT": Suite(
        "POT",
        "0.9.7.post1",
        "https://github.com/PythonOT/POT",
        "0.9.7.post1",
        folder="test",
        files=tuple(f"test_{name}.py" for name in ("backend", "da", "gaussian", "gmm", "ot", "utils")),
        replaced="`sqrtm` of the NumPy and torch backends",
    ),
    "OpInfo": Suite("torch", replaced="`torch.linalg.matrix_sqrth`, before torch 2.14 a root by `eigh`"),
}

# What failures say: for the page. Those in EXPECTED are none of ours, and the exit status does not count them.
REMARKS = {
    ("POT", "test_empirical_bures_wasserstein_mapping_numerical_error_warning"): (
        "It demands that the root of a rank-deficient covariance is NaN. Ours is finite, so this failure is right."
    ),
    ("spd_learn", "test_config_affects_operations"): (
        "It changes the package's own bound for small eigenvalues, which ours does not read."
    ),
    ("pyRiemann", "test_mean_riemann_check_raise"): (
        "It demands an error for singular matrices. Ours takes them as semidefinite, so this failure is right."
    ),
    ("pyRiemann", "test_mean_riemann_solution"): (
        "Its mean takes 500 steps of a size that goes to zero, so that nothing corrects what rounding adds up to, and "
        "must be right to 1e-12 absolute. Roots of complex matrices drift twice as far with ours."
    ),
}
EXPECTED = [
    ("POT", "test_empirical_bures_wasserstein_mapping_numerical_error_warning"),
    ("spd_learn", "test_config_affects_operations"),
    ("pyRiemann", "test_mean_riemann_check_raise"),
]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench peers", description=__doc__)
    parser.add_argument(
        "--only", choices=SUITES, action="append", help="this one, and keep the others' results; may be repeated"
    )
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME=PATH", help="a repository or folder that has the tests"
    )
    parser.add_argument(
        "--ours-only", action="store_true", help="run suites with ours alone, keep what they gave as they are"
    )
    parser.add_argument("--limit", type=float, default=900, help="seconds for one run of a suite (900)")
    parser.add_argument(
        "--from", dest="record", type=Path, metavar="JSON", help="write the page of this file; run none"
    )
    options = parser.parse_args(argv)
    if options.record:
        PAGE.write_text(page(json.loads(options.record.read_text())))
        return 0
    names = options.only or list(SUITES)
    sources = dict(source.split("=", 1) for source in options.source)
    python = _environment([SUITES[name] for name in names])
    given = {name for name, source in sources.items() if Path(source, SUITES[name].folder).is_dir()}
    chosen = [*(f"--only {name}" for name in options.only or ()), *["--ours-only"] * options.ours_only]
    command = " ".join(["python -m bench peers", *chosen])  # no local paths
    record = run.about({"threads": 1}) | {"command": command, "suites": {}}
    del record["input"]  # that of the benchmark
    with tqdm(total=200 * len(names), unit="%", file=sys.stderr) as bar:
        for name in names:
            suite = SUITES[name]
            folder = _tests(name, suite, sources.get(name, suite.repository)) if suite.repository else BUILD
            record["suites"][name] = {
                "version": suite.version or record["torch"],
                "tests": "a given folder" if name in given else suite.tag,
                "without": _suites_before(record)[name]["without"]
                if options.ours_only
                else _run(python, name, suite, folder, False, options.limit, bar),
                "with": _run(python, name, suite, folder, True, options.limit, bar),
            }
    print(table(record))
    if options.only:
        before = _suites_before(record)
        record["suites"] = {name: (before | record["suites"])[name] for name in SUITES if name in {*before, *names}}
    _result(record).write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(page(record))
    return int(any(not is_expected(name, test) for name in names for test in new_failures(record["suites"][name])))


def _environment(suites: list[Suite]) -> Path:
    """A Python that has the packages, and behind them those of this one, this package and the repository."""
    folder = BUILD / "venv"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    behind = [str(Path(fastsqrtm.__file__).parents[1]), *site.getsitepackages(), str(run.ROOT)]
    (packages / "behind.pth").write_text("\n".join(behind) + "\n")
    wanted = [f"{suite.package}=={suite.version}" for suite in suites if suite.version]
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *wanted, "pytest", "scikit-learn", "expecttest"], check=True
    )
    return python


def _tests(name: str, suite: Suite, source: str) -> Path:
    """A folder of the package's tests without the package itself, so that the installed one is tested."""
    target = BUILD / name
    if Path(source, suite.folder).is_dir():
        found = Path(source)
    else:
        found = BUILD / f"{name}-source"
        if not found.exists():
            clone = ("git", "clone", "--quiet", "--depth", "1", "--branch", suite.tag, source, str(found))
            subprocess.run(clone, check=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(found / suite.folder, target / suite.folder)
    return target


def _run(python: Path, name: str, suite: Suite, folder: Path, ours: bool, limit: float, bar: tqdm) -> dict:
    """Run a suite, and return how its tests went."""
    report = BUILD / f"{name}-{'with' if ours else 'without'}.xml"
    report.unlink(missing_ok=True)
    files = [f"{suite.folder}/{file}" for file in suite.files] or [suite.folder]
    if not suite.repository:
        files = [str(Path(__file__).with_name("opinfo.py"))]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "bench.peer_suites.plugin"]
    # The folder is below the repository, whose settings of pytest are not the suite's.
    command += [
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
        "--color=no",
        f"--junitxml={report}",
        *suite.options,
        *files,
    ]
    environment = os.environ | {
        "FASTSQRTM_IN_PLACE_OF": name if ours else "",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "PYTORCH_PRINT_REPRO_ON_FAILURE": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(run.ROOT), os.environ.get("PYTHONPATH")))),  # for the plugin
    }
    bar.set_description(f"{name} {'with ours' if ours else 'as it is'}")
    start, seen, calls, line = bar.n, 0, (0, 0), ""
    with subprocess.Popen(
        ["timeout", str(limit), *command], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE
    ) as process:
        for line in process.stdout:
            if percent := re.search(r"\[\s*(\d+)%\]$", line.rstrip()):
                bar.update(int(percent[1]) - seen)
                seen = int(percent[1])
            elif counts := re.match(r"calls of ours: (\d+), of the peer's: (\d+)", line):
                calls = (int(counts[1]), int(counts[2]))
    if process.returncode not in (0, 1):  # 1: tests failed; otherwise some did not even start
        raise SystemExit(f"the suite of {name} stopped with status {process.returncode}; its last line: {line!r}")
    bar.update(start + 100 - bar.n)
    return read_report(report) | {"calls_of_ours": calls[0], "calls_of_the_peer": calls[1]}


def read_report(path: Path) -> dict:
    """The counts of a junit file, and of each failure the test and the first line that says why."""
    counts, failures = {"passed": 0, "failed": 0, "skipped": 0}, {}
    for case in ElementTree.parse(path).iter("testcase"):
        failure = next((case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None)
        if failure is not None:
            counts["failed"] += 1
            lines = [line.strip() for line in failure.get("message", "").splitlines() if line.strip()]
            telling = [line for line in lines if re.search("differ|Warn|Error|NaN|nan", line)]
            failures[f"{case.get('classname')}::{case.get('name')}".lstrip(".")] = " ".join(telling[:2] or lines[:1])[
                :200
            ]
        elif case.find("skipped") is not None:
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    return counts | {"failures": failures}


def new_failures(suite: dict) -> dict[str, str]:
    """The tests that fail with ours alone, and why."""
    before = suite["without"]["failures"]
    return {test: why for test, why in suite["with"]["failures"].items() if test not in before}


def is_expected(name: str, test: str) -> bool:
    return any(name == suite and part in test for suite, part in EXPECTED)


def table(record: dict) -> str:
    rows = [
        "| suite | version | replaced functions | calls of ours | pass as is | pass with ours | fail only with ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, suite in record["suites"].items():
        counts = [suite["with"]["calls_of_ours"], suite["without"]["passed"], suite["with"]["passed"]]
        cells = [name, suite["version"], SUITES[name].replaced, *counts, len(new_failures(suite))]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def _result(record: dict) -> Path:
    return RESULTS / f"{run.machine_kind(record)}-peers.json"


def _suites_before(record: dict) -> dict:
    """Of the record of this machine, which another run may be changing."""
    return json.loads(_result(record).read_text())["suites"] if _result(record).exists() else {}


def page(record: dict) -> str:
    """docs/peers.md."""
    place = {"date": record["date"][:10], "torch": record["torch"], "cpu": record["machine"]["cpu"]}
    place = {"date": record["date"][:10], "torch": record["torch"], "cpu": record["machine"]["cpu"]}
    given = [name for name, suite in record["suites"].items() if suite["tests"] == "a given folder"]
    place["given"] = f" Those of {' and '.join(given)} were given in a folder (`--source`)." if given else ""
    introduction = _INTRODUCTION.format(record=_result(record).name, **place)
    ours = [
        f"{name}, `{test}`: {_remark(name, test, why)}"
        for name, suite in record["suites"].items()
        for test, why in new_failures(suite).items()
    ]
    theirs = [
        f"{name}, `{test}`: {'fails with ours too' if test in suite['with']['failures'] else 'passes with ours'}"
        for name, suite in record["suites"].items()
        for test in suite["without"]["failures"]
    ]
    parts = [
        "# Other packages' tests",
        *(_fill(paragraph) for paragraph in introduction.split("\n\n")),
        table(record),
        "## Tests that fail only with ours",
        "\n".join(_fill(f"- {item}") for item in ours) or "There are none.",
        "## Tests that fail as they are",
        "\n".join(_fill(f"- {item}") for item in theirs) or "There are none.",
    ]
    return "\n\n".join(parts) + "\n"


def _fill(text: str) -> str:
    indent = "  " * text.startswith("- ")
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _remark(name: str, test: str, why: str) -> str:
    remark = next((text for (suite, part), text in REMARKS.items() if suite == name and part in test), "")
    return f"{remark} " * bool(remark) + f"`{why.replace('`', chr(39))}`"


_INTRODUCTION = """\
You can use these packages with the roots, powers, logarithm and exponential of fastsqrtm: the table says how many of
their own tests pass then. Each suite ran as it is and once more with `sqrtm`, `inv_sqrtm`, `sqrtm_and_inv`, `powm`,
`logm` and `expm_sym`, without an `eps`, in place of the package's functions, on {date} with torch {torch} on the CPU
({cpu}). Integer and non-finite inputs, those that are not square or are complex and not Hermitian, and exponents
beyond 2, of a batch or with a gradient of their own went on to the package's own function. To repeat it:
`python -m bench peers`. It installs the packages into `build/peers` and takes their tests from their repositories, at
the release in the table ([record](../bench/results/{record})).{given}

For pyRiemann, geoopt and POT only tests that compute a root, a power or a logarithm ran (of geoopt's seven tests of
Siegel distances, one); for spd_learn all but a file that trains on recordings. The row OpInfo has the checks that torch
makes of its own operators, on the inputs of `torch.linalg.matrix_sqrth`: first and second derivatives in reverse and
forward mode, vmap and its compositions, fake tensors, tracing, non-contiguous inputs."""
