"""The runner of other packages' suites replaces their functions everywhere, and reports what their tests did."""

import importlib
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm

import fastsqrtm
from fastsqrtm.testing import spd

sys.path.append(str(Path(__file__).resolve().parent.parent))  # at the end: an installed fastsqrtm goes first
from bench.peer_suites import main, plugin


@pytest.fixture
def calls():
    plugin.CALLS.clear()
    return plugin.CALLS


def test_ours_stands_in_for_tensors_and_arrays(calls):
    A = spd(4, batch=(2,), dtype=torch.float64)
    root = plugin.instead(lambda A: "theirs", fastsqrtm.sqrtm)
    both = plugin.instead(lambda A: "theirs", fastsqrtm.sqrtm_and_inv)
    assert torch.equal(root(A), fastsqrtm.sqrtm(A))
    assert np.array_equal(root(A.numpy()[..., ::-1, ::-1]), fastsqrtm.sqrtm(A.flip(-2, -1)).numpy())
    assert all(isinstance(x, np.ndarray) for x in both(A.numpy()))
    assert calls == {"ours": 3}


@pytest.mark.parametrize(
    "A",
    [
        torch.ones(3),
        torch.ones(2, 3),
        1j * torch.eye(2, dtype=torch.complex64),
        torch.full((2, 2), torch.nan),
        np.eye(2, dtype=int),
        np.eye(2) * 1j,
        np.full((2, 2), np.inf),
        [[1.0]],
    ],
    ids=str,
)
def test_what_ours_does_not_take_goes_to_the_peer(A, calls):
    assert plugin.instead(lambda A: "theirs", fastsqrtm.sqrtm)(A) == "theirs"
    assert calls == {"peer": 1}


@pytest.mark.parametrize("exponent", [0.3, np.float64(-2), torch.tensor(0.5)], ids=str)
def test_exponents_that_ours_takes(exponent, calls):
    A = spd(4, batch=(2,), dtype=torch.float64)
    power = plugin.instead(lambda A, alpha: "theirs", fastsqrtm.powm)
    expected = fastsqrtm.powm(A, float(exponent))
    assert torch.equal(power(A, exponent), expected) and torch.equal(power(A, alpha=exponent), expected)
    assert np.array_equal(power((1 + 0j) * A.numpy(), exponent), fastsqrtm.powm((1 + 0j) * A, float(exponent)).numpy())
    assert calls == {"ours": 3}


@pytest.mark.parametrize("exponent", [2.5, np.ones((3, 1)), torch.ones(2), torch.tensor(0.5).requires_grad_()], ids=str)
def test_exponents_that_go_to_the_peer(exponent, calls):
    assert plugin.instead(lambda A, alpha: "theirs", fastsqrtm.powm)(torch.eye(3), exponent) == "theirs"
    assert calls == {"peer": 1}


PACKAGES = {
    "pyriemann.geometry.base": {
        "sqrtm": fastsqrtm.sqrtm,
        "invsqrtm": fastsqrtm.inv_sqrtm,
        "powm": fastsqrtm.powm,
        "logm": fastsqrtm.logm,
        "expm": fastsqrtm.expm_sym,
    },
    "geoopt.linalg": {
        "sym_sqrtm": fastsqrtm.sqrtm,
        "sym_inv_sqrtm1": fastsqrtm.inv_sqrtm,
        "sym_inv_sqrtm2": plugin.inv_and_root,
        "sym_logm": fastsqrtm.logm,
        "sym_expm": fastsqrtm.expm_sym,
    },
    "spd_learn.functional": {
        "matrix_sqrt": fastsqrtm.sqrtm,
        "matrix_inv_sqrt": fastsqrtm.inv_sqrtm,
        "matrix_sqrt_inv": fastsqrtm.sqrtm_and_inv,
        "matrix_power": fastsqrtm.powm,
        "matrix_log": fastsqrtm.logm,
        "matrix_exp": fastsqrtm.expm_sym,
    },
}


