"""One part of ``bench.gpu_check`` in a process of its own, on the current CUDA device; prints one json line a result.

python -m bench.gpu_worker environment | smoke | launches | growth | ops | choices | once
python -m bench.gpu_worker sanitized memcheck
python -m bench.gpu_worker ours | paper | newton_schulz | eigh
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from fastsqrtm.testing import OPS, relative_error, spd, twin
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
    *product((torch.float32, torch.float64), (1, 4, 7, 16, 31, 48, 64, 80, 96)),
    *((torch.float32, 112), (torch.float32, 128), (torch.float16, 17), (torch.bfloat16, 33)),
    *((torch.float32, 130), (torch.float64, 130)),
]
RACECHECK = [*product((torch.float32, torch.float64), (3, 7, 13, 31, 48, 64)), (torch.float32, 96)]

# Sizes of every variant and of the path for large matrices, for `smoke`.
SMOKE = {
    torch.float32: (1, 2, 3, 4, 5, 16, 31, 48, 64, 80, 96, 112, 128, 130, 200),
    torch.float64: (2, 3, 4, 7, 13, 32, 33, 64, 80, 96, 130),
}

SECONDS = 0.08  # per contender and mode
MINIMAL_FLOPS = {"forward": 6, "forward+backward": 52}  # in n^3: the paper's mathematics with every saving


@dataclass(frozen=True)
class Chip:
    """What the floor of a time depends on: the float32 rate without tensor cores."""

    multiprocessors: int
    lanes: int  # float32 multiply-adds of a multiprocessor and cycle
    megahertz: float

    def floor_us(self, batch: int, n: int, mode: str) -> float:
        """Time of the minimal flops at the full rate: one multiprocessor for a matrix that fits a block, else all."""
        flops = MINIMAL_FLOPS[mode] * n**3
        if n <= 128:
            return math.ceil(batch / self.multiprocessors) * flops / (2 * self.lanes * self.megahertz)
        return batch * flops / (2 * self.lanes * self.megahertz * self.multiprocessors)


H200 = Chip(132, 128, 1980)


def this_chip() -> Chip | None:
    """None where nvidia-smi does not tell the highest clock."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    # CUDA C++ programming guide, "Arithmetic instructions": 64 lanes on 7.x and 8.0, 128 on later chips.
    lanes = 64 if (properties.major, properties.minor) <= (8, 0) else 128
    clock = query_gpu().get("clocks.max.sm", "").split(" ")[0]
    return Chip(properties.multi_processor_count, lanes, float(clock)) if clock.isdigit() else None


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


