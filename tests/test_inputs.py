"""The native kernels and the pure-torch path accept and refuse the same inputs."""

import functools
import math
import re
import warnings

import numpy as np
import pytest
import torch

import fastsqrtm
import op_cases
from fastsqrtm import paper, sqrtm, testing
from fastsqrtm.testing import results
from op_cases import CASES, OPS

OF_ONE_MATRIX = [name for name, op in OPS.items() if len(op.tensors) == 1]
SEVERAL = [name for name in OPS if name not in OF_ONE_MATRIX]
NUMBERS = [(name, number) for name, op in OPS.items() for number in op.numbers]
# Of the inputs below, for the most sensitive op: Z^2 G Z^2 may be as small as G ||Z||^4 / kappa^4, and that of Z is 5.
CONDITION = 5.0**4


def inputs(name, n=6, batch=(2, 3), dtype=torch.float64):
    return op_cases.inputs(name, n, batch, dtype=dtype)


def failure(function, *args):
    with pytest.raises(RuntimeError) as caught:
        function(*args)
    return str(caught.value).splitlines()[0]


BAD_FIRST = [
    (torch.ones(3, 4), "must be {shape}, got (3, 4)"),
    (torch.ones(2, 4, 3), "must be {shape}, got (2, 4, 3)"),
    (torch.ones(3), "must be {shape}, got (3,)"),
    (torch.ones(()), "must be {shape}, got ()"),
    (torch.ones(0, 3, 4), "must be {shape}, got (0, 3, 4)"),
    (torch.ones(3, 3, dtype=torch.int64), "must be float16, bfloat16, float32 or float64, got int64"),
    (torch.ones(3, 3, dtype=torch.uint8), "must be float16, bfloat16, float32 or float64, got uint8"),
    (torch.ones(3, 3, dtype=torch.bool), "must be float16, bfloat16, float32 or float64, got bool"),
    (torch.ones(3, 3, dtype=torch.complex64), "must be float16, bfloat16, float32 or float64, got complex64"),
    (torch.ones(3, 3, dtype=torch.int8), "must be float16, bfloat16, float32 or float64, got int8"),
    (torch.ones(3, 3, dtype=torch.complex128), "must be float16, bfloat16, float32 or float64, got complex128"),
    (torch.eye(3).to_sparse(), "must be a strided tensor, got sparse_coo"),
    (torch.eye(3).to_sparse_csr(), "must be a strided tensor, got sparse_csr"),
]


@pytest.mark.parametrize(("bad", "text"), BAD_FIRST, ids=[text for _, text in BAD_FIRST])
@pytest.mark.parametrize("name", OPS)
def test_first_argument(path, name, bad, text):
    first, *others = OPS[name].tensors
    if "{shape}" in text and bad.dim() > 1 and not first.equal:
        pytest.skip("takes matrices of any shape")
    text = text.format(shape=first.expected_shape)
    assert failure(path(name), bad, *(bad for _ in others)) == f"fastsqrtm.{name}: {first.name} {text}"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16])
def test_rare_dtypes(path, dtype):
    """The native kernels do not name these."""
    text = failure(path("mpa_lya"), torch.ones(3, 3).to(dtype))
    assert text.startswith("fastsqrtm.mpa_lya: A must be float16, bfloat16, float32 or float64, got ")


BAD_OTHER = {
    "no batch": (lambda x: x[0], "{like} {size}, got {shape}"),
    "another shape": (lambda x: torch.cat((x, x), -1), "{like} {size}, got {shape}"),
    "float64": (torch.Tensor.double, "must have the dtype of {first.name} (float32), got float64"),
    "int32": (torch.Tensor.int, "must have the dtype of {first.name} (float32), got int32"),
    "meta": (lambda x: x.to("meta"), "must be on the device of {first.name} (cpu), got meta"),
    "sparse": (torch.Tensor.to_sparse, "must be a strided tensor, got sparse_coo"),
}


@pytest.mark.parametrize("kind", BAD_OTHER)
@pytest.mark.parametrize("name", SEVERAL)
def test_other_arguments(path, name, kind):
    first, *others = OPS[name].tensors
    spoil, text = BAD_OTHER[kind]
    for position, other in enumerate(others, 1):
        arguments = [torch.ones(shape) for shape in op_cases.shapes(name, 3, (2,))]
        arguments[position] = spoil(arguments[position])
        like = (
            f"must have the shape of {first.name}"
            if other.dims == first.dims
            else f"must be {other.expected_shape} where {first.name} is"
        )
        sizes = tuple(arguments[0].shape), tuple(arguments[position].shape)
        expected = text.format(like=like, first=first, size=sizes[0], shape=sizes[1])
        assert failure(path(name), *arguments) == f"fastsqrtm.{name}: {other.name} {expected}"


