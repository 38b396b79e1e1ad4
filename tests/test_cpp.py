"""C++ programs outside the repository, from an installed package and from a build tree, without Python at run time."""

import ctypes
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastsqrtm
import op_cases
from fastsqrtm._ops.native import native
from fastsqrtm._ops.table import OPS

ROOT = Path(__file__).parents[1]
HEADERS = ROOT / "csrc" / "include"


def find_program(name):
    return shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))


builds = pytest.mark.skipif(
    not native.loaded or not all(map(find_program, ("cmake", "ninja", "c++"))),
    reason=f"needs cmake, ninja, a compiler and the native library ({native.reason})",
)
cuda_torch = torch.version.cuda is not None and native.loaded and native.C.build_info()["cuda"] is not None


def run(*command, **kwargs):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def run_without_python(*command):
    return run(*command, env={"OMP_NUM_THREADS": "1"})


def build(source, directory, prefix, *options, targets=("all",)):
    cmake, ninja = find_program("cmake"), find_program("ninja")
    options = [f"-DCMAKE_PREFIX_PATH={prefix}", *options, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    run(cmake, "-S", source, "-B", directory, *options)
    run(cmake, "--build", directory, "--parallel", 2, "--target", *targets)
    return directory


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """CMAKE_PREFIX_PATH for a package that pip installed, not editable, and that was moved afterwards."""
    site = tmp_path_factory.mktemp("site")
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("pybind11") else []
    run(sys.executable, "-m", "pip", "install", "--no-deps", *isolation, "--target", site / "first", ROOT)
    (site / "first").rename(site / "moved to")
    program = "import fastsqrtm; print(fastsqrtm.cmake_prefix_path)"
    prefix = run(sys.executable, "-c", program, env=os.environ | {"PYTHONPATH": site / "moved to"}, cwd=site).strip()
    assert prefix.startswith(str(site / "moved to"))
    return prefix


@pytest.fixture(scope="session")
def libtorch(tmp_path_factory):
    """The torch of this environment as a plain libtorch: its headers, libraries and CMake files, nothing of Python."""
    directory = tmp_path_factory.mktemp("libtorch")
    for name in ("include", "lib", "share"):
        (directory / name).symlink_to(Path(torch.__file__).parent / name)
    return directory


@pytest.fixture(scope="session")
def compare(tmp_path_factory):
    """tests/cpp/compare.cpp as a program and as a library, with the package of this environment."""
    directory, prefix = tmp_path_factory.mktemp("compare"), fastsqrtm.cmake_prefix_path
    return build(ROOT / "tests" / "cpp", directory, prefix, targets=("compare", "compare_in_python"))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    run(sys.executable, ROOT / "examples" / "cpp" / "save_model.py", directory)
    return directory


@builds
@pytest.mark.slow
def test_an_op_without_a_rule_does_not_compile(tmp_path):
    line = 'OP(without_rule, "(Tensor A) -> Tensor", "nn -> nn", "")\n'
    table = (ROOT / "fastsqrtm" / "ops.def").read_text()
    (tmp_path / "ops.def").write_text(table.replace("OP(sqrtm,", f"{line}OP(sqrtm,", 1))
    (tmp_path / "program.cpp").write_text("#include <fastsqrtm/autograd.h>\n")
    torch_headers = Path(torch.__file__).parent / "include"
    paths = [f"-I{path}" for path in (HEADERS, tmp_path, torch_headers, torch_headers / "torch/csrc/api/include")]
    command = ["c++", "-std=c++20", "-fsyntax-only", *paths, tmp_path / "program.cpp"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "fastsqrtm/autograd.h has no RULE for this op of ops.def" in failed.stderr
    assert "RuleOf<fastsqrtm::signatures::without_rule>" in failed.stderr


@builds
def test_a_program_keeps_its_macros(tmp_path):
    """The headers use OP and PASS to read ops.def; a program may have macros of these names."""
    (tmp_path / "program.cpp").write_text(
        "#define OP 7\n#define PASS 8\n#include <fastsqrtm/signature.h>\nstatic_assert(OP == 7 && PASS == 8);\n"
    )
    table = f"-I{ROOT / 'fastsqrtm'}"
    run("c++", "-std=c++17", "-Werror", "-fsyntax-only", f"-I{HEADERS}", table, tmp_path / "program.cpp")


@builds
def test_the_lines_of_the_readme(tmp_path):
    """Takes the package installed here; the program is linked with --as-needed, Debian's default."""
    section = (ROOT / "README.md").read_text().partition("## From C++\n")[2].partition("\n## ")[0]
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL))
    assert len(blocks["cmake"].splitlines()) == 5
    (tmp_path / "CMakeLists.txt").write_text(blocks["cmake"])
    (tmp_path / "app.cpp").write_text(blocks["cpp"])
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    run("sh", "-ec", blocks["sh"], cwd=tmp_path, env=os.environ | {"PATH": path, "LDFLAGS": "-Wl,--as-needed"})
    app = tmp_path / "build" / "app"
    assert float(run_without_python(app).removeprefix("error ")) < 2e-6
    linked = run("ldd", app)
    assert "libfastsqrtm_cpu.so" in linked and "libpython" not in linked
    assert ("libfastsqrtm_cuda.so" in linked) == cuda_torch
    assert "not found" not in linked


