"""The native kernels and the pure-torch path accept and refuse the same inputs."""

import math
import re

import numpy as np
import pytest
import torch

import fastsqrtm
from fastsqrtm import paper, testing
from fastsqrtm._ops.definition import DEFINITIONS
from fastsqrtm._ops.route import apply
from fastsqrtm.testing import results

TABLE = testing.OPS
OPS = list(TABLE)
TENSORS = {name: op.names for name, op in TABLE.items()}
ROOTS = [name for name in OPS if TENSORS[name] == ("A",)]
SEVERAL = [name for name in OPS if name not in ROOTS]
# Of the inputs below, for the most sensitive op: Z^2 G Z^2 may be as small as G ||Z||^4 / kappa^4, and kappa is 5.
CONDITION = 5.0**4


def by_route(name, *tensors):
    """The op by the route through autograd, which needs the numbers."""
    return results(apply(DEFINITIONS[name], *tensors, *(number.default for number in TABLE[name].numbers)))


def spd_inputs(name, n=6, batch=(2, 3), dtype=torch.float64):
    return testing.op_inputs(name, n, batch, dtype=dtype)


def failure(function, *args):
    with pytest.raises(RuntimeError) as caught:
        function(*args)
    return str(caught.value).splitlines()[0]


BAD_FIRST = [
    (torch.ones(3, 4), "must be (..., n, n), got (3, 4)"),
    (torch.ones(2, 4, 3), "must be (..., n, n), got (2, 4, 3)"),
    (torch.ones(3), "must be (..., n, n), got (3,)"),
    (torch.ones(()), "must be (..., n, n), got ()"),
    (torch.ones(0, 3, 4), "must be (..., n, n), got (0, 3, 4)"),
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
    first, *others = TENSORS[name]
    assert failure(path(name), bad, *(bad for _ in others)) == f"fastsqrtm.{name}: {first} {text}"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16])
def test_rare_dtypes(path, dtype):
    """The native kernels do not name these."""
    text = failure(path("mpa_lya"), torch.ones(3, 3).to(dtype))
    assert text.startswith("fastsqrtm.mpa_lya: A must be float16, bfloat16, float32 or float64, got ")


BAD_OTHER = [
    (torch.eye(3), "must have the shape of {first} (2, 3, 3), got (3, 3)"),
    (torch.ones(2, 3, 4), "must have the shape of {first} (2, 3, 3), got (2, 3, 4)"),
    (torch.ones(2, 3, 3, dtype=torch.float64), "must have the dtype of {first} (float32), got float64"),
    (torch.ones(2, 3, 3, dtype=torch.int32), "must have the dtype of {first} (float32), got int32"),
    (torch.ones(2, 3, 3, device="meta"), "must be on the device of {first} (cpu), got meta"),
    (torch.ones(2, 3, 3).to_sparse(), "must be a strided tensor, got sparse_coo"),
]


@pytest.mark.parametrize(("bad", "text"), BAD_OTHER, ids=[text for _, text in BAD_OTHER])
@pytest.mark.parametrize("name", SEVERAL)
def test_other_arguments(path, name, bad, text):
    first, *others = TENSORS[name]
    for position, letter in enumerate(others, 1):
        arguments = [torch.ones(2, 3, 3) for _ in TENSORS[name]]
        arguments[position] = bad
        assert failure(path(name), *arguments) == f"fastsqrtm.{name}: {letter} {text.format(first=first)}"


@pytest.mark.parametrize("value", [-1.0, 1.5, -1e-9, math.nan, math.inf])
@pytest.mark.parametrize("name", [name for name, op in TABLE.items() if any(not number.whole for number in op.numbers)])
def test_tolerances(path, name, value):
    text = f"fastsqrtm.{name}: rtol must be from 0 to 1, got {value:g}"
    assert failure(path(name), *spd_inputs(name), value) == text


@pytest.mark.parametrize("value", [0, -1, 1000, -(2**40)])
@pytest.mark.parametrize("name", [name for name, op in TABLE.items() if any(number.whole for number in op.numbers)])
def test_counts(path, name, value):
    arguments = spd_inputs(name)
    for number in TABLE[name].numbers:
        expected = f"fastsqrtm.{name}: {number.name} must be from 1 to {number.high:g}, got "
        assert failure(path(name), *arguments, value) == expected + str(value)
        assert failure(path(name), *arguments, int(number.high) + 1) == expected + str(int(number.high) + 1)
        arguments.append(5)


