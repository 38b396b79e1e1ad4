"""Every op has a row in op_cases.py, computes what its oracle says, and has the derivatives that its rule says."""

import pytest
import torch

import op_cases
from fastsqrtm import testing
from fastsqrtm.testing import results
from op_cases import CASES, OPS


def test_every_op_has_a_row_and_every_row_an_op():
    table = testing.OPS
    missing = [f"{name}, a line of ops.def, has no row in tests/op_cases.py" for name in table if name not in CASES]
    stray = [f"{name}, a row of tests/op_cases.py, has no line in ops.def" for name in CASES if name not in table]
    assert not missing + stray, "\n".join(missing + stray)


@pytest.mark.parametrize("name", OPS)
def test_a_row_speaks_of_what_its_op_has(name):
    op, case = OPS[name], CASES[name]
    assert case.powers.keys() <= set(op.names)
    assert case.exact_at.keys() <= {number.name for number in op.numbers}
    assert case.at_zero is None or len(case.at_zero) == len(op.results)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 17, 33, 64])
@pytest.mark.parametrize("name", OPS)
def test_is_its_oracle(path, name, n):
    tensors = op_cases.inputs(name, n, (3,), 100.0, torch.float64)
    expected = CASES[name].oracle(*tensors, *op_cases.defaults(name))
    assert op_cases.largest_error(name, path(name)(*tensors), expected) < 1e-11
    single = path(name)(*op_cases.cast(name, tensors, torch.float32))
    assert op_cases.largest_error(name, single, expected) < 1e-4


def leaves(name, batch=(2,)):
    return [x.requires_grad_(x.is_floating_point()) for x in op_cases.inputs(name, 2, batch, 1.5, torch.float64)]


@pytest.mark.parametrize("name", OPS)
def test_derivatives_of_first_and_second_order(name):
    function = op_cases.differentiable(name, CASES[name].exact_at)
    assert torch.autograd.gradcheck(function, leaves(name), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, leaves(name), check_fwd_over_rev=True)


@pytest.mark.parametrize("name", OPS)
def test_the_dispatcher_has_the_gradient_of_the_route(name):
    found = []
    for function in (op_cases.dispatched(name), op_cases.by_route(name)):
        tensors = leaves(name)
        outputs = [x for x in results(function(*tensors)) if x.requires_grad]
        cotangents = [torch.ones_like(x) for x in outputs]
        found.append(torch.autograd.grad(outputs, tensors, cotangents, allow_unused=True))
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


@pytest.mark.parametrize("name", OPS)
def test_vmap(name):
    """Over any dimension, twice, beside an unmapped argument, and inside and outside of a gradient."""
    tensors = op_cases.inputs(name, 3, (2, 4), 4.0, torch.float64)
    function = op_cases.dispatched(name)
    expected = function(*tensors)
    for call in (function, op_cases.by_route(name)):
        for mapped in (torch.vmap(call), torch.vmap(torch.vmap(call)), torch.vmap(call, in_dims=1, out_dims=1)):
            assert op_cases.largest_error(name, mapped(*tensors), expected) < 1e-12
        last = torch.vmap(call, in_dims=-1)(*(x.movedim(0, -1) for x in tensors))
        assert op_cases.largest_error(name, last, expected) < 1e-12
        for position in range(len(tensors) if len(tensors) > 1 else 0):
            dims = [None if i == position else 0 for i in range(len(tensors))]
            one = [x[0] if dim is None else x for x, dim in zip(tensors, dims, strict=True)]
            same = [x[:1].expand_as(x) if dim is None else x for x, dim in zip(tensors, dims, strict=True)]
            assert op_cases.largest_error(name, torch.vmap(call, tuple(dims))(*one), function(*same)) < 1e-12

    def loss(*x):
        return sum(out.sin().sum() for out in op_cases.differentiable(name)(*x))

    places = tuple(i for i, matrix in enumerate(OPS[name].tensors) if matrix.dtype is None)
    together = torch.func.grad(loss, places)(*tensors)
    for found in (
        torch.vmap(torch.func.grad(loss, places))(*tensors),
        torch.func.grad(lambda *x: torch.vmap(loss)(*x).sum(), places)(*tensors),
    ):
        for ours, theirs in zip(found, together, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", OPS)
def test_both_modes_agree(name):
    """<G, J dx> = <J^T G, dx>, and forward over forward is reverse over reverse, at the numbers of exact_at."""
    tensors = [x.detach() for x in leaves(name, ())]
    function = op_cases.differentiable(name, CASES[name].exact_at)
    generator = torch.Generator().manual_seed(3)
    tangents = tuple(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in tensors)
    out, tangent = torch.func.jvp(function, tuple(tensors), tangents)
    cotangents = tuple(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in out)
    gradients = torch.func.vjp(function, *tensors)[1](cotangents)
    forward = sum((x * y).sum() for x, y in zip(cotangents, tangent, strict=True))
    backward = sum((x * y).sum() for x, y in zip(gradients, tangents, strict=True))
    assert torch.allclose(forward, backward, rtol=1e-9)

    def loss(first):
        return sum(x.sin().sum() for x in function(first, *tensors[1:]))

    reverse = torch.func.jacrev(torch.func.jacrev(loss))(tensors[0])
    assert torch.allclose(torch.func.jacfwd(torch.func.jacfwd(loss))(tensors[0]), reverse, rtol=1e-8, atol=1e-8)
    assert torch.allclose(torch.func.hessian(loss)(tensors[0]), reverse, rtol=1e-8, atol=1e-8)
