"""The machine under the ops, with ops that exist nowhere else: several results, rectangular inputs, results of another
shape or dtype, any count of numbers, even none.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import fastsqrtm
import op_cases
from fastsqrtm import testing
from fastsqrtm._ops import check, register, route
from fastsqrtm._ops.definition import DEFINITIONS, Definition, Rule, incomplete
from fastsqrtm._ops.table import OPS, parse, read

LIBRARY = torch.library.Library("fastsqrtm_trial", "DEF")
MADE = {}


def made(schema: str, shapes: str, ranges: str, rule: Rule):
    """Registers the decorated function as an op of the throw-away namespace."""

    def define(compute):
        definition = Definition(parse(compute.__name__, schema, shapes, ranges), compute)
        definition.rule = rule
        register.register(definition, LIBRARY, define=True)
        MADE[compute.__name__] = definition
        return definition

    return define


# Leading columns and leading rows, with the shapes of a thin QR. It is linear, so it is its own derivative.


def leading(A: Tensor) -> tuple[Tensor, Tensor]:
    k = min(A.shape[-2:])
    return A[..., :k].clone(), A[..., :k, :].clone()


def leading_vjp(A: Tensor, numbers: tuple, G: Tensor, H: Tensor) -> Tensor:
    m, n = A.shape[-2:]
    pad = torch.nn.functional.pad
    return pad(G, (0, n - G.shape[-1])) + pad(H, (0, 0, 0, m - H.shape[-2]))


leading = made(
    "(Tensor A) -> (Tensor Q, Tensor R)", "mn -> mk, kn", "",
    Rule(lambda A, Q, R: (A,), leading_vjp, lambda A, numbers, dA: route.apply(leading, dA)),
)(leading)  # fmt: skip


# A matrix and, in integers, an order of its columns, which has no derivative.


@made(
    "(Tensor A) -> (Tensor, Tensor)", "mn -> mk, n:int64", "",
    Rule(
        lambda A, *_: (A,),
        lambda A, numbers, G: torch.nn.functional.pad(2 * A[..., : min(A.shape[-2:])] * G,
                                                      (0, A.shape[-1] - min(A.shape[-2:]))),
        lambda A, numbers, dA: 2 * (A * dA)[..., : min(A.shape[-2:])],
    ),
)  # fmt: skip
def squares_and_order(A):
    return A[..., : min(A.shape[-2:])].square(), A.square().sum(-2).argsort(-1)


# A number a matrix.


@made(
    "(Tensor A) -> (Tensor, Tensor)", "nn -> nn, 1", "",
    Rule(
        lambda A, *_: (A,),
        lambda A, numbers, G, h: G @ A.mT + A.mT @ G + torch.eye(A.shape[-1], dtype=A.dtype) * h[..., None, None],
        lambda A, numbers, dA: (dA @ A + A @ dA, dA.diagonal(dim1=-2, dim2=-1).sum(-1)),
    ),
)  # fmt: skip
def square_and_trace(A):
    return A @ A, A.diagonal(dim1=-2, dim2=-1).sum(-1)


# Two numbers, and a second tensor that shares one letter with the first.


def weighted_vjp(A, B, numbers, G):
    a, b = numbers
    return a * G @ B.mT, a * A.mT @ G + 2 * b * B * G.sum((-2, -1), keepdim=True)


@made(
    "(Tensor A, Tensor B, float a=1., float b=0.5) -> Tensor", "mk, kn -> mn", "a -1..2, b 0..1",
    Rule(
        lambda A, B, X: (A, B), weighted_vjp,
        lambda A, B, numbers, dA, dB: numbers[0] * (dA @ B + A @ dB)
        + 2 * numbers[1] * (B * dB).sum((-2, -1), keepdim=True),
    ),
)  # fmt: skip
def weighted(A, B, a, b):
    return a * A @ B + b * B.square().sum((-2, -1), keepdim=True)


SHAPES = {
    "leading": [((2, 5, 3),), ((4, 3, 5),), ((3, 3),), ((0, 3, 2),), ((2, 0, 3),)],
    "squares_and_order": [((2, 5, 3),), ((4, 3, 5),), ((0, 3, 2),)],
    "square_and_trace": [((2, 3, 3),), ((4, 4),), ((0, 3, 3),), ((2, 0, 0),)],
    "weighted": [((2, 4, 3), (2, 3, 5)), ((4, 3), (3, 2)), ((0, 4, 3), (0, 3, 5))],
}
CASES = [(name, shapes) for name, rows in SHAPES.items() for shapes in rows]


def inputs(shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def op(name):
    return getattr(torch.ops.fastsqrtm_trial, name)


def numbers_of(name):
    return [number.default for number in MADE[name].op.numbers]


def by_route(name):
    """The op with its differentiable results only."""
    differentiable = MADE[name].op.differentiable

    def function(*tensors):
        found = testing.results(route.apply(MADE[name], *tensors, *numbers_of(name)))
        return tuple(x for x, has in zip(found, differentiable, strict=True) if has)

    return function


@pytest.mark.parametrize(("name", "shapes"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_results(name, shapes, dtype):
    """Shapes and dtypes of the op are those of the fake; the op is its twin."""
    tensors = inputs(shapes, dtype)
    found = testing.results(op(name)(*tensors))
    fakes = testing.results(op(name)(*(x.to("meta") for x in tensors)))
    line = MADE[name].op
    for out, fake, shape, result in zip(found, fakes, line.result_shapes(*shapes), line.results, strict=True):
        assert out.shape == fake.shape == shape
        assert out.dtype == fake.dtype == (result.dtype or dtype)
        assert out.is_contiguous()
        assert not out.numel() or tensors[0].numel() or out.count_nonzero() == 0
    if tensors[0].numel():
        in_float32 = [x.to(torch.promote_types(dtype, torch.float32)) for x in tensors]
        expected = testing.results(MADE[name].compute(*in_float32, *numbers_of(name)))
        assert all(torch.equal(x, y.to(x.dtype)) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize(("name", "shapes"), CASES, ids=str)
def test_opcheck(name, shapes):
    torch.library.opcheck(op(name).default, tuple(x.requires_grad_() for x in inputs(shapes)))


@pytest.mark.parametrize("name", SHAPES)
def test_derivatives_of_any_order(name):
    tensors = [x.requires_grad_() for x in inputs(SHAPES[name][0])]
    assert torch.autograd.gradcheck(by_route(name), tensors, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(by_route(name), tensors, check_fwd_over_rev=True)
    assert torch.autograd.gradcheck(lambda *x: by_route(name)(*x)[0], tensors)  # the others without a cotangent


@pytest.mark.parametrize("name", SHAPES)
def test_vmap(name):
    tensors = inputs(SHAPES[name][0])
    expected = testing.results(op(name)(*tensors))
    for call in (op(name), lambda *x: route.apply(MADE[name], *x, *numbers_of(name))):
        found = testing.results(torch.vmap(call)(*tensors))
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
        last = testing.results(torch.vmap(call, in_dims=-1, out_dims=-1)(*(x.movedim(0, -1) for x in tensors)))
        assert all(torch.equal(x.movedim(-1, 0), y) for x, y in zip(last, expected, strict=True))

    def loss(*x):
        return sum(out.sin().sum() for out in by_route(name)(*x))

    together = torch.func.grad(loss)(*tensors)
    assert torch.allclose(torch.vmap(torch.func.grad(loss))(*tensors), together)
    first = tensors[0][0].movedim(0, -1)
    assert torch.func.jacfwd(lambda x: by_route(name)(x.movedim(-1, 0), *(y[0] for y in tensors[1:]))[0])(first).numel()


def test_integers_have_no_gradient():
    A = inputs([(2, 3, 4)])[0].requires_grad_()
    for call in (op("squares_and_order"), lambda A: route.apply(MADE["squares_and_order"], A)):
        squares, order = call(A)
        assert squares.requires_grad and not order.requires_grad
        assert torch.equal(torch.autograd.grad(squares.sum(), A)[0][..., :3], 2 * A[..., :3])
    _, (dsquares, dorder) = torch.func.jvp(lambda A: route.apply(MADE["squares_and_order"], A), (A.detach(),) * 1, (A,))
    assert dsquares.shape == (2, 3, 3) and (dorder is None or dorder.count_nonzero() == 0)


@pytest.mark.parametrize("name", SHAPES)
def test_compile_and_autocast(name):
    torch._dynamo.reset()
    tensors = inputs(SHAPES[name][0])

    def loss(*x):
        return sum(out.sin().sum() for out in by_route(name)(*x))

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, expected = (
        torch.autograd.grad(f(*leaves), leaves)
        for f in (compiled, loss)
        for leaves in [[x.requires_grad_() for x in tensors]]
    )
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    half = [x.detach().bfloat16() for x in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        found = testing.results(op(name)(*half))
    expected = testing.results(op(name)(*(x.float() for x in half)))
    assert all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(found, expected, strict=True))


ONES = torch.ones
BAD_CALLS = {
    "leading: A must be (..., m, n), got (3,)": lambda op: op.leading(ONES(3)),
    "square_and_trace: A must be (..., n, n), got (3, 4)": lambda op: op.square_and_trace(ONES(3, 4)),
    "weighted: B must be (..., k, n) where A is (2, 4, 3), got (2, 4, 5)": lambda op: op.weighted(
        ONES(2, 4, 3), ONES(2, 4, 5)
    ),
    "weighted: B must be (..., k, n) where A is (2, 4, 3), got (3, 5)": lambda op: op.weighted(
        ONES(2, 4, 3), ONES(3, 5)
    ),
    "weighted: B must be (..., k, n) where A is (2, 4, 3), got (1, 2, 3, 5)": lambda op: op.weighted(
        ONES(2, 4, 3), ONES(1, 2, 3, 5)
    ),
    "weighted: a must be from -1 to 2, got 2.5": lambda op: op.weighted(ONES(4, 3), ONES(3, 5), 2.5),
    "weighted: b must be from 0 to 1, got -0.1": lambda op: op.weighted(ONES(4, 3), ONES(3, 5), 1.0, -0.1),
    "weighted: B must have the dtype of A (float32), got float64": lambda op: op.weighted(
        ONES(4, 3), ONES(3, 5, dtype=torch.float64)
    ),
}


@pytest.mark.parametrize("text", BAD_CALLS)
def test_checks(text):
    for ops in (torch.ops.fastsqrtm_trial, type("Twins", (), {k: staticmethod(v) for k, v in MADE.items()})):
        with pytest.raises(RuntimeError) as caught:
            BAD_CALLS[text](ops)
        assert str(caught.value).splitlines()[0] == f"fastsqrtm.{text}"


def test_the_columns_of_a_line():
    line = parse("pivoted", "(Tensor A, int p, float q=0.5) -> (Tensor Q, Tensor)", "mn -> mk, n:int64", "p 1..9")
    assert (line.names, line.differentiable) == (("A",), (True, False))
    assert [(x.name, x.whole, x.default, x.high) for x in line.numbers] == [
        ("p", True, None, 9), ("q", False, 0.5, float("inf"))
    ]  # fmt: skip
    assert line.result_shapes((7, 4, 6)) == [(7, 4, 4), (7, 6)]
    assert str(line.signature) == "(A, p, q=0.5)"
    assert check.call(line, (torch.ones(3, 4), 2))[1] == (2, 0.5)
    assert parse("inverse", "(Tensor A) -> (Tensor, Tensor)", "nn -> nn, 1", "").result_shapes((3, 5, 5)) == [
        (3, 5, 5),
        (3,),
    ]


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        (("x", "(int p, Tensor A) -> Tensor", "nn -> nn", ""), "tensors, then int or float"),
        (("x", "(Tensor A, str p) -> Tensor", "nn -> nn", ""), "tensors, then int or float"),
        (("x", "(Tensor A, int p) -> Tensor", "nn -> nn", "q 1..2"), "there is no number q"),
        (("x", "(Tensor A) -> (Tensor, Tensor)", "nn -> nn", ""), "zip"),
        (("x", "(Tensor A, Tensor B) -> Tensor", "nn -> nn", ""), "zip"),
    ],
    ids=str,
)
def test_a_line_that_contradicts_itself_is_refused(columns, error):
    with pytest.raises(ValueError, match=error):
        parse(*columns)


def test_every_line_of_the_table_is_read_and_defined():
    table = (Path(fastsqrtm.__file__).parent / "ops.def").read_text()
    assert len(OPS) == table.count("\nOP(")
    assert list(read(table)) == list(OPS)
    assert DEFINITIONS.keys() == OPS.keys()
    assert incomplete() == []


def test_what_a_line_lacks_is_named(monkeypatch):
    monkeypatch.delitem(DEFINITIONS, "mpa")
    monkeypatch.setattr(DEFINITIONS["sqrtm"], "rule", None)
    assert incomplete() == ["mpa has no twin", "sqrtm has no rule"]
    with pytest.raises(ImportError, match="mpa has no twin, sqrtm has no rule"):
        register.register_all(DEFINITIONS)


def test_rules_name_ops_that_exist():
    """A rule calls ops by name; only a gradient would find a name that does not exist."""
    for name, definition in ((name, DEFINITIONS[name]) for name in op_cases.OPS):
        tensors = [x.requires_grad_() for x in op_cases.inputs(name, 2, dtype=torch.float64)]
        numbers = [number.default for number in definition.op.numbers]
        found = [x for x in testing.results(route.apply(definition, *tensors, *numbers)) if x.requires_grad]
        first = torch.autograd.grad(found, tensors, [torch.ones_like(x) for x in found], allow_unused=True)
        assert any(x is not None for x in first), name
        _, tangents = torch.func.jvp(
            lambda *x, d=definition, n=numbers: route.apply(d, *x, *n), tuple(tensors), tuple(tensors)
        )
        assert len(testing.results(tangents)) == len(definition.op.results)


class Watching(TorchDispatchMode):
    """Sees every call, and computes what would be computed without it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


