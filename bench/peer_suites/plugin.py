"""A pytest plugin that puts this package's functions in the place of a peer's own: ``-p bench.peer_suites.plugin``.

The environment variable FASTSQRTM_IN_PLACE_OF names the peer; empty or unset leaves all as it is. An input that our
functions do not take (integer, not square, not finite, complex but not Hermitian, an exponent that is beyond 2, a batch
or has a gradient) goes on to the peer's function, whose errors its tests expect.
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
    def function(A, *args, **options):
        exponents = [*args, *options.values()]  # none, or one
        if not (_is_taken(A) and all(map(_is_exponent, exponents))):
            CALLS["peer"] += 1
            return peer(A, *args, **options)
        CALLS["ours"] += 1
        if isinstance(A, Tensor):
            return ours(A, *map(float, exponents))
        result = ours(torch.from_numpy(np.ascontiguousarray(A)), *map(float, exponents))
        return tuple(x.numpy() for x in result) if isinstance(result, tuple) else result.numpy()

    return function


def inv_and_root(A: Tensor) -> tuple[Tensor, Tensor]:
    S, Z = fastsqrtm.sqrtm_and_inv(A)
    return Z, S


def _is_taken(A) -> bool:
    if not isinstance(A, Tensor | np.ndarray) or A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        return False
    if isinstance(A, np.ndarray):
        return A.dtype.kind in "fc" and A.dtype.itemsize > 2 and _is_taken(torch.from_numpy(np.ascontiguousarray(A)))
    A = A.detach()
    wide = A.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128)
    return wide and bool(torch.isfinite(A).all()) and (not A.is_complex() or torch.allclose(A, A.mH))


def _is_exponent(x) -> bool:
    single = np.prod(np.shape(x)) == 1 and not (isinstance(x, Tensor) and x.requires_grad)
    return single and -2 <= float(x) <= 2


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
    pairs = (
        (base.sqrtm, fastsqrtm.sqrtm),
        (base.invsqrtm, fastsqrtm.inv_sqrtm),
        (base.powm, fastsqrtm.powm),
        (base.logm, fastsqrtm.logm),
        (base.expm, fastsqrtm.expm_sym),
    )
    for name in ("datasets", "utils", "transfer"):
        importlib.import_module(f"pyriemann.{name}")
    _everywhere("pyriemann", {peer: instead(peer, ours) for peer, ours in pairs})


def _spd_learn() -> None:
    core = importlib.import_module("spd_learn.functional.core")
    for name, ours in (
        ("matrix_sqrt", fastsqrtm.sqrtm),
        ("matrix_inv_sqrt", fastsqrtm.inv_sqrtm),
        ("matrix_sqrt_inv", fastsqrtm.sqrtm_and_inv),
        ("matrix_power", fastsqrtm.powm),
        ("matrix_log", fastsqrtm.logm),
        ("matrix_exp", fastsqrtm.expm_sym),
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
        (linalg.sym_logm, fastsqrtm.logm),
        (linalg.sym_expm, fastsqrtm.expm_sym),
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
