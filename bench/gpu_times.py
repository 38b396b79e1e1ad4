"""Times beyond the benchmark, for ``bench.gpu_check``: ``python -m bench.gpu_times PART``; one json line a result.

scaling    kernels over sizes and batches: waves of blocks, occupancy, what small matrices waste
overhead   one call as called, with and without autograd, and the replay of its graph
cold       inputs that together exceed the second-level cache
steps      what the path for large matrices is made of: factorisation, triangular solves, products, sums
shifts     mpa and its gradient on large matrices, by the libraries or by sweeps in blocks (FASTSQRTM_BLOCKED_SWEEP=1)
eigen      batched eigendecompositions of torch, CuPy and JAX beside our root
layers     the layers of fastsqrtm.nn in training
"""

import contextlib
import sys
import time
from collections.abc import Callable
from itertools import product
from statistics import median

import torch
from torch import Tensor

import fastsqrtm
import fastsqrtm.nn
from bench.gpu_worker import (
    SECONDS,
    call_of,
    op_inputs,
    print_rows,
    query_gpu,
    require_cuda_kernels,
    spd_on,
    time_graphs,
    time_in_turn,
)
from fastsqrtm.testing import relative_error, twin

SCALED = ("mpa", "mtp", "sqrtm", "sqrtm_lya_backward", "mpa_backward", "sqrtm_backward", "inv")
SCALED_SIZES = (2, 4, 8, 16, 32, 48, 64, 96, 128)
SCALED_BATCHES = (1, 16, 64, 132, 264, 528, 2112, 8448, 1_000_000)


def milliseconds(times: dict) -> dict[str, float]:
    return {name: 1e3 * median(values) for name, values in times.items()}


def scaling():
    for n, batch in product(SCALED_SIZES, SCALED_BATCHES):
        if batch * n * n > (1 << 24 if batch > 8448 else 1 << 26):  # the million of one thread each alone
            continue
        calls = {name: call_of(name, op_inputs(name, n, batch, torch.float32)) for name in SCALED}
        yield {"case": (batch, n), "ms": milliseconds(time_graphs(calls, SECONDS / 16)),
               "clock": query_gpu().get("clocks.sm")}  # fmt: skip


def host_microseconds(function: Callable[[], object], seconds: float = 0.2) -> float:
    """Of a call as called, in a row of calls that the device may be behind."""
    for _ in range(5):
        function()
    torch.cuda.synchronize()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(20):
            function()
        calls += 20
        torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - start) / calls


def overhead():
    """(1, 8): the kernel takes a few microseconds, so that nearly all is the host's."""
    for (batch, n), name in product(((1, 8), (64, 64)), ("sqrtm", "mpa_lya", "inv")):
        A = spd_on("cuda", n, batch, torch.float32, seed=n)
        leaf, G = A.clone().requires_grad_(), torch.ones_like(A)
        op = getattr(torch.ops.fastsqrtm, name)
        public = {"sqrtm": fastsqrtm.sqrtm, "mpa_lya": fastsqrtm.mpa_lya, "inv": fastsqrtm.inv}[name]

        def both(public=public, leaf=leaf, G=G):
            return torch.autograd.grad(public(leaf), leaf, G)

        called = {
            "torch.neg": lambda A=A: torch.neg(A),
            "op": lambda op=op, A=A: op(A),
            "op, recorded": lambda op=op, leaf=leaf: op(leaf),
            "function": lambda public=public, A=A: public(A),
            "function and gradient": both,
        }
        row = {"case": (batch, n), "op": name, "us": {key: host_microseconds(f) for key, f in called.items()}}
        graphs = time_graphs({"op": called["op"], "function and gradient": both}, SECONDS)
        row["graph_us"] = {key: 1e6 * median(values) for key, values in graphs.items()}
        yield row


def cold():
    cache = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "L2_cache_size", 50 << 20)
    for batch, n in ((256, 64), (256, 128), (64, 256)):
        for name in ("mpa", "sqrtm", "sqrtm_lya_backward"):
            each = sum(x.numel() * x.element_size() for x in op_inputs(name, n, batch, torch.float32))
            copies = 2 + 2 * cache // each
            calls = [call_of(name, op_inputs(name, n, batch, torch.float32)) for _ in range(copies)]
            times = time_graphs({"same inputs": calls[0], "other inputs": calls}, SECONDS)
            yield {"case": (batch, n), "op": name, "copies": copies, "ms": milliseconds(times)}


def steps():
    """Through torch, which calls the same functions of the same libraries."""
    for (batch, n), dtype in product(((64, 256), (16, 512), (4, 1024)), (torch.float32, torch.float64)):
        A = spd_on("cuda", n, 5 * batch, dtype, seed=n)  # the five shifts of mpa
        identity = torch.eye(n, device="cuda", dtype=dtype).expand_as(A).contiguous()
        L = torch.linalg.cholesky_ex(A).L
        out = torch.empty_like(A)
        calls = {
            "potrf": lambda A=A: torch.linalg.cholesky_ex(A),
            "trsm": lambda L=L, B=identity: torch.linalg.solve_triangular(L, B, upper=False),
            "gemm": lambda A=A, out=out: torch.bmm(A, A, out=out),
            "sum": lambda A=A, B=identity, out=out: torch.add(A, B, out=out),
            "mpa": call_of("mpa", [A[:batch].contiguous()]),
            "inv": call_of("inv", [A]),
        }
        yield {"case": (5 * batch, n), "dtype": str(dtype).removeprefix("torch."),
               "ms": milliseconds(time_in_turn(calls, SECONDS))}  # fmt: skip


