"""The gradients of the four roots: the paper's, the closed form where it converges, and differentiable again."""

import pytest
import torch

import fastsqrtm
from fastsqrtm import testing

NAMES = ["mpa_lya", "mtp_lya", "mpa_lya_inv", "mtp_lya_inv"]
SIZES = [1, 2, 3, 8, 16, 17, 33, 64, 65, 100]


def converged(name):
    """The root as a function so well converged at condition numbers near 1 that its gradient is the Lyapunov one."""
    return lambda A: getattr(fastsqrtm, name)(A, 32 if name.startswith("mpa") else 128, 30)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", ["sqrtm_lya_backward", "inv_sqrtm_lya_backward"])
def test_is_the_papers_formula(path, name, n):
    A = testing.spd(n, kappa=100, batch=(2, 2), dtype=torch.float64, seed=n)
    G = torch.randn_like(A)
    if name == "sqrtm_lya_backward":
        S = testing.exact_sqrtm(A)
        inputs, expected = (A, S, G), testing.paper_gradient(A, S, G)
    else:
        Z = testing.exact_sqrtm(A, -0.5)
        inputs, expected = (Z, G), testing.paper_inverse_gradient(Z, G)
    assert testing.relative_error(path(name)(*inputs), expected).max() < 1e-11
    assert testing.relative_error(path(name)(*(x.float() for x in inputs)), expected).max() < 1e-4


@pytest.mark.parametrize("iterations", [1, 2, 3, 9, 100])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_a_root(name, iterations):
    A = testing.spd(10, kappa=30, batch=(3,), dtype=torch.float64).requires_grad_()
    G = torch.randn_like(A)
    S = getattr(fastsqrtm, name)(A, iterations=iterations)
    (gradient,) = torch.autograd.grad(S, A, G)
    S, B = S.detach(), A.detach()
    if name.endswith("inv"):
        expected = testing.paper_inverse_gradient(S, G, iterations)
    else:
        expected = testing.paper_gradient(B, S, G, iterations)
    assert testing.relative_error(gradient, expected).max() < 1e-11
    assert torch.equal(gradient, gradient.mT)


@pytest.mark.parametrize("name", NAMES)
def test_closed_form(name):
    A = testing.spd(9, kappa=3, batch=(2,), dtype=torch.float64).requires_grad_()
    G = torch.randn_like(A)
    (gradient,) = torch.autograd.grad(getattr(fastsqrtm, name)(A, 32, 30), A, G)
    expected = testing.exact_gradient(A.detach(), G, -0.5 if name.endswith("inv") else 0.5)
    assert testing.relative_error(gradient, expected).max() < (1e-10 if name.startswith("mpa") else 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_finite_differences_and_second_derivatives(name):
    A = testing.spd(2, kappa=1.5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(converged(name), (A,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(converged(name), (A,), check_fwd_over_rev=True)


@pytest.mark.parametrize("name", ["sqrtm_lya_backward", "inv_sqrtm_lya_backward"])
def test_derivatives_of_the_backward_ops(name):
    """The finite differences are those of the truncated solve: enough iterations that it is exact."""
    op = getattr(torch.ops.fastsqrtm, name)
    S = testing.spd(3, kappa=1.5, dtype=torch.float64).requires_grad_()
    A = (S @ S).detach()
    G = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    function = (lambda S, G: op(A, S, G, 30)) if name == "sqrtm_lya_backward" else (lambda S, G: op(S, G, 30))
    assert torch.autograd.gradcheck(function, (S, G))
    assert torch.autograd.gradgradcheck(function, (S, G))


@pytest.mark.parametrize("name", NAMES)
def test_any_cotangent(name):
    A = testing.spd(6, batch=(2,), dtype=torch.float64).requires_grad_()
    S = getattr(fastsqrtm, name)(A)
    G = torch.randn(6, 6, dtype=torch.float64)
    (expected,) = torch.autograd.grad(S, A, torch.stack([G, G]), retain_graph=True)
    (expanded,) = torch.autograd.grad(S, A, G.expand(2, 6, 6), retain_graph=True)
    (transposed,) = torch.autograd.grad(S, A, G.mT.contiguous().mT.expand(2, 6, 6), retain_graph=True)
    (symmetric,) = torch.autograd.grad(S, A, torch.stack([G + G.mT] * 2) / 2, retain_graph=True)
    (ones,) = torch.autograd.grad(S.sum(), A, retain_graph=True)
    assert torch.equal(expanded, expected)
    assert torch.equal(transposed, expected)
    assert testing.relative_error(symmetric, expected).max() < 1e-13
    assert testing.relative_error(ones, torch.autograd.grad(S, A, torch.ones_like(S))[0]).max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_leaf_nonleaf_no_grad(name):
    function = getattr(fastsqrtm, name)
    leaf = testing.spd(4).requires_grad_()
    function(leaf).sum().backward()
    other = leaf.detach().clone().requires_grad_()
    function(other * 1.0).sum().backward()
    assert torch.equal(leaf.grad, other.grad)
    with torch.no_grad():
        assert not function(leaf).requires_grad
    with torch.inference_mode():
        assert torch.equal(function(leaf), function(leaf.detach()))
    assert not function(leaf.detach()).requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_saves_at_most_the_matrix_and_the_root(name):
    saved = []
    A = testing.spd(8, batch=(3,)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.data_ptr()) or x, lambda x: x):
        S = getattr(fastsqrtm, name)(A)
    assert sorted(saved) == sorted([S.data_ptr()] if name.endswith("inv") else [A.data_ptr(), S.data_ptr()])


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e6, 1e20])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_at_any_scale(name, scale):
    A = testing.spd(12, kappa=20, batch=(2,))
    G = torch.randn_like(A)
    function = getattr(fastsqrtm, name)
    x = (A * scale).requires_grad_()
    y = A.double().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, G)
    (expected,) = torch.autograd.grad(function(y), y, G.double())
    expected = expected * scale ** (-1.5 if name.endswith("inv") else -0.5)
    assert testing.relative_error(gradient, expected).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_each_matrix_has_its_own_scale(name):
    """The authors' inverse backward divides by the norm of the batch; then a large neighbour spoils the small ones."""
    function = getattr(fastsqrtm, name)
    A = testing.spd(8, batch=(4,), dtype=torch.float64) * torch.tensor([1e-6, 1.0, 1e6, 1e3]).double()[:, None, None]
    together = torch.autograd.functional.vjp(function, A, torch.ones_like(A))[1]
    alone = torch.stack([torch.autograd.functional.vjp(function, a, torch.ones_like(a))[1] for a in A])
    assert testing.relative_error(together, alone).max() < 1e-13