def spd_on(device: str, n: int, batch: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Covariances of 2n samples and a multiple of I, made on the device: condition number about 5 for large n."""
    generator = torch.Generator(device).manual_seed(seed)
    samples = torch.randn(batch, n, 2 * n, generator=generator, device=device, dtype=torch.float64)
    product = samples @ samples.mT / (4 * n)
    return (product + product.mT + 0.6 * torch.eye(n, device=device, dtype=torch.float64)).to(dtype)


def op_inputs(name: str, n: int, batch: int, dtype: torch.dtype, device: str = "cuda") -> list[Tensor]:
    """SPD matrices of condition number 5 for square ones; the last of several, and others, random."""
    lines = OPS[name].tensors
    generator = torch.Generator(device).manual_seed(n)
    found = []
    for i, line in enumerate(lines):
        if line.dims == "nn" and (i == 0 or i < len(lines) - 1):
            found.append(spd_on(device, n, batch, line.dtype or dtype, seed=i))
        else:
            shape = (batch, *[n] * len(line.dims))
            random = torch.randn(shape, generator=generator, device=device, dtype=torch.float64)
            found.append(random.to(line.dtype or dtype))
    return found


def call_of(name: str, inputs: list[Tensor]) -> Callable[[], object]:
    return lambda: getattr(torch.ops.fastsqrtm, name)(*inputs)


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
LONG_CALL = 5e-3  # seconds; above, a graph has one call


def graphed(functions: list[Callable[[], object]]) -> Callable[[], object]:
    """The replay of a CUDA graph of these calls: the device's time without the host's."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        functions[0]()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for function in functions:
            function()
    return graph.replay


def seconds_of_a_call(function: Callable[[], object]) -> float:
    function()
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def time_graphs(contenders: dict, seconds: float) -> dict:
    """Seconds of the kernels of a call of each contender: a function, or a list of them, called one after another."""
    calls = {}
    for key, found in contenders.items():
        functions = found if isinstance(found, list) else [found]
        count = 1 if seconds_of_a_call(functions[0]) > LONG_CALL else max(GRAPHED_CALLS, len(functions))
        calls[key] = [functions[i % len(functions)] for i in range(count)]
    times = time_in_turn({key: graphed(functions) for key, functions in calls.items()}, seconds)
    return {key: [t / len(calls[key]) for t in values] for key, values in times.items()}


def device_times(case: tuple[int, int], A: Tensor, G: Tensor) -> dict[str, dict]:
    """Per method and mode: the time of the kernels alone over two floors, the rate of bmm and the chip's full rate."""
    out = torch.empty_like(A)

    def passes(name: str, mode: str) -> Callable[[], object]:
        forward, backward = getattr(torch.ops.fastsqrtm, name), torch.ops.fastsqrtm.sqrtm_lya_backward
        return (lambda: forward(A)) if mode == "forward" else lambda: backward(A, forward(A), G)

    chip = this_chip()
    contenders = {(name, mode): passes(name, mode) for name in METHODS for mode in MODES}
    times = time_graphs({"bmm": lambda: torch.bmm(A, A, out=out), **contenders}, SECONDS)
    result = {name: {} for name in METHODS}
    for name, mode in contenders:
        flops = METHODS[name].forward + (METHODS[name].backward if mode != "forward" else 0)
        mine = times[name, mode]
        result[name][mode] = {
            "device_ms": 1e3 * median(mine),
            "fastest_ms": 1e3 * min(mine),
            "slowest_ms": 1e3 * max(mine),
            "bmm_ms": 1e3 * median(times["bmm"]),
            "device_over_bmm_floor": median(t / (g * flops / 2) for t, g in zip(mine, times["bmm"], strict=True)),
            "device_over_chip_floor": 1e6 * median(mine) / chip.floor_us(*case, mode) if chip else None,
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
        "chip": vars(chip) if (chip := this_chip()) else None,
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


def smoke_of_one(name: str):
    """Every variant of an op, and its path for large matrices, against the twin in float64."""
    require_cuda_kernels()
    batches = (3, 2 * torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count + 36)
    for dtype, batch in product(SMOKE, batches):
        for n in (n for n in SMOKE[dtype] if batch == 3 or n <= 64):
            row = {"op": name, "dtype": str(dtype).removeprefix("torch."), "n": n, "batch": batch}
            print(json.dumps({**row, "status": "begun"}), flush=True)  # names the case of a crash or a hang
            inputs = op_inputs(name, n, batch, dtype)
            exact = results_of(twin(name)(*(x.double() for x in inputs)))
            errors = {}
            for who, function in {"error": getattr(torch.ops.fastsqrtm, name), "twin_error": twin(name)}.items():
                pairs = zip(results_of(function(*inputs)), exact, strict=True)
                errors[who] = max(relative_error(*(x.reshape(len(x), 1, -1) for x in pair)).max().item()
                                  for pair in pairs)  # fmt: skip
            good = errors["error"] <= 20 * errors["twin_error"] + 100 * torch.finfo(dtype).eps
            message = "" if good else "the error is more than 20 times that of the twin"
            yield {**row, **errors, "status": "ok" if good else "failed", "message": message}


def last_case(rows: list[dict]) -> str:
    return "{dtype} n = {n} batch = {batch}".format(**rows[-1]) if rows else "its start"


def smoke(command: Iterable[str] = (sys.executable, "-m", "bench.gpu_worker", "smoke_of_one"), limit: float = 50):
    """smoke_of_one for each op in a process of its own, twelve at a time: a crash or a hang is that op's alone."""

    def run_one(name: str) -> list[dict]:
        done = subprocess.Popen(
            [*command, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "CUDA_LAUNCH_BLOCKING": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            out, err = done.communicate(timeout=limit)
            ending = (err.strip().splitlines() or [f"exit status {done.returncode}"])[-1] if done.returncode else ""
        except subprocess.TimeoutExpired:
            done.kill()
            out, _ = done.communicate()
            ending = f"not done after {limit:.0f} s"
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
        found = [row for row in rows if row["status"] != "begun"]
        if ending:
            found.append({"op": name, "status": "failed", "message": f"{name} at {last_case(rows)}: {ending}"[:500]})
        return found

    with ThreadPoolExecutor(12) as pool:
        for rows in pool.map(run_one, OPS):
            yield from rows


# Matrices of a graph on the path of the libraries, and more and larger ones, for which a library may allocate anew.
GROWN = (200, 6), (512, 64)


def replay_after_growth(name: str, dtype: torch.dtype) -> bool:
    """Whether a graph gives the same bits after a larger eager call of the op."""
    (n, batch), larger = GROWN
    call = call_of(name, op_inputs(name, n, batch, dtype))
    expected = [x.clone() for x in results_of(call())]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = results_of(call())
    call_of(name, op_inputs(name, *larger, dtype))()
    torch.cuda.synchronize()
    for x in out:
        x.zero_()
    graph.replay()
    return all(torch.equal(x, y) for x, y in zip(out, expected, strict=True))


def growth():
    require_cuda_kernels()
    for name in OPS:
        same = replay_after_growth(name, torch.float32)
        message = "" if same else f"{name}: a graph replayed after a larger call has other bits"
        yield {"op": name, "status": "ok" if same else "failed", "message": message}


def once():
    """One call of every op, for a profiler: the sizes that the estimates in docs/cuda.md have, a full wave each."""
    require_cuda_kernels()
    batch = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    for n, name in product((4, 32, 64, 128), OPS):
        matrices = 128 * batch if n == 4 else batch  # of one thread each
        call_of(name, op_inputs(name, n, matrices, torch.float32))()
    torch.cuda.synchronize()
    yield {"complete": True}


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
    """A^-1 of SPD matrices by our op, and by each factorisation the path for large matrices could rest on."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand_as(A)

    def potrf_trsm():
        L = torch.linalg.cholesky_ex(A).L
        half = torch.linalg.solve_triangular(L, identity, upper=False)
        return torch.linalg.solve_triangular(L.mT, half, upper=True)

    return {
        "inv": lambda: torch.ops.fastsqrtm.inv(A),
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


CHOICE_CASES = [(256, 32), (256, 64), (256, 128), (64, 192), (64, 256), (16, 512), (4, 1024)]


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
        A = spd_on("cuda", n, batch, dtype, seed=n)
        yield {"choice": "inverse", **place, **measured(inverses(A), torch.linalg.inv(A.double()))}
        if dtype == torch.float32:
            yield {"choice": "product", **place, **measured(products(A, A), A.double() @ A.double())}
        for name in OPS if n > 128 else ():
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
        calls = {name: call_of(name, op_inputs(name, n, batch, torch.float32)) for name in OPS}
        calls = {"bmm": lambda A=A: A @ A, **calls}
        times = time_graphs(calls, SECONDS / 4)
        ms = {name: 1e3 * median(values) for name, values in times.items()}
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
        row["clock"] = query_gpu().get("clocks.sm")
        yield row
    yield {"nvidia_smi_after": query_gpu()}


PARTS = (environment, smoke, smoke_of_one, launches, sanitized, growth, once, choices, ops)


def print_rows(results: Iterable[dict]) -> None:
    for result in results:
        print(json.dumps(result), flush=True)


def main(argv: list[str]) -> None:
    part, *rest = argv
    parts = {f.__name__: f for f in PARTS}
    print_rows(parts[part](*rest) if part in parts else benchmark({"ours": None}.get(part, part)))


if __name__ == "__main__":
    main(sys.argv[1:])
