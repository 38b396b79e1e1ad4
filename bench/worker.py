"""One measurement in a process of its own: ``python -m bench.worker '{"case": [64, 48], ...}'`` prints one json line.

A peer that hangs or dies ends only its own worker; ``run.py`` starts, limits and reads the workers.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import fastsqrtm
from bench.cases import METHODS, MODES, make_input, peer_function, peer_note
from bench.report import spread
from fastsqrtm.testing import exact_gradient, exact_sqrtm, relative_error, time_in_turn, twin

ERROR_MATRICES = 16  # errors are the worst of this many matrices, spread over the batch


def runner(function: Callable[[Tensor], Tensor], mode: str, A: Tensor, G: Tensor) -> Callable[[], object]:
    if mode == "forward":
        return lambda: function(A)
    leaf = A.detach().requires_grad_()
    return lambda: torch.autograd.grad(function(leaf), leaf, G)


def root_and_gradient(function: Callable[[Tensor], Tensor], A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    leaf = A.detach().requires_grad_()
    root = function(leaf)
    return root.detach(), torch.autograd.grad(root, leaf, G)[0]


def errors(result: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Relative Frobenius error of root and gradient, of the worst matrix."""
    worst = (relative_error(x, t).max().item() for x, t in zip(result, truth, strict=True))
    return dict(zip(("root_error", "gradient_error"), worst, strict=True))


def _sample(A: Tensor) -> Tensor:
    return torch.linspace(0, len(A) - 1, min(len(A), ERROR_MATRICES)).long()


def measure_ours(spec: dict, A: Tensor, G: Tensor, time_in_turn=time_in_turn) -> dict:
    """Time, time over floor and errors of our methods; the rounding error next to that of the pure-torch twin."""
    batch, n = spec["case"]
    out = torch.empty_like(A)
    gemms = {"bmm": lambda: torch.bmm(A, A), "bmm_out": lambda: torch.bmm(A, A, out=out)}
    result = {name: {} for name in spec["methods"]}
    for mode in MODES:
        contenders = {name: runner(METHODS[name].function, mode, A, G) for name in spec["methods"]}
        times = time_in_turn({**gemms, **contenders}, spec["seconds"])
        gemm = times[min(gemms, key=lambda name: median(times[name]))]
        for name in spec["methods"]:
            flops = METHODS[name].forward + (METHODS[name].backward if mode != "forward" else 0)
            result[name][mode] = {
                "time_ms": 1e3 * median(times[name]),
                "spread": spread(times[name]),
                "rounds": len(gemm),
                "floor_ms": 1e3 * median(gemm) * flops / 2,  # a GEMM is 2 n^3 flop
                "over_floor": median(t / (g * flops / 2) for t, g in zip(times[name], gemm, strict=True)),
                "gemm_gflops": 2 * n**3 * batch / median(gemm) / 1e9,
            }
    index = _sample(A)
    double = A[index].double(), G[index].double()
    truth = exact_sqrtm(double[0]), exact_gradient(*double)
    for name in spec["methods"]:
        root, gradient = root_and_gradient(METHODS[name].function, A, G)
        same_method = root_and_gradient(METHODS[name].function, *double)
        result[name]["errors"] = errors((root[index], gradient[index]), truth)
        result[name]["rounding"] = errors((root[index], gradient[index]), same_method)
        S = twin(name)(A[index])
        result[name]["twin_rounding"] = errors((S, twin("sqrtm_lya_backward")(A[index], S, G[index])), same_method)
    return result


def measure_peer(spec: dict, A: Tensor, G: Tensor, time_in_turn=time_in_turn) -> dict:
    """Time of one peer and of our methods in turn, the ratio per round, and the peer's errors."""
    functions = {name: peer_function(spec["peer"], name) for name in spec["methods"]}
    index = _sample(A)
    truth = exact_sqrtm(A[index]), exact_gradient(A[index], G[index])
    result = {}
    for name, function in functions.items():
        root, gradient = root_and_gradient(function, A, G)
        result[name] = {"errors": errors((root[index], gradient[index]), truth)}
        if note := peer_note(spec["peer"], name, A):
            result[name]["note"] = note
    for mode in MODES:
        # Most peers are one function for all methods: measured once a round, not once for every method.
        contenders = {}
        for name, function in functions.items():
            contenders[name] = runner(METHODS[name].function, mode, A, G)
            contenders.setdefault(function, runner(function, mode, A, G))
        times = time_in_turn(contenders, spec["seconds"])
        for name, function in functions.items():
            result[name][mode] = {
                "time_ms": 1e3 * median(times[function]),
                "spread": spread(times[function]),
                "ours_ms": 1e3 * median(times[name]),
                "rounds": len(times[name]),
                "ratio": median(theirs / ours for theirs, ours in zip(times[function], times[name], strict=True)),
            }
    return result


def measure_memory(spec: dict, A: Tensor, G: Tensor) -> dict:
    """Growth of the resident set at its peak in forward + backward, without the root and the gradient themselves."""
    (name,) = spec["methods"]
    function = peer_function(spec["peer"], name) if spec["peer"] else METHODS[name].function
    root_and_gradient(function, *make_input(4, 8, A.dtype))  # starts the threads and loads the libraries
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status_bytes("VmRSS")
    root_and_gradient(function, A, G)
    size = A.element_size() * A.shape[-1] ** 2
    extra = _status_bytes("VmHWM") - before - 2 * A.numel() * A.element_size()
    result = {"extra_bytes": extra, "extra_matrices_per_thread": extra / size / torch.get_num_threads()}
    return result if spec["peer"] else {**result, "plan": dataclasses.asdict(fastsqrtm.plan(A))}


def _status_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def _busy_and_total_seconds() -> tuple[float, float]:
    """Time of all cores since the machine started: busy with other processes, and in all."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0, time.perf_counter()
    ticks = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
    idle, total = ticks[3] + ticks[4], sum(ticks)
    second = os.sysconf("SC_CLK_TCK")
    return (total - idle) / second - time.process_time(), total / second


def main() -> None:
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    A, G = make_input(*spec["case"], getattr(torch, spec["dtype"]))
    measure = measure_memory if spec.get("memory") else measure_peer if spec["peer"] else measure_ours
    busy, total = _busy_and_total_seconds()
    result = measure(spec, A, G)
    busy_after, total_after = _busy_and_total_seconds()
    result["cpu_of_others"] = max(0.0, busy_after - busy) / max(total_after - total, 1e-9)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
