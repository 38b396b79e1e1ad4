"""A pytest plugin that puts this package's roots in the place of a peer's own: ``-p bench.peer_suites.plugin``.

The environment variable FASTSQRTM_IN_PLACE_OF names the peer; empty or unset leaves all as it is. An input that our
functions do not take (complex, integer, not square, not finite) goes on to the peer's function, whose errors its tests
expect.
"""

import functools
import importlib
import os
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import fastsqrtm

CALLS: Counter[str] = Counter()  # how often ours was called, and how often the peer's


def pytest_configure(config):
    peer = os.environ.get("FASTSQRTM_IN_PLACE_OF")
    if peer:
        REPLACE[peer]()


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"calls of ours: {CALLS['ours']}, of the peer's: {CALLS['peer']}")


def instead(peer: Callable, ours: Callable) -> Callable:
    """A function that computes with ours what the peer's function does, of tensors or arrays."""

    @functools.wraps(peer)
    def function(A, *args):
        if not _is_taken(A):
            CALLS["peer"] += 1
            return peer(A, *args)
        CALLS["ours"] += 1
        if isinstance(A, Tensor):
            return ours(A)
        result = ours(torch.from_numpy(np.ascontiguousarray(A)))
        return tuple(x.numpy() for x in result) if isinstance(result, tuple) else result.numpy()

    return function


def inv_and_root(A: Tensor) -> tuple[Tensor, Tensor]:
    S, Z = fastsqrtm.sqrtm_and_inv(A)
    return Z, S


def _is_taken(A) -> bool:
    if not (isinstance(A, Tensor) or isinstance(A, np.ndarray)) or A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        return False
    if isinstance(A, np.ndarray):
        return A.dtype in (np.float32, np.float64) and bool(np.isfinite(A).all())
    return A.dtype in (torch.float32, torch.float64) and bool(torch.isfinite(A.detach()).all())


def _everywhere(package: str, functions: dict[Callable, Callable]) -> None:
    """Replace functions in every module of a package that is loaded, also where a module imported them by name."""
    for module in [m for name, m in sys.modules.items() if name.split(".")[0] == package]:
        for name, value in list(vars(module).items()):
            for peer, ours in functions.items():
                if value is peer:
                    setattr(module, name, ours)


def _pyriemann() -> None:
    importlib.import_module("pyriemann")
    base = importlib.import_module("pyriemann.geometry.base")
    pairs = ((base.sqrtm, fastsqrtm.sqrtm), (base.invsqrtm, fastsqrtm.inv_sqrtm))
    for name in ("datasets", "utils", "transfer"):
        importlib.import_module(f"pyriemann.{name}")
    _everywhere("pyriemann", {peer: instead(peer, ours) for peer, ours in pairs})


def _spd_learn() -> None:
    core = importlib.import_module("spd_learn.functional.core")
    for name, ours in (
        ("matrix_sqrt", fastsqrtm.sqrtm),
        ("matrix_inv_sqrt", fastsqrtm.inv_sqrtm),
        ("matrix_sqrt_inv", fastsqrtm.sqrtm_and_inv),
    ):
        function = getattr(core, name)
        function.apply = staticmethod(instead(function.apply, ours))


def _geoopt() -> None:
    importlib.import_module("geoopt")
    linalg = importlib.import_module("geoopt.linalg.batch_linalg")
    pairs = (
        (linalg.sym_sqrtm, fastsqrtm.sqrtm),
        (linalg.sym_inv_sqrtm1, fastsqrtm.inv_sqrtm),
        (linalg.sym_inv_sqrtm2, inv_and_root),
    )
    _everywhere("geoopt", {peer: instead(peer, ours) for peer, ours in pairs})


def _pot() -> None:
    backend = importlib.import_module("ot.backend")
    for name in ("NumpyBackend", "TorchBackend"):
        cls = getattr(backend, name)
        peer = cls.sqrtm

        def method(self, A, peer=peer):
            return instead(functools.partial(peer, self), fastsqrtm.sqrtm)(A)

        cls.sqrtm = method


# The OpInfo reads the variable itself.
REPLACE = {"pyRiemann": _pyriemann, "spd_learn": _spd_learn, "geoopt": _geoopt, "POT": _pot, "OpInfo": lambda: None}