@builds
@pytest.mark.parametrize("find_torch_first", [False, True])
def test_the_library_stays_in_a_program_that_calls_nothing(tmp_path, find_torch_first):
    """It registers the ops for saved models, and a linker that keeps only libraries with calls would drop it."""
    if find_torch_first and torch.version.cuda:
        pytest.skip("find_package(Torch) wants a whole CUDA toolkit")
    first = "find_package(Torch REQUIRED)\n" * find_torch_first
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.21)\nproject(empty CXX)\n{first}find_package(fastsqrtm CONFIG REQUIRED)\n"
        "add_executable(empty empty.cpp)\ntarget_link_libraries(empty fastsqrtm::fastsqrtm)\n"
    )
    (tmp_path / "empty.cpp").write_text("int main() {}\n")
    prefix = fastsqrtm.cmake_prefix_path
    directory = build(tmp_path, tmp_path / "build", prefix, "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed")
    run_without_python(directory / "empty")
    assert "libfastsqrtm_cpu.so" in run("ldd", directory / "empty")


@builds
def test_without_torch_the_message_tells_what_to_do(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(none CXX)\nfind_package(fastsqrtm CONFIG REQUIRED)\n"
    )
    prefix = fastsqrtm.cmake_prefix_path.split(";")[0]
    command = [find_program("cmake"), "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}"]
    failed = subprocess.run([*command, "-DFASTSQRTM_TORCH=/nowhere"], capture_output=True, text=True)
    assert failed.returncode != 0
    assert "fastsqrtm needs torch >= 2.11" in failed.stderr and "-DFASTSQRTM_TORCH=" in failed.stderr


@builds
@pytest.mark.slow
def test_the_examples(tmp_path, installed, models):
    sklearn = pytest.importorskip("sklearn")
    source = shutil.copytree(ROOT / "examples" / "cpp", tmp_path / "source")
    examples = build(source, tmp_path / "build", installed)
    data = Path(sklearn.__file__).parent / "datasets" / "data" / "breast_cancer.csv"
    assert "accuracy on 143 cases" in run_without_python(examples / "train_whitening", data)

    x = torch.load(models / "input.pt").requires_grad_()
    script = torch.jit.load(models / "whiten.pt")(x)
    (gradient,) = torch.autograd.grad(script.pow(3).sum(), x)
    compiled = torch._inductor.aoti_load_package(str(models / "whiten.pt2"))(x.detach())
    for suffix, expected in {"pt": (script, gradient), "pt2": (compiled,)}.items():
        output = tmp_path / "output.pt"
        run_without_python(examples / "run_model", models / f"whiten.{suffix}", models / "input.pt", output)
        found = torch.load(output)
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def results(name, inputs):
    out = getattr(torch.ops.fastsqrtm, name)(*inputs)
    return (out,) if isinstance(out, torch.Tensor) else out


def differentiable(name, values):
    return [x for x, has in zip(values, OPS[name].differentiable, strict=True) if has]


def compare_cases():
    torch.manual_seed(0)
    cases = {}
    for dtype in (torch.float32, torch.float64):
        for n in (1, 5, 16):
            for name in op_cases.OPS:
                inputs = op_cases.inputs(name, n, (2,), dtype=dtype)
                out = differentiable(name, results(name, inputs))
                cases[f"{name} {dtype} {n}"] = [*inputs, *map(torch.randn_like, (*out, *inputs))]
    return cases


