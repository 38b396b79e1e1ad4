"""Tries an installed fastsqrtm the way its first user does: `make wheel` runs this in fresh environments.

A root and its gradient have to be right, and the command line has to answer; FASTSQRTM_REQUIRE_NATIVE=1 makes a native
library that does not load an error of the import.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import fastsqrtm
from fastsqrtm.testing import exact_gradient, exact_sqrtm, relative_error, spd

SOURCES = Path(__file__).resolve().parent.parent


def main() -> None:
    package = Path(fastsqrtm.__file__).resolve().parent
    assert package != SOURCES / "fastsqrtm", "the sources were imported, not what is installed"
    A = spd(16, kappa=100, batch=(3,)).requires_grad_()
    G = torch.ones_like(A)
    S = fastsqrtm.sqrtm(A)
    S.backward(G)
    for actual, exact in ((S.detach(), exact_sqrtm(A.detach())), (A.grad, exact_gradient(A.detach(), G))):
        assert relative_error(actual, exact).max() < 1e-4
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "fastsqrtm", "info"]
        information = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout
    print(f"{package}\n{information}")


if __name__ == "__main__":
    main()
