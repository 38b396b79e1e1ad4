"""The machinery of `make gpu-check` on made-up output: how it reads and judges needs no GPU."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end: an installed fastsqrtm stays in front of the sources

from bench import gpu_build, gpu_check, gpu_times, gpu_worker  # noqa: E402
from bench.gpu_check import Outcome, Step  # noqa: E402
from fastsqrtm.testing import OPS, relative_error, spd  # noqa: E402


def python(program, limit=30.0, read=gpu_check.read_rows, name="step"):
    return Step(name, [sys.executable, "-c", program], limit, read)


def test_a_step_keeps_what_was_measured_before_its_limit():
    """Even if a grandchild keeps the output open."""
    program = (
        "import subprocess, sys, time; print('{\"n\": 1}', flush=True); print('{\"n\":', end='', flush=True);"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    start = time.monotonic()
    result = gpu_check.run_step(python(program), left=6)
    assert time.monotonic() - start < 30
    assert (result["status"], result["rows"]) == ("timed out", [{"n": 1}])


def test_a_step_that_fails_or_is_not_there():
    failed = gpu_check.run_step(python("raise ValueError('not today')"), left=60)
    assert (failed["status"], failed["message"]) == ("failed", "ValueError: not today")
    unreadable = gpu_check.run_step(python("pass", read=lambda outcome: 1 / 0), left=60)
    assert unreadable["message"].startswith("ZeroDivisionError")
    missing = Step("tool", ["no-such-program"], 30, gpu_check.read_rows)
    assert gpu_check.run_step(missing, left=60)["status"] == "not available"
    assert gpu_check.run_step(python("pass"), left=1)["status"] == "not run"
    part = 'print(\'{"case": [1, 2], "status": "failed", "message": "no memory"}\\n{"case": [2, 2]}\')'
    result = gpu_check.run_step(python(part), left=60)
    assert result["status"] == "failed"
    assert result["message"] == "1 cases failed, the first: no memory"
    assert len(result["rows"]) == 2


CASES = '{"n": 3, "ops": 7}\n{"complete": true}\n'
CLEAN = "========= COMPUTE-SANITIZER\n" + CASES + "========= ERROR SUMMARY: 0 errors\n"
NO_HAZARD = CASES + "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
WRITE = "========= Invalid __global__ write of size 4 bytes\n=========     at mpa_kernel+0x10\n"


@pytest.mark.parametrize(
    ("code", "output", "status"),
    [
        (0, CLEAN, "ok"),
        (0, NO_HAZARD, "ok"),
        (9, WRITE + CASES + "========= ERROR SUMMARY: 2 errors\n", "failed"),
        (0, WRITE + CASES + "========= ERROR SUMMARY: 1 error\n", "failed"),
        (0, CASES + "========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)\n", "failed"),
        (0, CASES, "failed"),  # the tool said nothing
        (0, CLEAN.replace('{"complete": true}', ""), "failed"),  # the program did not come to its end
        (1, CLEAN, "failed"),
        (None, '{"n": 3, "ops": 7}\n', "timed out"),
        (1, "========= Error: Device not supported. Please refer to the documentation\n", "not available"),
    ],
)
def test_sanitizer(code, output, status):
    result = gpu_check.read_sanitizer(Outcome(code, output, ""))
    assert result["status"] == status
    assert status == "ok" or result["message"]
    if output.startswith(WRITE):
        assert result["findings"][0] == "Invalid __global__ write of size 4 bytes"
        assert "SUMMARY" in result["message"]


def test_the_report_of_the_tests(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\ndef test_good(): ...\ndef test_bad(): assert 1 == 2\ndef test_none(): pytest.skip('two GPUs')\n"
    )
    report = tmp_path / "report.xml"
    read = gpu_check.read_tests(report)
    assert read(Outcome(None, "", ""))["status"] == "timed out"
    assert read(Outcome(0, "", ""))["status"] == "failed"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "--rootdir", str(tmp_path), str(tmp_path)]
    outcome = gpu_check.run_command(command, 60, {})
    result = read(outcome)
    assert (result["status"], result["tests"], result["failed"], result["skipped"]) == ("failed", 3, 1, 1)
    assert result["failed_tests"][0].startswith("test_bad: ")
    assert "two GPUs" in result["skipped_tests"][0]
    result = read(Outcome(0, "", ""))
    assert result["status"] == "ok"


@pytest.mark.slow
def test_the_tests_are_interrupted_at_their_limit(tmp_path):
    """Even if this process was started in the background, so that it ignores interrupts."""
    (tmp_path / "test_slow.py").write_text("import time\ndef test_good(): ...\ndef test_slow(): time.sleep(60)\n")
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "--rootdir", str(tmp_path), str(tmp_path)]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = gpu_check.read_tests(report)(gpu_check.run_command(command, 15, {}))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result["status"], result["failed"]) == ("timed out", 0)
    assert result["tests"] >= 1
    assert "killed at the time limit" in result["message"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize(("value", "code"), [("0", 0), ("1", 1)])
def test_fail_without_cuda(value, code):
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_cuda.py", "-k", "the_kernels_are_there"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, env={**os.environ, "FAIL_WITHOUT_CUDA": value},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    assert "torch finds no GPU" in done.stdout


def test_device_work_counts_what_the_device_ran():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.ones(3) + 1
    on_host = list(profile.events())
    assert on_host
    assert gpu_worker.device_work(on_host) == []
    kernel = SimpleNamespace(name="mpa_kernel", device_type=DeviceType.CUDA, is_user_annotation=False)
    fill = SimpleNamespace(name="Memset (Device)", device_type=DeviceType.CUDA, is_user_annotation=False)
    region = SimpleNamespace(name="region", device_type=DeviceType.CUDA, is_user_annotation=True)
    assert gpu_worker.device_work([*on_host, kernel, region, fill]) == ["mpa_kernel", "Memset (Device)"]


@pytest.mark.parametrize(
    ("case", "forward", "backward"),
    [((1, 64), 3.1, 23.8), ((64, 64), 3.1, 23.8), ((256, 64), 6, 47), ((256, 128), 50, 380), ((64, 256), 96, 737),
     ((16, 512), 192, 1470), ((4, 1024), 385, 2950)],
)  # fmt: skip
def test_floors_of_an_h200(case, forward, backward):
    """Microseconds, as the issue of the CUDA kernels has them."""
    assert gpu_worker.H200.floor_us(*case, "forward") == pytest.approx(forward, rel=0.04)
    both = gpu_worker.H200.floor_us(*case, "forward+backward")
    assert both == pytest.approx(forward + backward, rel=0.04)


def part(ratio):
    measured = {"time_ms": 0.05, "ours_ms": 0.05, "ratio": ratio, "over_floor": 2.0}
    errors = {"root_error": 2e-7, "gradient_error": 3e-7}
    return {
        "forward": measured,
        "forward+backward": measured,
        "errors": errors,
        "rounding": errors,
        "twin_rounding": errors,
    }


def record_of(ratio, backward_launches=1):
    """The record of a run in which the peer eigh did not run and one case had no graph."""
    device = {"device_ms": 0.04, "device_over_bmm_floor": 2.0, "device_over_chip_floor": 1.6}
    cases = [(1, 64), (256, 128), (4, 1024)]
    ours = [{"case": list(case), "status": "ok", "methods": {"mpa_lya": part(None)},
             "device": {"mpa_lya": {"forward": device, "forward+backward": device}}} for case in cases]  # fmt: skip
    del ours[2]["device"]
    paper = [{"case": list(case), "status": "ok", "methods": {"mpa_lya": part(ratio)}} for case in cases]
    launch = {
        "op": "mpa_lya",
        "dtype": "float32",
        "n": 64,
        "promised": True,
        "forward": 1,
        "backward": backward_launches,
    }
    ok = {"status": "ok", "seconds": 1.0}
    return {
        "gpu": "NVIDIA H200", "commit": "none", "date": "today",
        "steps": {
            "tests": {**ok, "status": "failed", "message": "1 of 9 failed", "failed_tests": ["test_a: bad\nvery"]},
            "launches": {**ok, "rows": [launch, {**launch, "n": 256, "promised": False, "forward": 9}]},
            "ours": {**ok, "rows": [*ours, {"nvidia_smi_after": {}}]},
            "paper": {**ok, "rows": paper},
            "eigh": {**ok, "status": "timed out", "message": "killed at its time limit", "rows": []},
            "ops": {**ok, "rows": [{"case": [1, 64], "ms": {"bmm": 0.004, "mpa": 0.012}}]},
            "build": {**ok, "rows": [
                {"arch": "9.0", "kernels": 3, "spilled_bytes": 0, "kernels_with_barriers": {1: 3}},
            ]},
            "layers": {**ok, "rows": [{"shape": [64, 48, 14, 14], "ms": {"BatchNorm2d": 0.25}}]},
            "choices": {**ok, "rows": [
                {"choice": "inverse", "case": [4, 1024], "dtype": "float64", "ms": {"potrf, potri": 1.5},
                 "error": {"potrf, potri": 1e-15}},
                {"choice": "batch", "case": [4, 1024], "dtype": "float32", "op": "mtp", "difference": 2e-7},
                {"choice": "batch", "case": [64, 192], "dtype": "float32", "op": "mpa", "difference": 0.0},
            ]},
        },
    }  # fmt: skip


def test_targets_and_summary():
    record = record_of(ratio=12.0, backward_launches=2)
    record["targets"] = gpu_check.find_targets(record)
    by_text = {t["target"]: t for t in record["targets"]}

    def met(start):
        (found,) = (t for text, t in by_text.items() if text.startswith(start))
        return found["met"]

    assert met("launches forward") is True
    assert met("launches backward") is False
    assert met("times faster than paper, forward + backward, n <= 64") is False
    assert met("times faster than paper, forward + backward, 256 x 128") is True
    assert met("times faster than eigh") is None
    assert met("time over floor (kernels, rate of the chip, n <= 128)") is True
    assert met("time over floor (kernels, rate of the chip, n >= 512)") is None
    assert met("error over 2x") is True
    text = gpu_check.summary(record)
    assert (
        "MISSED       times faster than paper, forward + backward, n <= 64, B <= 256, 20: worst 12 at mpa_lya 1 x 64"
        in text
    )
    assert "not measured times faster than eigh" in text
    assert "64: 1/2" in text
    assert "test_a: bad" in text
    assert "mpa                                12.0" in text
    assert "inverse float64  4 x 1024  potrf, potri 1.5 ms (1e-15)" in text
    assert "depend on their batch: 1 of 2 cases, most mtp float32 n = 1024: 2e-07" in text
    assert "64 x 48 x 14 x 14     BatchNorm2d 0.25" in text
    assert "build for 9.0: 3 kernels, 0 bytes spilled; barriers: 3 take 1" in text
    assert max(map(len, text.splitlines())) <= 140
    json.dumps(record)


def test_an_error_of_nan_is_not_met():
    record = record_of(ratio=30.0)
    errors = record["steps"]["ours"]["rows"][1]["methods"]["mpa_lya"]
    errors["rounding"] = {"root_error": float("nan"), "gradient_error": 1e-9}
    (found,) = (t for t in gpu_check.find_targets(record) if t["target"].startswith("error"))
    assert found["met"] is False
    assert found["at"] == "mpa_lya 256 x 128 forward"


def test_nothing_measured_is_nothing_met():
    record = {"gpu": "unknown gpu", "commit": "none", "date": "today", "steps": {}}
    record["targets"] = gpu_check.find_targets(record)
    assert {t["met"] for t in record["targets"]} == {None}
    assert gpu_check.summary(record).count("not measured") == len(record["targets"])


def test_a_whole_run_survives_its_steps(monkeypatch, tmp_path, capsys):
    answer = 'print(\'{"gpu": "NVIDIA H200 (test)"}\')'
    steps = [
        python(answer, name="environment"),
        python("raise SystemExit(3)", name="launches"),
        python(answer, name="eigh"),
    ]
    monkeypatch.setattr(gpu_check, "make_steps", lambda report: steps)
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path)
    assert gpu_check.main([]) == 1
    record = json.loads((tmp_path / "nvidia-h200-test.json").read_text())
    assert [step["status"] for step in record["steps"].values()] == ["ok", "failed", "ok"]
    assert record["gpu"] == "NVIDIA H200 (test)"
    for key in ("command", "date", "commit", "targets"):
        assert record[key], key
    assert (tmp_path / "nvidia-h200-test.txt").read_text() in capsys.readouterr().out
    assert gpu_check.main(["--only", "environment", "--output", str(tmp_path / "one.json")]) == 0
    assert list(json.loads((tmp_path / "one.json").read_text())["steps"]) == ["environment"]


def test_the_contenders_of_a_choice_compute_the_same():
    A = spd(20, 50, (3,))
    for name, run in gpu_worker.inverses(A).items():
        assert relative_error(run(), torch.linalg.inv(A.double())).max() < 1e-5, name
    high, low = gpu_worker.tf32_parts(A)
    assert torch.equal(high + low, A)
    assert high.view(torch.int32).bitwise_and((1 << 13) - 1).count_nonzero() == 0
    before = torch.backends.cuda.matmul.allow_tf32
    for name, run in gpu_worker.products(A, A).items():
        assert relative_error(run(), A.double() @ A.double()).max() < (1e-3 if name == "TF32" else 1e-6), name
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_arguments():
    assert gpu_check.parse(["--only", "memcheck", "--only", "paper"]).only == ["memcheck", "paper"]
    with pytest.raises(SystemExit):
        gpu_check.parse(["--only", "everything"])
    names = [step.name for step in gpu_check.make_steps(Path("report.xml"))]
    assert names[:5] == ["build", "environment", "smoke", "tests", "launches"]


@pytest.mark.parametrize("part", gpu_check.PARTS)
def test_no_step_of_a_part_takes_the_time_of_another(part):
    """Ten minutes are the most that one part may take."""
    limits = [step.limit for step in gpu_check.make_steps(Path("report.xml")) if step.part == part]
    assert limits
    assert sum(limits) <= 590


def test_every_step_is_a_part_of_its_program():
    programs = {"bench.gpu_worker": vars(gpu_worker), "bench.gpu_times": vars(gpu_times)}
    for step in gpu_check.make_steps(Path("report.xml")):
        for module in programs.keys() & set(step.command):
            name = step.command[step.command.index(module) + 1]
            assert callable(programs[module].get(name)) or name in ("ours", *gpu_check.PEERS), name


def test_one_part_alone(monkeypatch, tmp_path):
    steps = [python("print('{}')", name=part) for part in gpu_check.PARTS]
    steps = [dataclasses.replace(step, part=step.name) for step in steps]
    monkeypatch.setattr(gpu_check, "make_steps", lambda report: steps)
    assert gpu_check.main(["--part", "times", "--output", str(tmp_path / "times.json")]) == 0
    assert list(json.loads((tmp_path / "times.json").read_text())["steps"]) == ["times"]


def test_a_machine_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert gpu_check.git_commit() == "none"


PTXAS = """
ptxas info    : Function properties for a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 95 registers, used 6 barriers, 1316 bytes cmem[0]
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers
ptxas info    : Used 40 registers, used 1 barriers
"""


def test_the_report_of_a_build():
    found = gpu_build.report(PTXAS)
    assert found == {"kernels": 3, "kernels_with_barriers": {1: 2, 6: 1}, "most_registers": 168, "spilled_bytes": 12}
    configure, compile_all, install = gpu_build.commands("9.0", Path("there"))
    assert "-DFASTSQRTM_CUDA_ARCHS=9.0" in configure
    assert compile_all[:3] == ["cmake", "--build", "there"]
    assert install[-1] == str(ROOT / "fastsqrtm")


NCU = """{"complete": true}
"ID","Kernel Name","gpu__time_duration.sum","launch__occupancy_limit_barriers"
"","","nsecond","block"
"0","void pass_kernel<Mpa, Variant<float, 4, 5>>(Arguments)","12,345.5","10"
"1","other","7","8"
"""


def test_the_metrics_of_a_profiler():
    found = gpu_check.read_metrics(Outcome(0, NCU, ""))
    assert found["status"] == "ok"
    (row,) = found["rows"]
    assert row.pop("kernel").startswith("void pass_kernel<Mpa")
    assert row == {"ns": 12345.5, "blocks by barriers": 10.0}
    assert gpu_check.read_metrics(Outcome(0, "", ""))["status"] == "failed"
    assert gpu_check.read_metrics(Outcome(1, "==ERROR== ERR_NVGPUCTRPERM", ""))["status"] == "not available"


SMOKE = """
import json, os, sys, time
name = sys.argv[1]
row = {"op": name, "dtype": "float32", "n": 5, "batch": 3}
print(json.dumps({**row, "status": "begun"}), flush=True)
if name == "mpa": os.abort()
if name == "mtp": time.sleep(60)
print(json.dumps({**row, "status": "ok"}))
"""


def test_a_crash_and_a_hang_are_those_of_one_op(monkeypatch):
    monkeypatch.setattr(gpu_worker, "OPS", ["mpa", "mtp", "ns"])
    rows = list(gpu_worker.smoke((sys.executable, "-c", SMOKE), limit=5))
    assert [(row["op"], row["status"]) for row in rows] == [("mpa", "failed"), ("mtp", "failed"), ("ns", "ok")]
    assert rows[0]["message"] == "mpa at float32 n = 5 batch = 3: exit status -6"
    assert rows[1]["message"] == "mtp at float32 n = 5 batch = 3: not done after 5 s"


def test_inputs_made_on_the_device():
    A = gpu_worker.spd_on("cpu", 64, 3, torch.float64, seed=1)
    values = torch.linalg.eigvalsh(A)
    assert A.shape == (3, 64, 64)
    assert torch.equal(A, A.mT)
    assert 3 < (values[:, -1] / values[:, 0]).max() < 8
    for name in OPS:
        inputs = gpu_worker.op_inputs(name, 5, 2, torch.float32, "cpu")
        getattr(torch.ops.fastsqrtm, name)(*inputs)


def test_what_is_timed_runs():
    A = spd(20, 50, (3,))
    for name, root in gpu_times.eigen_roots(A, wait=lambda: None).items():
        S = torch.as_tensor(root()).double()
        assert relative_error(S @ S, A.double()).max() < 1e-4, name
    for name, step in gpu_times.training_steps((2, 16, 6, 6), "cpu").items():
        assert all(x.isfinite().all() for x in step()), name
