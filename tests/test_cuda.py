"""The CUDA kernels on a GPU; `make gpu-check` runs them. Without a GPU they skip, or fail under FAIL_WITHOUT_CUDA=1."""

import functools
import math
import sys
import time
from pathlib import Path

import pytest
import torch

import fastsqrtm
from fastsqrtm import testing

sys.path.append(str(Path(__file__).resolve().parent.parent))  # at the end: an installed fastsqrtm goes first
from bench.gpu_worker import (
    ACCURATE,
    EXACT,
    ROOTS,
    TENSORS,
    fused_limit,
    launched,
    launched_by_passes,
    op_inputs,
)

pytestmark = pytest.mark.cuda

SIZES = [1, 2, 3, 5, 8, 13, 16, 31, 32, 33, 48, 64, 80, 96, 100, 112, 128, 129, 200, 256, 300]
SOME_SIZES = [1, 7, 16, 32, 48, 64, 96, 128, 200]  # one for each way of sharing a matrix out, and the large path
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
KAPPAS = [1e1, 1e4]
EXACT_GRADIENTS = [f"{name}_backward" for name in EXACT]
PAIRS = [name for name, op in testing.OPS.items() if len(op.results) > 1]


def op(name):
    return getattr(torch.ops.fastsqrtm, name)


def single(output):
    """Several results in one tensor, (batch, results, n, n)."""
    found = testing.results(output)
    return found[0] if len(found) == 1 else torch.stack(found, 1)


@functools.lru_cache(maxsize=64)
def matrices(n, kappa, batch):
    """A, its root, its inverse root, and a C of which every second one is symmetric; in float64, on the device."""
    A = 0.37 * testing.spd(n, kappa, (batch,), dtype=torch.float64, seed=n)
    C = torch.randn(batch, n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    C[::2] = (C + C.mT)[::2]
    return tuple(x.cuda() for x in (A, testing.exact_sqrtm(A), testing.exact_sqrtm(A, -0.5), C))


def inputs(name, n, kappa, dtype, batch=4):
    A, S, Z, C = (x.to(dtype) for x in matrices(n, kappa, batch))
    several = {
        **dict.fromkeys(EXACT_GRADIENTS, (A, C)),
        "lyapunov": (S, C),
        "lyapunov_newton": (S, C),
        "sqrtm_lya_backward": (A, S, C),
        "inv_sqrtm_lya_backward": (Z, C),
        "sqrtm_backward": (S, C),
        "inv_sqrtm_backward": (Z, C),
        "sqrtm_and_inv_backward": (S, Z, C, C.flip(0)),
    }
    return several.get(name, (A,))


def allowed(theirs, dtype):
    """Twice the twin's float32 error and a few roundings; in float64 less by the ratio of eps, and the oracle's own."""
    eps = torch.finfo(dtype).eps
    if dtype == torch.float64:
        return (4 * theirs.mean() / torch.finfo(torch.float32).eps + 8) * eps
    return 2 * theirs.mean() + 3 * max(eps, torch.finfo(torch.float32).eps)


def same(ours, theirs, dtype):
    """Bit for bit for our own kernels. For another batch the libraries may choose other kernels."""
    if ours.shape[-1] <= fused_limit(dtype):
        return torch.equal(ours, theirs)
    return testing.relative_error(ours, theirs.double()).max() < 1000 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", [*TENSORS, *PAIRS])
def test_the_kernels_are_there(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastsqrtm::{name}", "CUDA")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", [*TENSORS, *PAIRS])
def test_accuracy(name, n, dtype):
    for kappa in KAPPAS if dtype.itemsize > 2 else KAPPAS[:1]:
        arguments = inputs(name, n, kappa, dtype, 4 if n > 16 else 32)  # small ones differ more
        exact = single(testing.twin(name)(*(x.double() for x in arguments)))
        theirs = testing.relative_error(single(testing.twin(name)(*(x.float() for x in arguments))), exact)
        found = testing.results(op(name)(*arguments))
        assert all(out.is_contiguous() for out in found)
        out = single(found)
        assert (out.dtype, out.shape, out.device) == (dtype, exact.shape, exact.device)
        ours = testing.relative_error(out, exact)
        assert ours.mean() <= allowed(theirs, dtype), (kappa, ours, theirs)
        if dtype.itemsize == 2:
            in_float32 = single(op(name)(*(x.float() for x in arguments)))
            assert torch.equal(out, in_float32.to(dtype)), "rounded more than once"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SIZES)
