"""torch.func and forward mode, to second order: the documented functions, and every op as the dispatcher has it."""

import functools
import gc
import weakref

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import fastsqrtm
import op_cases
from fastsqrtm import paper, testing
from op_cases import CASES, OPS

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


def op_with_inputs(name, shape=(2, 3, 3)):
    """A loss of one matrix of each argument, by the op itself; the arguments of a batch, and a direction for each."""
    *batch, n, _ = shape
    tensors = tuple(op_cases.inputs(name, n, tuple(batch), 4.0, torch.float64))
    generator = torch.Generator().manual_seed(1)
    directions = tuple(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in tensors)
    # Where the gradient is that of the exact root, degree and iterations are such that it is that of the map as well.
    op, numbers = op_cases.dispatched(name), op_cases.defaults(name, CASES[name].exact_at)

    def loss(*tensors):
        found = op_cases.with_derivatives(name, testing.results(op(*tensors, *numbers)))
        return sum(x.sin().sum() for x in found)

    return loss, tensors, directions


def dot(xs, ys):
    return sum((x * y).sum() for x, y in zip(xs, ys, strict=True) if x is not None)


def with_zeros(gradients, tensors):
    return [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, tensors, strict=True)]


def dual_tangent(function, tensors, directions):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(*map(forward_ad.make_dual, tensors, directions))).tangent


def along(loss, directions):
    return lambda *tensors: jvp(loss, tensors, directions)[1]


@pytest.mark.parametrize("name", OPS)
def test_first_derivatives_of_the_op_itself(name):
    loss, tensors, directions = op_with_inputs(name)
    places = tuple(range(len(tensors)))
    leaves = [x.clone().requires_grad_() for x in tensors]
    gradients = with_zeros(torch.autograd.grad(loss(*leaves), leaves, allow_unused=True), leaves)
    tangent = dot(gradients, directions)
    assert close(along(loss, directions)(*tensors), tangent)
    assert close(dual_tangent(loss, tensors, directions), tangent)
    assert close(vmap(lambda x, d: jvp(loss, x, d)[1])(tensors, directions).sum(), tangent)
    assert close(along(lambda *x: vmap(loss)(*x).sum(), directions)(*tensors), tangent)
    for transformed in (
        grad(loss, places)(*tensors),
        vmap(grad(loss, places))(*tensors),
        grad(lambda *x: vmap(loss)(*x).sum(), places)(*tensors),
        grad(functionalize(loss), places)(*tensors),
    ):
        assert all(map(close, transformed, gradients))
    assert torch.equal(functionalize(loss)(*tensors), loss(*tensors))


@pytest.mark.parametrize("name", OPS)
def test_second_derivatives_of_the_op_itself(name):
    """Forward and reverse mode nested in every order, of torch.func and of torch.autograd."""
    loss, tensors, directions = op_with_inputs(name)
    places = tuple(range(len(tensors)))

    def gradient_along(*x):
        return dot(grad(loss, places)(*x), directions)

    def recorded_along(*x):
        return dot(torch.autograd.grad(loss(*x), x, create_graph=True, allow_unused=True), directions)

    leaves = [x.clone().requires_grad_() for x in tensors]
    first = recorded_along(*leaves)
    second = torch.autograd.grad(first, leaves, allow_unused=True) if first.requires_grad else [None] * len(leaves)
    second = with_zeros(second, leaves)
    twice = dot(second, directions)
    for value in (
        along(along(loss, directions), directions)(*tensors),
        along(gradient_along, directions)(*tensors),
        dual_tangent(gradient_along, tensors, directions),
        dual_tangent(recorded_along, leaves, directions),
        vmap(lambda x, d: jvp(lambda *x: jvp(loss, x, d)[1], x, d)[1])(tensors, directions).sum(),
    ):
        assert close(0 * twice if value is None else value, twice)
    for gradients in (
        grad(along(loss, directions), places)(*tensors),
        grad(gradient_along, places)(*tensors),
        torch.autograd.grad(along(loss, directions)(*leaves), leaves, allow_unused=True),
    ):
        assert all(map(close, with_zeros(gradients, tensors), second))