def wrong_number(path, name, number, value):
    """What the op says of it, behind good tensors and good numbers."""
    before = OPS[name].numbers[: OPS[name].numbers.index(number)]
    return failure(path(name), *inputs(name), *(x.default for x in before), value)


@pytest.mark.parametrize("value", [-3.0, 1.5, "just below", math.nan, math.inf])
@pytest.mark.parametrize(("name", "number"), [(name, x) for name, x in NUMBERS if not x.whole])
def test_tolerances(path, name, number, value):
    value = number.low - 1e-9 if value == "just below" else value
    text = f"fastsqrtm.{name}: {number.name} must be from {number.low:g} to {number.high:g}, got {value:g}"
    assert wrong_number(path, name, number, value) == text


@pytest.mark.parametrize("value", [0, -1, 1000, -(2**40), None], ids=lambda value: value or "one too many")
@pytest.mark.parametrize(("name", "number"), [(name, x) for name, x in NUMBERS if x.whole])
def test_counts(path, name, number, value):
    value = int(number.high) + 1 if value is None else value
    text = f"fastsqrtm.{name}: {number.name} must be from 1 to {number.high:g}, got {value}"
    assert wrong_number(path, name, number, value) == text


def test_the_limits_of_the_numbers():
    limits = {(number.name, number.low, number.high) for op in OPS.values() for number in op.numbers}
    of_roots = {("rtol", 0, 1), ("degree", 1, 32), ("degree", 1, 128), ("iterations", 1, 100)}
    assert limits == of_roots | {("exponent", -1, 1), ("lowest", 1e-12, 0.5), ("poles", 1, 32)}


def test_counts_are_checked_for_empty_input_too(path):
    assert "degree" in failure(path("mpa_lya"), torch.ones(0, 3, 3), 0)
    assert "iterations" in failure(path("lyapunov"), torch.ones(0, 0), torch.ones(0, 0), 0)


def test_the_functions_say_the_same():
    assert failure(fastsqrtm.mpa_lya, torch.ones(3, 4)) == "fastsqrtm.mpa_lya: A must be (..., n, n), got (3, 4)"
    text = failure(fastsqrtm.lyapunov, torch.eye(3), torch.eye(4))
    assert text == "fastsqrtm.lyapunov: C must have the shape of B (3, 3), got (4, 4)"
    assert failure(fastsqrtm.lyapunov, torch.ones(3), torch.ones(3)).startswith("fastsqrtm.lyapunov: B must be")
    assert failure(fastsqrtm.plan, torch.ones(3, 4)) == "fastsqrtm.plan: A must be (..., n, n), got (3, 4)"


@pytest.mark.parametrize(("batch", "n"), [((), 0), ((0,), 3), ((2,), 0), ((2, 0), 4), ((0,), 0)])
@pytest.mark.parametrize("name", OPS)
def test_empty(path, name, batch, n):
    shapes = op_cases.shapes(name, n, batch)
    found = results(path(name)(*map(torch.ones, shapes)))
    assert [out.shape for out in found] == OPS[name].result_shapes(*shapes)
    assert all(out.is_contiguous() for out in found)
    leaves = [torch.ones(shape, requires_grad=True) for shape in shapes]
    total = sum(out.sum() for out in op_cases.differentiable(name)(*leaves))
    for x, gradient in zip(leaves, torch.autograd.grad(total, leaves, allow_unused=True), strict=True):
        assert gradient is None or gradient.shape == x.shape


def placed(x, sizes, index):
    """x in a part of each matrix of more memory, NaN elsewhere."""
    memory = torch.full((*x.shape[:2], *sizes), math.nan, dtype=x.dtype)
    memory[(..., *index)] = x
    return memory[(..., *index)]


def views(x):
    """The same numbers in every kind of memory: of matrices, and of one number for each matrix."""
    dims = list(enumerate(x.shape[2:]))
    yield "transposed matrices", x.mT.contiguous().mT if len(dims) > 1 else x
    yield "transposed batch", x.transpose(0, 1).contiguous().transpose(0, 1)
    yield "batch last", x.movedim((0, 1), (-2, -1)).contiguous().movedim((-2, -1), (0, 1))
    inside = [slice(1 + i, 1 + i + size) for i, size in dims]
    yield "inside a larger matrix", placed(x, [size + 3 + 2 * i for i, size in dims], inside)
    steps = [slice(None, None, 2 + i) for i, _ in dims]
    yield "every second row and third column", placed(x, [(2 + i) * size for i, size in dims], steps)
    memory = torch.full((x.numel() + 2,), math.nan, dtype=x.dtype)
    memory[1:-1] = x.flatten()
    yield "an offset of one element", memory[1:-1].view(x.shape)
    every = torch.full((2 * len(x), *x.shape[1:]), math.nan, dtype=x.dtype)
    every[::2] = x
    yield "every second matrix", every[::2]
    yield "negative bit", torch._neg_view(-x)


