"""The kernels of csrc/cuda, run on the host: every CUDA thread a fiber, every variant of every pass.

tests/emulation/Makefile builds them plain, with ThreadSanitizer (a missing barrier is a data race), with
AddressSanitizer (an index out of bounds) and, where only tests that are not slow run, with two variants alone. Two
faults, switched on at run time, show that the sanitizers find such faults.
"""

import fcntl
import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = re.findall(r"^PASS\(\w+, (\w+)\)", (ROOT / "fastsqrtm" / "ops.def").read_text(), re.M)
PASSES = list(dict.fromkeys(FILES))  # a file may hold several
BUILD = ROOT / "build" / "emulation"
COMPILER = os.environ.get("CXX", "g++")
EVERY_SIZE = (1, 2, 3, 5, 8, 13, 16, 31, 32, 33, 48, 64)
# One size for each variant, some that fill it and some that do not.
VARIANTS = {"float32": (7, 16, 31, 33, 64, 65, 90, 97, 113), "float64": (8, 13, 32, 33, 64, 65, 89)}
every_pass = pytest.mark.parametrize("name", PASSES)


def _sanitizers_work(directory):
    source, program = directory / "probe.cpp", directory / "probe"
    source.write_text("int main() { return 0; }")
    for kind in ("thread", "address"):
        command = [COMPILER, f"-fsanitize={kind}", str(source), "-o", str(program)]
        if subprocess.run(command, capture_output=True).returncode or subprocess.run([program]).returncode:
            return False
    return True


@pytest.fixture(scope="session")
def build(request, tmp_path_factory):
    """build(kind) -> the program of that build, made at its first use, by one process at a time."""
    # The plain build has all of the quick one and is made for the slow tests.
    instead = {"quick": "plain"} if any(item.get_closest_marker("slow") for item in request.session.items) else {}

    if shutil.which("make") is None or shutil.which(COMPILER) is None or os.uname().sysname != "Linux":
        pytest.skip("needs make and a C++ compiler on Linux")
    if not _sanitizers_work(tmp_path_factory.mktemp("probe")):
        pytest.skip("needs a C++ compiler with sanitizers")

    @functools.cache
    def make(kind):
        kind = instead.get(kind, kind)
        BUILD.mkdir(parents=True, exist_ok=True)
        with open(BUILD / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            command = ["make", "-s", f"-j{os.cpu_count()}", "-C", ROOT / "tests" / "emulation", kind]
            done = subprocess.run([*command, f"BUILD={BUILD}", f"CXX={COMPILER}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return BUILD / kind / "emulate"

    return make


def run(program, *arguments):
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout[-4000:] + done.stderr[-4000:]


def passes(program, *arguments):
    status, text = run(program, *arguments)
    assert status == 0, text


@every_pass
def test_every_pass_by_every_path(build, name):
    """In float32, where teams share a warp and where they are whole warps. The slow tests have the rest."""
    passes(build("quick"), "values", name, "float32", 13, 33)
    passes(build("quick"), "singular", name, "float32", 13, 33)
    passes(build("quick"), "large_brief", name, 20)
    passes(build("quick"), "large_singular", name, "float32", 5)


@pytest.mark.slow
@every_pass
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_values(build, name, dtype):
    sizes = {"float32": (*EVERY_SIZE, 77, 96, 100, 128), "float64": (*EVERY_SIZE, 79, 96)}.get(dtype, (5, 48))
    passes(build("plain"), "values", name, dtype, *sizes)


@pytest.mark.slow
@every_pass
def test_ill_conditioned_matrices(build, name):
    """Runs the accurate passes; the others skip it."""
    passes(build("plain"), "hard", name, "float32", 5, 13, 16, 33, 64, 100)
    passes(build("plain"), "hard", name, "float64", 3, 16, 31, 48)


@pytest.mark.slow
@every_pass
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_singular_and_indefinite_matrices(build, name, dtype):
    """Runs the accurate roots and their gradients; the others skip it."""
    sizes = {"float32": (1, 2, 3, 5, 16, 33, 64, 96, 128), "float64": (1, 2, 3, 5, 16, 33, 64, 96)}.get(dtype, (5, 33))
    passes(build("plain"), "singular", name, dtype, *sizes)
    passes(build("plain"), "large_singular", name, dtype, 2, 5, 34)


@pytest.mark.slow
@every_pass
def test_manners(build, name):
    passes(build("plain"), "manners", name)


@pytest.mark.slow
@every_pass
def test_path_for_large_matrices(build, name):
    passes(build("plain"), "large", name, 5, 40, 65)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "address"])
@every_pass
def test_sanitizers_find_nothing(build, kind, name):
    """Every variant of the kernel, and the path for large matrices."""
    for dtype, sizes in VARIANTS.items():
        passes(build(kind), "brief", name, dtype, *sizes)
    passes(build(kind), "singular", name, "float32", 13, 33)
    passes(build(kind), "large_brief", name, 33)
    passes(build(kind), "large_singular", name, "float32", 17)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "address"])
@every_pass
def test_sanitizers_find_nothing_where_neighbours_differ(build, kind, name):
    """A matrix that needs a second attempt, or never stops, shares a warp with others that do not, or that do.

    Runs the passes whose loops follow the matrix; the others skip it."""
    passes(build(kind), "neighbours", name, 7, 13, 31)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mpa", "lyapunov", "mpa_backward", "mtp_backward", "ns", "ns_backward"])
def test_a_missing_barrier_is_found(build, name):
    status, text = run(build("thread"), "seed_missing_barrier", "values", name, "float32", 31)
    assert status != 0 and "data race" in text, text


@pytest.mark.slow
@every_pass
def test_an_index_out_of_bounds_is_found(build, name):
    for way in run(build("address"), "names", name)[1].split():
        status, text = run(build("address"), "seed_out_of_bounds", "values", way, "float32", 13)
        assert status != 0 and "heap-buffer-overflow" in text, text


def test_a_barrier_that_some_threads_skip_is_found(build):
    status, text = run(build("quick"), "skipped_barrier")
    assert status != 0 and "deadlock" in text, text


@pytest.mark.slow
@every_pass
def test_more_than_2_to_the_31_elements(build, name):
    """Needs offsets of 64 bits, and more blocks than y and z of a grid hold."""
    passes(build("plain"), "far", name)


def test_plans(build):
    passes(build("quick"), "plans")
