"""Differentiable square roots, inverse square roots and Lyapunov solves of batches of symmetric matrices."""

import importlib.metadata
import os.path

import torch

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

cmake_prefix_path = f"{os.path.dirname(__file__)};{torch.utils.cmake_prefix_path}"
"""What a C++ program gives to CMake as CMAKE_PREFIX_PATH, for fastsqrtm and the torch it runs with: docs/cpp.md."""

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
