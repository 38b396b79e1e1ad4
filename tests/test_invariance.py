"""The result for a matrix depends on that matrix: not on its batch, its place in it, or the number of threads."""

import pytest
import torch

from fastsqrtm import testing

OPS = testing.OPS
SIZES = [1, 2, 3, 7, 16, 31, 48, 65, 100]

pytestmark = pytest.mark.usefixtures("native_only", "two_threads")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", OPS)
def test_batch_size_and_position(name, n, dtype):
    op = getattr(torch.ops.fastsqrtm, name)
    tensors = testing.op_inputs(name, n, (5,), dtype=dtype, general=True)
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
    tensors = testing.op_inputs(name, n, (batch,), dtype=dtype, general=True)
    results = []
    for threads in (2, 1, 2):
        torch.set_num_threads(threads)
        results.append(op(*tensors))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("n", [520])
@pytest.mark.parametrize("name", ["mpa_lya", "sqrtm_and_inv"])
def test_a_large_matrix_alone_and_in_company(name, n):
    op = getattr(torch.ops.fastsqrtm, name)
    A = testing.spd(n, batch=(3,))
    together = op(A)
    assert all(torch.equal(op(a), s) for a, s in zip(A, together, strict=True))


def test_each_matrix_ends_its_iterations_by_itself():
    """Well- and ill-conditioned matrices side by side take different numbers of steps."""
    S = torch.cat([testing.spd(20, kappa, (2,)) for kappa in (1.0, 10.0, 1e3)])
    G = torch.randn_like(S)
    for name in ("sqrtm_backward", "inv_sqrtm_backward", "lyapunov_newton"):
        op = getattr(torch.ops.fastsqrtm, name)
        assert all(torch.equal(op(s, g), x) for s, g, x in zip(S, G, op(S, G), strict=True))
