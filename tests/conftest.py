import os

os.environ.setdefault("FASTSQRTM_FALLBACK", "silent")  # the suite also runs where there is no native library

import pytest
import torch

from fastsqrtm._library import native

# Small matrices gain nothing from threads, and others may use the machine. Tests that need two threads ask for them.
torch.set_num_threads(1)


@pytest.fixture
def native_only() -> None:
    if not native.loaded:
        pytest.skip(f"a promise of the native kernels: {native.reason}")


@pytest.fixture(params=["op", "reference"])
def path(request):
    """Both implementations of every op, by name: what the dispatcher chooses, and the plain-torch twin."""
    import fastsqrtm

    return {
        "op": lambda name: getattr(torch.ops.fastsqrtm, name),
        "reference": lambda name: getattr(fastsqrtm.reference, name),
    }[request.param]


@pytest.fixture
def two_threads():
    """Two threads during the test, and what there was before after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
