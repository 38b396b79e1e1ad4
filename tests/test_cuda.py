"""The CUDA kernels on a GPU; `make gpu-check` runs them. Without a GPU they skip, or fail under FAIL_WITHOUT_CUDA=1."""

import functools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fastsqrtm
import op_cases
from fastsqrtm import testing
from op_cases import CASES, OPS

sys.path.append(str(Path(__file__).resolve().parent.parent))  # at the end: an installed fastsqrtm goes first
from bench.gpu_worker import (
    ACCURATE,
    EXACT,
    ROOTS,
    fused_limit,
    launched,
    launched_by_passes,
    replay_after_growth,
)

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.cuda

SIZES = [1, 2, 3, 5, 8, 13, 16, 31, 32, 33, 48, 64, 80, 96, 100, 112, 128, 129, 200, 256, 300]
SOME_SIZES = [1, 7, 16, 32, 48, 64, 96, 128, 200]  # one for each way of sharing a matrix out, and the large path
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
KAPPAS = [1e1, 1e4]
EXACT_GRADIENTS = [f"{name}_backward" for name in EXACT]
op = op_cases.dispatched
results = testing.results


def each(function, output):
    """A function of every result."""
    return tuple(function(x) for x in results(output))


def identical(ours, theirs):
    return all(torch.equal(x, y) for x, y in zip(results(ours), results(theirs), strict=True))


def repeated(x, copies):
    """The batch several times over."""
    return x.repeat(copies, *[1] * (x.dim() - 1))


@functools.lru_cache(maxsize=64)
def matrix(n, kappa, batch):
    return testing.spd(n, kappa, (batch,), dtype=torch.float64, seed=n)


def inputs(name, n, kappa, dtype, batch=4):
    """Arguments of an op on the device, every second one of the arbitrary ones symmetric."""
    return tuple(x.cuda() for x in op_cases.inputs_at(name, matrix(n, kappa, batch), dtype, seed=n))


def op_inputs(name, n, batch, dtype, kappa=25.0):
    """Those of other tests: well-conditioned, each root and inverse root like the square root of kappa."""
    return list(inputs(name, n, kappa, dtype, batch))


def a_s_z_g_h(n, kappa, dtype, batch=4):
    """A, its root, its inverse root and two cotangents, on the device."""
    (A,) = inputs("sqrtm", n, kappa, dtype, batch)
    return A, *inputs("sqrtm_and_inv_backward", n, kappa, dtype, batch)


def allowed(theirs, dtype):
    """Twice the twin's float32 error and a few roundings; in float64 less by the ratio of eps, and the oracle's own."""
    eps = torch.finfo(dtype).eps
    if dtype == torch.float64:
        return (4 * theirs.mean() / torch.finfo(torch.float32).eps + 8) * eps
    return 2 * theirs.mean() + 3 * max(eps, torch.finfo(torch.float32).eps)


def same(name, n, ours, theirs, dtype):
    """Bit for bit where the kernels are ours. For another batch the libraries may choose other kernels."""
    if n <= fused_limit(dtype):
        return identical(ours, theirs)
    return op_cases.largest_error(name, ours, theirs) < 1000 * torch.finfo(dtype).eps


def assert_as_accurate_as_the_twin(name, out, arguments, dtype, case=None, numbers=()):
    exact = testing.twin(name)(*op_cases.cast(name, arguments, torch.float64), *numbers)
    twin = testing.twin(name)(*op_cases.cast(name, arguments, torch.float32), *numbers)
    errors = zip(op_cases.errors(name, out, exact), op_cases.errors(name, twin, exact), strict=True)
    for ours, theirs in errors:
        assert ours.mean() <= allowed(theirs, dtype), (case, ours, theirs)


@pytest.mark.parametrize("name", OPS)
def test_the_kernels_are_there(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastsqrtm::{name}", "CUDA")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", OPS)
def test_accuracy(name, n, dtype):
    for kappa in KAPPAS if dtype.itemsize > 2 else KAPPAS[:1]:
        arguments = inputs(name, n, kappa, dtype, 4 if n > 16 else 32)  # small ones differ more
        found = results(op(name)(*arguments))
        for out, line, shape in zip(
            found, OPS[name].results, OPS[name].result_shapes(*(x.shape for x in arguments)), strict=True
        ):
            assert out.is_contiguous()
            assert (out.dtype, out.shape, out.device) == (line.dtype or dtype, shape, arguments[0].device)
        assert_as_accurate_as_the_twin(name, found, arguments, dtype, kappa)
        if dtype.itemsize == 2:
            in_float32 = results(op(name)(*op_cases.cast(name, arguments, torch.float32)))
            for out, single in zip(found, in_float32, strict=True):
                assert torch.equal(out, single.to(out.dtype)), "rounded more than once"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SIZES)
