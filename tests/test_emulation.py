"""The fused CUDA kernels of csrc/cuda, run on the host: every CUDA thread a fiber, every variant of every kernel.

tests/emulation builds three ways: plain, with ThreadSanitizer (a missing barrier is a data race) and with
AddressSanitizer (an index out of bounds). Two faults, switched on at run time, show that they find what they are for.
"""

import functools
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "emulation"
SOURCES = HERE.parent.parent / "csrc" / "cuda"
COMPILER = os.environ.get("CXX") or shutil.which("g++") or "g++"
FLAGS = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DFASTSQRTM_EMULATION"]
BUILDS = {
    "plain": [],
    "thread": ["-fsanitize=thread"],
    # Alignment: a vector access that is not aligned works on the host and faults on the device.
    "address": ["-fsanitize=address,alignment", "-fno-sanitize-recover=all"],
}
EVERY_SIZE = (1, 2, 3, 5, 8, 13, 16, 31, 32, 33, 48, 64)
# One size for each variant, some that fill it and some that do not.
FLOAT_VARIANTS = (7, 16, 31, 33, 64, 65, 90, 97, 113)
DOUBLE_VARIANTS = (8, 13, 32, 33, 64, 65, 89)
EVERY_OP = (
    "mpa_lya",
    "mpa_lya_inv",
    "mtp_lya",
    "mtp_lya_inv",
    "ns",
    "ns_inv",
    "sqrtm_lya_backward",
    "inv_sqrtm_lya_backward",
    "lyapunov",
    "mpa_backward",
    "mtp_backward",
    "mpa_inv_backward",
    "mtp_inv_backward",
    "ns_backward",
    "ns_inv_backward",
    "sqrtm",
    "inv_sqrtm",
    "sqrtm_and_inv",
    "sqrtm_backward",
    "inv_sqrtm_backward",
    "sqrtm_and_inv_backward",
    "lyapunov_newton",
)
# Between them they take every path through the kernels of the accurate ops.
ACCURATE = ("sqrtm_and_inv", "inv_sqrtm_backward", "sqrtm_and_inv_backward", "lyapunov_newton")
# The exact gradients of these inverse roots are those of the roots under another sign.
SANITIZED = [
    op for op in EVERY_OP if op not in ("mpa_inv_backward", "mtp_inv_backward", "sqrtm", "inv_sqrtm", "sqrtm_backward")
]


def _sanitizers_work(tmp_path):
    source = tmp_path / "probe.cpp"
    source.write_text("int main() { return 0; }")
    for flags in (BUILDS["thread"], BUILDS["address"]):
        program = tmp_path / "probe"
        built = subprocess.run([COMPILER, *flags, str(source), "-o", str(program)], capture_output=True, check=False)
        if built.returncode or subprocess.run([str(program)], capture_output=True, check=False).returncode:
            return False
    return True


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """build(name) -> the program of that build. All are compiled at once, because most of one is a single file."""
    directory = tmp_path_factory.mktemp("emulation")
    if shutil.which(COMPILER) is None or os.uname().sysname != "Linux" or not _sanitizers_work(directory):
        pytest.skip("needs a C++ compiler with sanitizers on Linux")

    def compiled(name, source):
        target = directory / f"{name}_{source}.o"
        # The reference is plain mathematics on the host: checking it would only take time.
        sanitize = [] if source == "reference" else BUILDS[name]
        includes = [f"-I{HERE}", f"-I{SOURCES}"]
        command = [COMPILER, *FLAGS, *sanitize, *includes, "-c", str(HERE / f"{source}.cpp"), "-o", str(target)]
        subprocess.run(command, check=True)
        return str(target)

    @functools.cache
    def make(name):
        program = directory / name
        parts = [part.result() for part in objects[name]]
        subprocess.run([COMPILER, *BUILDS[name], *parts, "-o", str(program)], check=True)
        return program

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = ("run_kernels", "run_large", "emulate", "emulation", "reference")
        objects = {name: [pool.submit(compiled, name, source) for source in sources] for name in BUILDS}
        yield make
        pool.shutdown(cancel_futures=True)


def run(program, *arguments):
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.parametrize("op", EVERY_OP)
def test_values(build, op):
    for dtype, sizes in (("float32", (*EVERY_SIZE, 77, 96, 100, 128)), ("float64", (*EVERY_SIZE, 79, 96))):
        status, text = run(build("plain"), "values", op, dtype, *sizes)
        assert status == 0, text
    for dtype in ("float16", "bfloat16"):
        status, text = run(build("plain"), "values", op, dtype, 5, 48)
        assert status == 0, text


@pytest.mark.parametrize("op", ["sqrtm_backward", *ACCURATE])
def test_ill_conditioned_matrices(build, op):
    for dtype, sizes in (("float32", (5, 13, 16, 33, 64, 100)), ("float64", (3, 16, 31, 48))):
        status, text = run(build("plain"), "hard", op, dtype, *sizes)
        assert status == 0, text


@pytest.mark.parametrize("op", [*ACCURATE, "ns", "ns_inv_backward"])
def test_sanitizers_find_nothing_where_neighbours_differ(build, op):
    """A matrix that needs a ridge, or never stops, beside others in the same warp that do not, or that do."""
    for kind in ("thread", "address"):
        status, text = run(build(kind), "answers", op, 7, 13, 31)
        assert status == 0, text


def test_manners(build):
    status, text = run(build("plain"), "manners")
    assert status == 0, text


@pytest.mark.parametrize("kind,sizes", [("plain", (5, 40, 65)), ("thread", (33,)), ("address", (33,))])
def test_path_for_large_matrices(build, kind, sizes):
    status, text = run(build(kind), "large" if kind == "plain" else "large_brief", *sizes)
    assert status == 0, text


@pytest.mark.parametrize("kind", ["thread", "address"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sanitizers_find_nothing(build, kind, dtype):
    program, sizes = build(kind), FLOAT_VARIANTS if dtype == "float32" else DOUBLE_VARIANTS
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for status, text in pool.map(lambda op: run(program, "values", op, dtype, *sizes), SANITIZED):
            assert status == 0, text


@pytest.mark.parametrize("op", ["mpa_lya", "lyapunov", "mpa_backward", "mtp_backward", "ns", "ns_backward"])
def test_a_missing_barrier_is_found(build, op):
    status, text = run(build("thread"), "seed_missing_barrier", "values", op, "float32", 31)
    assert status != 0 and "data race" in text, text


@pytest.mark.parametrize("op", EVERY_OP)
def test_an_index_out_of_bounds_is_found(build, op):
    status, text = run(build("address"), "seed_out_of_bounds", "values", op, "float32", 13)
    assert status != 0 and "heap-buffer-overflow" in text, text


def test_a_barrier_that_some_threads_skip_is_found(build):
    status, text = run(build("plain"), "skipped_barrier")
    assert status != 0 and "deadlock" in text, text


def test_more_than_2_to_the_31_elements(build):
    """Offsets of 64 bits, and more blocks than y and z of a grid hold."""
    status, text = run(build("plain"), "far")
    assert status == 0, text


def test_plans(build):
    status, text = run(build("plain"), "plans")
    assert status == 0, text
