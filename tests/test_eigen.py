"""The roots of large matrices in float64 by LAPACK's eigendecomposition: when, and that all promises of the steps hold.

The rule is lowered to small orders here, where every promise can be tested.
"""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fastsqrtm
from fastsqrtm import testing
from fastsqrtm._ops.native import native
from fastsqrtm._reference import eigen

NAMES = ("sqrtm", "inv_sqrtm")


@pytest.fixture
def everywhere(monkeypatch):
    monkeypatch.setattr(eigen, "SMALLEST_ORDER", 2)


def all_roots(A):
    return fastsqrtm.sqrtm(A), fastsqrtm.inv_sqrtm(A), *fastsqrtm.sqrtm_and_inv(A)


def root_and_gradient(function, A):
    leaf = A.clone().requires_grad_()
    root = function(leaf)
    G = torch.arange(root[0].numel(), dtype=A.dtype).reshape(A.shape[1:]).expand_as(A)
    return root.detach(), *torch.autograd.grad(root, leaf, G)


def test_the_plan_tells_the_rule():
    order = eigen.SMALLEST_ORDER
    by_eigenvalues = fastsqrtm.plan(torch.empty(2, order, order, dtype=torch.float64))
    assert by_eigenvalues.path == "library"
    assert by_eigenvalues.design is None
    assert "eigendecomposition" in str(by_eigenvalues)
    float32, float64 = torch.float32, torch.float64
    for n, dtype, rtol in ((order - 1, float64, None), (order, float32, None), (order, float64, 1e-3)):
        assert fastsqrtm.plan(torch.empty(n, n, dtype=dtype), rtol).design is not None


@pytest.mark.usefixtures("native_only")
def test_the_rule_is_that_of_the_processor():
    family = native.C.cpu_family()
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    told = re.search(r"vendor_id\s*: (\w+)\ncpu family\s*: (\d+)", cpuinfo)
    if told:
        assert family in (" ".join(told.groups()), "unknown")
    orders = []
    for capability in ("avx512", "avx2"):
        program = "from fastsqrtm._reference import eigen; print(eigen.SMALLEST_ORDER)"
        environment = {**os.environ, "FASTSQRTM_CPU_CAPABILITY": capability}
        orders.append(int(subprocess.check_output([sys.executable, "-c", program], env=environment)))
    assert orders == [640 if family == "AuthenticAMD 26" else 256, 256]


def test_the_functions_follow_the_rule():
    A = testing.spd(eigen.SMALLEST_ORDER, 1e4, dtype=torch.float64)
    assert torch.equal(fastsqrtm.sqrtm(A), torch.ops.fastsqrtm.sqrtm_by_eigenvalues(A)[0])
    both = torch.ops.fastsqrtm.sqrtm_and_inv_by_eigenvalues(A)
    assert torch.equal(fastsqrtm.inv_sqrtm(A), both[1])
    assert all(map(torch.equal, fastsqrtm.sqrtm_and_inv(A), both))
    assert torch.equal(fastsqrtm.sqrtm(A, rtol=1e-3), torch.ops.fastsqrtm.sqrtm(A, 1e-3))
    info = fastsqrtm.root_info(A, *both[:2])
    assert info.converged


