"""Differentiable square roots, inverse square roots and Lyapunov solves of batches of symmetric matrices."""

import importlib.metadata
import os.path

from . import _register, reference, testing
from .functional import (
    RootInfo,
    inv_sqrtm,
    lyapunov,
    mpa_lya,
    mpa_lya_inv,
    mtp_lya,
    mtp_lya_inv,
    plan,
    sqrtm,
    sqrtm_and_inv,
)

_register.register()

try:
    __version__ = importlib.metadata.version("fastsqrtm")
except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

cmake_prefix_path = os.path.dirname(__file__)
"""What CMAKE_PREFIX_PATH of a C++ program needs for find_package(fastsqrtm CONFIG); docs/cpp.md."""

__all__ = [
    "RootInfo",
    "cmake_prefix_path",
    "inv_sqrtm",
    "lyapunov",
    "mpa_lya",
    "mpa_lya_inv",
    "mtp_lya",
    "mtp_lya_inv",
    "plan",
    "reference",
    "sqrtm",
    "sqrtm_and_inv",
    "testing",
]
