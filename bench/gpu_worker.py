"""One part of ``bench.gpu_check`` in a process of its own, on the current CUDA device; prints one json line a result.

python -m bench.gpu_worker environment
python -m bench.gpu_worker launches
python -m bench.gpu_worker sanitized memcheck
python -m bench.gpu_worker ops
python -m bench.gpu_worker choices
python -m bench.gpu_worker ours | paper | newton_schulz | eigh
"""

import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from statistics import median

import torch
from torch import Tensor
from torch.autograd import DeviceType

import fastsqrtm
from bench import run
from bench.cases import CASES, METHODS, MODES, make_input
from bench.report import spread
from bench.worker import measure_ours, measure_peer
from fastsqrtm.paper import METHODS as SYSTEMS
from fastsqrtm.testing import OPS, relative_error, spd
from fastsqrtm.testing import results as results_of


def roots_of(backward: str) -> list[str]:
    """The ops of roots and inverse roots that have this gradient."""
    systems = [row[backward] for row in SYSTEMS.values() if backward in row and not row[backward].combined]
    return [*(system.root for system in systems), *(system.inverse for system in systems)]


ROOTS = roots_of("lyapunov")
EXACT = roots_of("exact")  # with the gradient of the approximant
ACCURATE = [
    name for name, op in OPS.items() if "rtol" in (number.name for number in op.numbers) and len(op.results) == 1
]
FULL_SHARED_MEMORY = 227 * 1024  # bytes a block may have on the chips with most of it

LAUNCH_SIZES = {torch.float32: (1, 16, 48, 64, 96, 128, 256, 512), torch.float64: (8, 64, 96, 256)}
# Every fused shape; the path for large matrices last, because its libraries are slow to load under the tool.
MEMCHECK = [
    *product((torch.float32, torch.float64), (1, 7, 16, 31, 48, 64, 80, 96)),
    *((torch.float32, 112), (torch.float32, 128), (torch.float16, 17), (torch.bfloat16, 33)),
    *((torch.float32, 130), (torch.float64, 130)),
]
RACECHECK = [*product((torch.float32, torch.float64), (7, 13, 31, 48, 64)), (torch.float32, 96)]

SECONDS = 0.08  # per contender and mode
H200_FLOPS, H200_MULTIPROCESSORS = 67e12, 132  # float32 without tensor cores, datasheet
MINIMAL_FLOPS = {"forward": 6, "forward+backward": 52}  # in n^3: the paper's mathematics with every saving


def h200_floor_us(batch: int, n: int, mode: str) -> float:
    """Time of the minimal flops at an H200's full rate: one multiprocessor for a matrix that fits a block, else all."""
    flops = MINIMAL_FLOPS[mode] * n**3
    if n <= 128:
        rounds = math.ceil(batch / H200_MULTIPROCESSORS)
        return 1e6 * rounds * flops * H200_MULTIPROCESSORS / H200_FLOPS
    return 1e6 * batch * flops / H200_FLOPS