def shifts():
    for (batch, n), dtype in product(((64, 192), (64, 256), (16, 512), (4, 1024)), (torch.float32, torch.float64)):
        inputs = {name: op_inputs(name, n, batch, dtype) for name in ("mpa", "mpa_inv", "mpa_backward")}
        calls = {name: call_of(name, x) for name, x in inputs.items()}
        ms = milliseconds(time_graphs(calls, SECONDS))
        exact = {name: twin(name)(*(x.double() for x in inputs[name])) for name in calls}
        errors = {name: relative_error(call(), exact[name]).max().item() for name, call in calls.items()}
        twins = {name: relative_error(twin(name)(*inputs[name]), exact[name]).max().item() for name in calls}
        good = all(errors[name] <= 20 * twins[name] + 100 * torch.finfo(dtype).eps for name in calls)
        yield {"case": (batch, n), "dtype": str(dtype).removeprefix("torch."), "ms": ms, "error": errors, "twin": twins,
               "status": "ok" if good else "failed", "message": "" if good else f"error {errors}"}  # fmt: skip


def eigen_roots(A: Tensor, wait: Callable[[], object] = torch.cuda.synchronize) -> dict[str, Callable[[], object]]:
    """A^(1/2) by the batched eigendecompositions that can be imported; each ends when the device has the result."""

    def by_torch():
        values, vectors = torch.linalg.eigh(A)
        root = (vectors * values.sqrt()[..., None, :]) @ vectors.mT
        wait()
        return root

    def ours():
        root = torch.ops.fastsqrtm.sqrtm(A)
        wait()
        return root

    found = {"sqrtm": ours, "torch.linalg.eigh": by_torch}
    with contextlib.suppress(ImportError):
        import cupy

        array = cupy.from_dlpack(A)

        def by_cupy():
            values, vectors = cupy.linalg.eigh(array)
            (vectors * cupy.sqrt(values)[..., None, :]) @ vectors.transpose(0, 2, 1)
            cupy.cuda.Device().synchronize()

        found[f"cupy {cupy.__version__}"] = by_cupy
    with contextlib.suppress(ImportError):
        import jax

        device_array = jax.dlpack.from_dlpack(A)

        @jax.jit
        def root(A):
            values, vectors = jax.numpy.linalg.eigh(A)
            return (vectors * jax.numpy.sqrt(values)[..., None, :]) @ vectors.transpose(0, 2, 1)

        found[f"jax {jax.__version__}"] = lambda: root(device_array).block_until_ready()
    return found


def eigen():
    for case in ((256, 32), (256, 64), (256, 128), (64, 256), (16, 512)):
        calls = eigen_roots(spd_on("cuda", case[1], case[0], torch.float32, seed=case[1]))
        row: dict = {"case": case, "ms": {}, "failed": {}}
        for name, call in calls.items():
            try:  # a library for another version of CUDA, or an out-of-memory, is no fault of ours
                call()
                times = []
                while len(times) < 3 or sum(times) < SECONDS:
                    start = time.perf_counter()
                    call()
                    times.append(time.perf_counter() - start)
                row["ms"][name] = 1e3 * median(times)
            except Exception as error:
                if name == "sqrtm":
                    raise
                row["failed"][name] = f"{type(error).__name__}: {error}"[:300]
        yield row


def training_steps(shape: tuple[int, ...], device: str) -> dict[str, Callable[[], object]]:
    """One forward and backward of each layer on images of this shape."""
    x = torch.randn(shape, device=device, requires_grad=True)
    channels = shape[1]
    made = {
        "BatchNorm2d": torch.nn.BatchNorm2d(channels),
        "BatchWhitening2d": fastsqrtm.nn.BatchWhitening2d(channels),
        "GroupWhitening": fastsqrtm.nn.GroupWhitening(channels // 16, channels),
        "CovariancePool": fastsqrtm.nn.CovariancePool(channels),
    }

    def step(layer: torch.nn.Module) -> Callable[[], object]:
        layer.to(device)
        G, leaves = torch.ones_like(layer(x)), [x, *layer.parameters()]
        return lambda: torch.autograd.grad(layer(x), leaves, G)

    return {name: step(layer) for name, layer in made.items()}


def layers():
    for shape in ((128, 64, 32, 32), (32, 64, 112, 112), (64, 48, 14, 14), (32, 256, 14, 14)):
        yield {"shape": shape, "ms": milliseconds(time_in_turn(training_steps(shape, "cuda"), SECONDS))}


def main(argv: list[str]) -> None:
    require_cuda_kernels()
    parts = {f.__name__: f for f in (scaling, overhead, cold, steps, shifts, eigen, layers)}
    print_rows(parts[argv[0]]())


if __name__ == "__main__":
    main(sys.argv[1:])
