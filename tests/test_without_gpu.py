"""GPU tensors without a GPU: a build that has no code for the chip, and the empty batch.

The dispatcher treats OnCuda tensors as those of a GPU; torch's own ops compute them on the CPU.
"""

import importlib
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import fastsqrtm
import op_cases
from fastsqrtm import testing
from fastsqrtm._ops import native as library
from fastsqrtm._ops import register
from fastsqrtm._ops.native import has_code_for, native

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


@pytest.mark.parametrize(
    ("chip", "archs", "runs"),
    [
        ("8.6", "8.0 8.6 9.0", True),  # real code of its own
        ("8.9", "8.0 9.0", True),  # of a smaller minor version
        ("8.0", "8.6 9.0", False),  # of a larger one only
        ("7.5", "8.0 9.0", False),
        ("8.6", "7.5 9.0", False),  # between two
        ("10.3", "8.0 9.0", True),  # PTX of 9.0
        ("10.0", "9.0 10.3", False),
        ("12.1", "7.5 8.0 8.6 8.9 9.0 10.0 12.0", True),
        ("10.0", "9.0", True),  # versions are numbers: 10 comes after 9
        ("9.0", "10.0", False),
        # PTX is that of the last one named, which need not be the newest.
        ("8.6", "9.0 8.0", True),
        ("10.0", "9.0 8.0", True),
        ("7.5", "9.0 8.0", False),
        ("8.9", "12.0 9.0 7.5", True),
        ("11.0", "9.0 12.0", False),
        ("11.0", "12.0 9.0", True),
        # Integrated GPUs.
        ("8.7", "8.0 8.6 9.0", False),
        ("8.7", "8.0 8.7 9.0", True),
        ("8.9", "8.7 9.0", False),
        ("8.7", "8.0", True),  # by PTX
    ],
)
def test_which_chips_a_build_runs_on(chip, archs, runs):
    major, minor = chip.split(".")
    assert has_code_for((int(major), int(minor)), archs.split()) is runs


class OnCuda(torch.Tensor):
    """A tensor that says it is on a GPU; its numbers are in `x`, on the CPU."""

    @staticmethod
    def __new__(cls, x):
        made = torch.Tensor._make_wrapper_subclass(cls, x.shape, strides=x.stride(), dtype=x.dtype, device="cuda:0")
        made.x = x
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of WithoutGPU")

    def __getitem__(self, index):  # Tensor's own asks the driver for the device; WithoutGPU wraps the result
        return self.x[index]

    def __setitem__(self, index, value):
        self.x[index] = value.x

    def contiguous(self):  # the same, where it has to copy
        return self if self.is_contiguous() else self.x.contiguous()