@pytest.mark.parametrize("name", OPS)
def test_vectorised_forward_mode(name):
    """By the old vmap of torch.autograd, whose batches are none of torch.func."""
    loss, tensors, _ = op_with_inputs(name, (2, 2))
    functional = torch.autograd.functional
    forward = {"strategy": "forward-mode", "vectorize": True}
    for found, expected in zip(
        functional.jacobian(loss, tensors, **forward), functional.jacobian(loss, tensors), strict=True
    ):
        assert close(found, expected)
    found = functional.hessian(loss, tensors, vectorize=True, outer_jacobian_strategy="forward-mode")
    for row, expected_row in zip(found, functional.hessian(loss, tensors), strict=True):
        assert all(map(close, row, expected_row))
    if name == "sqrtm_lya_backward":  # A gives the scale and has no part in the solution
        A, *tensors = tensors
        loss = functools.partial(loss, A)
    leaves = [x.clone().requires_grad_() for x in tensors]
    batched = {"check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(loss, leaves, check_forward_ad=True, **batched)


@pytest.mark.parametrize("shape", [(3, 0, 0), (3, 0, 5, 5)], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_vmap_of_empty_matrices_at_every_order(name, shape):
    op, numbers, has = op_cases.dispatched(name), op_cases.defaults(name), OPS[name].differentiable
    tensors = tuple(torch.ones(size) for size in op_cases.shapes(name, shape[-1], shape[:-2]))

    def function(*x):
        return tuple(y for y, one in zip(testing.results(op(*x, *numbers)), has, strict=True) if one)

    def gradient(function):
        def transformed(*x):
            y, pullback = vjp(function, *x)
            return pullback(tuple(map(torch.ones_like, y)))

        return transformed

    def tangent(function):
        return lambda *x: jvp(function, x, x)[1]

    first = gradient(function)
    for order in (first, gradient(first), tangent(first), gradient(tangent(function)), tangent(tangent(function))):
        for mapped, plain in zip(vmap(order)(*tensors), order(*tensors), strict=True):
            assert mapped.shape == plain.shape


@pytest.mark.parametrize("shape", [(3, 0, 0), (3, 0, 5, 5), (3, 2, 0, 0)], ids=str)
def test_vmap_of_the_functions_of_empty_matrices(shape):
    E = torch.ones(shape)
    functions = [functools.partial(f, eps=eps) for eps in (0.0, 0.1) for f in (fastsqrtm.sqrtm, fastsqrtm.inv_sqrtm)]
    functions += [functools.partial(paper.sqrtm, method=m, backward=b) for m, row in paper.METHODS.items() for b in row]
    for function in functions:

        def gradient(A, function=function):
            root, pullback = vjp(function, A)
            return pullback(root)[0]

        def tangent(A, function=function):
            return jvp(function, (A,), (A,))[1]

        for derivative in (function, gradient, tangent):
            assert vmap(derivative)(E).shape == derivative(E).shape == shape


def test_modes_inside_a_transform():
    """no_grad inside a transform holds for all levels, as for any op of torch."""
    A = testing.spd(3, dtype=torch.float64)

    def loss(A):
        with torch.no_grad():
            constant = torch.ops.fastsqrtm.sqrtm(A)
        return (constant * torch.ops.fastsqrtm.sqrtm(A)).sum()

    S = fastsqrtm.sqrtm(A)
    assert torch.equal(grad(loss)(A), grad(lambda A: (S * fastsqrtm.sqrtm(A)).sum())(A))
    assert close(grad(lambda A: grad(loss)(A).sum())(A), grad(grad_of_constant(S))(A))
    with torch.no_grad():
        assert torch.equal(grad(loss)(A), grad(lambda A: (S * fastsqrtm.sqrtm(A)).sum())(A))


def grad_of_constant(S):
    return lambda A: grad(lambda A: (S * fastsqrtm.sqrtm(A)).sum())(A).sum()


@pytest.mark.parametrize("function", [fastsqrtm.sqrtm, fastsqrtm.inv_sqrtm, fastsqrtm.mpa_lya, fastsqrtm.inv])
def test_functionalize(function, A):
    assert torch.equal(functionalize(function)(A), function(A))