def python_results(name, given):
    """The counterpart of `results` in tests/cpp/compare.cpp."""
    count = len(OPS[name].tensors)
    inputs = [x.requires_grad_() for x in given[:count]]
    out = results(name, inputs)
    found = differentiable(name, out)
    cotangents = [x.requires_grad_() for x in given[count : count + len(found)]]
    first = torch.autograd.grad(found, inputs, cotangents, create_graph=True, allow_unused=True)
    others = given[count + len(found) :]
    terms = [(x, (x * c).sum()) for x, c in zip(first, others, strict=True) if x is not None]
    total = functools.reduce(torch.add, [term for _, term in terms])
    second = torch.autograd.grad(total, [*inputs, *cotangents], allow_unused=True)
    return [x.detach() for x in (*out, *out, *(x for x, _ in terms), *second) if x is not None]


@builds
@pytest.mark.slow
@pytest.mark.parametrize("process", ["of its own", "of Python"])
def test_results_and_gradients_are_those_of_python_to_the_last_bit(tmp_path, compare, process):
    cases = compare_cases()
    torch.save(cases, tmp_path / "in.pt")
    if process == "of Python":
        library = ctypes.CDLL(compare / "libcompare_in_python.so")
        library.compare(os.fsencode(tmp_path / "in.pt"), os.fsencode(tmp_path / "out.pt"))
    else:
        run_without_python(compare / "compare", tmp_path / "in.pt", tmp_path / "out.pt")
    found = torch.load(tmp_path / "out.pt", weights_only=False)
    for name, given in cases.items():
        expected = python_results(name.split()[0], given)
        assert len(found[name]) == len(expected), name
        rounding = op_cases.CASES[name.split()[0]].rounding_in_cpp
        for a, b in zip(found[name], expected, strict=True):
            assert torch.equal(a, b) or (a - b).norm() <= rounding * b.norm(), name


@builds
@pytest.mark.slow
def test_the_tests_in_cpp_and_a_plain_install(tmp_path, libtorch):
    options = ("-DBUILD_TESTING=ON", "-DFASTSQRTM_CUDA=OFF", "-DFASTSQRTM_X86_ISAS=OFF", "-DCMAKE_BUILD_TYPE=Debug")
    build_tree = build(ROOT, tmp_path / "tree", libtorch, *options, targets=("fastsqrtm_cpu", "checks"))
    cache = (build_tree / "CMakeCache.txt").read_text()
    assert "FASTSQRTM_PYTHON:BOOL=OFF" in cache and "_Python" not in cache
    run(Path(find_program("cmake")).with_name("ctest"), "--test-dir", build_tree, "--output-on-failure", "-R", "checks")
    run(find_program("cmake"), "--install", build_tree, "--prefix", tmp_path / "first")
    prefix = (tmp_path / "first").rename(tmp_path / "moved")
    files = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_file()}
    cmake = {f"share/cmake/fastsqrtm/fastsqrtm{name}.cmake" for name in ("Config", "ConfigVersion", "Torch")}
    headers = {f"include/{path.relative_to(HEADERS)}" for path in HEADERS.rglob("*.h")} | {"include/fastsqrtm/ops.def"}
    assert files == {"lib/libfastsqrtm_cpu.so"} | headers | cmake
    # The other program of the C++ tests, through the moved prefix.
    source = shutil.copytree(ROOT / "tests" / "cpp", tmp_path / "source")
    run_without_python(build(source, tmp_path / "b", f"{prefix};{libtorch}", targets=("threads",)) / "threads")


@builds
@pytest.mark.slow
def test_eight_threads_under_the_thread_sanitizer(tmp_path, libtorch):
    """Each program has one torch thread: torch is not built for the sanitizer, and its pool would look like a race."""
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() {}\n")
    probed = subprocess.run(["c++", "-fsanitize=thread", probe, "-o", tmp_path / "probe"], capture_output=True)
    if probed.returncode or subprocess.run([tmp_path / "probe"], capture_output=True).returncode:
        pytest.skip("ThreadSanitizer does not work here")
    options = ["-DBUILD_TESTING=ON", "-DFASTSQRTM_CUDA=OFF", "-DFASTSQRTM_SANITIZE=thread"]
    options.append("-DFASTSQRTM_X86_ISAS=OFF")  # threads meet outside of the vectors
    directory = build(ROOT, tmp_path / "build", libtorch, *options, targets=("threads",))
    assert "8 threads, 0 results differ" in run_without_python(directory / "tests" / "cpp" / "threads")