@pytest.mark.parametrize("n", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("name", OPS)
def test_views(path, same, name, n):
    tensors = inputs(name, n)
    expected = path(name)(*tensors)
    for kinds in zip(*map(views, tensors), strict=True):
        originals = [view.clone() for _, view in kinds]
        assert same(path(name)(*(view for _, view in kinds)), expected, CONDITION), kinds[0][0]
        for (_, view), original in zip(kinds, originals, strict=True):
            assert torch.equal(view, original)


@pytest.mark.parametrize("name", OPS)
def test_broadcast_views(path, same, name):
    expanded = [x.expand(4, *x.shape[1:]) for x in inputs(name, 6, (1, 3))]
    assert same(path(name)(*expanded), path(name)(*(x.contiguous() for x in expanded)), CONDITION)
    constant = torch.tensor(2.0).expand(2, 5, 5)
    assert same(path("mtp_lya")(constant), path("mtp_lya")(constant.contiguous()), 1.0)


@pytest.mark.parametrize("name", OPS)
def test_writes_nothing_outside_its_result(path, same, name):
    """Inputs in the middle of one buffer with sentinels around them, unchanged to the bit."""
    tensors = inputs(name, 5, (3,))
    memory = torch.full((sum(x.numel() + 8 for x in tensors) + 8,), 123.0, dtype=torch.float64)
    placed, start = [], 8
    for x in tensors:
        placed.append(memory[start:][: x.numel()].view(x.shape).copy_(x))
        start += x.numel() + 8
    before = memory.clone()
    expected = path(name)(*tensors)
    assert same(path(name)(*placed), expected, CONDITION)
    assert torch.equal(memory, before)


KNOWN_AT_ZERO = [name for name in OPS if CASES[name].at_zero is not None]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 4, 20])
@pytest.mark.parametrize("name", KNOWN_AT_ZERO)
def test_zero_matrix(path, name, n, dtype):
    found = results(path(name)(*op_cases.at_zero(name, inputs(name, n, (2,), dtype), 0)))
    assert op_cases.known_at_zero(name, tuple(x[0] for x in found))
    assert all(x[1].isfinite().all() for x in found)


def test_zero_where_it_is_no_power_of_the_zero_matrix(path):
    """The gradient of the inverse root as well, at zero itself; and what is negative, not indefinite."""
    A, G = torch.zeros(4, 4), torch.ones(4, 4)
    for name in ("inv_sqrtm_backward", "inv_sqrtm_lya_backward"):
        assert torch.equal(path(name)(A, G), A)
    assert torch.equal(path("mpa_lya")(-A), A)


@pytest.mark.parametrize("name", [name for name in KNOWN_AT_ZERO if name in OF_ONE_MATRIX])
def test_gradient_at_zero(name):
    A = torch.zeros(2, 3, 3, requires_grad=True)
    found = op_cases.differentiable(name)(A)
    torch.autograd.backward(found, [torch.ones_like(x) for x in found])
    assert torch.equal(A.grad, torch.zeros(2, 3, 3))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [1, 3, 16, 40])
@pytest.mark.parametrize("name", OPS)
def test_a_bad_matrix_harms_itself_alone(path, same, name, n, poison):
    tensors = inputs(name, n, (5,), torch.float32)
    expected = results(path(name)(*tensors))
    for position, matrix in enumerate(OPS[name].tensors):
        negative = (op_cases.power_of(name, matrix) or 0) < 0
        if position == 0 and negative and CASES[name].at_zero and n == 1 and poison == math.inf:
            continue  # a negative power of the zero matrix, whose gradient is known
        for entry in {(0, 0), (n - 1, n // 2)}:
            bad = [x.clone() for x in tensors]
            bad[position][(2, *entry[: len(matrix.dims)])] = poison
            for out, unharmed in zip(results(path(name)(*bad)), expected, strict=True):
                assert not out.is_floating_point() or not out[2].isfinite().all()
                assert same(out[[0, 1, 3, 4]], unharmed[[0, 1, 3, 4]], CONDITION)
                if name in OF_ONE_MATRIX and out.is_floating_point():
                    assert out[2].isnan().all()


@pytest.mark.parametrize("n", [1, 4, 16, 40])
@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op_cases.power_of(name, op.tensors[0])])
def test_indefinite_is_nan(path, same, name, n):
    """A negative and an indefinite matrix, where the row says so; what is defined for them is not NaN."""
    tensors = inputs(name, n, (4,), torch.float32)
    expected = results(path(name)(*tensors))
    tensors[0][1] = -torch.eye(n)
    tensors[0][2, -1, -1] = -100.0
    for out, unharmed in zip(results(path(name)(*tensors)), expected, strict=True):
        assert out[1].isnan().all() == CASES[name].definite
        assert out[2].isnan().all() or not CASES[name].definite
        assert same(out[[0, 3]], unharmed[[0, 3]], CONDITION)