def test_a_pair_of_roots_is_its_two_roots(n, dtype):
    """Bit for bit, forward; the gradient is the sum of the two gradients."""
    A, S, Z, G, H = a_s_z_g_h(n, 1e3, dtype)
    pair = op("sqrtm_and_inv")(A)
    assert same("sqrtm_and_inv", n, pair, (op("sqrtm")(A), op("inv_sqrtm")(A)), dtype)
    arguments = S, Z, G, H
    expected = op("sqrtm_backward")(S, G).double() + op("inv_sqrtm_backward")(Z, H).double()
    together = op("sqrtm_and_inv_backward")(*arguments)
    assert testing.relative_error(together, expected).max() < 1e4 * torch.finfo(dtype).eps
    # Views, those of one tensor for both roots among them, and each matrix alone.
    packed = *torch.stack((S, Z), 1).unbind(1), *torch.stack((G, H), 1).unbind(1)
    for kind in (tuple(x.mT.contiguous().mT for x in arguments), packed):
        assert torch.equal(op("sqrtm_and_inv_backward")(*kind), together)
    for i in range(4):
        alone = op("sqrtm_and_inv_backward")(*(x[i] for x in arguments))
        assert same("sqrtm_and_inv_backward", n, alone, together[i], dtype)
        assert same("sqrtm_and_inv", n, op("sqrtm_and_inv")(A[i]), each(lambda x, i=i: x[i], pair), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 7, 16, 33, 64, 96, 128, 200])
@pytest.mark.parametrize("name", ACCURATE)
def test_singular_matrices(name, n, dtype):
    """Their neighbours do not change; indefinite matrices are NaN, the results of zero are known."""
    generator = torch.Generator().manual_seed(n)
    tensors = op_inputs(name, n, 7, dtype)
    expected = op(name)(*tensors)
    arguments = op_cases.at_zero(name, tensors, 3)
    v = torch.randn(n, 1, generator=generator, dtype=torch.float64).cuda()
    arguments[0][1] = (v @ v.mT).to(dtype)
    arguments[0][4] = -torch.eye(n)
    arguments[0][6] = 0
    out = op(name)(*arguments)
    assert torch.equal(out[[0, 2, 5]], expected[[0, 2, 5]])
    assert out[1].isfinite().all()
    assert op_cases.known_at_zero(name, (out[3],))
    assert torch.equal(out[6], out[3])
    assert out[4].isnan().all()
    if name == "sqrtm":
        error = testing.relative_error(out[1].double() @ out[1].double(), arguments[0][1].double())
        assert error < 1e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 7, 33, 96, 130])
@pytest.mark.parametrize("name", ["sqrtm", "inv_sqrtm"])
def test_the_root_of_the_identity_is_exact(name, n, dtype):
    identity = torch.eye(n, dtype=dtype, device="cuda").expand(2, n, n)
    assert torch.equal(op(name)(identity), identity)


@pytest.mark.parametrize("rtol", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize("n", [16, 64, 130])
@pytest.mark.parametrize("name", ACCURATE)
def test_rtol(name, n, rtol):
    arguments = inputs(name, n, 1e3, torch.float64)
    exact = testing.twin(name)(*arguments)
    assert op_cases.largest_error(name, op(name)(*arguments, rtol), exact) <= rtol + 1e-9


@pytest.mark.usefixtures("profiler_counts")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 32, 64, 96, 128])
@pytest.mark.parametrize("name", ACCURATE)
def test_one_launch_of_the_accurate_ops(name, n, dtype):
    if n > fused_limit(dtype):
        pytest.skip("not promised for this size")
    arguments = op_inputs(name, n, 3, dtype)
    assert len(launched(lambda: op(name)(*arguments))) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", ROOTS)