@pytest.mark.parametrize("kappa", [1e2, 1e6, 1e12])
@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name, kappa, everywhere):
    A = testing.spd(33, kappa, (4,), dtype=torch.float64)
    G = torch.randn(A.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    G = G + G.mT
    exact = testing.extended_root_and_gradient(A, G, 0.5 if name == "sqrtm" else -0.5)
    leaf = A.clone().requires_grad_()
    root = getattr(fastsqrtm, name)(leaf)
    gradient = torch.autograd.grad(root, leaf, G)[0]
    eps = torch.finfo(A.dtype).eps
    of_root, of_gradient = (1, 1) if name == "inv_sqrtm" else (0.5, 1)
    assert (testing.relative_error(root.detach(), exact[0]) <= 16 * eps * kappa**of_root).all()
    assert (testing.relative_error(gradient, exact[1]) <= 16 * eps * kappa**of_gradient).all()


def test_derivatives(everywhere):
    A = testing.spd(3, 10, (2,), dtype=torch.float64).requires_grad_()
    assert gradcheck(all_roots, A, check_forward_ad=True, check_batched_grad=True)
    both = fastsqrtm.sqrtm_and_inv
    assert gradgradcheck(both, A[:1].detach().requires_grad_(), check_fwd_over_rev=True)
    assert torch.equal(torch.vmap(fastsqrtm.inv_sqrtm)(A), fastsqrtm.inv_sqrtm(A))
    leaf = A[0].detach()
    reverse, forward = (
        make(torch.func.grad(lambda a: fastsqrtm.inv_sqrtm(a).sin().sum()))(leaf)
        for make in (torch.func.jacrev, torch.func.jacfwd)
    )
    assert torch.allclose(reverse, forward, rtol=1e-10, atol=1e-10)

    def loss(a):
        return sum(x.sin().sum() for x in both(a))

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    assert torch.equal(torch.autograd.grad(compiled(A), A)[0], torch.autograd.grad(loss(A), A)[0])


@pytest.mark.parametrize("name", ["sqrtm_by_eigenvalues", "sqrtm_and_inv_by_eigenvalues", "lyapunov_by_eigenvalues"])
def test_op(name):
    A = testing.spd(3, 10, (2,), dtype=torch.float64)
    inputs = (A.requires_grad_(),)
    if name == "lyapunov_by_eigenvalues":
        S, s, V = torch.ops.fastsqrtm.sqrtm_by_eigenvalues(A.detach())
        inputs = S.requires_grad_(), s, V, A
    torch.library.opcheck(getattr(torch.ops.fastsqrtm, name).default, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_each_matrix_by_itself(name, everywhere):
    """NaN, Inf, zero, diagonal, indefinite and singular matrices, in any batch and place."""
    n = 33
    A = testing.spd(n, 1e3, (9,), dtype=torch.float64)
    A[0, 1, 2] = math.nan
    A[1, 0, 0] = math.inf
    A[2] = 0
    A[3] = torch.diag(torch.arange(n, dtype=torch.float64).square())
    A[4] = -A[4]
    A[5] = testing.spd(n, 1, (), "rank_one", torch.float64)
    A[6] *= 1e-180
    A[7] *= 1e180
    function = getattr(fastsqrtm, name)
    together = root_and_gradient(function, A)
    for i in range(len(A)):
        alone = root_and_gradient(function, A[i : i + 1])
        for ours, theirs in zip(alone, together, strict=True):
            assert torch.equal(ours[0].nan_to_num(7.0), theirs[i].nan_to_num(7.0))
    root, gradient = together
    for i in (0, 1, 4):
        assert root[i].isnan().all()
        assert gradient[i].isnan().all()
    assert root[5:].isfinite().all()
    assert gradient[5].isfinite().all()
    assert (gradient[2] == 0).all()
    for x in (root[5:], gradient[[3, 5, 6, 7, 8]]):
        assert torch.equal(x, x.mT)
    if name == "sqrtm":
        assert (root[2] == 0).all()
        assert torch.equal(root[3], torch.diag(torch.arange(n, dtype=torch.float64)))
    else:
        assert torch.equal(root[2], torch.full((n,), math.inf, dtype=torch.float64).diag())


@pytest.mark.parametrize("spectrum", ["rank_one", "rank_deficient", "repeated"])
def test_singular_matrices_as_by_the_steps(spectrum, everywhere):
    A = testing.spd(12, 100, (5,), spectrum, torch.float64)
    limit = 2 * torch.finfo(torch.float64).eps ** (1.0 if spectrum == "repeated" else 0.5)
    exact = testing.exact_sqrtm(A)
    S, gradient = root_and_gradient(fastsqrtm.sqrtm, A)
    assert (torch.linalg.matrix_norm(S - exact) <= 8 * limit * torch.linalg.matrix_norm(exact)).all()
    G = torch.linalg.matrix_norm(torch.arange(144.0).reshape(12, 12).double())
    least = torch.finfo(torch.float64).eps ** 0.5 * torch.linalg.matrix_norm(S, 2)
    assert (torch.linalg.matrix_norm(gradient) <= 0.6 * G / least).all()


def test_complex_matrices(everywhere):
    B = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.complex128)
    A = B @ B.mH + torch.eye(5)
    S = fastsqrtm.sqrtm(A)
    assert torch.allclose(S @ S, A, rtol=1e-13, atol=1e-12)


def test_input_is_left_alone(everywhere):
    A = testing.spd(5, 10, (1,), dtype=torch.float64)
    for given in (A, A.mT):
        before = given.clone()
        root_and_gradient(fastsqrtm.sqrtm, given)
        assert torch.equal(given, before)


def of_exponent(exponent):
    return fastsqrtm.logm if exponent == 0 else lambda A: fastsqrtm.powm(A, exponent)


@pytest.fixture
def powers_everywhere(monkeypatch, everywhere):
    for orders in (eigen.SMALLEST_ORDER_OF_POWERS, eigen.SMALLEST_ORDER_OF_DYADIC_POWERS):
        for dtype in orders:
            monkeypatch.setitem(orders, dtype, 2)


def test_the_powers_follow_the_rule():
    order = eigen.SMALLEST_ORDER_OF_POWERS[torch.float64]
    A = testing.spd(order, 1e4, dtype=torch.float64)
    assert torch.allclose(fastsqrtm.logm(A), torch.ops.fastsqrtm.power_by_eigenvalues(A, 0.0)[0], rtol=0, atol=1e-15)
    faster = eigen.powers_by_eigenvalues_are_faster
    assert faster(A, 0.3, 0.0)
    assert not any((faster(A, 0.25, 0.0), faster(A, 0.5, 0.0), faster(A, 2.0, 0.0), faster(A, 0.3, 1e-3)))
    assert not any((faster(A[1:, 1:], 0.3, 0.0), faster(A.float(), 0.3, 0.0)))


@pytest.mark.parametrize("exponent", [0, -1.3, 0.7])
def test_derivatives_of_powers(exponent, powers_everywhere):
    function = of_exponent(exponent)
    A = testing.spd(3, 30.0, (2,), dtype=torch.float64).requires_grad_()
    assert gradcheck(function, A, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, A, check_fwd_over_rev=True)
    assert torch.equal(torch.vmap(function)(A), function(A))
    torch.compiler.reset()  # an exponent that changes becomes symbolic: docs/guide/powers.md
    assert torch.equal(torch.compile(function, fullgraph=True, backend="aot_eager")(A), function(A))


@pytest.mark.parametrize("exponent", [0, -0.3, 0.7])
def test_powers_and_their_derivatives_as_by_the_steps(exponent, powers_everywhere, monkeypatch):
    """To second order, at close and at equal eigenvalues, and for NaN, zero and indefinite matrices."""
    A = testing.spd(6, 1e4, (6,), dtype=torch.float64)
    A[1] = torch.eye(6) + 1e-4 * A[1]
    A[2] = torch.eye(6)
    A[3] = 0
    A[4, 0, 1] = math.nan
    A[5] *= -1

    def found():
        leaf = A.clone().requires_grad_()
        Y = of_exponent(exponent)(leaf)
        weights = torch.linspace(-1, 1, 36, dtype=A.dtype).reshape(6, 6)
        gradient = torch.autograd.grad(Y, leaf, weights.expand_as(Y), create_graph=True)[0]
        return Y.detach(), gradient.detach(), torch.autograd.grad(gradient, leaf, weights.expand_as(Y))[0]

    ours = found()
    monkeypatch.setattr(fastsqrtm.powers, "powers_by_eigenvalues_are_faster", lambda *_: False)
    steps = found()
    for order, (x, y) in enumerate(zip(ours, steps, strict=True)):
        assert (testing.relative_error(x[:3], y[:3]) <= 1e-10).all(), order
        assert torch.equal(x[3], y[3])
        assert x[4:].isnan().all() or order == 2, order


def test_float32_powers_have_the_digits_of_float64(powers_everywhere):
    A = testing.spd(33, 1e6)
    expected = fastsqrtm.powm(A.double(), -0.3)
    assert testing.relative_error(fastsqrtm.powm(A, -0.3), expected).max() <= torch.finfo(torch.float32).eps


def test_the_logarithm_by_eigenvalues_keeps_its_digits_near_the_identity(powers_everywhere):
    identity = torch.eye(6, dtype=torch.float64)
    A = identity + 1e-9 * testing.spd(6, 100.0, dtype=torch.float64)
    assert testing.relative_error(fastsqrtm.logm(A), A - identity).max() <= 2e-9