@pytest.mark.parametrize("name", [name for name in OF_ONE_MATRIX if CASES[name].semidefinite])
def test_positive_semidefinite(path, name):
    for spectrum in ("rank_one", "rank_deficient"):
        for n in (1, 2, 9, 33):
            found = results(path(name)(testing.spd(n, spectrum=spectrum, batch=(3,))))
            assert all(root.isfinite().all() for root in found)


@pytest.mark.parametrize("name", OPS)
def test_the_result_is_new_memory(path, name):
    tensors = inputs(name)
    found = results(path(name)(*tensors))
    assert len({x.data_ptr() for x in (*tensors, *found)}) == len(tensors) + len(found)


@pytest.mark.usefixtures("native_only")
@pytest.mark.parametrize("name", OF_ONE_MATRIX)
def test_a_result_that_fits_no_memory(name):
    """A view of one matrix as more of them than an address space has bytes for."""
    A = torch.eye(3).expand(2**46, 3, 3)
    text = failure(getattr(torch.ops.fastsqrtm, name), A)
    assert text == f"fastsqrtm.{name}: the result for {tuple(A.shape)} must fit into the memory of cpu, got no memory"


A = torch.eye(3)
BAD_CALLS = {
    "sqrtm: A must be a tensor, got list": lambda: fastsqrtm.sqrtm([[1.0]]),
    "mpa_lya: A must be a tensor, got NoneType": lambda: fastsqrtm.mpa_lya(None),
    "lyapunov: C must be a tensor, got ndarray": lambda: fastsqrtm.lyapunov(A, A.numpy()),
    "lyapunov: C must broadcast with B (2, 3, 3), got (4, 3, 3)": lambda: fastsqrtm.lyapunov(
        A.expand(2, 3, 3), A.expand(4, 3, 3)
    ),
    "mpa_lya: degree must be a whole number, got 5.0": lambda: fastsqrtm.mpa_lya(A, degree=5.0),
    "mtp_lya_inv: iterations must be from 1 to 100, got 0": lambda: fastsqrtm.mtp_lya_inv(A, iterations=0),
    "paper.sqrtm: degree must be a whole number, got True": lambda: paper.sqrtm(A, method="mpa", degree=True),
    "paper.sqrtm: degree must be from 1 to 100, got 0": lambda: paper.sqrtm(A, method="ns", degree=0),
    "paper.sqrtm: degree must be from 1 to 32, got 1" + 30 * "0": lambda: paper.sqrtm(A, method="mpa", degree=10**30),
    "paper.sqrtm: iterations must be a whole number, got 5.5": lambda: paper.sqrtm(
        A, method="eigh", backward="svd_taylor", iterations=5.5
    ),
    "inv_sqrtm: rtol must be a number, got '1e-3'": lambda: fastsqrtm.inv_sqrtm(A, rtol="1e-3"),
    "lyapunov: rtol must be a number, got '0.1'": lambda: fastsqrtm.lyapunov(A, A, rtol="0.1"),
    "sqrtm: eps must be a number, got None": lambda: fastsqrtm.sqrtm(A, eps=None),
    "paper.sqrtm: method must be one of mpa, mtp, ns, eigh, pi, got ['mpa']": lambda: paper.sqrtm(A, method=["mpa"]),
    "root_info: a root S or an inverse root Z is needed, got neither": lambda: fastsqrtm.root_info(A),
    "root_info: Z must have the shape of A (3, 3), got (2, 3, 3)": lambda: fastsqrtm.root_info(A, Z=A.expand(2, 3, 3)),
}


@pytest.mark.parametrize("text", BAD_CALLS)
def test_calls_of_the_functions(text):
    with pytest.raises(RuntimeError, match=f"^fastsqrtm.{re.escape(text)}$"):
        BAD_CALLS[text]()