def test_gradient(name, n, dtype):
    gradient = "inv_sqrtm_lya_backward" if name.endswith("inv") else "sqrtm_lya_backward"

    def by_twins(A, G):
        root = testing.twin(name)(A)
        return testing.twin(gradient)(*((root, G) if name.endswith("inv") else (A, root, G)))

    for kappa in KAPPAS:
        A, _, _, G, _ = a_s_z_g_h(n, kappa, dtype)
        exact = by_twins(A.double(), G.double())
        theirs = testing.relative_error(by_twins(A.float(), G.float()), exact)
        leaf = A.clone().requires_grad_()
        getattr(fastsqrtm, name)(leaf).backward(G)
        ours = testing.relative_error(leaf.grad, exact)
        assert ours.mean() <= 2 * allowed(theirs, dtype), (kappa, ours, theirs)


@pytest.mark.parametrize("n", SOME_SIZES)
@pytest.mark.parametrize("name", EXACT)
def test_exact_gradient(name, n):
    """Equals that of the twin under torch's autograd, to first and second order."""
    A, _, _, G, _ = a_s_z_g_h(n, 10.0, torch.float64, 2)
    results = []
    for root in (op(name), testing.twin(name).compute):
        leaf = A.clone().requires_grad_()
        (first,) = torch.autograd.grad(root(leaf, 4), leaf, G, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        results.append((first.detach(), second))
    for ours, theirs in zip(*results, strict=True):
        assert testing.relative_error(ours, theirs).max() < 1e-11


@pytest.mark.parametrize("n", [1, 9, 64, 130])
def test_gradient_of_lyapunov_and_second_derivatives(n):
    """As on the CPU, in float64."""
    B, C = (x.cpu() for x in op_inputs("lyapunov", n, 2, torch.float64))
    results = []
    for device in ("cpu", "cuda"):
        b, c = (x.to(device).requires_grad_() for x in (B, C))
        first = torch.autograd.grad(
            fastsqrtm.lyapunov(fastsqrtm.mpa_lya(b), c).square().sum(), (b, c), create_graph=True
        )
        second = torch.autograd.grad(sum(x.square().sum() for x in first), (b, c))
        results.append([x.detach().cpu() for x in (*first, *second)])
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert testing.relative_error(ours, theirs).max() < 1e-9


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7, 32])
@pytest.mark.parametrize("name", ROOTS)
def test_degrees_and_iterations(name, degree):
    for n in (7, 64, 130):
        A, _, _, G, _ = a_s_z_g_h(n, 10.0, torch.float32)
        assert_as_accurate_as_the_twin(name, op(name)(A, degree), [A], A.dtype, n, (degree,))
        X = op("lyapunov")(A, G, degree)
        assert_as_accurate_as_the_twin("lyapunov", X, [A, G], A.dtype, n, (degree,))


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7, 32])
@pytest.mark.parametrize("name", [*EXACT, *EXACT_GRADIENTS])
def test_degrees_of_exact_gradients(name, degree):
    for n in (7, 64, 96, 130):
        arguments = inputs(name, n, 10.0, torch.float32)
        out = op(name)(*arguments, degree)
        assert_as_accurate_as_the_twin(name, out, arguments, torch.float32, n, (degree,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "batch"), [(2, 70_000), (33, 1), (64, 1000), (130, 1)])
