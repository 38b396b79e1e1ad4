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
from bench import accurate, compare, large, qr, report, run, shampoo, sizes  # noqa: E402
from bench.paper import claims, studies, systems, training  # noqa: E402
from bench.paper import main as paper_main  # noqa: E402
from fastsqrtm import testing  # noqa: E402

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
        assert row["ours"][mode]["spread"] >= 0
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_operations_are_counted():
    """Table 2 of the paper, without the products with the identity, which Newton-Schulz does not need."""
    counted = {row["method"]: row["counted"] for row in studies.operation_counts(0.0)}
    assert counted["MTP-Lya"] == [[9, 0], [48, 0]]
    assert counted["MPA-Lya"] == [[4, 1], [48, 0]]
    assert counted["NS"] == [[12, 0], [38, 0]]
    assert counted["NS, autograd"] == [[12, 0], [24, 0]]


@pytest.mark.slow
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


@pytest.mark.slow
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


def made_up_record(**times):
    """A record of `python -m bench` with one case; times: mode -> (ms, in GEMMs, spread)."""
    measured = {
        mode.replace("_", "+"): {"time_ms": ms, "over_floor": gemms, "spread": spread}
        for mode, (ms, gemms, spread) in times.items()
    }
    row = {"case": [2, 8], "method": "mpa_lya", "ours": measured, "peers": {"eigh": {"forward": {"time_ms": 5.0}}}}
    return {"rows": [row], "machine": {"cpu": "one"}, "threads": 2, "dtype": "float32", "date": "today"}


@pytest.mark.parametrize(
    "forward, unit, status",
    [
        ((1.09, 3.0, 0.0), "ms", 0),  # within the threshold
        ((1.12, 3.0, 0.0), "ms", 1),
        ((1.12, 3.0, 0.03), "ms", 0),  # within the threshold and its own spread
        ((1.14, 3.0, 0.03), "ms", 1),
        ((1.50, 3.0, 0.0), "gemm", 0),  # the machine was slower, and so was its GEMM
        ((1.00, 3.4, 0.0), "gemm", 1),
    ],
)
def test_compare_finds_what_became_slower(tmp_path, capsys, forward, unit, status):
    records = {
        "old": made_up_record(forward=(1.0, 3.0, 0.0), forward_backward=(4.0, 3.0, 0.0)),
        "new": made_up_record(forward=forward, forward_backward=(2.0, 1.5, 0.0)),
    }
    for name, record in records.items():
        (tmp_path / name).write_text(json.dumps(record))
    assert compare.main([str(tmp_path / "old"), str(tmp_path / "new"), "--unit", unit]) == status
    lines = capsys.readouterr().out.splitlines()
    first, second = (line for line in lines if "2 x 8" in line)
    assert "forward 2 x 8" in first and "forward+backward 2 x 8" in second  # the worst first
    assert first.endswith("slower") == bool(status) and "0.500" in second
    assert f"slower by more than 10% beyond the spread: {status}" in lines
    mean = (forward[0] if unit == "ms" else forward[1] / 3.0) ** 0.5 * 0.5**0.5
    assert f"geometric mean of new / old: {mean:.3f} over 2 cases" in lines
    assert ("of the peers, which did not change: 1.000" in "\n".join(lines)) == (unit == "ms")


def test_compare_says_why_two_records_do_not_match(tmp_path, capsys):
    def message(old, new):
        for name, record in (("old", old), ("new", new)):
            (tmp_path / name).write_text(json.dumps(record))
        with pytest.raises(SystemExit) as stopped:
            compare.main([str(tmp_path / "old"), str(tmp_path / "new")])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    record = made_up_record(forward=(1.0, 3.0, 0.0))
    assert "under different conditions:\n  threads: 2 and 1" in message(record, {**record, "threads": 1})
    assert "of different kinds: the old one has 'rows', the new one 'speed'" in message(record, {"speed": []})
    assert "the new file is no record of timings" in message(record, {"degree_sweep": []})
    assert "no time of ours in common" in message(record, {**record, "rows": []})
    (tmp_path / "new").unlink()
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path / "old"), str(tmp_path / "new")])
    assert "No such file" in capsys.readouterr().err


def test_compare_reads_every_record_of_timings(tmp_path, capsys):
    """Compares each record in the tree, and one of a GPU, with itself."""
    records = {path.stem: json.loads(path.read_text()) for path in (ROOT / "bench" / "results").glob("*.json")}
    timings = {name: record for name, record in records.items() if {"rows", "speed", "steps"} & record.keys()}
    assert len(timings) >= 4  # those of the studies and of the candidates are none
    modes = {mode: {"time_ms": 1.0} for mode in ("forward", "forward+backward")}
    ours = {"case": [2, 8], "methods": {"mpa_lya": modes}}
    ops = {"case": [2, 8], "ms": {"bmm": 0.1, "mpa": 0.3}}
    timings["gpu"] = {"date": "today", "gpu": "one", "steps": {"ours": {"rows": [ours]}, "ops": {"rows": [ops]}}}
    for name, record in timings.items():
        path = tmp_path / name
        path.write_text(json.dumps(record))
        assert compare.main([str(path), str(path)]) == 0
        output = capsys.readouterr().out
        assert "geometric mean of new / old: 1.000" in output and "not compared" not in output, name
    assert "over 3 cases" in output  # of the GPU: two modes and an op; bmm is a peer


def test_the_tables_of_the_documents_are_those_of_the_record():
    record = json.loads(next((ROOT / "bench" / "results").glob("*-accurate.json")).read_text())
    assert accurate.performance_table(record) in (ROOT / "docs" / "performance.md").read_text()
    accuracy = (ROOT / "docs" / "guide" / "accuracy.md").read_text()
    assert accurate.accuracy_table(record) in accuracy
    assert accurate.tolerance_table(record) in accuracy


