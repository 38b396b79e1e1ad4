"""B X + X B = C: the paper's iteration, for symmetric and general C, with broadcasting and derivatives."""

import pytest
import torch

import fastsqrtm
from fastsqrtm import testing

SIZES = [1, 2, 3, 8, 16, 17, 33, 64, 65, 100]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n", SIZES)
def test_is_the_papers_iteration(path, n, symmetric):
    B = testing.spd(n, kappa=20, batch=(3,), dtype=torch.float64, seed=n)
    C = torch.randn_like(B)
    C = C + C.mT if symmetric else C
    for iterations in (1, 2, 8):
        expected = testing.paper_lyapunov(B, C, iterations)
        assert testing.relative_error(path("lyapunov")(B, C, iterations), expected).max() < 1e-12
        single = path("lyapunov")(B.float(), C.float(), iterations)
        assert testing.relative_error(single, expected).max() < 1e-5


@pytest.mark.parametrize("symmetric", [True, False])
def test_solves_the_equation(path, symmetric):
    B = testing.spd(20, kappa=100, batch=(3,), dtype=torch.float64)
    C = torch.randn_like(B)
    C = C + C.mT if symmetric else C
    X = path("lyapunov")(B, C, 30)
    assert testing.relative_error(B @ X + X @ B, C).max() < 1e-12
    assert testing.relative_error(X, testing.exact_lyapunov(B, C)).max() < 1e-11


def test_uses_the_symmetric_part_of_b_alone(path):
    B = testing.spd(9, dtype=torch.float64)
    C = torch.randn_like(B)
    skew = torch.randn_like(B).triu(1)
    X = path("lyapunov")(B, C)
    assert testing.relative_error(path("lyapunov")(B + skew - skew.mT, C), X) < 1e-12
    assert testing.relative_error(path("lyapunov")(B, C.mT), X.mT) < 1e-12


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale(path, scale):
    B = testing.spd(9, batch=(2,))
    C = torch.randn_like(B)
    expected = path("lyapunov")(B.double(), C.double())
    assert testing.relative_error(path("lyapunov")(B * scale, C * scale), expected).max() < 1e-5
    assert testing.relative_error(path("lyapunov")(B, C * scale), expected * scale).max() < 1e-5


def test_leading_dimensions_are_broadcast():
    B = testing.spd(4, batch=(2, 1))
    C = torch.randn(3, 4, 4)
    X = fastsqrtm.lyapunov(B, C)
    assert X.shape == (2, 3, 4, 4)
    for i in range(2):
        for j in range(3):
            assert testing.relative_error(X[i, j], fastsqrtm.lyapunov(B[i, 0], C[j])) < 1e-6
    with pytest.raises(RuntimeError):
        fastsqrtm.lyapunov(testing.spd(4, batch=(2,)), C)


@pytest.mark.parametrize("symmetric", [True, False])
def test_derivatives(symmetric):
    B = testing.spd(2, kappa=2, batch=(2,), dtype=torch.float64).requires_grad_()
    C = torch.randn_like(B).requires_grad_()

    def function(B, C):
        return fastsqrtm.lyapunov(B, (C + C.mT) / 2 if symmetric else C, 30)

    assert torch.autograd.gradcheck(function, (B, C), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (B, C), check_fwd_over_rev=True)


def test_gradient_of_one_argument():
    B, C = testing.spd(5), torch.randn(5, 5)
    one = B.clone().requires_grad_()
    both = B.clone().requires_grad_(), C.clone().requires_grad_()
    fastsqrtm.lyapunov(one, C).sum().backward()
    fastsqrtm.lyapunov(*both).sum().backward()
    assert torch.equal(one.grad, both[0].grad)
    assert testing.relative_error(one.grad, one.grad.mT) < 1e-6
    other = C.clone().requires_grad_()
    fastsqrtm.lyapunov(B, other).sum().backward()
    assert torch.equal(other.grad, both[1].grad)