def fused_limit(dtype: torch.dtype) -> int:
    """The n up to which this chip needs one launch only."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    if properties.shared_memory_per_block_optin >= FULL_SHARED_MEMORY:
        return 96 if dtype == torch.float64 else 128
    return 32 if dtype == torch.float64 else 64


def require_cuda_kernels() -> None:
    if reason := plan().reason:
        raise RuntimeError(f"no CUDA kernels to check: {reason}")


def plan() -> fastsqrtm.Plan:
    return fastsqrtm.plan(torch.empty(1, 1, device="cuda"))


def op_inputs(name: str, n: int, batch: int, dtype: torch.dtype) -> list[Tensor]:
    """On the device: SPD matrices of condition number 5 for square ones; the last of several, and others, random."""
    generator = torch.Generator().manual_seed(n)
    found = []
    for i, line in enumerate(OPS[name].tensors):
        if line.dims == "nn" and (i == 0 or i < len(OPS[name].tensors) - 1):
            found.append(spd(n, 5, (batch,), dtype=torch.float64, seed=i))
        else:
            found.append(torch.randn(batch, *[n] * len(line.dims), generator=generator, dtype=torch.float64))
    return [x.to(line.dtype or dtype).cuda() for x, line in zip(found, OPS[name].tensors, strict=True)]


def device_work(events) -> list[str]:
    """Names of the kernels, copies and fills among the events of a profile."""
    return [e.name for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]


def launched(function: Callable[[], object]) -> list[str]:
    """The kernels, copies and fills that one warm call of the function starts on the device."""
    function()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        function()
        torch.cuda.synchronize()
    return device_work(profile.events())


def launched_by_passes(name: str, A: Tensor) -> dict[str, list[str]]:
    """Launches of the forward and of the backward of the documented function."""
    leaf, G = A.detach().requires_grad_(), torch.ones_like(A)
    root = getattr(fastsqrtm, name)(leaf)
    return {
        "forward": launched(lambda: getattr(fastsqrtm, name)(leaf)),
        "backward": launched(lambda: torch.autograd.grad(root, leaf, G, retain_graph=True)),
    }


def time_in_turn(contenders: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """fastsqrtm.testing.time_in_turn with the clock of the device: the host's time counts where the device waits."""

    def one(contender: Callable[[], object], calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            contender()
        end.record()
        end.synchronize()
        return 1e-3 * start.elapsed_time(end) / calls

    calls = {}
    for name, contender in contenders.items():
        one(contender, 2)
        calls[name] = min(100, math.ceil(1e-3 / one(contender, 2)))
    times = {name: [] for name in contenders}
    finish = time.perf_counter() + seconds * len(contenders)
    while min(map(len, times.values())) < 3 or time.perf_counter() < finish:
        for name, contender in contenders.items():
            times[name].append(one(contender, calls[name]))
    return times


GRAPHED_CALLS = 8


def graphed(function: Callable[[], object]) -> Callable[[], object]:
    """The replay of a CUDA graph with GRAPHED_CALLS calls in it: the device's time without the host's."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPHED_CALLS):
            function()
    return graph.replay


def device_times(case: tuple[int, int], A: Tensor, G: Tensor) -> dict[str, dict]:
    """Per method and mode: the time of the kernels alone over two floors, the rate of bmm and the H200's full rate."""
    out = torch.empty_like(A)

    def passes(name: str, mode: str) -> Callable[[], object]:
        forward, backward = getattr(torch.ops.fastsqrtm, name), torch.ops.fastsqrtm.sqrtm_lya_backward
        return (lambda: forward(A)) if mode == "forward" else lambda: backward(A, forward(A), G)

    on_h200 = "H200" in torch.cuda.get_device_name()
    contenders = {"bmm": graphed(lambda: torch.bmm(A, A, out=out))}
    contenders |= {(name, mode): graphed(passes(name, mode)) for name in METHODS for mode in MODES}
    times = {key: [t / GRAPHED_CALLS for t in values] for key, values in time_in_turn(contenders, SECONDS).items()}
    result = {name: {} for name in METHODS}
    for name, mode in product(METHODS, MODES):
        flops = METHODS[name].forward + (METHODS[name].backward if mode != "forward" else 0)
        mine = times[name, mode]
        result[name][mode] = {
            "device_ms": 1e3 * median(mine),
            "fastest_ms": 1e3 * min(mine),
            "slowest_ms": 1e3 * max(mine),
            "bmm_ms": 1e3 * median(times["bmm"]),
            "device_over_bmm_floor": median(t / (g * flops / 2) for t, g in zip(mine, times["bmm"], strict=True)),
            "device_over_h200_floor": 1e6 * median(mine) / h200_floor_us(*case, mode) if on_h200 else None,
        }
    return result


def query_gpu() -> dict[str, str]:
    """State of the device as nvidia-smi reports it; changes nothing."""
    fields = "name driver_version clocks.sm clocks.mem clocks.max.sm power.draw power.limit temperature.gpu".split()
    device = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    command = ["nvidia-smi", "-i", device, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return dict(zip(fields, answer.strip().split(", "), strict=True))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {"not available": str(error)}


def environment():
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    try:
        nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=20).stdout.split("\n")[-2]
    except (OSError, subprocess.SubprocessError, IndexError):
        nvcc = "not found"
    yield {
        **run.about({"dtype": "float32", "threads": torch.get_num_threads()}),
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "shared_memory_per_block": properties.shared_memory_per_block_optin,
        "cuda_of_torch": torch.version.cuda,
        "nvcc": nvcc,
        "nvidia_smi": query_gpu(),
        "allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cuda_kernels": plan().reason is None,
        "fused_limit": {"float32": fused_limit(torch.float32), "float64": fused_limit(torch.float64)},
    }


def launches():
    x = torch.ones(64, device="cuda")
    if len(control := launched(lambda: x + 1)) != 1:
        raise RuntimeError(f"the profiler sees {control} where one kernel runs: counts would mean nothing")
    for dtype, sizes in LAUNCH_SIZES.items():
        for n, name in product(sizes, ROOTS):
            names = launched_by_passes(name, spd(n, batch=(4,), dtype=dtype).cuda())
            yield {
                "op": name, "dtype": str(dtype).removeprefix("torch."), "n": n, "batch": 4,
                "promised": n <= fused_limit(dtype),
                **{mode: len(kernels) for mode, kernels in names.items()},
                "kernels": {mode: sorted(set(kernels))[:20] for mode, kernels in names.items()},
            }  # fmt: skip


def sanitized(tool: str):
    """Small cases of every op; the line "complete" proves that all of them ran."""
    require_cuda_kernels()
    for dtype, n in {"memcheck": MEMCHECK, "racecheck": RACECHECK}[tool]:
        for name in OPS:
            inputs = op_inputs(name, n, 3, dtype)
            found = results_of(getattr(torch.ops.fastsqrtm, name)(*inputs))
            if not all(out.cpu().isfinite().all() for out in found):
                raise RuntimeError(f"{name} at n = {n}, {dtype}: not finite")
        yield {"dtype": str(dtype).removeprefix("torch."), "n": n, "ops": len(OPS)}
    yield {"complete": True}


# Choices that need a measurement. These contenders reach the same libraries through torch, so they run on a CPU too.


def inverses(A: Tensor) -> dict[str, Callable[[], Tensor]]:
    """A^-1 of SPD matrices by each factorisation the path for large matrices could rest on."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand_as(A)

    def potrf_trsm():
        L = torch.linalg.cholesky_ex(A).L
        half = torch.linalg.solve_triangular(L, identity, upper=False)
        return torch.linalg.solve_triangular(L.mT, half, upper=True)

    return {
        "potrf, trsm": potrf_trsm,
        "potrf, potri": lambda: torch.cholesky_inverse(torch.linalg.cholesky_ex(A).L),
        "getrf, getrs": lambda: torch.linalg.lu_solve(*torch.linalg.lu_factor_ex(A)[:2], identity),
        "getrf, getri": lambda: torch.linalg.inv_ex(A).inverse,
    }


@contextlib.contextmanager
def tf32_allowed():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def tf32_parts(X: Tensor) -> tuple[Tensor, Tensor]:
    """X = high + low exactly, with 11 bits in high; the tensor cores round low to 11 bits of its own."""
    high = (X.view(torch.int32) & -(1 << 13)).view(torch.float32)
    return high, X - high


def products(X: Tensor, Y: Tensor) -> dict[str, Callable[[], Tensor]]:
    """X Y in float32 by plain float32, by TF32, and by three TF32 products whose splitting counts as well."""

    def by_tf32():
        with tf32_allowed():
            return X @ Y

    def by_three():
        (high_x, low_x), (high_y, low_y) = tf32_parts(X), tf32_parts(Y)
        with tf32_allowed():
            return torch.baddbmm(torch.baddbmm(low_x @ high_y, high_x, low_y), high_x, high_y)

    return {"float32": lambda: X @ Y, "TF32": by_tf32, "3 x TF32": by_three}


CHOICE_CASES = [(64, 192), (64, 256), (16, 512), (4, 1024)]


def measured(contenders: dict[str, Callable[[], Tensor]], truth: Tensor) -> dict:
    times = time_in_turn(contenders, SECONDS)
    return {
        "ms": {name: 1e3 * median(values) for name, values in times.items()},
        "error": {name: relative_error(run(), truth).mean().item() for name, run in contenders.items()},
    }


def choices():
    """Measures which factorisation to take, whether three TF32 products pay, and whether the batch changes results."""
    require_cuda_kernels()
    for dtype, (batch, n) in product((torch.float32, torch.float64), CHOICE_CASES):
        place = {"case": (batch, n), "dtype": str(dtype).removeprefix("torch.")}
        A = make_input(batch, n, dtype)[0].cuda()
        yield {"choice": "inverse", **place, **measured(inverses(A), torch.linalg.inv(A.double()))}
        if dtype == torch.float32:
            yield {"choice": "product", **place, **measured(products(A, A), A.double() @ A.double())}
        for name in OPS:
            inputs = op_inputs(name, n, 6, dtype)
            op = getattr(torch.ops.fastsqrtm, name)
            pairs = zip(results_of(op(*inputs)), results_of(op(*(x[:1] for x in inputs))), strict=True)
            rows = ((x[:1].reshape(1, 1, -1) for x in pair) for pair in pairs)
            difference = max(relative_error(*pair).item() for pair in rows)
            yield {"choice": "batch", **place, "op": name, "difference": difference}


def ops():
    """Times the kernels of every op, in the fused range and above it, next to a batched product."""
    require_cuda_kernels()
    for batch, n in CASES:
        A = make_input(batch, n, torch.float32)[0].cuda()
        calls = {"bmm": lambda A=A: A @ A}
        for name in OPS:
            inputs = op_inputs(name, n, 1, torch.float32)
            inputs = [x.expand(batch, *x.shape[1:]).contiguous() for x in inputs]
            calls[name] = lambda name=name, inputs=inputs: getattr(torch.ops.fastsqrtm, name)(*inputs)
        times = time_in_turn({name: graphed(call) for name, call in calls.items()}, SECONDS / 4)
        ms = {name: 1e3 / GRAPHED_CALLS * median(values) for name, values in times.items()}
        yield {"case": (batch, n), "ms": ms, "spread": {name: spread(values) for name, values in times.items()}}


def benchmark(peer: str | None):
    """Our methods alone, or in turn with a peer; a case that fails is reported and the next one measured."""
    require_cuda_kernels()
    big = torch.randn(4096, 4096, device="cuda")
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:  # raises the clocks from idle
        big @ big
        torch.cuda.synchronize()
    del big
    spec = {"peer": peer, "methods": list(METHODS), "seconds": SECONDS}
    for case in CASES:
        row = {"case": case}
        try:
            A, G = (x.cuda() for x in make_input(*case, torch.float32))
            measure = measure_peer if peer else measure_ours
            row["methods"] = measure({**spec, "case": case}, A, G, time_in_turn)
        except Exception as error:
            yield {**row, "status": "failed", "message": f"{type(error).__name__}: {error}"[:500]}
            continue
        row["status"] = "ok"
        if not peer:
            try:
                row["device"] = device_times(case, A, G)
            except Exception as error:
                row |= {"status": "failed", "message": f"under a CUDA graph: {type(error).__name__}: {error}"[:500]}
        yield row
    yield {"nvidia_smi_after": query_gpu()}


def main(argv: list[str]) -> None:
    part, *rest = argv
    parts = {f.__name__: f for f in (environment, launches, sanitized, choices, ops)}
    if part in parts:
        results = parts[part](*rest)
    else:
        results = benchmark({"ours": None}.get(part, part))
    for result in results:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
