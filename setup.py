"""Hands the native build to CMake. Static metadata is in pyproject.toml, the build in CMakeLists.txt.

FASTSQRTM_NATIVE=OFF makes a pure-torch package that needs no compiler.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_tools"))
from target_environment import find_torch, has_program, native_wanted  # noqa: E402


class CMakeBuild(build_ext):
    """Builds every native target at once and installs them into the package."""

    def run(self):
        package = ROOT / "fastsqrtm" if self.inplace else Path(self.build_lib).resolve() / "fastsqrtm"
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        configure = ["cmake", "-S", ROOT, "-B", build, "-DCMAKE_BUILD_TYPE=Release"]
        # An editable install stays where it is, and finds cuBLAS and cuSOLVER where the build found them.
        configure += [f"-DFASTSQRTM_RELOCATABLE={'OFF' if self.inplace else 'ON'}"]
        configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DFASTSQRTM_TORCH={find_torch() or ''}"]
        # Given each time: CMake would remember the value after the environment variable is gone.
        configure += [f"-DFASTSQRTM_CUDA={os.environ.get('FASTSQRTM_CUDA', 'AUTO')}"]
        configure += [f"-DFASTSQRTM_CUDA_ARCHS={os.environ.get('FASTSQRTM_CUDA_ARCHS', '')}"]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        if has_program("ninja"):
            # Given each time: the ninja of an earlier isolated build is gone, and CMake would remember it.
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}"]
        try:
            subprocess.run(configure, check=True)
            subprocess.run(["cmake", "--build", build, "--parallel", str(os.cpu_count())], check=True)
            subprocess.run(["cmake", "--install", build, "--component", "python", "--prefix", package], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = "see above" if isinstance(error, subprocess.CalledProcessError) else f"{error}"
            raise SystemExit(
                f"\nfastsqrtm: the native build failed, {reason}.\nIt needs a C++17 compiler, CMake, pybind11 and "
                "Python's headers. A pure-torch package, slower but complete, needs none of them:\n\n"
                "    FASTSQRTM_NATIVE=OFF pip install .\n"
            ) from None


setup(
    ext_modules=[Extension("fastsqrtm._C", sources=[])] if native_wanted() else [],
    cmdclass={"build_ext": CMakeBuild},
)