@pytest.mark.parametrize("name", OPS)
def test_batches(name, n, batch, dtype):
    few = op_inputs(name, n, min(batch, 100), dtype)
    copies = -(-batch // len(few[0]))
    arguments = [repeated(x, copies)[:batch] for x in few]
    out = op(name)(*arguments)
    expected = each(lambda x: repeated(x, copies)[:batch], op(name)(*few))
    assert same(name, n, out, expected, dtype)
    last = [x[-20:] for x in arguments]
    assert_as_accurate_as_the_twin(name, each(lambda x: x[-20:], out), last, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("n", [64, 200])
@pytest.mark.parametrize("name", ["mpa_lya", "mtp_lya", "sqrtm_lya_backward"])
def test_more_than_2_to_the_31_elements(name, n):
    batch = 2**31 // n**2 + 2
    needed = 2 * 2 * batch * n**2 + 3 * 2**30  # input, output and workspace
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 1.1 * needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free memory on the GPU")
    few = testing.spd(n, 5, (3,), dtype=torch.float16).cuda()
    A = torch.zeros(batch, n, n, dtype=torch.float16, device="cuda")
    A[0], A[batch // 2], A[-1] = few
    arguments = [A] * len(OPS[name].tensors)
    out = op(name)(*arguments)
    expected = op(name)(*[few] * len(OPS[name].tensors))
    assert same(name, n, out[[0, batch // 2, -1]], expected, torch.float32)
    assert out[1].count_nonzero() == 0
    assert out[-2].count_nonzero() == 0


@pytest.mark.parametrize(("batch", "n"), [((), 0), ((0,), 3), ((2,), 0), ((2, 0), 4), ((0,), 200)])
@pytest.mark.parametrize("name", OPS)
def test_empty(name, batch, n):
    shapes = op_cases.shapes(name, n, batch)
    found = results(op(name)(*(torch.ones(shape, device="cuda") for shape in shapes)))
    assert [out.shape for out in found] == OPS[name].result_shapes(*shapes)
    assert all(out.is_cuda for out in found)
    leaves = [torch.ones(shape, device="cuda", requires_grad=True) for shape in shapes]
    total = sum(out.sum() for out in op_cases.differentiable(name)(*leaves))
    for x, gradient in zip(leaves, torch.autograd.grad(total, leaves, allow_unused=True), strict=True):
        assert gradient is None or gradient.shape == x.shape


def views(x):
    """The same numbers in every kind of memory, next to NaN: of matrices, and of one number for each matrix."""
    dims = list(enumerate(x.shape[2:]))
    yield "transposed matrices", x.mT.contiguous().mT if len(dims) > 1 else x
    yield "transposed batch", x.transpose(0, 1).contiguous().transpose(0, 1)
    yield "batch last", x.movedim((0, 1), (-2, -1)).contiguous().movedim((-2, -1), (0, 1))
    framed = x.new_full((*x.shape[:2], *(size + 3 + 2 * i for i, size in dims)), math.nan)
    inside = (..., *(slice(1 + i, 1 + i + size) for i, size in dims))
    framed[inside] = x
    yield "inside a larger matrix", framed[inside]
    memory = x.new_full((x.numel() + 2,), math.nan)
    memory[1:-1] = x.flatten()
    yield "an offset of one element", memory[1:-1].view(x.shape)
    every = x.new_full((2 * len(x), *x.shape[1:]), math.nan)
    every[::2] = x
    yield "every second matrix", every[::2]
    yield "negative bit", torch._neg_view(-x)


@pytest.mark.parametrize("n", [1, 2, 7, 16, 33, 64, 130])
@pytest.mark.parametrize("name", OPS)
def test_views(name, n):
    arguments = [x.unflatten(0, (2, 3)) for x in op_inputs(name, n, 6, torch.float32)]
    expected = op(name)(*arguments)
    for kinds in zip(*map(views, arguments), strict=True):
        originals = [view.clone() for _, view in kinds]
        assert identical(op(name)(*(view for _, view in kinds)), expected), kinds[0][0]
        assert all(torch.equal(view, before) for (_, view), before in zip(kinds, originals, strict=True))
    expanded = [x[:1, :1].expand(4, 3, *x.shape[2:]) for x in arguments]
    first = each(lambda x: x[:1, :1].expand(4, 3, *x.shape[2:]), expected)
    assert same(name, n, op(name)(*expanded), first, torch.float32)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("n", [3, 16, 40, 64, 100, 130])
@pytest.mark.parametrize("name", OPS)
def test_a_bad_matrix_harms_itself_alone(name, n, poison):
    arguments = op_inputs(name, n, 5, torch.float32)
    expected = results(op(name)(*arguments))
    for position, line in enumerate(OPS[name].tensors):
        bad = [x.clone() for x in arguments]
        bad[position][(2, n - 1, n // 2)[: 1 + len(line.dims)]] = poison
        for out, unharmed in zip(results(op(name)(*bad)), expected, strict=True):
            assert not out[2].isfinite().all()
            assert torch.equal(out[[0, 1, 3, 4]], unharmed[[0, 1, 3, 4]])
            if len(arguments) == 1:
                assert out[2].isnan().all()


@pytest.mark.parametrize("n", [1, 4, 40, 64, 96, 130])
@pytest.mark.parametrize("name", [name for name, line in OPS.items() if op_cases.power_of(name, line.tensors[0])])
def test_indefinite_is_nan_and_zero_is_known(name, n):
    """As the row of the op says."""
    arguments = op_inputs(name, n, 4, torch.float32)
    expected = results(op(name)(*arguments))
    if CASES[name].at_zero is not None:
        arguments = op_cases.at_zero(name, arguments, 2)
    arguments[0][1] = -torch.eye(n)
    found = results(op(name)(*arguments))
    for out, unharmed in zip(found, expected, strict=True):
        assert out[1].isnan().all() == CASES[name].definite
        assert torch.equal(out[[0, 3]], unharmed[[0, 3]])
    if CASES[name].at_zero is not None:
        assert op_cases.known_at_zero(name, tuple(out[2] for out in found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SOME_SIZES)
@pytest.mark.parametrize("name", OPS)
def test_batch_size_and_position(name, n, dtype):
    """Bit for bit: from one matrix, for which teams join, to a batch that fills the chip."""
    arguments = op_inputs(name, n, 5, dtype)
    together = op(name)(*arguments)
    for i in range(5):
        assert same(name, n, op(name)(*(x[i] for x in arguments)), each(lambda x, i=i: x[i], together), dtype)
    assert identical(each(lambda x: x.flip(0), op(name)(*(x.flip(0) for x in arguments))), together)
    for copies in (13, 400 if n <= 64 else 60):
        many = op(name)(*(repeated(x, copies) for x in arguments))
        assert same(name, n, many, each(lambda x, copies=copies: repeated(x, copies), together), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SOME_SIZES)
@pytest.mark.parametrize("name", OPS)
def test_deterministic(name, n, dtype):
    arguments = [repeated(x, 40) for x in op_inputs(name, n, 5, dtype)]
    expected = op(name)(*arguments)
    for _ in range(4):
        each(lambda x: torch.full_like(x, math.nan), expected)  # what the memory of the next results may hold
        assert identical(op(name)(*arguments), expected)


@pytest.mark.parametrize("n", [8, 64, 128, 200])
@pytest.mark.parametrize("name", OPS)
def test_side_stream(name, n):
    """The op waits for its own stream, and the default stream does not wait for the op."""
    arguments = op_inputs(name, n, 8, torch.float32)
    expected = op(name)(*arguments)
    late = [torch.zeros_like(x) for x in arguments]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for x, source in zip(late, arguments, strict=True):
            x.copy_(source)
        out = op(name)(*late)
    stream.synchronize()
    assert identical(out, expected)


@pytest.mark.parametrize("n", [8, 64, 200])
def test_device_guard(n):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    for name in OPS:
        arguments = op_inputs(name, n, 3, torch.float32)
        with torch.cuda.device(0):
            out = op(name)(*(x.to("cuda:1") for x in arguments))
            assert torch.cuda.current_device() == 0
        assert all(x.device == torch.device("cuda:1") for x in results(out))
        assert identical(each(torch.Tensor.cpu, out), each(torch.Tensor.cpu, op(name)(*arguments)))


def test_tensors_on_two_devices_are_refused():
    A = torch.eye(3).expand(2, 3, 3)
    with pytest.raises(RuntimeError, match="device"):
        op("lyapunov")(A.cuda(), A)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [7, 32, 64, 128, 200])
@pytest.mark.parametrize("name", OPS)
def test_graph_capture(name, n, dtype):
    first, second = (op_inputs(name, n, 6, dtype, kappa) for kappa in (25.0, 2500.0))
    static = [x.clone() for x in first]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        op(name)(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = op(name)(*static)
    for values in (first, second, first):
        for x, value in zip(static, values, strict=True):
            x.copy_(value)
        graph.replay()
        assert identical(out, op(name)(*values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPS)
def test_graph_replay_after_a_larger_call(name, dtype):
    """A library that has allocated anew must not have taken memory away from the graph."""
    assert replay_after_growth(name, dtype)


def test_large_matrices_by_sweeps_in_blocks():
    """The path that is off by default: its errors are those of the twin."""
    command = [sys.executable, "-m", "bench.gpu_times", "shifts"]
    environment = {**os.environ, "FASTSQRTM_BLOCKED_SWEEP": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert rows
    assert all(row["status"] == "ok" for row in rows), rows


def test_graph_capture_of_forward_and_backward():
    A, G = op_inputs("lyapunov", 48, 6, torch.float32)

    def gradient():
        leaf = A.detach().requires_grad_()
        return torch.autograd.grad(fastsqrtm.mpa_lya(leaf), leaf, G)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        gradient()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradient()
    graph.replay()
    assert torch.equal(captured, gradient())


@pytest.fixture
def syncs_are_errors():
    """A synchronisation through torch raises while this is set."""
    torch.cuda.synchronize()
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("n", [7, 64, 128, 200])
@pytest.mark.parametrize("name", OPS)
def test_no_host_synchronisation(name, n, syncs_are_errors):
    """The op returns while work queued before it still runs: nobody waits."""
    arguments = op_inputs(name, n, 6, torch.float32)
    op(name)(*arguments)  # loads the kernels and fills torch's memory pool
    torch.cuda.synchronize()
    before = torch.cuda.Event()
    syncs_are_errors()
    torch.cuda._sleep(200_000_000)  # about a tenth of a second
    before.record()
    start = time.perf_counter()
    out = op(name)(*arguments)
    waited = time.perf_counter() - start
    asynchronous = not before.query()
    torch.cuda.set_sync_debug_mode("default")
    assert asynchronous, f"waited {waited:.3f} s"
    assert all(x.isfinite().all() for x in results(out))


@pytest.fixture(scope="module")
def profiler_counts():
    x = torch.ones(8, device="cuda")
    assert len(launched(lambda: x + 1)) == 1, "the profiler does not see the kernels"


@pytest.mark.usefixtures("profiler_counts")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 32, 64, 96, 128])
@pytest.mark.parametrize("name", ROOTS)
def test_one_launch_forward_one_backward(name, n, dtype):
    if n > fused_limit(dtype):
        pytest.skip("not promised for this size")
    kernels = launched_by_passes(name, testing.spd(n, batch=(3,), dtype=dtype).cuda())
    assert [len(kernels["forward"]), len(kernels["backward"])] == [1, 1], kernels


@pytest.mark.usefixtures("profiler_counts")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 32, 64, 96, 128])
@pytest.mark.parametrize("name", [*EXACT, *EXACT_GRADIENTS])
def test_one_launch_for_an_exact_gradient(name, n, dtype):
    if n > fused_limit(dtype):
        pytest.skip("not promised for this size")
    arguments = op_inputs(name, n, 3, dtype)
    kernels = launched(lambda: op(name)(*arguments))
    assert len(kernels) == 1, kernels


@pytest.mark.parametrize("shape", [(3, 3), (2, 1, 4, 4), (0, 3, 3), (1, 1), (2, 130, 130)], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_opcheck(name, shape):
    *batch, n, _ = shape
    arguments = (x.cuda() for x in op_cases.inputs(name, n, tuple(batch), 4.0))
    testing.opcheck(name, tuple(x.requires_grad_(x.is_floating_point()) for x in arguments))


@pytest.mark.parametrize(
    ("name", "backend"),
    [*((name, "aot_eager") for name in ROOTS), pytest.param("mpa_lya", "inductor", marks=pytest.mark.slow)],
)
def test_compile(name, backend):
    if backend == "inductor":
        pytest.importorskip("triton")
    torch._dynamo.reset()

    def loss(A):
        return (getattr(fastsqrtm, name)(A * 2.0) * A).sin().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for n in (5, 130):
        A, B = (testing.spd(n, 2, (2,), dtype=torch.float64).cuda().requires_grad_() for _ in range(2))
        loss(A).backward()
        compiled(B).backward()
        assert testing.relative_error(B.grad, A.grad).max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_autocast_computes_in_float32(name, dtype):
    half = op_inputs(name, 5, 2, dtype)
    single, double = (op_cases.cast(name, half, precision) for precision in (torch.float32, torch.float64))
    with torch.autocast("cuda", dtype):
        found, of_double = op(name)(*half), op(name)(*double)
    assert identical(found, op(name)(*single))
    for line, out, in_double in zip(OPS[name].results, results(found), results(of_double), strict=True):
        assert out.dtype == (line.dtype or torch.float32)
        assert in_double.dtype == (line.dtype or torch.float64)


def test_tf32_of_torch_changes_nothing():
    A = testing.spd(200, 100, (3,)).cuda()
    expected = fastsqrtm.mtp_lya(A)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert torch.equal(fastsqrtm.mtp_lya(A), expected)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