def test_the_frechet_record_has_errors_and_prints(monkeypatch, tmp_path, capsys):
    pytest.importorskip("scipy")
    from bench import frechet

    monkeypatch.setattr(frechet, "CASES", [(12, 5), (12, 40)])
    monkeypatch.setattr(frechet, "CHANNELS", 16)
    monkeypatch.setattr(frechet, "SIDE", 8)
    frechet.main(["--threads", "1", "--output", str(tmp_path / "record.json")])
    record = json.loads((tmp_path / "record.json").read_text())
    assert len(record["frechet"]) == 2 * 5
    for row in record["frechet"]:
        ours = not row["contender"].startswith(("eigenvalues", "scipy"))
        assert row["error"] < (1e-13 if ours else 1e-5), row
    assert [row["error of the covariance"] < 1e-3 for row in record["wct"]] == [True, True]
    assert "| 12 | 5 | of samples |" in capsys.readouterr().out


def test_sizes_next_to_their_floors(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sizes, "tell_malloc", lambda options: None)  # the other tests of this process go on as they are
    record = sizes.measure(0.001, [(64, 3), (4, 17)])
    (tmp_path / "a.json").write_text(json.dumps(record))
    sizes.main(["--from", str(tmp_path / "a.json")])
    printed = capsys.readouterr().out
    assert "| 64 x 3 |" in printed and "float64, n = 16 to 512: geometric mean" in printed
    assert (tmp_path / "a.png").stat().st_size > 10_000
    for row, floor in zip(record["sizes"], sizes.floors(record), strict=True):
        assert floor["forward"] >= row["ns"]["A + 1"] and floor["forward+backward"] >= 2.5 * row["ns"]["A + 1"]
        # No product of this run is faster than the rate of the floor.
        by_product = row["flops"]["forward"] / 2 * row["ns"]["product"]
        assert floor["forward"] <= max(by_product, row["ns"]["A + 1"]) * (1 + 1e-12)
        assert row["flops"]["forward+backward"] > row["flops"]["forward"] + 4
    of_docs = json.loads((run.ROOT / "bench/results/amd-epyc-avx512-2-threads-sizes.json").read_text())
    for table in sizes.tables(of_docs).split("\n\n"):
        assert table in (run.ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert [row["n"] for row in record["fresh"]] == [3, 3]
    assert {row["mode"] for row in record["host"]} == {"forward", "forward+backward"}
    assert {(row["op"], row["n"]) for row in record["paper"]} == {(op, 17) for op in sizes.PAPER}
    assert sizes.paper_table(record).count("\n") == 3
    assert all(row["us"] > 0.1 for row in record["host"])  # a call cannot be faster
    for row in record["sizes"]:  # on a busy machine the spread can hide anything
        row["spread"] = dict.fromkeys(row["spread"], 0.1)
    for row in record["host"]:
        row["spread"] = 0.1
    (tmp_path / "a.json").write_text(json.dumps(record))
    slower = json.loads(json.dumps(record))
    slower["sizes"][0]["ns"]["forward"] *= 10
    (tmp_path / "b.json").write_text(json.dumps(slower))
    assert compare.main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == compare.SLOWER
    assert compare.main([str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 0
    slower = json.loads(json.dumps(record))
    next(row for row in slower["host"] if row["function"] == "sqrtm")["us"] *= 10
    (tmp_path / "b.json").write_text(json.dumps(slower))
    assert compare.main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == compare.SLOWER


def test_the_contenders_of_shampoo_compute_the_same():
    A = testing.spd(9, 100.0, (2,))
    expected = testing.exact_sqrtm(A, -0.25)
    for name, function in shampoo.contenders(100.0).items():
        assert testing.relative_error(function(A), expected).max() < (1e-2 if "rtol" in name else 1e-4), name


@pytest.mark.usefixtures("two_threads")
def test_large_matrices_next_to_an_eigendecomposition(monkeypatch):
    record = large.measure([64], 0.001)
    assert all(value > 0 for row in record["times"] for value in row["ms"].values())
    assert large.table(record).count("| 64 | forward") == 2
    monkeypatch.setattr(large, "POWERS", [(*large.POWERS[0][:2], [9])])
    (power,) = large.measure_powers(0.001)
    assert power["n"] == 9 and all(value > 0 for value in power["ms"].values())
    records = list((run.ROOT / "bench/results").glob("*-large.json"))
    assert len(records) == 2
    design = (run.ROOT / "docs/design.md").read_text(encoding="utf-8")
    assert all(large.table(json.loads(path.read_text())) in design for path in records)


@pytest.mark.usefixtures("two_threads")
def test_qr_next_to_lapack():
    pytest.importorskip("scipy")
    record = qr.measure(0.001, [(64, 64, 64), (1, 6, 3)], [(64, 64, 64), (1, 40, 40)])
    found = qr.ratios(record)
    assert set(found[64, 64, 64]) == set(qr.MODES) and set(found[1, 40, 40]) == {"pivoted"}
    assert all(ratio > 0 for modes in found.values() for ratio in modes.values())
    assert qr.table(record).count("\n") == 1 + len(found) and "pivoted, n = 4 to 64" in qr.means(record)
    of_guide = json.loads((run.ROOT / "bench/results/intel-xeon-processor-avx512-2-threads-qr.json").read_text())
    assert qr.table(of_guide) in (run.ROOT / "docs/guide/qr.md").read_text(encoding="utf-8")