def test_numbers_of_numpy():
    assert torch.equal(fastsqrtm.mpa_lya(A, np.int32(4)), fastsqrtm.mpa_lya(A, 4))
    assert torch.equal(fastsqrtm.sqrtm(A, rtol=np.float32(0.5)), fastsqrtm.sqrtm(A, rtol=0.5))


def nested(layout):
    matrices = [torch.eye(3), torch.eye(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the strided ones a prototype
        return torch.nested.nested_tensor(matrices, layout=layout)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", OPS)
def test_nested_tensors(name, gradient):
    """The op itself and its twin, with a nested tensor in each place."""
    tensors = OPS[name].tensors
    remedy = "(stack matrices of one size, or take those of unbind() one by one), got a nested tensor"
    for layout, text in {torch.strided: f" {remedy}", torch.jagged: ", got jagged"}.items():
        for place, matrix in enumerate(tensors):
            arguments = [torch.ones(shape) for shape in op_cases.shapes(name, 3, (2,))]
            arguments[place] = nested(layout).requires_grad_(gradient)
            for function in (op_cases.dispatched(name), testing.twin(name)):
                assert (
                    failure(function, *arguments) == f"fastsqrtm.{name}: {matrix.name} must be a strided tensor{text}"
                )


OF_A = [getattr(fastsqrtm, name) for name in fastsqrtm.__all__ if name in OF_ONE_MATRIX]
EXAMPLES = [*OF_A, *(functools.partial(f, method=m) for f in (paper.sqrtm, paper.inv_sqrtm) for m in ("mpa", "eigh"))]
EXAMPLES += [lambda A: fastsqrtm.lyapunov(A, A), fastsqrtm.plan, lambda A: fastsqrtm.root_info(A, A)]


@pytest.mark.parametrize("function", EXAMPLES)
def test_functions_of_nested_tensors(function):
    text = failure(function, nested(torch.strided))
    assert text.startswith("fastsqrtm.") and ": A must be" in text.replace("B must", "A must")
    assert text.endswith("got a nested tensor")


@pytest.mark.parametrize("function", EXAMPLES)
def test_symbolic_traces_say_what_makes_them_work(function):
    text = failure(torch.fx.symbolic_trace, lambda A: function(A))
    assert re.search(r"must be a tensor \(torch\.fx\.symbolic_trace .* torch\.fx\.wrap\(.*\), got Proxy$", text)


torch.fx.wrap("sqrtm")


def test_symbolic_trace():
    A = testing.spd(3)
    for function in (lambda A: 2 * sqrtm(A), lambda A: 2 * torch.ops.fastsqrtm.sqrtm(A)):
        traced = torch.fx.symbolic_trace(function)
        assert [node.op for node in traced.graph.nodes].count("call_function") == 2
        assert torch.equal(traced(A), function(A))


@pytest.mark.parametrize("function", [fastsqrtm.sqrtm, fastsqrtm.inv_sqrtm, fastsqrtm.sqrtm_and_inv])
def test_where_nothing_can_be_read_check_names_what_can_be_used(function):
    A = testing.spd(3, batch=(2,))
    name = function.__name__
    message = (
        f"fastsqrtm.{name}: check=True must read whether each matrix converged: call fastsqrtm.root_info(A, root) "
    )

    def checked(A):
        return results(function(A, check=True))[0]

    class Module(torch.nn.Module):
        def forward(self, A):
            return checked(A)

    vmap, grad = torch.func.vmap, torch.func.grad
    mapped = f"{message}instead, got a batch inside torch.vmap"
    assert failure(vmap(checked), A) == mapped
    assert failure(vmap(grad(lambda A: checked(A).sum())), A) == mapped
    assert failure(grad(lambda A: vmap(checked)(A).sum()), A) == mapped
    exported = f"{message}instead, got a graph that is being exported"
    assert failure(torch.export.export, Module(), (A,)) == exported
    with pytest.raises(Exception, match=re.escape(exported)):
        torch.export.export(Module(), (A,), strict=True)
    assert torch.equal(grad(lambda A: checked(A).sum())(A), grad(lambda A: results(function(A))[0].sum())(A))


def test_functionalize_of_a_combination():
    A = testing.spd(3)
    for function, name in ((paper.sqrtm, "sqrtm"), (paper.inv_sqrtm, "inv_sqrtm")):
        text = failure(torch.func.functionalize(functools.partial(function, method="eigh")), A)
        assert text == (
            f"fastsqrtm.paper.{name}: the method and backward must be one op, such as mpa with exact, "
            "or fastsqrtm.sqrtm be called, got a tensor inside torch.func.functionalize"
        )
        one_op = functools.partial(function, method="mpa")
        assert torch.equal(torch.func.functionalize(one_op)(A), one_op(A))
