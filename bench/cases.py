"""The shapes of the benchmark, the matrices in them, our methods and their peers."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import fastsqrtm
from bench import peers
from fastsqrtm.testing import spd

# (batch, n)
CASES = [(1, 64), (64, 8), (256, 32), (64, 48), (64, 64), (256, 64), (256, 128), (64, 256), (16, 512), (4, 1024)]
QUICK = [(1, 64), (64, 48), (64, 64)]
MODES = ("forward", "forward+backward")
MEMORY = (64, 256)  # large enough to see in the resident set; many more matrices than threads

INPUT = "covariance of 2n standard normal samples plus 1e-3 I (condition number about 34 for large n), seed 0"


def make_input(batch: int, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A (batch, n, n), SPD, as INPUT says, and a symmetric cotangent of its root."""
    A = spd(n, batch=(batch,), spectrum="wishart", dtype=torch.float64) + 1e-3 * torch.eye(n, dtype=torch.float64)
    G = torch.randn(batch, n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return A.to(dtype), (G + G.mT).to(dtype)


@dataclass(frozen=True)
class Method:
    """One of our functions and the flops of its mathematics per matrix, in units of n^3, with every saving made.

    A product is 2 and, where the result is symmetric, 1. MPA 5: four powers, 4, and a Cholesky solve, 2. MTP 10: W^2,
    W^3 and three Horner steps in W^3, 5. Backward: a Lyapunov step has two full products and two symmetric ones, which
    the last of the eight does not need: 7 x 6 + 4 = 46.
    """

    function: Callable[[Tensor], Tensor]
    forward: float
    backward: float


METHODS = {
    "mpa_lya": Method(fastsqrtm.mpa_lya, forward=6, backward=46),
    "mtp_lya": Method(fastsqrtm.mtp_lya, forward=5, backward=46),
}

PEERS = {
    "paper": "the paper's method op by op in torch",
    "newton_schulz": "Newton-Schulz, 5 iterations, autograd",
    "eigh": "eigendecomposition, Loewner gradient",
    "matrix_sqrth": "torch.linalg.matrix_sqrth",
}


def available_peers() -> list[str]:
    return [name for name in PEERS if name != "matrix_sqrth" or hasattr(torch.linalg, name)]


def peer_function(peer: str, method: str) -> Callable[[Tensor], Tensor]:
    """The function of a peer: a row of PEERS, or "module:function" for a function of your own."""
    if ":" in peer:
        module, function = peer.split(":")
        return getattr(importlib.import_module(module), function)
    return getattr(peers, method if peer == "paper" else peer)


def peer_note(peer: str, method: str, A: Tensor) -> str | None:
    """A remark that the reader of the row needs."""
    if peer == "paper" and method.startswith("mpa") and peers.solve_needs_one_thread(A):
        return "its solve ran on one thread: MKL can hang with more (pytorch #141358)"
    return None
