"""The PEP 517 backend: setuptools, with build requirements that depend on the environment installed into."""

import shutil
from pathlib import Path

from setuptools import __version__ as setuptools_version
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the hooks that stay as they are
from target_environment import find_torch, has_program, native_wanted

if int(setuptools_version.split(".")[0]) < 77:  # only without build isolation: pyproject.toml asks for it
    raise SystemExit(f"fastsqrtm: building needs setuptools >= 77, found {setuptools_version}")


def _native_requirements():
    if not native_wanted():
        return []
    # A second torch is downloaded only where there is none to build against; the result loads into any torch >= 2.11.
    torch = [] if find_torch() else ["torch>=2.11"]
    return ["pybind11>=2.13", *torch, *(tool for tool in ("cmake", "ninja") if not has_program(tool))]


def get_requires_for_build_wheel(config_settings=None):
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_native_requirements()]


def get_requires_for_build_editable(config_settings=None):
    return [*build_meta.get_requires_for_build_editable(config_settings), *_native_requirements()]


def build_wheel(*args, **kwargs):
    for leftover in Path("build").glob("lib*"):  # setuptools would pack modules that were deleted meanwhile
        shutil.rmtree(leftover)
    return build_meta.build_wheel(*args, **kwargs)
