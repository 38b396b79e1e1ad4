"""The package as installed: the three states of the native library, and copies with equal contents."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import fastsqrtm
from fastsqrtm._ops.native import native
from fastsqrtm._ops.table import OPS

PACKAGE = Path(fastsqrtm.__file__).parent
ROOT = Path(__file__).parents[1]
needs_native = pytest.mark.skipif(not native.loaded, reason=f"native library: {native.reason}")

# The output of a program: how fastsqrtm was loaded, its warnings on import and on the first call, and a result.
PROGRAM = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastsqrtm, torch
    from fastsqrtm._ops.native import native
    torch.manual_seed(0)
    X = torch.randn(3, 20, 10, dtype=torch.float64)
    root = fastsqrtm.mpa_lya(X.mT @ X)
print(native.loaded, native.reason)
print("warnings:", sum("native library" in str(w.message) for w in caught))
print("checksum:", root.sum().item())
"""


def run_program(tmp_path, **environment):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("FASTSQRTM_")} | environment,
        capture_output=True,
        text=True,
    )


def checksum(result):
    assert result.returncode == 0, result.stderr
    return float(re.search(r"checksum: (\S+)", result.stdout)[1])


@pytest.fixture
def copied_package(tmp_path):
    """A copy of the package that precedes the installed one on the path."""
    shutil.copytree(PACKAGE, tmp_path / "fastsqrtm", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@needs_native
@pytest.mark.parametrize("name", OPS)
def test_schema_is_the_same_in_python_and_cpp(name):
    assert str(getattr(torch.ops.fastsqrtm, name).default._schema) == f"fastsqrtm::{name}{OPS[name].schema}"


def test_version_has_one_source():
    assert fastsqrtm.__version__ == version("fastsqrtm")
    if native.loaded:
        assert native.C.build_info()["version"] == fastsqrtm.__version__
    source = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f"\nversion: {source}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {source} - " in (ROOT / "CHANGELOG.md").read_text()


@needs_native
def test_build_info():
    info = native.C.build_info()
    assert info["torch_target"] == "2.11"
    assert re.fullmatch(r"\d+\.\d+\.\d+", info["torch_built_against"])
    assert info["python"] == sys.implementation.cache_tag
    assert native.C.cpu_capability() in info["isas"]
    assert info["cuda"] is None or info["cuda"]["archs"]


@needs_native
def test_scalars_of_the_methods():
    x = 0.7
    pade = native.C.pade_terms(6)
    assert 1 / 13 + sum(w * x / (x + t) for t, w in pade) == pytest.approx(x**0.5, rel=1e-9)
    for power in (0.5, -0.5):
        taylor = native.C.taylor_coefficients(60, power)
        assert len(taylor) == 61
        assert sum(c * (1 - x) ** k for k, c in enumerate(taylor)) == pytest.approx(x**power, rel=1e-14)
    for call in (lambda: native.C.pade_terms(0), lambda: native.C.taylor_coefficients(129, 0.5)):
        with pytest.raises(ValueError, match="degree must be"):
            call()


@needs_native
def test_matrices_left_over_are_shared_where_that_is_shorter():
    """By as many threads as have enough to do, and not where each can have a thread of its own."""
    expected = {
        (1, 128, 64): (1, 0, 1),
        (1, 320, 64): (0, 1, 9),
        (40, 320, 64): (40, 0, 9),
        (40, 2048, 64): (0, 40, 64),
        (72, 320, 64): (64, 8, 9),
        (5, 1024, 2): (4, 1, 2),
    }
    for (batch, n, threads), shared in expected.items():
        plan = native.C.plan(batch, n, 4, threads)
        assert (plan["alone"], plan["shared"], plan["team"]) == shared


@needs_native
def test_plan_accounts_for_every_matrix():
    for batch, n, threads in [(0, 5, 2), (1, 1, 4), (7, 64, 2), (3, 1024, 2)]:
        plan = native.C.plan(batch, n, 4, threads)
        assert plan["alone"] + plan["shared"] == batch
        assert plan["capability"] == native.C.cpu_capability()


def test_switched_off_gives_the_same_results(tmp_path):
    off = run_program(tmp_path, FASTSQRTM_NATIVE="0")
    assert "False the native library is switched off" in off.stdout
    assert checksum(off) == pytest.approx(checksum(run_program(tmp_path)), rel=1e-10)


@pytest.mark.slow
@needs_native
def test_every_instruction_set_gives_the_same_results(tmp_path):
    sums = [checksum(run_program(tmp_path, FASTSQRTM_CPU_CAPABILITY=isa)) for isa in native.C.build_info()["isas"]]
    assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-10)


def test_absent_library_is_no_error_unless_required(copied_package):
    shutil.rmtree(copied_package / "fastsqrtm" / "lib", ignore_errors=True)
    absent = run_program(copied_package, PYTHONPATH=".")
    checksum(absent)
    assert "False the native library is not built" in absent.stdout
    required = run_program(copied_package, PYTHONPATH=".", FASTSQRTM_REQUIRE_NATIVE="1")
    assert "ImportError: fastsqrtm: the native library is not built" in required.stderr