class WithoutGPU(TorchDispatchMode):
    """Ops of torch compute OnCuda tensors on the CPU. Ours go where the dispatcher sends tensors of a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastsqrtm":
            with self:
                return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *args)
        args, kwargs = tree_map_only(OnCuda, lambda t: t.x, (args, kwargs or {}))
        args, kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
        return tree_map_only(torch.Tensor, OnCuda, func(*args, **kwargs))


@pytest.fixture
def gpus(monkeypatch):
    """gpus(archs, chips): a build for these architectures among GPUs of these capabilities, nothing reported yet.

    Returns the list of libraries that were tried; none loads.
    """
    if not native.loaded:
        pytest.skip(f"what is built is a property of the native library: {native.reason}")
    tried = []

    def load(path):
        tried.append(path.name)
        raise OSError("not here")

    def make(archs, *chips):
        monkeypatch.setattr(native.C, "build_info", lambda: {"cuda": {"archs": archs.split()}})
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(chips))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: chips[i])
        monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)  # torch.eye(device="cuda") wants it
        monkeypatch.setattr(torch.ops, "load_library", load)
        monkeypatch.setattr(register, "_reported", set())
        monkeypatch.setenv("FASTSQRTM_FALLBACK", "warn")
        library.load_cuda.cache_clear()
        return tried

    yield make
    library.load_cuda.cache_clear()


@no_gpu
@pytest.mark.parametrize(
    ("chips", "tries", "reason"),
    [
        ([(7, 5)], 0, "built for 8.0, 9.0, but GPU 0 is 7.5"),
        ([(9, 0), (7, 5)], 0, "built for 8.0, 9.0, but GPU 1 is 7.5"),
        ([(8, 6), (10, 0)], 1, "the CUDA library does not load: not here"),
    ],
)
def test_a_chip_without_code_takes_the_twins_with_one_warning(gpus, chips, tries, reason):
    tried = gpus("8.0 9.0", *chips)
    A = testing.spd(5, batch=(2,))
    calls = {name: op_cases.inputs(name, 5, (2,)) for name in op_cases.OPS}
    with warnings.catch_warnings(record=True) as caught, WithoutGPU():
        warnings.simplefilter("always")
        results = {
            name: getattr(torch.ops.fastsqrtm, name)(*map(OnCuda, inputs))
            for name, inputs in calls.items()
            for _ in range(2)
        }
    assert [str(warning.message) for warning in caught] == [
        f"fastsqrtm: no native kernels for cuda tensors ({reason}): using the slower pure-torch path"
    ]
    for name, output in results.items():
        expected = testing.results(testing.twin(name)(*calls[name]))
        for result, twin in zip(testing.results(output), expected, strict=True):
            assert result.is_cuda
            assert torch.equal(result.x, twin)
    assert len(tried) == tries
    plan = fastsqrtm.plan(OnCuda(A))
    assert (plan.path, plan.reason) == ("reference", reason)


@no_gpu
@pytest.mark.usefixtures("native_only")
@pytest.mark.parametrize(("n", "path"), [(64, "block"), (512, "library")])
def test_plan_of_a_chip_with_code(monkeypatch, n, path):
    """An H200, as far as a plan asks for one."""
    h200 = types.SimpleNamespace(shared_memory_per_block_optin=232448, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: h200)
    monkeypatch.setattr(importlib.import_module("fastsqrtm.plan"), "load_cuda", lambda: None)
    plan = fastsqrtm.plan(OnCuda(torch.empty(8, n, n)))
    assert (plan.path, plan.cpu, plan.reason) == (path, None, None)
    for kernel in (plan.forward, plan.backward):
        assert kernel is None if path == "library" else kernel.padded >= n and kernel.blocks > 0
    assert str(plan).startswith(f"path {path}; 3 poles")


@no_gpu
def test_a_chip_without_code_can_be_an_error(gpus, monkeypatch):
    gpus("8.0 9.0", (7, 5))
    monkeypatch.setenv("FASTSQRTM_FALLBACK", "error")
    A = OnCuda(testing.spd(3))
    with WithoutGPU(), pytest.raises(RuntimeError, match=r"cuda tensors \(built for 8\.0, 9\.0, but GPU 0 is 7\.5\)"):
        torch.ops.fastsqrtm.mpa_lya(A)


# Loads the CUDA library, which cannot be taken back.
EMPTY = """
import sys
sys.path.append(sys.argv[1])
import op_cases
import torch
from test_without_gpu import OnCuda, WithoutGPU
from fastsqrtm._ops.native import load_cuda
from fastsqrtm.testing import results
assert load_cuda() is None
for name, line in op_cases.OPS.items():
    op = getattr(torch.ops.fastsqrtm, name)
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastsqrtm::{name}", "CUDA")
    for batch, n in (((), 0), ((0,), 3), ((2, 0), 4), ((0,), 200)):
        shapes = op_cases.shapes(name, n, batch)
        tensors = [OnCuda(torch.ones(shape)) for shape in shapes]
        with WithoutGPU():
            found = results(op(*tensors))
        assert [out.shape for out in found] == line.result_shapes(*shapes)
        assert all(out.is_cuda for out in found)
    tensors = [OnCuda(x) for x in op_cases.inputs(name, 3, (2,))]
    try:
        with WithoutGPU():
            op(*tensors)
    except RuntimeError as error:
        assert "CUDA" in str(error) or "device_guard" in str(error)
    else:
        raise AssertionError("it did not ask for the device")
print("every op")
"""


@no_gpu
@pytest.mark.skipif(not native.loaded or not native.C.build_info()["cuda"], reason="built without CUDA kernels")
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is not a CUDA build")
def test_an_empty_batch_asks_nothing_of_the_device():
    command = [sys.executable, "-c", EMPTY, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "every op", done.stderr
