import os

os.environ.setdefault("FASTSQRTM_FALLBACK", "silent")  # the suite also runs where there is no native library
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait starve tests beside them

import pytest
import torch

from fastsqrtm import testing
from fastsqrtm._ops.native import load_cuda, native

# Small matrices gain nothing from threads, and others may use the machine. Tests that need two threads ask for them.
torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests marked cuda without a GPU and kernels for it; under FAIL_WITHOUT_CUDA=1 they fail instead."""
    if item.get_closest_marker("cuda") is None:
        return
    reason = load_cuda() if torch.cuda.is_available() else "torch finds no GPU"
    if reason is None:
        return
    if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
        pytest.fail(f"FAIL_WITHOUT_CUDA=1, and {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random inputs, and the cotangents that gradcheck draws, are the same in any order of the tests."""
    torch.manual_seed(0)


@pytest.fixture
def native_only() -> None:
    if not native.loaded:
        pytest.skip(f"a promise of the native kernels: {native.reason}")


@pytest.fixture(params=["op", "reference"])
def path(request):
    """Both implementations of every op, by name: the choice of the dispatcher, and the plain-torch twin."""
    return {"op": lambda name: getattr(torch.ops.fastsqrtm, name), "reference": testing.twin}[request.param]


@pytest.fixture
def same(request):
    """Compares the results of an op in another batch or at another address, for tests of `path`.

    The native kernels give the same bits. torch's products and factorisations do not: MKL's rounding depends, on
    some processors, on the length of the batch and the alignment of each matrix, so that a batch of copies of one
    matrix has several roots. Two such results differ by roundings, times the condition of the result.
    """
    bits = native.loaded and request.node.callspec.params["path"] == "op"

    def alike(actual, expected, condition):
        if bits or not actual.is_floating_point():
            return torch.equal(actual, expected)
        if actual.dim() < 2:  # a number for each matrix
            actual, expected = actual.reshape(-1, 1, 1), expected.reshape(-1, 1, 1)
        bound = 16 * condition * torch.finfo(actual.dtype).eps
        return bool((testing.relative_error(actual, expected) <= bound).all())

    def compare(actual, expected, condition):
        pairs = zip(testing.results(actual), testing.results(expected), strict=True)
        return all(alike(*pair, condition) for pair in pairs)

    compare.bits = bits
    return compare


@pytest.fixture
def two_threads():
    """Two threads during the test, and the former number after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