@needs_native
def test_broken_library_warns_once_and_says_what_and_how(copied_package):
    library = copied_package / "fastsqrtm" / "lib" / "libfastsqrtm_cpu.so"
    library.write_bytes(library.read_bytes()[:64])
    broken = run_program(copied_package, PYTHONPATH=".")
    checksum(broken)
    assert "warnings: 1" in broken.stdout
    for part in ("built for: torch >= 2.11", f"you have:  torch {torch.__version__}", "to fix:    pip install"):
        assert part in broken.stdout
    required = run_program(copied_package, PYTHONPATH=".", FASTSQRTM_REQUIRE_NATIVE="1")
    assert required.returncode != 0 and "to fix:" in required.stderr


@needs_native
def test_native_library_uses_the_stable_abi_only():
    """Every symbol taken from torch is a C function, or it would tie the library to one version of torch."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs nm")
    for library in (PACKAGE / "lib").glob("*.so"):  # libfastsqrtm_cuda.so where it is built
        listing = subprocess.run(
            [nm, "-D", "--undefined-only", "--demangle", library], check=True, capture_output=True, text=True
        ).stdout
        assert "aoti_torch" in listing
        assert not re.search(r"\b(at|c10|torch)::", listing)


@pytest.mark.slow
def test_pure_package_builds_without_a_compiler(tmp_path):
    source = tmp_path / "source"
    kept = shutil.ignore_patterns(".*", "build", "*.so", "lib", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=kept)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source],
        check=True,
        env=os.environ | {"FASTSQRTM_NATIVE": "OFF", "CXX": "false"},
    )
    (wheel,) = tmp_path.glob("fastsqrtm-*-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    headers = ROOT / "fastsqrtm" / "include"  # of an editable install
    for path in (ROOT / "fastsqrtm").rglob("*"):
        if path.suffix in (".py", ".def", ".typed") and headers not in path.parents:
            assert str(path.relative_to(ROOT)) in names
    assert not any(name.endswith(".so") for name in names)


@needs_native
@pytest.mark.skipif(
    native.loaded and not native.C.build_info()["cuda"] and os.environ.get("FASTSQRTM_CUDA") != "ON",
    reason="built without CUDA kernels",
)
def test_the_cuda_library_loads_where_there_is_no_gpu(tmp_path):
    program = f"""
import torch
from fastsqrtm._ops.native import load_cuda
assert load_cuda() is None, load_cuda()
for op in {list(OPS)}:
    assert torch._C._dispatch_has_kernel_for_dispatch_key("fastsqrtm::" + op, "CUDA"), op
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@needs_native
def test_the_plan_of_the_fused_kernels():
    """On 227 KB of shared memory n = 128 is fused in float32 and 96 in float64; the variant never follows the batch."""
    h200 = {"shared_per_block": 232448, "multiprocessors": 132}
    lyapunov = ("SqrtmLyaBackward", "InvSqrtmLyaBackward", "Lyapunov")
    for op in ("Mpa", "Mtp", "Ns", "MpaBackward", "MtpBackward", "NsBackward", *lyapunov):
        for element_bytes, largest in ((4, 128), (8, 96)):
            for n in (1, 2, 17, 64, largest):
                plans = [native.C.plan_cuda(op, batch, n, element_bytes, **h200) for batch in (1, 64, 100_000)]
                assert len({(p["kernel"], p["padded"], p["tile"]) for p in plans}) == 1
                assert all(p["padded"] >= n and p["shared_bytes"] <= 232448 and p["threads"] <= 1024 for p in plans)
                assert plans[-1]["blocks"] * plans[-1]["matrices_per_block"] >= 100_000
            assert native.C.plan_cuda(op, 8, largest + 1, element_bytes, **h200) == {"path": "library", "kernel": None}
    with pytest.raises(ValueError, match="no pass is called svd"):
        native.C.plan_cuda("svd", 1, 1, 4, **h200)


def test_a_source_that_needs_a_newer_torch_is_found(tmp_path):
    sys.path.append(str(ROOT / "build_tools"))
    import compile_against

    source = tmp_path / "a.cpp"
    source.write_text("#include <torch/a.h>\nint x = SINCE_YESTERDAY;\n")
    for torch_of, text in {"old": "", "new": "#define SINCE_YESTERDAY 1\n"}.items():
        header = tmp_path / torch_of / "torch/include/torch/a.h"
        header.parent.mkdir(parents=True)
        header.write_text(text)
    command = f"c++ -isystem {tmp_path}/new/torch/include -O1 -o a.o -c {source}"
    commands = [{"file": str(source), "command": command}, {"file": str(tmp_path / "b.cu"), "command": command}]
    for torch_of, works in (("new", True), ("old", False)):
        found = compile_against.checks(commands, tmp_path / torch_of / "torch", tmp_path)
        assert list(found) == ["a.cpp"]
        done = subprocess.run(found["a.cpp"], cwd=tmp_path, capture_output=True)
        assert (done.returncode == 0) == works
    assert not (tmp_path / "a.o").exists()