def test_the_limits_of_the_numbers():
    limits = {(number.name, int(number.high)) for op in TABLE.values() for number in op.numbers}
    assert limits == {("rtol", 1), ("degree", 32), ("degree", 128), ("iterations", 100)}
    assert all(number.low == (1 if number.whole else 0) for op in TABLE.values() for number in op.numbers)


def test_counts_are_checked_for_empty_input_too(path):
    assert "degree" in failure(path("mpa_lya"), torch.ones(0, 3, 3), 0)
    assert "iterations" in failure(path("lyapunov"), torch.ones(0, 0), torch.ones(0, 0), 0)


def test_the_functions_say_the_same():
    assert failure(fastsqrtm.mpa_lya, torch.ones(3, 4)) == "fastsqrtm.mpa_lya: A must be (..., n, n), got (3, 4)"
    text = failure(fastsqrtm.lyapunov, torch.eye(3), torch.eye(4))
    assert text == "fastsqrtm.lyapunov: C must have the shape of B (3, 3), got (4, 4)"
    assert failure(fastsqrtm.lyapunov, torch.ones(3), torch.ones(3)).startswith("fastsqrtm.lyapunov: B must be")
    assert failure(fastsqrtm.plan, torch.ones(3, 4)) == "fastsqrtm.plan: A must be (..., n, n), got (3, 4)"


@pytest.mark.parametrize("shape", [(0, 0), (0, 3, 3), (2, 0, 0), (2, 0, 4, 4), (0, 0, 0)])
@pytest.mark.parametrize("name", OPS)
def test_empty(path, name, shape):
    found = results(path(name)(*(torch.ones(shape) for _ in TENSORS[name])))
    assert [out.shape for out in found] == TABLE[name].result_shapes(*[shape] * len(TENSORS[name]))
    assert all(out.is_contiguous() for out in found)
    if name in ROOTS:
        A = torch.ones(shape, requires_grad=True)
        sum(root.sum() for root in by_route(name, A)).backward()
        assert A.grad.shape == shape


def views(x):
    """The same numbers in every kind of memory."""
    *batch, n, _ = x.shape
    yield "transposed matrices", x.mT.contiguous().mT
    yield "transposed batch", x.transpose(0, 1).contiguous().transpose(0, 1)
    yield "batch last", x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    framed = torch.full((*batch, n + 3, n + 5), math.nan, dtype=x.dtype)
    framed[..., 1 : n + 1, 2 : n + 2] = x
    yield "inside a larger matrix", framed[..., 1 : n + 1, 2 : n + 2]
    spread = torch.full((*batch, 2 * n, 3 * n), math.nan, dtype=x.dtype)
    spread[..., ::2, ::3] = x
    yield "every second row and third column", spread[..., ::2, ::3]
    memory = torch.full((x.numel() + 2,), math.nan, dtype=x.dtype)
    memory[1:-1] = x.flatten()
    yield "an offset of one element", memory[1:-1].view(x.shape)
    every = torch.full((2 * batch[0], *x.shape[1:]), math.nan, dtype=x.dtype)
    every[::2] = x
    yield "every second matrix", every[::2]
    yield "negative bit", torch._neg_view(-x)


@pytest.mark.parametrize("n", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("name", OPS)
def test_views(path, same, name, n):
    inputs = spd_inputs(name, n)
    inputs[-1] = torch.randn_like(inputs[-1]) if name not in ROOTS else inputs[-1]
    expected = path(name)(*inputs)
    for kinds in zip(*map(views, inputs), strict=True):
        originals = [view.clone() for _, view in kinds]
        assert same(path(name)(*(view for _, view in kinds)), expected, CONDITION), kinds[0][0]
        for (_, view), original in zip(kinds, originals, strict=True):
            assert torch.equal(view, original)


@pytest.mark.parametrize("name", OPS)
def test_broadcast_views(path, same, name):
    inputs = spd_inputs(name, 6, (1, 3))
    expanded = [x.expand(4, *x.shape[1:]) for x in inputs]
    assert same(path(name)(*expanded), path(name)(*(x.contiguous() for x in expanded)), CONDITION)
    constant = torch.tensor(2.0).expand(2, 5, 5)
    assert same(path("mtp_lya")(constant), path("mtp_lya")(constant.contiguous()), 1.0)


@pytest.mark.parametrize("name", OPS)
def test_writes_nothing_outside_its_result(path, same, name):
    """Inputs in the middle of one buffer with sentinels around them, unchanged to the bit."""
    inputs = spd_inputs(name, 5, (3,))
    size = inputs[0].numel()
    memory = torch.full((len(inputs) * (size + 8) + 8,), 123.0, dtype=torch.float64)
    placed = []
    for i, x in enumerate(inputs):
        view = memory[8 + i * (size + 8) :][:size].view(x.shape)
        view.copy_(x)
        placed.append(view)
    before = memory.clone()
    expected = path(name)(*inputs)
    assert same(path(name)(*placed), expected, CONDITION)
    assert torch.equal(memory, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 4, 20])
