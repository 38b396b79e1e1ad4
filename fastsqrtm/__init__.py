"""Differentiable square roots, inverse square roots and Lyapunov solves of batches of symmetric matrices."""

import importlib
import importlib.metadata
import os.path
from typing import TYPE_CHECKING

import torch

from . import _reference, paper
from ._ops import register
from .general import GeneralRootInfo, general_root_info, sqrtm_general
from .lyapunov import lyapunov
from .paper import mpa_lya, mpa_lya_inv, mtp_lya, mtp_lya_inv
from .plan import Plan, plan
from .polar import Polar, nearest_orthogonal, polar
from .powers import expm_sym, inv_root, logm, powm
from .roots import RootInfo, inv_sqrtm, root_info, sqrtm, sqrtm_and_inv
from .spd import inv, inv_and_logdet

if TYPE_CHECKING:
    from . import linalg, metrics, nn, statistics, testing, transfer

register.register_all(_reference.DEFINITIONS)

try:
    __version__ = importlib.metadata.version("fastsqrtm")
except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

cmake_prefix_path = f"{os.path.dirname(__file__)};{torch.utils.cmake_prefix_path}"
"""CMAKE_PREFIX_PATH for a C++ program that uses fastsqrtm and the torch it runs with: docs/cpp.md."""

__all__ = [
    "GeneralRootInfo",
    "Plan",
    "Polar",
    "RootInfo",
    "cmake_prefix_path",
    "expm_sym",
    "general_root_info",
    "inv",
    "inv_and_logdet",
    "inv_root",
    "inv_sqrtm",
    "linalg",
    "logm",
    "lyapunov",
    "metrics",
    "mpa_lya",
    "mpa_lya_inv",
    "mtp_lya",
    "mtp_lya_inv",
    "nearest_orthogonal",
    "nn",
    "paper",
    "plan",
    "polar",
    "powm",
    "root_info",
    "sqrtm",
    "sqrtm_and_inv",
    "sqrtm_general",
    "statistics",
    "testing",
    "transfer",
]


def __getattr__(name: str) -> object:
    """Imports a module that many programs do not use, on first access."""
    if name in ("linalg", "metrics", "nn", "statistics", "testing", "transfer"):
        return importlib.import_module(f"fastsqrtm.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
