"""The emulated kernels of csrc/cuda for tests: their builds, and how to run them.

tests/emulation/Makefile builds them plain, with ThreadSanitizer (a missing barrier is a data race), with
AddressSanitizer (an index out of bounds) and, where only tests that are not slow run, with two variants alone.
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
RECTANGULAR = ["qr", "qr_backward"]  # tests/emulation/rectangular.cpp tests them, the cases of the others are square
PASSES = [name for name in dict.fromkeys(FILES) if name not in RECTANGULAR]  # a file may hold several
BUILD = ROOT / "build" / "emulation"
COMPILER = os.environ.get("CXX", "g++")
EVERY_SIZE = (1, 2, 3, 4, 5, 8, 13, 16, 31, 32, 33, 48, 64)
# A size for threads with a matrix each and for each variant that a build has, some that fill it and some that do not.
VARIANTS = {
    "thread": {"float32": (3, 7, 16, 31, 33, 64, 90)},
    "address": {"float32": (3, 7, 16, 31, 33, 64, 65, 90, 97, 113), "float64": (4, 8, 13, 32, 33, 64, 65, 89)},
}
every_pass = pytest.mark.parametrize("name", PASSES)


def _sanitizers_work(directory):
    source, program = directory / "probe.cpp", directory / "probe"
    source.write_text("int main() { return 0; }")
    for kind in ("thread", "address"):
        command = [COMPILER, f"-fsanitize={kind}", str(source), "-o", str(program)]
        if subprocess.run(command, capture_output=True).returncode or subprocess.run([program]).returncode:
            return False
    return True


@pytest.fixture(scope="session", name="build")
def emulation_build(request, tmp_path_factory):
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
