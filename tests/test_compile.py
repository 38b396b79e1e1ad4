"""The requirements of torch on an operator: opcheck, torch.compile, torch.export, autocast."""

import contextlib
import subprocess
import sys

import pytest
import torch
import torch._dynamo.compiled_autograd
import torch._dynamo.testing
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import fastsqrtm
import op_cases
from fastsqrtm import paper, testing
from fastsqrtm.paper import METHODS
from fastsqrtm.testing import results
from op_cases import OPS

# Tracing a loop and its derivative takes as long as its count. Three rounds have a first, a middle and a last one.
FEW = {"degree": 3, "iterations": 3, "poles": 3}


def inputs(name, shape, dtype=torch.float32):
    *batch, n, _ = shape
    return op_cases.inputs(name, n, tuple(batch), 4.0, dtype)


@pytest.mark.parametrize("shape", [(3, 3), (2, 1, 4, 4), (0, 3, 3), (2, 0, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_opcheck(name, shape):
    tensors = (x.requires_grad_(x.is_floating_point()) for x in inputs(name, shape))
    testing.opcheck(name, (*tensors, *op_cases.defaults(name, FEW)))


@pytest.mark.parametrize("name", OPS)
def test_opcheck_of_strides_and_counts(name):
    views = tuple(x.mT.contiguous().mT[1:] if x.dim() > 2 else x[1:] for x in inputs(name, (3, 4, 4), torch.float64))
    numbers = (min(number.high, 9) if number.whole else 1e-3 for number in OPS[name].numbers)
    testing.opcheck(name, (*views, *(int(x) if x >= 1 else x for x in numbers)))


COUNTED = [name for name, op in OPS.items() if any(number.whole for number in op.numbers)]
"""Ops whose loops are traced as long as they are."""
CALLS = [(name, dynamic) for name in OPS for dynamic in (False, True)]


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [pytest.param(*call, marks=[pytest.mark.slow] if call[1] and call[0] in COUNTED else []) for call in CALLS],
)
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


TRANSFORMED = {
    "vmap": lambda f: torch.func.vmap(f),
    "grad": lambda f: torch.func.grad(lambda A: f(A).sin().sum()),
    "vmap of grad": lambda f: torch.func.vmap(torch.func.grad(lambda A: f(A).sin().sum())),
    "jvp": lambda f: lambda A: torch.func.jvp(f, (A,), (A.sin(),))[1],
    "jacfwd": lambda f: torch.func.jacfwd(lambda A: f(A).sum((0, 2))),
    "hessian": lambda f: torch.func.hessian(lambda A: f(A).sin().sum()),
}


@pytest.mark.parametrize("transform", TRANSFORMED)
@pytest.mark.parametrize("function", [fastsqrtm.sqrtm, fastsqrtm.mpa_lya, torch.ops.fastsqrtm.sqrtm])
def test_transforms_inside_the_compiled_function(function, transform):
    torch._dynamo.reset()
    A = testing.spd(3, batch=(2,), dtype=torch.float64)
    transformed = TRANSFORMED[transform](function)
    compiled = torch.compile(transformed, fullgraph=True, backend="aot_eager")
    assert testing.relative_error(compiled(A).reshape(1, -1), transformed(A).reshape(1, -1)).item() < 1e-14


def primal_and_tangent(function, tensors, directions):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(*map(forward_ad.make_dual, tensors, directions)))


def scripted(name, function, tensors):
    """The call of the op in TorchScript's own language; arguments of a call by their defaults."""
    arguments = ", ".join(f"x{i}" for i in range(len(tensors)))
    return torch.jit.CompilationUnit(f"""
def function({arguments}):
    found = torch.ops.fastsqrtm.{name}({arguments})
    return {"found" if len(OPS[name].results) == 1 else "found[0]"} * 2 + x0.sum()
""").function


class Called(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


GRAPHS = {
    "compiled": lambda name, f, x: torch.compile(f, fullgraph=True, backend="aot_eager"),
    "traced": lambda name, f, x: torch.jit.trace(f, x),
    "scripted": scripted,
    "exported": lambda name, f, x: torch.export.export(Called(f), x).module(),
    "made by make_fx": lambda name, f, x: make_fx(f)(*x),
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", OPS)
def test_tangents_from_outside(name, graph):
    """A graph made without tangents passes on those it is called with, with gradients recorded or not."""
    torch._dynamo.reset()
    tensors = tuple(op_cases.inputs(name, 3, (2,), 4.0, torch.float64))
    directions = tuple(x.sin() for x in tensors)

    op = op_cases.dispatched(name)

    def function(*tensors):
        return 2 * results(op(*tensors))[0] + tensors[0].sum()

    recorded = GRAPHS[graph](name, function, tensors)
    assert torch.equal(recorded(*tensors), function(*tensors))
    expected = torch.func.jvp(function, tensors, directions)
    for _ in range(3):  # TorchScript changes the graph after its first runs
        found = primal_and_tangent(recorded, tensors, directions)
        assert torch.equal(found.primal, expected[0])
        assert testing.relative_error(found.tangent, expected[1]).max() < 1e-13
        if graph != "compiled":  # torch refuses torch.func.jvp of one compiled with fullgraph
            assert torch.equal(torch.func.jvp(recorded, tensors, directions)[1], found.tangent)


def test_tangents_of_the_documented_functions_from_outside():
    A = testing.spd(3, batch=(2,), dtype=torch.float64)
    for function in (fastsqrtm.sqrtm, fastsqrtm.inv_sqrtm, fastsqrtm.mpa_lya, fastsqrtm.inv):
        torch._dynamo.reset()

        def whole(A, function=function):
            return 2 * function(A) + A

        expected = torch.func.jvp(whole, (A,), (A,))[1]
        for graph in ("compiled", "traced", "exported"):
            try:
                tangent = primal_and_tangent(GRAPHS[graph](None, whole, (A,)), (A,), (A,)).tangent
            except torch._dynamo.exc.Unsupported as refusal:  # by torch 2.14, of any function
                assert graph == "compiled" and "forward-mode AD tangent" in str(refusal)
                continue
            assert testing.relative_error(tangent, expected).max() < 1e-13


def test_a_graph_holds_the_op_and_nothing_else():
    graph = make_fx(lambda A: fastsqrtm.sqrtm(A))(testing.spd(3)).graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_function", "output"]


def test_compiled_autograd():
    gradients = []
    for enabled in (False, True):
        leaf = testing.spd(3, dtype=torch.float64).requires_grad_()
        compiler = torch.compile(backend="aot_eager", fullgraph=True)
        with torch._dynamo.compiled_autograd._enable(compiler) if enabled else contextlib.nullcontext():
            fastsqrtm.sqrtm(leaf).sin().sum().backward()
        gradients.append(leaf.grad)
    assert testing.relative_error(*gradients).item() < 1e-14


def test_a_level_of_forward_mode_inside_the_compiled_function():
    torch._dynamo.reset()
    A = testing.spd(3, batch=(2,), dtype=torch.float64)

    def tangent(A):
        return primal_and_tangent(lambda A: 2 * fastsqrtm.sqrtm(A) + A, (A,), (A.sin(),)).tangent

    for backend in ("eager", "aot_eager"):
        compiled = torch.compile(tangent, fullgraph=True, backend=backend)
        assert testing.relative_error(compiled(A), tangent(A)).max() < 1e-13


@pytest.mark.parametrize("function", [fastsqrtm.sqrtm, torch.ops.fastsqrtm.sqrtm])
def test_inductor_refuses_tangents_from_outside(function):
    """Its kernels drop them, and then what reaches the op has none."""
    torch._dynamo.reset()
    A = testing.spd(3, dtype=torch.float64)
    compiled = torch.compile(lambda A: function(A), fullgraph=True)
    compiled(A)
    with pytest.raises(RuntimeError, match=r"^fastsqrtm.sqrtm: forward mode must be inside the compiled function"):
        primal_and_tangent(compiled, (A,), (A,))
    inside = torch.compile(lambda A: torch.func.jvp(function, (A,), (A,))[1], fullgraph=True)
    assert testing.relative_error(inside(A), torch.func.jvp(function, (A,), (A,))[1]).max() < 1e-13


def test_compile_is_the_first_call_of_a_process():
    program = "import torch, fastsqrtm; torch.compile(fastsqrtm.sqrtm, fullgraph=True, backend='eager')(torch.eye(3))"
    subprocess.run([sys.executable, "-c", program], check=True)


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