def test_a_pair_of_roots_is_its_two_roots(n, dtype):
    """Bit for bit, forward; the gradient is the sum of the two gradients."""
    A, S, Z, C = (x.to(dtype) for x in matrices(n, 1e3, 4))
    roots = op("sqrtm_and_inv")(A)
    for root, alone in zip(roots, (op("sqrtm")(A), op("inv_sqrtm")(A)), strict=True):
        assert same(root, alone, dtype)
    arguments = S, Z, C, C.flip(0)
    expected = op("sqrtm_backward")(S, C).double() + op("inv_sqrtm_backward")(Z, C.flip(0)).double()
    together = op("sqrtm_and_inv_backward")(*arguments)
    assert testing.relative_error(together, expected).max() < 1e4 * torch.finfo(dtype).eps
    # Views, those of one tensor for both roots among them, and each matrix alone.
    packed = *torch.stack((S, Z), 1).unbind(1), *torch.stack((C, C.flip(0)), 1).unbind(1)
    for kind in (tuple(x.mT.contiguous().mT for x in arguments), packed):
        assert torch.equal(op("sqrtm_and_inv_backward")(*kind), together)
    for i in range(4):
        assert same(op("sqrtm_and_inv_backward")(*(x[i] for x in arguments)), together[i], dtype)
        for root, alone in zip(roots, op("sqrtm_and_inv")(A[i]), strict=True):
            assert same(alone, root[i], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 7, 16, 33, 64, 96, 128, 200])
@pytest.mark.parametrize("name", ACCURATE)
def test_singular_matrices_get_a_ridge(name, n, dtype):
    """Their neighbours do not change; indefinite matrices are NaN, the results of zero are known."""
    generator = torch.Generator().manual_seed(n)
    arguments = [x.clone() for x in op_inputs(name, n, 6, dtype)]
    expected = op(name)(*arguments)
    v = torch.randn(n, 1, generator=generator, dtype=torch.float64).cuda()
    arguments[0][1] = (v @ v.mT).to(dtype)
    arguments[0][3] = 0
    arguments[0][4] = -torch.eye(n)
    out = op(name)(*arguments)
    assert torch.equal(out[[0, 2, 5]], expected[[0, 2, 5]])
    assert out[1].isfinite().all()
    zero = torch.full((n,), math.inf if name == "inv_sqrtm" else 0.0, device="cuda", dtype=dtype).diag()
    assert torch.equal(out[3], zero)
    assert out[4].isnan().all()
    if name == "sqrtm":
        error = testing.relative_error(out[1].double() @ out[1].double(), arguments[0][1].double())
        assert error < (1e-6 if dtype == torch.float64 else 1e-3)  # eigenvalues below the interval of the approximant


@pytest.mark.parametrize("rtol", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize("n", [16, 64, 130])
@pytest.mark.parametrize("name", ACCURATE)
def test_rtol(name, n, rtol):
    arguments = inputs(name, n, 1e3, torch.float64)
    exact = testing.twin(name)(*arguments)
    assert testing.relative_error(op(name)(*arguments, rtol), exact).max() <= rtol + 1e-9


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
        A, _, _, G = (x.to(dtype) for x in matrices(n, kappa, 4))
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
    A, _, _, G = matrices(n, 10.0, 2)
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
        A, _, _, G = (x.float() for x in matrices(n, 10.0, 4))
        exact = testing.twin(name)(A.double(), degree)
        theirs = testing.relative_error(testing.twin(name)(A, degree), exact)
        assert testing.relative_error(op(name)(A, degree), exact).mean() <= allowed(theirs, torch.float32)
        exact = testing.twin("lyapunov")(A.double(), G.double(), degree)
        theirs = testing.relative_error(testing.twin("lyapunov")(A, G, degree), exact)
        assert testing.relative_error(op("lyapunov")(A, G, degree), exact).mean() <= allowed(theirs, torch.float32)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7, 32])
@pytest.mark.parametrize("name", [*EXACT, *EXACT_GRADIENTS])
def test_degrees_of_exact_gradients(name, degree):
    for n in (7, 64, 96, 130):
        arguments = inputs(name, n, 10.0, torch.float32)
        exact = testing.twin(name)(*(x.double() for x in arguments), degree)
        theirs = testing.relative_error(testing.twin(name)(*arguments, degree), exact)
        assert testing.relative_error(op(name)(*arguments, degree), exact).mean() <= allowed(theirs, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "batch"), [(2, 70_000), (33, 1), (64, 1000), (130, 1)])
