"""torch.func over the documented functions, and forward mode, to second order."""

import gc
import weakref

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import fastsqrtm
from fastsqrtm import paper, testing

ROOTS = ["mpa_lya", "mtp_lya", "mpa_lya_inv", "mtp_lya_inv"]


def close(actual, expected, tolerance=1e-12):
    return torch.linalg.vector_norm(actual - expected) <= tolerance * torch.linalg.vector_norm(expected)


@pytest.fixture(params=ROOTS)
def root(request):
    function = getattr(fastsqrtm, request.param)
    return lambda A: function(A, iterations=30)


@pytest.fixture
def A():
    return testing.spd(3, kappa=4, batch=(4,), dtype=torch.float64)


def test_grad_and_vjp(root, A):
    x = A.clone().requires_grad_()
    root(x).sin().sum().backward()
    assert torch.equal(grad(lambda A: root(A).sin().sum())(A), x.grad)
    S, pullback = vjp(root, A)
    assert torch.equal(pullback(S.cos())[0], x.grad)


def test_vmap(root, A):
    assert close(vmap(root)(A), root(A))
    assert close(vmap(root, in_dims=2, out_dims=1)(A.movedim(0, 2)).movedim(1, 0), root(A))
    pairs = torch.stack([A, 2 * A])
    assert close(vmap(vmap(root))(pairs), root(pairs))
    x = A.clone().requires_grad_()
    root(x).sin().sum().backward()
    assert close(vmap(grad(lambda A: root(A).sin().sum()))(A), x.grad)
    assert close(grad(lambda A: vmap(root)(A).sin().sum())(A), x.grad)


def test_forward_mode(root, A):
    dA = torch.randn_like(A)
    out, tangent = jvp(root, (A,), (dA,))
    assert close(out, root(A))
    # The solve is self-adjoint, so <G, dS> = <dA, X> holds to rounding.
    G = torch.randn_like(A)
    assert torch.allclose((G * tangent).sum(), (vjp(root, A)[1](G)[0] * dA).sum())
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(root(forward_ad.make_dual(A, dA)))
    assert close(dual.tangent, tangent)


def test_jacobians(root, A):
    assert close(jacrev(root)(A[0]), jacfwd(root)(A[0]))


def test_hessian(root, A):
    def loss(A):
        return root(A).sin().sum()

    H = hessian(loss)(A[0])
    assert close(H, jacrev(jacrev(loss))(A[0]))
    assert close(H, jacfwd(jacfwd(loss))(A[0]))
    assert close(H, torch.autograd.functional.hessian(loss, A[0]))


def test_lyapunov(A):
    C = torch.randn(3, 3, dtype=torch.float64)

    def solve(B, C):
        return fastsqrtm.lyapunov(B, C, 30)

    for argument in (0, 1):
        assert close(jacrev(solve, argument)(A[0], C), jacfwd(solve, argument)(A[0], C))
        second = jacrev(jacrev(solve, argument), 0)(A[0], C)
        assert close(second, jacfwd(jacfwd(solve, argument), 0)(A[0], C))
    assert close(vmap(solve, (0, None))(A, C), solve(A, C))
    assert close(vmap(solve, (None, 0))(A[0], A), solve(A[0], A))
    assert close(vmap(grad(lambda B: solve(B, C).sum()))(A), grad(lambda B: solve(B, C).sum())(A))


@pytest.mark.parametrize("name", ["lyapunov", "inv_sqrtm_lya_backward"])
def test_vmap_of_the_ops_themselves(name, A):
    op = getattr(torch.ops.fastsqrtm, name)
    C = torch.randn(3, 3, dtype=torch.float64)
    assert close(vmap(op, (0, None))(A, C), op(A, C.expand_as(A)))
    assert close(
        vmap(torch.ops.fastsqrtm.sqrtm_lya_backward, (None, 0, None))(A[0], A, C)[1],
        torch.ops.fastsqrtm.sqrtm_lya_backward(A[0], A[1], C),
    )


@pytest.mark.parametrize("forward_mode", [False, True])
def test_nothing_is_kept_alive(root, A, forward_mode):
    """A root saved for its own backward must not hold itself in a cycle."""
    gc.disable()
    try:
        with forward_ad.dual_level():
            x = A.clone().requires_grad_()
            S = root(forward_ad.make_dual(x, torch.ones_like(A)) if forward_mode else x)
            reference = weakref.ref(S)
            del S
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("number", [{"iterations": 30}, {"rtol": 0.0}], ids=str)
def test_hessian_of_lyapunov_in_c(A, number):
    """X is linear in C: of X^2 the second derivative along D is twice the square of the solution for D."""
    B, C, D = A[0], A[1], A[2]
    second = hessian(lambda C: fastsqrtm.lyapunov(B, C, **number).square().sum())(C)
    along = (D * torch.tensordot(second, D, 2)).sum()
    assert close(along, 2 * fastsqrtm.lyapunov(B, D, **number).square().sum())


@pytest.mark.parametrize("function", [paper.sqrtm, paper.inv_sqrtm])
@pytest.mark.parametrize("method", ["mpa", "mtp", "ns"])
def test_every_derivative_of_an_approximant_is_zero_at_zero(method, function, A):
    """The derivative of its neighbour is not NaN either."""
    A = torch.stack((torch.zeros_like(A[0]), A[0]))
    direction = torch.ones_like(A)
    tangent = jvp(lambda A: function(A, method=method), (A,), (direction,))[1]

    def gradient(A):
        root = function(A, method=method)
        return torch.autograd.grad(root, A, direction, create_graph=True)[0]

    leaf = A.clone().requires_grad_()
    first = gradient(leaf)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    for derivative in (tangent, first, second):
        assert derivative[0].count_nonzero() == 0
        assert derivative[1].isfinite().all()
