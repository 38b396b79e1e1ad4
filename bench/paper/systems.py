"""The systems of the paper by their names there, and the shapes of its studies."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench import peers
from fastsqrtm import paper
from fastsqrtm.testing import spd

Root = Callable[[Tensor], Tensor]

INPUT = "covariances of 2n standard normal samples plus 1e-3 I (condition number about 34 for large n), float32, seed 0"
SERIES_LENGTH = {"whitening": 9, "pooling": 100}  # of SVD-PI and SVD-Taylor, by application (section A.5)


def covariances(batch: int, n: int) -> tuple[Tensor, Tensor]:
    """A (batch, n, n) as INPUT says, and a symmetric cotangent of its root."""
    A = spd(n, batch=(batch,), spectrum="wishart", dtype=torch.float64) + 1e-3 * torch.eye(n, dtype=torch.float64)
    G = torch.randn(batch, n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return A.float(), (G + G.mT).float()


@dataclass(frozen=True)
class System:
    """method and backward of paper.sqrtm; `settings` are its degree and iterations where not the default ones."""

    method: str
    backward: str
    settings: tuple[tuple[str, int], ...] = ()

    def root(self, application: str = "whitening") -> Root:
        settings = dict(self.settings)
        if self.backward in ("svd_pi", "svd_taylor"):
            settings["iterations"] = SERIES_LENGTH[application]
        return functools.partial(paper.sqrtm, method=self.method, backward=self.backward, **settings)


SYSTEMS = {
    "PI": System("pi", "exact"),
    "SVD-PI": System("eigh", "svd_pi"),
    "SVD-Taylor": System("eigh", "svd_taylor"),
    "SVD-Pade": System("eigh", "svd_pade"),
    "SVD-BS": System("eigh", "bartels_stewart"),
    "SVD-Lya": System("eigh", "lyapunov"),
    "NS": System("ns", "ns"),
    "NS-Lya": System("ns", "lyapunov"),
    "NS-Lya as printed": System("ns", "lyapunov", (("degree", 5), ("iterations", 8))),
    "MPA-Lya": System("mpa", "lyapunov"),
    "MTP-Lya": System("mtp", "lyapunov"),
}

# The same iterations in torch, one product after the other.
OP_BY_OP = {
    "MPA-Lya": peers.mpa_lya,
    "MTP-Lya": peers.mtp_lya,
    "NS": peers.newton_schulz_adjoint,
    "NS, autograd": peers.newton_schulz,
}