@pytest.mark.parametrize("name", TENSORS)
def test_batches(name, n, batch, dtype):
    few = op_inputs(name, n, min(batch, 100), dtype)
    arguments = [x.repeat(-(-batch // len(x)), 1, 1)[:batch] for x in few]
    out = op(name)(*arguments)
    expected = op(name)(*few).repeat(-(-batch // len(few[0])), 1, 1)[:batch]
    assert same(out, expected, dtype)
    exact = testing.twin(name)(*(x[-20:].double() for x in arguments))
    theirs = testing.relative_error(testing.twin(name)(*(x[-20:].float() for x in arguments)), exact)
    assert testing.relative_error(out[-20:], exact).mean() <= allowed(theirs, dtype)


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
    arguments = [A] * TENSORS[name]
    out = op(name)(*arguments)
    expected = op(name)(*(few,) * TENSORS[name])
    assert same(out[[0, batch // 2, -1]], expected, torch.float32)
    assert out[1].count_nonzero() == 0
    assert out[-2].count_nonzero() == 0


@pytest.mark.parametrize("shape", [(0, 0), (0, 3, 3), (2, 0, 0), (2, 0, 4, 4), (0, 200, 200)])
@pytest.mark.parametrize("name", TENSORS)
def test_empty(name, shape):
    out = op(name)(*(torch.ones(shape, device="cuda") for _ in range(TENSORS[name])))
    assert out.shape == shape
    assert out.is_cuda
    if name in ROOTS:
        A = torch.ones(shape, device="cuda", requires_grad=True)
        getattr(fastsqrtm, name)(A).sum().backward()
        assert A.grad.shape == shape


def views(x):
    """The same numbers in every kind of memory, next to NaN."""
    *batch, n, _ = x.shape
    yield "transposed matrices", x.mT.contiguous().mT
    yield "transposed batch", x.transpose(0, 1).contiguous().transpose(0, 1)
    yield "batch last", x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    framed = x.new_full((*batch, n + 3, n + 5), math.nan)
    framed[..., 1 : n + 1, 2 : n + 2] = x
    yield "inside a larger matrix", framed[..., 1 : n + 1, 2 : n + 2]
    memory = x.new_full((x.numel() + 2,), math.nan)
    memory[1:-1] = x.flatten()
    yield "an offset of one element", memory[1:-1].view(x.shape)
    every = x.new_full((2 * batch[0], *x.shape[1:]), math.nan)
    every[::2] = x
    yield "every second matrix", every[::2]
    yield "negative bit", torch._neg_view(-x)


@pytest.mark.parametrize("n", [1, 2, 7, 16, 33, 64, 130])
@pytest.mark.parametrize("name", TENSORS)
def test_views(name, n):
    arguments = [x.view(2, 3, n, n) for x in op_inputs(name, n, 6, torch.float32)]
    expected = op(name)(*arguments)
    for kinds in zip(*map(views, arguments), strict=True):
        originals = [view.clone() for _, view in kinds]
        assert torch.equal(op(name)(*(view for _, view in kinds)), expected), kinds[0][0]
        assert all(torch.equal(view, before) for (_, view), before in zip(kinds, originals, strict=True))
    expanded = [x[:1, :1].expand(4, 3, n, n) for x in arguments]
    assert same(op(name)(*expanded), expected[:1, :1].expand(4, 3, n, n), torch.float32)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("n", [3, 16, 40, 64, 100, 130])
@pytest.mark.parametrize("name", TENSORS)
def test_a_bad_matrix_harms_itself_alone(name, n, poison):
    arguments = op_inputs(name, n, 5, torch.float32)
    expected = op(name)(*arguments)
    for position in range(len(arguments)):
        bad = [x.clone() for x in arguments]
        bad[position][2, n - 1, n // 2] = poison
        out = op(name)(*bad)
        assert not out[2].isfinite().all()
        assert torch.equal(out[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])
        if name in ROOTS or name in EXACT:
            assert out[2].isnan().all()


@pytest.mark.parametrize("n", [1, 4, 40, 64, 130])
@pytest.mark.parametrize("name", ["mpa_lya", "mpa_lya_inv", "mpa", "mpa_inv"])
def test_indefinite_is_nan_and_zero_is_known(name, n):
    A = testing.spd(n, batch=(4,)).cuda()
    expected = op(name)(A)
    A[1] = -torch.eye(n)
    A[2] = 0
    out = op(name)(A)
    assert out[1].isnan().all()
    diagonal = torch.full((n,), math.inf if name.endswith("inv") else 0.0, device="cuda").diag()
    assert torch.equal(out[2], diagonal)
    assert torch.equal(out[[0, 3]], expected[[0, 3]])


@pytest.mark.parametrize("n", [1, 4, 40, 64, 96, 130])
@pytest.mark.parametrize("name", EXACT_GRADIENTS)
def test_exact_gradient_of_an_indefinite_and_of_the_zero_matrix(name, n):
    A, G = op_inputs(name, n, 4, torch.float32)
    expected = op(name)(A, G)
    A[1] = -torch.eye(n)
    A[2] = 0
    out = op(name)(A, G)
    assert out[1].isnan().all() == name.startswith("mpa")  # a polynomial is defined everywhere
    assert out[2].count_nonzero() == 0
    assert torch.equal(out[[0, 3]], expected[[0, 3]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SOME_SIZES)
@pytest.mark.parametrize("name", TENSORS)
def test_batch_size_and_position(name, n, dtype):
    """Bit for bit: from one matrix, for which teams join, to a batch that fills the chip."""
    arguments = op_inputs(name, n, 5, dtype)
    together = op(name)(*arguments)
    for i in range(5):
        assert same(op(name)(*(x[i] for x in arguments)), together[i], dtype)
    assert torch.equal(op(name)(*(x.flip(0) for x in arguments)).flip(0), together)
    for copies in (13, 400 if n <= 64 else 60):
        many = op(name)(*(x.repeat(copies, 1, 1) for x in arguments))
        assert same(many, together.repeat(copies, 1, 1), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SOME_SIZES)
@pytest.mark.parametrize("name", TENSORS)
def test_deterministic(name, n, dtype):
    arguments = [x.repeat(40, 1, 1) for x in op_inputs(name, n, 5, dtype)]
    expected = op(name)(*arguments)
    for _ in range(4):
        torch.full_like(expected, math.nan)  # as the memory of the next result may hold
        assert torch.equal(op(name)(*arguments), expected)


@pytest.mark.parametrize("n", [8, 64, 128, 200])
@pytest.mark.parametrize("name", TENSORS)
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
    assert torch.equal(out, expected)


@pytest.mark.parametrize("n", [8, 64, 200])
def test_device_guard(n):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    for name in TENSORS:
        arguments = op_inputs(name, n, 3, torch.float32)
        with torch.cuda.device(0):
            out = op(name)(*(x.to("cuda:1") for x in arguments))
            assert torch.cuda.current_device() == 0
        assert out.device == torch.device("cuda:1")
        assert torch.equal(out.cpu(), op(name)(*arguments).cpu())


def test_tensors_on_two_devices_are_refused():
    A = torch.eye(3).expand(2, 3, 3)
    with pytest.raises(RuntimeError, match="device"):
        op("lyapunov")(A.cuda(), A)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [7, 32, 64, 128, 200])
@pytest.mark.parametrize("name", TENSORS)
def test_graph_capture(name, n, dtype):
    first, second = (op_inputs(name, n, 6, dtype, kappa) for kappa in (5, 50))
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
        assert torch.equal(out, op(name)(*values))


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
@pytest.mark.parametrize("name", TENSORS)
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
    assert out.isfinite().all()


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
@pytest.mark.parametrize("name", TENSORS)
def test_opcheck(name, shape):
    *batch, n, _ = shape
    arguments = (testing.spd(n, 2, tuple(batch), seed=i).cuda().requires_grad_() for i in range(TENSORS[name]))
    testing.opcheck(name, tuple(arguments))


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
@pytest.mark.parametrize("name", TENSORS)
def test_autocast_computes_in_float32(name, dtype):
    half = op_inputs(name, 5, 2, dtype)
    with torch.autocast("cuda", dtype):
        out = op(name)(*half)
        double = op(name)(*(x.double() for x in half))
    assert out.dtype == torch.float32
    assert double.dtype == torch.float64
    assert torch.equal(out, op(name)(*(x.float() for x in half)))


def test_tf32_of_torch_changes_nothing():
    A = testing.spd(200, 100, (3,)).cuda()
    expected = fastsqrtm.mtp_lya(A)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert torch.equal(fastsqrtm.mtp_lya(A), expected)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