def test_zero_matrix(path, n, dtype):
    A = torch.zeros(2, n, n, dtype=dtype)
    A[1] = torch.eye(n)
    for name in ("mpa_lya", "mtp_lya", "mpa", "mtp", "ns", "sqrtm"):
        assert torch.equal(path(name)(A)[0], A[0])
    infinite = torch.full((n,), math.inf, dtype=dtype).diag()
    for name in ("mpa_lya_inv", "mtp_lya_inv", "mpa_inv", "mtp_inv", "ns_inv", "inv_sqrtm"):
        out = path(name)(A)
        assert torch.equal(out[0], infinite)
        assert out[1].isfinite().all()
    G = torch.ones_like(A)
    S, Z = path("sqrtm_and_inv")(A)
    assert torch.equal(S[0], A[0]) and torch.equal(Z[0], infinite)
    assert S[1].isfinite().all() and Z[1].isfinite().all()
    assert torch.equal(path("sqrtm_and_inv_backward")(S, Z, G, G)[0], A[0])
    for name in ("mpa_backward", "mtp_inv_backward", "sqrtm_backward", "inv_sqrtm_backward", "lyapunov_newton"):
        assert torch.equal(path(name)(A, G)[0], A[0])
    assert torch.equal(path("inv_sqrtm_backward")(infinite, G[0]), A[0])
    assert torch.equal(path("sqrtm_lya_backward")(A, A, G)[0], A[0])
    assert torch.equal(path("inv_sqrtm_lya_backward")(infinite, G[0]), A[0])
    assert torch.equal(path("inv_sqrtm_lya_backward")(A[0], G[0]), A[0])
    assert torch.equal(path("lyapunov")(A, G)[0], A[0])
    assert torch.equal(path("mpa_lya")(-A[0]), A[0])


@pytest.mark.parametrize("name", ROOTS)
def test_gradient_at_zero(name):
    A = torch.zeros(2, 3, 3, requires_grad=True)
    roots = by_route(name, A)
    torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
    assert torch.equal(A.grad, torch.zeros(2, 3, 3))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [1, 3, 16, 40])
@pytest.mark.parametrize("name", OPS)
def test_a_bad_matrix_harms_itself_alone(path, same, name, n, poison):
    if n == 1 and poison == math.inf and name in ("inv_sqrtm_lya_backward", "inv_sqrtm_backward"):
        pytest.skip("the inverse root of zero, where the gradient is zero")
    inputs = spd_inputs(name, n, (5,), torch.float32)
    expected = results(path(name)(*inputs))
    for position in range(len(inputs)):
        for entry in {(0, 0), (n - 1, n // 2)}:
            bad = [x.clone() for x in inputs]
            bad[position][2][entry] = poison
            for out, unharmed in zip(results(path(name)(*bad)), expected, strict=True):
                assert not out[2].isfinite().all()
                assert same(out[[0, 1, 3, 4]], unharmed[[0, 1, 3, 4]], CONDITION)
                if name in ROOTS:
                    assert out[2].isnan().all()


@pytest.mark.parametrize("n", [1, 4, 16, 40])
@pytest.mark.parametrize("name", ["mpa_lya", "mpa_lya_inv", "sqrtm", "inv_sqrtm", "sqrtm_and_inv"])
def test_indefinite_is_nan(path, same, name, n):
    kappa = 10.0
    A = testing.spd(n, kappa, batch=(4,))
    expected = results(path(name)(A))
    A[1] = -torch.eye(n)
    A[2, -1, -1] = -100.0
    for out, unharmed in zip(results(path(name)(A)), expected, strict=True):
        assert out[1:3].isnan().all()
        assert same(out[[0, 3]], unharmed[[0, 3]], kappa)


@pytest.mark.parametrize("name", ROOTS)
def test_positive_semidefinite(path, name):
    for spectrum in ("rank_one", "rank_deficient"):
        for n in (1, 2, 9, 33):
            found = results(path(name)(testing.spd(n, spectrum=spectrum, batch=(3,))))
            assert all(root.isfinite().all() for root in found)


@pytest.mark.parametrize("name", OPS)
def test_the_result_is_new_memory(path, name):
    inputs = spd_inputs(name)
    found = results(path(name)(*inputs))
    assert len({x.data_ptr() for x in (*inputs, *found)}) == len(inputs) + len(found)


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
