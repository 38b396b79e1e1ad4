"""The result for a matrix depends on that matrix: not on its batch, its place in it, or the number of threads."""

import pytest
import torch

import op_cases
from fastsqrtm import testing
from fastsqrtm._ops.native import native
from fastsqrtm.testing import results
from op_cases import OPS

SIZES = [1, 2, 3, 7, 16, 31, 48, 65, 100]


def assert_equal(output, expected):
    for ours, theirs in zip(results(output), expected, strict=True):
        assert torch.equal(ours, theirs)


pytestmark = pytest.mark.usefixtures("native_only", "two_threads")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", OPS)
def test_batch_size_and_position(name, n, dtype):
    op = getattr(torch.ops.fastsqrtm, name)
    tensors = op_cases.inputs(name, n, (5,), dtype=dtype)
    together = results(op(*tensors))
    for i in range(5):
        assert_equal(op(*(x[i] for x in tensors)), [x[i] for x in together])
    assert_equal(op(*(x.flip(0) for x in tensors)), [x.flip(0) for x in together])
    assert_equal(op(*(x[1:3] for x in tensors)), [x[1:3] for x in together])


@pytest.mark.parametrize(
    ("n", "batch", "dtype"),
    [
        *((n, batch, dtype) for n, batch in ((5, 100), (33, 7), (64, 3)) for dtype in (torch.float32, torch.float64)),
        (200, 3, torch.float32),  # from 192 on norms are sums of parts
        # From 400 KiB on threads share one matrix.
        (235, 1, torch.float64),
        (325, 3, torch.float32),
        pytest.param(300, 1, torch.float64, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", OPS)
def test_threads(name, n, batch, dtype):
    op = getattr(torch.ops.fastsqrtm, name)
    tensors = op_cases.inputs(name, n, (batch,), dtype=dtype)
    shares = native.C.plan(batch, n, dtype.itemsize, 2)["shared"] > 0  # of square matrices
    assert shares == (n > 200)
    found = []
    for threads in (3, 2, 1):
        torch.set_num_threads(threads)
        found.append(results(op(*tensors)))
    assert_equal(found[0], found[2])
    assert_equal(found[1], found[2])


@pytest.mark.parametrize("n", [520])
@pytest.mark.parametrize("name", ["mpa_lya", "sqrtm_and_inv"])
def test_a_large_matrix_alone_and_in_company(name, n):
    op = getattr(torch.ops.fastsqrtm, name)
    A = testing.spd(n, batch=(3,))
    for i, a in enumerate(A):
        assert_equal(op(a), [x[i] for x in results(op(A))])


def test_each_matrix_ends_its_iterations_by_itself():
    """Well- and ill-conditioned matrices side by side take different numbers of steps."""
    S = torch.cat([testing.spd(20, kappa, (2,)) for kappa in (1.0, 10.0, 1e3)])
    G = torch.randn_like(S)
    for name in ("sqrtm_backward", "inv_sqrtm_backward", "lyapunov_newton"):
        op = getattr(torch.ops.fastsqrtm, name)
        assert all(torch.equal(op(s, g), x) for s, g, x in zip(S, G, op(S, G), strict=True))
