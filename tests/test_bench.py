"""The machinery of the benchmark; no test here looks at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end: an installed fastsqrtm stays in front of the sources

pytest.importorskip("tqdm")
from bench import accurate, report, run  # noqa: E402
from bench.paper import claims, studies, systems, training  # noqa: E402
from bench.paper import main as paper_main  # noqa: E402

SPEC = {"case": [2, 4], "methods": ["mpa_lya"], "peer": None, "dtype": "float32", "threads": 1, "seconds": 0.01}


class NoBar:
    def set_description(self, text): ...

    def update(self): ...


@pytest.fixture
def own_peers(tmp_path, monkeypatch):
    """A module with one peer that hangs and one that raises, found by the workers."""
    source = "import time\ndef hang(A):\n    time.sleep(3600)\ndef fail(A):\n    raise ValueError('not today')\n"
    (tmp_path / "own_peers.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_a_whole_run_writes_everything(tmp_path):
    pytest.importorskip("matplotlib")
    options = "--only 2x4 --methods mpa_lya --peers eigh --seconds 0.01 --threads 1"
    output = tmp_path / "result.json"
    command = [sys.executable, "-m", "bench", *options.split(), "--output", str(output), "--plot"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "mpa_lya, forward+backward" in done.stdout
    assert output.with_suffix(".png").stat().st_size > 10_000
    record = json.loads(output.read_text())
    for key in ("machine", "torch", "torch_isa", "backend", "threads", "commit", "date", "command", "input", "dtype"):
        assert record[key], key
    (row,) = record["rows"]
    assert row["case"] == [2, 4]
    for mode in ("forward", "forward+backward"):
        assert row["ours"][mode]["over_floor"] > 0
        assert row["peers"]["eigh"][mode]["ratio"] > 0
    assert row["ours"]["rounding"]["root_error"] < 1e-5
    assert row["peers"]["eigh"]["errors"]["gradient_error"] < 1e-4
    assert [s["worst_case"] for s in record["summary"]] == [[2, 4], [2, 4]]


def test_a_peer_that_hangs_is_killed(own_peers):
    answer = run.run_worker({**SPEC, "peer": "own_peers:hang"}, limit=4)
    assert answer == {"status": "timed out", "message": "killed after 4 s"}


def test_a_peer_that_fails_says_why(own_peers):
    answer = run.run_worker({**SPEC, "peer": "own_peers:fail"}, limit=60)
    assert answer == {"status": "failed", "message": "ValueError: not today"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_measured():
    answer = run.run_worker({**SPEC, "case": [64, 128], "memory": True}, limit=60)
    assert answer["status"] == "ok"
    assert answer["extra_bytes"] < 100e6


def test_a_run_goes_on_without_the_peer_that_hangs(monkeypatch, tmp_path):
    measured = {"time_ms": 1.0, "ours_ms": 0.5, "ratio": 2.0, "over_floor": 1.5}
    errors = {"root_error": 1e-2, "gradient_error": 1e-1}
    part = {"forward": measured, "forward+backward": measured, "errors": errors, "note": "remark"}

    def answer(spec, limit):
        if spec["peer"] == "paper":
            return {"status": "timed out", "message": "killed after 9 s"}
        return {"status": "ok", "mpa_lya": part, "cpu_of_others": 0.5}

    monkeypatch.setattr(run, "run_worker", answer)
    common = {"dtype": "float32", "threads": 2, "seconds": 1.0}
    cases = [(1, 8), (2, 64)]
    record = run.about(common) | run.run(cases, ["mpa_lya"], ["paper", "eigh"], common, 9.0, False, NoBar())
    record["summary"] = report.summarise(record)
    by_peer = {(s["peer"], s["mode"]): s for s in record["summary"]}
    assert by_peer["paper", "forward"]["geomean"] is None
    assert by_peer["paper", "forward"]["not_measured"] == cases
    assert by_peer["eigh", "forward"]["geomean"] == pytest.approx(2.0)
    text = report.tables(record)
    assert "1 x 8, paper: timed out, killed after 9 s" in text
    assert "1 x 8, eigh: remark" in text
    assert "1 x 8, ours: disturbed, other processes had 50%" in text
    assert max(map(len, text.splitlines())) <= 140

    pytest.importorskip("matplotlib")
    from bench import plot

    plot.draw(record, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()


def test_the_record_of_the_accurate_methods_prints_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    record = json.loads(next((ROOT / "bench" / "results").glob("*-accurate.json")).read_text())
    text = accurate.tables(record)
    for row in record["speed"]:
        assert f"{row['exact']['sqrtm']['ms']:.3f}" in text
    accurate.draw(record, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 50_000


def test_accurate_measures_what_it_runs():
    A, G = accurate.make(3, 8, 1e2)
    functions = {"sqrtm": accurate.sqrtm(), "rough": accurate.sqrtm(rtol=1e-1)}
    result = accurate.measure(functions, A, G, 0.001, "both")
    assert result["sqrtm"]["ratio"] == 1
    assert result["sqrtm"]["root_error"] < 1e-6 < result["rough"]["root_error"]
    assert accurate.equal_accuracy(A, G) <= 1e-4
    assert 10 <= accurate.flops(A, G) <= 30


def test_operations_are_counted():
    """Table 2 of the paper, less the products with the identity that Newton-Schulz does not need."""
    counted = {row["method"]: row["counted"] for row in studies.operation_counts(0.0)}
    assert counted["MTP-Lya"] == [[9, 0], [48, 0]]
    assert counted["MPA-Lya"] == [[4, 1], [48, 0]]
    assert counted["NS"] == [[12, 0], [38, 0]]
    assert counted["NS, autograd"] == [[12, 0], [24, 0]]


def test_the_studies_of_the_paper_measure_what_they_name():
    rows = {(r["method"], r["setting"]): r["error"] for r in studies.degree_sweep(0.0)}
    assert rows["MPA", 9] < rows["MPA", 5] < rows["MPA", 3] and rows["sqrtm", 0] < 1e-6
    errors = [r["error"] for r in studies.backward_sweep(0.0) if r["method"] == "Lyapunov"]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-5
    A, G = systems.covariances(2, 8)
    for name, system in systems.SYSTEMS.items():
        assert studies.gradient_error(system.root(), A, G) < 2, name
    curves = training.scalar(7)["curves"]
    assert curves["NS 5, solved"]["ratio"][3] == pytest.approx(9.07, rel=0.01)  # at x = 1e-3
    assert max(max(curves[f"{name}, solved"]["ratio"]) for name in ("MPA 5", "MTP 10")) < 1.62


def test_the_report_of_the_paper_is_made_from_its_record(tmp_path):
    pytest.importorskip("matplotlib")
    source = next((ROOT / "bench" / "results").glob("*-paper.json"))
    paper_main(["--from", str(source), "--output", str(tmp_path)])
    assert (tmp_path / "paper.md").read_text() == (ROOT / "docs" / "paper.md").read_text()
    for figure in ("figure-1", "figure-2", "ns-lya"):
        assert (tmp_path / "images" / "paper" / f"{figure}.png").stat().st_size > 30_000
    record = json.loads(source.read_text())
    assert record["commit"] and record["minutes"] < 10
    assert claims.converged(record, "NS-Lya (default)") == [True] * 3
    assert claims.converged(record, "NS-Lya as printed") == [False] * 3
