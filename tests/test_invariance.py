"""The result for a matrix depends on that matrix: not on its batch, its place in it, or the number of threads."""

import pytest
import torch

from fastsqrtm import testing

OPS = {
    "mpa_lya": 1,
    "mtp_lya": 1,
    "mpa_lya_inv": 1,
    "mtp_lya_inv": 1,
    "lyapunov": 2,
    "sqrtm_lya_backward": 3,
    "inv_sqrtm_lya_backward": 2,
}
SIZES = [1, 2, 3, 7, 16, 31, 48, 65, 100]

pytestmark = pytest.mark.usefixtures("native_only", "two_threads")


def inputs(name, n, batch, dtype):
    """SPD matrices, the last argument general where there are several."""
    tensors = [testing.spd(n, kappa=5, batch=(batch,), dtype=dtype, seed=i) for i in range(OPS[name])]
    if OPS[name] > 1:
        tensors[-1] = torch.randn(batch, n, n, generator=torch.Generator().manual_seed(n)).to(dtype)
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", OPS)
def test_batch_size_and_position(name, n, dtype):
    op = getattr(torch.ops.fastsqrtm, name)
    tensors = inputs(name, n, 5, dtype)
    together = op(*tensors)
    for i in range(5):
        assert torch.equal(op(*(x[i] for x in tensors)), together[i])
    assert torch.equal(op(*(x.flip(0) for x in tensors)).flip(0), together)
    assert torch.equal(op(*(x[1:3] for x in tensors)), together[1:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "batch"), [(5, 100), (33, 7), (64, 3), (130, 1), (200, 1), (200, 3), (300, 1)])
@pytest.mark.parametrize("name", OPS)
def test_threads(name, n, batch, dtype):
    op = getattr(torch.ops.fastsqrtm, name)
    tensors = inputs(name, n, batch, dtype)
    results = []
    for threads in (2, 1, 2):
        torch.set_num_threads(threads)
        results.append(op(*tensors))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("n", [520])
def test_a_large_matrix_alone_and_in_company(n):
    A = testing.spd(n, batch=(3,))
    together = torch.ops.fastsqrtm.mpa_lya(A)
    assert all(torch.equal(torch.ops.fastsqrtm.mpa_lya(a), s) for a, s in zip(A, together, strict=True))