def test_a_mode_sees_the_calls_of_public_functions():
    """Which only plain calls leave the dispatcher out of, and those it must not."""
    A = testing.spd(3, dtype=torch.float64).requires_grad_()
    with Watching() as mode:
        fastsqrtm.sqrtm(A).sum().backward()
    for name in ("sqrtm", "sqrtm_backward"):
        assert getattr(torch.ops.fastsqrtm, name).default in mode.seen


def test_what_a_plain_call_is():
    A = testing.spd(3, batch=(2,)).requires_grad_()
    for x in (A, A.detach(), torch.nn.Parameter(A.detach()), A.mT, A[:1]):
        assert route._goes_straight((x, 0.0, 1))
    with torch.no_grad():
        assert route._goes_straight((A,))


class Subclass(Tensor):
    """A tensor that may do anything."""


def test_what_is_no_plain_call():
    A = testing.spd(3, batch=(2,))
    assert not route._goes_straight((A.as_subclass(Subclass),))
    for mode in (torch.autocast("cpu"), torch.inference_mode(), torch.device("cpu"), forward_ad.dual_level()):
        with mode:
            assert not route._goes_straight((A,))
    seen = []

    def look(x):
        seen.append(route._goes_straight((x,)))
        return x.sum()

    torch.func.vmap(look)(A)
    torch.func.grad(look)(A)
    torch.jit.trace(look, A, check_trace=False)
    make_fx(look)(A)
    make_fx(look, pre_dispatch=True)(A)
    assert seen == [False] * 5


def test_plain_calls_on_unusual_tensors():
    """Their own dispatch keys are below that of autograd, where a call that goes straight meets them."""
    A = testing.spd(3, batch=(2,))
    assert fastsqrtm.sqrtm(A.to("meta").requires_grad_()).is_meta
    for x in (A.to_sparse(), torch.nested.nested_tensor([A[0]])):
        with pytest.raises(RuntimeError, match=r"fastsqrtm\.sqrtm: A must be a strided tensor"):
            route.call("sqrtm", x, 0.0)
    mirrored = torch.view_as_complex(torch.stack((A, -A), -1)).conj().imag  # holds -A and a bit that says so
    assert mirrored.is_neg()
    leaf = A.clone().requires_grad_()
    S = fastsqrtm.sqrtm(leaf)
    assert torch.equal(fastsqrtm.sqrtm(mirrored), S)
    assert torch.equal(*(torch.autograd.grad(S, leaf, G, retain_graph=True)[0] for G in (mirrored, A)))