@pytest.mark.parametrize(
    ("module", "name", "ours"), [(module, *pair) for module, pairs in PACKAGES.items() for pair in pairs.items()]
)
def test_ours_are_the_functions_of_the_packages(module, name, ours):
    pytest.importorskip(module.partition(".")[0])
    theirs = getattr(importlib.import_module(module), name)
    theirs = getattr(theirs, "apply", theirs)
    exponent = [0.3] * (ours is fastsqrtm.powm)
    A = spd(6, kappa=100, batch=(5,), dtype=torch.float64).requires_grad_()
    found = []
    for function in (theirs, ours):
        result = function(A, *exponent)
        results = torch.stack(result) if isinstance(result, tuple) else result
        (gradient,) = torch.autograd.grad(results.square().sum(), A)
        found.append((results.detach(), gradient / 2 + gradient.mT / 2))
    for expected, actual in zip(*found, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


def test_a_function_is_replaced_where_it_was_imported_by_name(monkeypatch):
    def root(A):
        return A

    modules = {name: types.ModuleType(name) for name in ("some_peer", "some_peer.means", "some_peer_of_another_name")}
    for name, module in modules.items():
        module.root, module.other = root, len
        monkeypatch.setitem(sys.modules, name, module)
    plugin._everywhere("some_peer", {root: abs})
    assert [module.root for module in modules.values()] == [abs, abs, root]
    assert all(module.other is len for module in modules.values())


TESTS = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2, "Max absolute difference: 1"
def test_not_here(): pytest.skip()
@pytest.mark.parametrize("n", [1, 2])
def test_both(n): pass
"""


@pytest.fixture
def run_suite(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "BUILD", tmp_path)

    def run_suite(text):
        (tmp_path / "checks").mkdir()
        (tmp_path / "checks" / "test_it.py").write_text(text)
        suite = main.Suite("none", "1", "elsewhere", folder="checks", files=("test_it.py",))
        with tqdm(total=200, disable=True) as bar:
            return main._run(Path(sys.executable), "OpInfo", suite, tmp_path, True, 120, bar)

    return run_suite


def test_a_suite_is_run_and_its_report_read(run_suite):
    result = run_suite(TESTS)
    assert (result["passed"], result["failed"], result["skipped"]) == (3, 1, 1)
    ((test, why),) = result["failures"].items()
    assert test == "checks.test_it::test_bad" and "Max absolute difference: 1" in why


def test_a_suite_that_does_not_start_is_an_error(run_suite):
    with pytest.raises(SystemExit, match="stopped with status 2"):
        run_suite("import a_module_that_nobody_has")


def test_tests_come_from_a_repository_at_the_release_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "BUILD", tmp_path / "build")
    source = tmp_path / "source"
    for text in ("old", "new"):
        for folder in ("package", "tests"):
            (source / folder).mkdir(parents=True, exist_ok=True)
            (source / folder / "test_it.py").write_text(text)
        git = ["git", "-C", str(source), "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", text], ["tag", text]):
            subprocess.run(git + command, check=True)
    suite = main.Suite("none", "1", "elsewhere", tag="old")
    folder = main._tests("peer", suite, f"file://{source}")
    assert [path.name for path in folder.iterdir()] == ["tests"]
    assert (folder / "tests" / "test_it.py").read_text() == "old"
    assert (main._tests("peer", suite, str(source)) / "tests" / "test_it.py").read_text() == "new"


def record(without: dict, with_ours: dict) -> dict:
    return {
        "date": "2000-01-02T",
        "torch": "9.9",
        "torch_isa": "AVX9",
        "threads": 1,
        "machine": {"cpu": "a CPU"},
        "suites": {
            "POT": {
                "version": "1",
                "tests": "a given folder",
                "without": {"passed": 7, "failures": without},
                "with": {"passed": 6, "failures": with_ours, "calls_of_ours": 5},
            }
        },
    }


def test_the_page_tells_failures_of_ours_from_those_of_the_peer():
    text = main.page(record({"a::old": "x"}, {"a::old": "x", "b::new": "it `differs`"}))
    assert "| POT | 1 | `sqrtm` of the NumPy and torch backends | 5 | 7 | 6 | 1 |" in text
    assert "- POT, `b::new`: `it 'differs'`" in text
    assert "Those of POT were given in a folder" in text
    assert "- POT, `a::old`: fails with ours too" in text
    assert "(../bench/results/a-cpu-avx9-1-threads-peers.json)" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120
    assert text.count("There are none.") == 0
    assert main.page(record({}, {})).count("There are none.") == 2


def test_one_suite_keeps_the_results_of_the_others(tmp_path, monkeypatch):
    failures, runs = {}, []

    def run_suite(python, name, suite, folder, ours, limit, bar):
        runs.append((name, ours))
        return {"passed": 1, "failures": failures if ours else {}, "calls_of_ours": 1}

    monkeypatch.setattr(main, "_result", lambda record: tmp_path / "a.json")
    monkeypatch.setattr(main, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(main, "_environment", lambda suites: Path(sys.executable))
    monkeypatch.setattr(main, "_tests", lambda *args: tmp_path)
    monkeypatch.setattr(main, "_run", run_suite)
    assert main.main(["--only", "geoopt"]) == 0
    failures["test_a"] = "why"
    assert main.main(["--only", "POT"]) == 1
    text = (tmp_path / "page.md").read_text()
    assert "| geoopt | 0.5.1 |" in text and "- POT, `test_a`: `why`" in text
    runs.clear()
    assert main.main(["--only", "POT", "--ours-only"]) == 1
    assert runs == [("POT", True)] and "--ours-only" in (tmp_path / "a.json").read_text()
    failures.clear()
    failures[f"test_gaussian::{main.EXPECTED[0][1]}"] = "DID NOT WARN"
    assert main.main(["--only", "POT"]) == 0


@pytest.mark.slow
def test_the_checks_of_torch_pass():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "bench.peer_suites.plugin"]
    command += ["-k", "squares or forward_mode or vmap", "bench/peer_suites/opinfo.py"]
    environment = main.os.environ | {"FASTSQRTM_IN_PLACE_OF": "OpInfo"}
    result = subprocess.run(command, cwd=main.run.ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "5 passed" in result.stdout
