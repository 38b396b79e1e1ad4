"""The requirements of torch on an operator: opcheck, torch.compile, torch.export, autocast."""

import pytest
import torch
import torch._dynamo.testing

import fastsqrtm
import op_cases
from fastsqrtm import paper, testing
from fastsqrtm.paper import METHODS
from fastsqrtm.testing import results
from op_cases import OPS

# Tracing a loop and its derivative takes as long as its count. Three rounds have a first, a middle and a last one.
FEW = {"degree": 3, "iterations": 3}


def inputs(name, shape, dtype=torch.float32):
    *batch, n, _ = shape
    return op_cases.inputs(name, n, tuple(batch), 4.0, dtype)


@pytest.mark.parametrize("shape", [(3, 3), (2, 1, 4, 4), (0, 3, 3), (2, 0, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_opcheck(name, shape):
    testing.opcheck(name, tuple(x.requires_grad_(x.is_floating_point()) for x in inputs(name, shape)))


@pytest.mark.parametrize("name", OPS)
def test_opcheck_of_strides_and_counts(name):
    views = tuple(x.mT[1:] if x.dim() > 2 else x[1:] for x in inputs(name, (3, 4, 4), torch.float64))
    numbers = (min(number.high, 9) if number.whole else 1e-3 for number in OPS[name].numbers)
    testing.opcheck(name, (*views, *(int(x) if x >= 1 else x for x in numbers)))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", OPS)
def test_compile(name, dynamic):
    """By the documented function of one matrix where the op has one of its name."""
    torch._dynamo.reset()
    documented = getattr(fastsqrtm, name, None) if len(OPS[name].tensors) == 1 else None
    function = documented or op_cases.differentiable(name, FEW)

    def loss(first, *others):
        return sum((x * first.sum()).sin().sum() for x in results(function(first * 2.0, *others)))

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    # Each shape is a new graph unless they are dynamic: there the second one has to fit the first one's, or another.
    for shape in [(2, 4, 4), (5, 7, 7), (3, 3)] if dynamic else [(2, 4, 4), (3, 3)]:
        gradients = []
        for run in (loss, compiled):
            leaves = [x.requires_grad_(x.is_floating_point()) for x in inputs(name, shape, torch.float64)]
            gradients.append(torch.autograd.grad(run(*leaves), leaves, allow_unused=True))
        for expected, found in zip(*gradients, strict=True):
            assert (found is None) == (expected is None)
            if found is not None:
                assert torch.linalg.vector_norm(found - expected) <= 1e-13 * torch.linalg.vector_norm(expected)


def test_compile_keeps_one_graph_for_all_shapes():
    torch._dynamo.reset()
    frames = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(fastsqrtm.mpa_lya, fullgraph=True, dynamic=True, backend=frames)
    for shape in [(2, 4, 4), (5, 7, 7), (6, 9, 9)]:
        compiled(inputs("mpa_lya", shape)[0])
    assert frames.frame_count == 1


@pytest.mark.slow
def test_inductor():
    torch._dynamo.reset()

    def loss(B, C):
        return fastsqrtm.lyapunov(fastsqrtm.mpa_lya(B), C.exp()).square().sum()

    B, C = (x.requires_grad_() for x in inputs("lyapunov", (2, 4, 4), torch.float64))
    expected = torch.autograd.grad(loss(B, C), (B, C))
    actual = torch.autograd.grad(torch.compile(loss, fullgraph=True)(B, C), (B, C))
    for ours, theirs in zip(actual, expected, strict=True):
        assert testing.relative_error(ours, theirs).max() < 1e-13


def test_compile_of_vmap_and_the_limits():
    torch._dynamo.reset()
    A = testing.spd(3, batch=(2,))
    mapped = torch.compile(torch.vmap(fastsqrtm.mpa_lya), fullgraph=True, backend="aot_eager")
    assert torch.equal(mapped(A), fastsqrtm.mpa_lya(A))

    with pytest.raises(Exception, match="setup_context"):  # loud at least: see _ops/route.py
        torch.compile(torch.func.grad(lambda A: fastsqrtm.mpa_lya(A).sum()), fullgraph=True, backend="aot_eager")(A)

    def tangent(A):
        return torch.func.jvp(fastsqrtm.mpa_lya, (A,), (A,))[1]

    with pytest.raises(Exception, match=r"forward-mode differentiation inside torch.compile is not supported"):
        torch.compile(tangent, fullgraph=True, backend="aot_eager")(A)


def test_checks_under_compile():
    torch._dynamo.reset()
    with pytest.raises(Exception, match="A must be"):
        torch.compile(fastsqrtm.mpa_lya, fullgraph=True, backend="aot_eager")(torch.ones(3, 4))


def test_export():
    class Whiten(torch.nn.Module):
        def forward(self, x):
            return fastsqrtm.mpa_lya_inv(x.mT @ x)

    x = torch.randn(3, 8, 4)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Whiten(), (x,), dynamic_shapes=({0: batch},))
    assert any("fastsqrtm.mpa_lya_inv" in str(node.target) for node in program.graph.nodes)
    other = torch.randn(5, 8, 4)
    assert torch.equal(program.module()(other), Whiten()(other))


def test_meta_and_fake():
    out = fastsqrtm.mpa_lya(torch.ones(4, 3, 3, device="meta").mT)
    assert (out.shape, out.stride(), out.device.type) == ((4, 3, 3), (9, 3, 1), "meta")


@pytest.mark.parametrize("name", OPS)
def test_autocast_computes_in_float32(name):
    half = inputs(name, (2, 5, 5), torch.bfloat16)
    single, double = (op_cases.cast(name, half, dtype) for dtype in (torch.float32, torch.float64))
    op = op_cases.dispatched(name)
    with torch.autocast("cpu", torch.bfloat16):
        found = results(op(*half)), results(op(half[0], *single[1:])), results(op(*double))
    lines = OPS[name].results
    for line, ours, of_mixed, of_double, of_single in zip(lines, *found, results(op(*single)), strict=True):
        assert ours.dtype == of_mixed.dtype == (line.dtype or torch.float32)
        assert of_double.dtype == (line.dtype or torch.float64)
        assert torch.equal(ours, of_single)
        assert torch.equal(of_mixed, ours)


def test_autocast_gradient():
    x = torch.randn(2, 8, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        S = fastsqrtm.mpa_lya(x.mT @ x)
    S.sum().backward()
    assert S.dtype == torch.float32
    assert x.grad.dtype == torch.float32


def both_ways(function, *arguments):
    """The results without and with autocast around."""
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            yield function(*arguments)


@pytest.mark.parametrize(
    ("method", "backward"),
    [(None, "exact"), *((m, b) for m, row in METHODS.items() for b in row if m != "pi")],
    ids=str,
)
def test_autocast_reaches_no_product_of_a_method(method, backward):
    A, G = testing.spd(5, 1e3, (2,)), torch.ones(2, 5, 5)
    combined = method is not None and METHODS[method][backward].combined

    def root(A):
        return paper.sqrtm(A, method=method, backward=backward) if method else fastsqrtm.sqrtm(A)

    def gradients(A):
        A = A.clone().requires_grad_()
        found = [root(A)]
        found += torch.autograd.grad(found[0], A, G, create_graph=not combined)
        return found if combined else [*found, *torch.autograd.grad(found[1].square().sum(), A)]

    for ours, under_autocast in zip(*both_ways(gradients, A), strict=True):
        assert torch.equal(ours, under_autocast)
    if not combined:
        plain, under_autocast = both_ways(lambda A: torch.func.jvp(root, (A,), (G,))[1], A)
        assert torch.equal(plain, under_autocast)


@pytest.mark.parametrize("eps", [0.0, 1e-3])
@pytest.mark.parametrize("method", [None, *METHODS])
def test_every_system_is_float32_under_autocast(method, eps):
    A = testing.spd(5, 3, (2,)).bfloat16()

    def root(A):
        return paper.sqrtm(A, method=method, eps=eps) if method else fastsqrtm.sqrtm(A, eps=eps)

    with torch.autocast("cpu", torch.bfloat16):
        S = root(A)
        assert root(A.double()).dtype == torch.float64
    assert torch.equal(S, root(A.float()))
    assert root(A).dtype == torch.bfloat16


def test_autocast_reaches_no_residual():
    plain, under_autocast = both_ways(
        lambda A: fastsqrtm.root_info(A, fastsqrtm.sqrtm(A, check=True)), testing.spd(8, 1e4)
    )
    assert torch.equal(plain.residual, under_autocast.residual)


def test_compile_of_what_is_told_about_a_root():
    torch._dynamo.reset()
    A = testing.spd(3, batch=(2,))
    for function in (fastsqrtm.sqrtm, fastsqrtm.sqrtm_and_inv):

        def told(A, function=function):
            roots = results(function(A, rtol=1e-3, eps=1e-3))
            return *roots, *fastsqrtm.root_info(A, *roots, rtol=1e-3)

        compiled = torch.compile(told, fullgraph=True, backend="aot_eager")
        for ours, theirs in zip(compiled(A), told(A), strict=True):
            assert torch.equal(ours, theirs)
