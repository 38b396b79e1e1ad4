"""Reports which path a call takes, and with which sizes; `python -m fastsqrtm info` prints it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ._ops import check as _check
from ._ops.native import load_cuda, native
from ._ops.table import OPS
from ._reference.eigen import eigenvalues_are_faster
from ._reference.scalars import root_design

Path = Literal["tiny", "block", "library", "reference"]


@dataclass(frozen=True)
class Design:
    """What `sqrtm` computes: a rational start with so many poles, then Newton steps; the largest relative error of an
    eigenvalue of the root.
    """

    poles: int
    newton_steps: int
    error: float


@dataclass(frozen=True)
class CpuPlan:
    """The instruction set of the kernels; how many matrices are computed by one thread each (alone) and how many by a
    team of threads (shared), one after the other; the threads of that team and of torch; the workspace.
    """

    capability: str
    alone: int
    shared: int
    team: int
    threads: int
    workspace_bytes: int


@dataclass(frozen=True)
class CudaKernel:
    """A fused kernel and its grid. `padded` is the size that it pads n to, `tile` the rows that one thread has."""

    kernel: str
    padded: int
    tile: int
    threads: int
    matrices_per_block: int
    blocks: int
    shared_bytes: int


@dataclass(frozen=True)
class Plan:
    """The path of `sqrtm` and its backward for a tensor.

    path: "tiny", the native kernels for small matrices, on a CPU up to n = 64, a matrix each lane of a vector, on a GPU
        up to n = 4, a matrix each thread; "block", the native kernels, a matrix each team of threads; "library",
        matrices beyond a block of a GPU by cuBLAS and cuSOLVER, and on a CPU large matrices in float64 by LAPACK's
        eigendecomposition, which also serves the backward; "reference", plain torch, for the `reason`.
    design: What `sqrtm` computes at this rtol. None where it goes by eigenvalues.
    cpu: The sizes of the CPU kernels, where they run.
    forward, backward: The fused CUDA kernels, where they run.
    reason: Why there are no native kernels.
    """

    path: Path
    design: Design | None
    cpu: CpuPlan | None = None
    forward: CudaKernel | None = None
    backward: CudaKernel | None = None
    reason: str | None = None

    def __str__(self) -> str:
        design = self.design
        steps = "eigendecomposition"
        if design is not None:
            steps = f"{design.poles} poles, {design.newton_steps} Newton steps, error {design.error:g}"
        parts = [f"path {self.path}", steps]
        if self.cpu:
            cpu = self.cpu
            parts.append(
                f"{cpu.capability}, {cpu.alone} alone and {cpu.shared} shared by {cpu.team} on {cpu.threads} threads"
            )
            parts.append(f"workspace {cpu.workspace_bytes} bytes")
        for name, kernel in (("forward", self.forward), ("backward", self.backward)):
            if kernel:
                parts.append(f"{name} {kernel.kernel}, {kernel.blocks} blocks of {kernel.threads} threads")
        return "; ".join([*parts, self.reason] if self.reason else parts)


def plan(A: Tensor, rtol: float | None = None) -> Plan:
    """Report the path that `sqrtm` takes for A now: native with its sizes, or plain torch with the reason.

    Args:
        A: (..., n, n), whose shape, dtype and device count; its entries are not read.
        rtol: The tolerance of `sqrtm`.

    Returns:
        A Plan.

    Raises:
        RuntimeError: A is not square or of another dtype, or rtol is out of range.

    Example:
        >>> fastsqrtm.plan(torch.eye(8)).path in ("tiny", "reference")
        True
        >>> fastsqrtm.plan(torch.eye(8), rtol=1e-2).design
        Design(poles=3, newton_steps=1, error=0.00097)
    """
    _check.first("plan", OPS["sqrtm"].tensors[0], A)
    rtol = 0.0 if rtol is None else rtol
    _check.number("plan", OPS["sqrtm"].number("rtol"), rtol)
    if eigenvalues_are_faster(A, rtol):
        return Plan("library", None)
    chosen = root_design(rtol, torch.float64 if A.dtype == torch.float64 else torch.float32)
    design = Design(len(chosen.terms), len(chosen.scales), float(f"{chosen.error:.1e}"))
    cuda = A.device.type == "cuda"
    reason = load_cuda() if cuda else native.reason
    if reason is None and not (cuda or A.device.type == "cpu"):
        reason = f"there are no native kernels for {A.device.type}"
    if reason is not None or native.C is None:
        return Plan("reference", design, reason=reason)
    sizes = (A.shape[:-2].numel(), A.shape[-1], 8 if A.dtype == torch.float64 else 4)
    if not cuda:
        answer = native.C.plan(*sizes, torch.get_num_threads())
        return Plan(answer["path"], design, cpu=_struct(CpuPlan, answer))
    chip = torch.cuda.get_device_properties(A.device)
    # torch's stubs lack the first of these.
    limits = (chip.shared_memory_per_block_optin, chip.multi_processor_count)  # type: ignore[attr-defined]
    passes = ("Roots", "RootsBackward")
    forward, backward = (native.C.plan_cuda(name, *sizes, *limits, design.poles) for name in passes)
    return Plan(forward["path"], design, forward=_kernel(forward), backward=_kernel(backward))


T = TypeVar("T")


def _struct(kind: type[T], answer: Mapping[str, Any]) -> T:
    """Picks the fields of `kind` from the answer of the native library, which may have more."""
    return kind(**{field.name: answer[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _kernel(answer: Mapping[str, Any]) -> CudaKernel | None:
    return _struct(CudaKernel, answer) if answer["kernel"] else None
