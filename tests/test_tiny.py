"""Matrices of the tiny path, many side by side: each is as if it were alone, whatever its neighbours are."""

import math
import os
import subprocess
import sys

import pytest
import torch

import fastsqrtm
import op_cases
from fastsqrtm import testing
from fastsqrtm._ops.native import native
from fastsqrtm.testing import results
from op_cases import OPS

pytestmark = pytest.mark.usefixtures("native_only", "two_threads")
BATCH = 37  # more than two groups of any instruction set, and a rest


def alike(ours, theirs):
    return torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0))


def test_plan():
    for n, path in ((1, "tiny"), (8, "tiny"), (9, "tiny"), (64, "tiny"), (65, "block")):
        assert fastsqrtm.plan(torch.empty(5, n, n)).path == path


def test_few_matrices_are_spread_over_the_threads():
    workers = {batch: native.C.plan(batch, 24, 4, 2)["workers"] for batch in (1, 2, 1000)}
    assert workers == {1: 1, 2: 2, 1000: 2}


def test_threads_with_a_small_stack():
    """Every op is content with 512 KiB, what macOS gives, for groups of the largest order and for one matrix."""
    code = """
import threading
import torch
import op_cases

def run():
    for name in op_cases.OPS:
        for dtype in (torch.float32, torch.float64):
            for batch in (1, 40):
                op_cases.dispatched(name)(*op_cases.inputs(name, 64, (batch,), 5.0, dtype))
    print("done")

torch.set_num_threads(1)
threading.stack_size(512 * 1024)
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    tests = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", code], cwd=tests, capture_output=True, text=True)  # it may crash
    assert done.stdout == "done\n", (done.returncode, done.stderr[-1000:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 8, 9, 16, 21, 28, 33, 40])
@pytest.mark.parametrize("name", OPS)
def test_unlike_neighbours(name, n, dtype):
    """Matrices that the lanes compute, and those that they leave to the pass for one matrix."""
    op = op_cases.dispatched(name)
    tensors = op_cases.inputs(name, n, (BATCH,), 5.0, dtype)
    first = tensors[0]
    first[3] = math.nan
    first[11, 0, 0] = math.inf
    tensors = op_cases.at_zero(name, tensors, 17)
    first = tensors[0]
    first[18] = -first[18]  # indefinite
    first[20] = torch.ones(first.shape[1:])  # singular
    first[21] = torch.eye(*first.shape[1:])
    tensors[-1][30] = tensors[-1][30] * math.nan
    together = results(op(*tensors))
    for i in (0, 3, 11, 15, 16, 17, 18, 19, 20, 21, 30, 31, 36):
        alone = results(op(*(x[i] for x in tensors)))
        assert all(alike(ours, theirs[i]) for ours, theirs in zip(alone, together, strict=True)), i
    turned = results(op(*(x.flip(0) for x in tensors)))
    assert all(alike(ours.flip(0), theirs) for ours, theirs in zip(turned, together, strict=True))


@pytest.mark.parametrize("n", [2, 3, 7, 13])
@pytest.mark.parametrize("name", OPS)
def test_strides(name, n):
    op = op_cases.dispatched(name)
    tensors = op_cases.inputs(name, n, (5, 9))
    expected = results(op(*tensors))
    for view in (
        lambda x: x.mT.contiguous().mT,
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: torch.stack((x, 0 * x), -1)[..., 0],
        lambda x: torch.cat((x, 0 * x), 0)[:5],
    ):
        for ours, theirs in zip(results(op(*map(view, tensors))), expected, strict=True):
            assert torch.equal(ours, theirs)
    expanded = [x[:1, :1].expand(x.shape) for x in tensors]
    for ours, theirs in zip(results(op(*expanded)), expected, strict=True):
        assert all(torch.equal(x, theirs[0, 0]) for x in ours.flatten(0, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spectrum", ["rank_one", "rank_deficient", "repeated"])
@pytest.mark.parametrize("n", [2, 3, 4, 8, 11])
def test_singular_and_repeated_eigenvalues(n, spectrum, dtype):
    A = testing.spd(n, 100, (BATCH,), spectrum, dtype)
    limit = 2 * torch.finfo(dtype).eps ** (1.0 if spectrum == "repeated" else 0.5)
    exact = testing.exact_sqrtm(A)
    S = fastsqrtm.sqrtm(A)
    assert (torch.linalg.matrix_norm(S.double() - exact) <= 8 * limit * torch.linalg.matrix_norm(exact)).all()
    G = torch.ones_like(A)
    X = torch.ops.fastsqrtm.sqrtm_backward(S, G)
    bound = 0.6 * torch.linalg.matrix_norm(G) / (torch.finfo(dtype).eps ** 0.5 * torch.linalg.matrix_norm(S, 2))
    assert (torch.linalg.matrix_norm(X) <= bound).all()
