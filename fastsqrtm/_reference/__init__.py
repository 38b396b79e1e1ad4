"""Every op in plain torch with its derivative rule: the fallback where there is no native kernel, and the oracle of the
tests. The twins have the names and the input policy of csrc/ops.h; docs/method.md has the mathematics.

    scalars     numbers of the methods: Pade, Taylor, Zolotarev, partial fractions
    matrix      shared by several ops: symmetric part, normaliser, SPD solves and inverses
    lyapunov    B X + X B = C
    roots       the roots to the accuracy of the dtype and their gradients
    eigen       the roots of large matrices by torch's eigendecomposition, by torch operations alone
    pseudo      the pseudo-inverse of the root, by torch's eigendecomposition
    powers      rational functions for powers and the logarithm
    spd         inverses and determinants
    qr          QR with and without column pivoting, of real and complex matrices of any shape
    polar       the orthogonal factor of any matrix, by torch operations and other ops alone
    general     the principal root of any square matrix, likewise
    series      the paper's approximants and Newton-Schulz, with the paper's gradient and with their own

Most gradients are ops as well; no twin relies on torch's autograd.
"""

import importlib
import pkgutil

from .._ops.definition import DEFINITIONS

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["DEFINITIONS"]
