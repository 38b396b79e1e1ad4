"""Complex matrices as the real ones that the ops take, and their results back again.

X + iY becomes [[X, -Y], [Y, X]]. Sums, products, inverses and adjoints carry over, so functions of matrices do, and a
Hermitian matrix becomes a symmetric one with every eigenvalue twice. Public functions call `embedded` before an op and
`restored` behind it. Derivatives are those of the op and of `real`, `imag` and `complex`, so they follow torch's
convention for complex numbers, and nothing in a compiled graph is complex but the two ends.
"""

import torch
from torch import Tensor


def embedded(A: Tensor) -> Tensor:
    """The real matrix (..., 2m, 2n) of a complex one (..., m, n); a real one as it is."""
    if not A.is_complex():
        return A
    X, Y = A.real, A.imag
    return torch.cat((torch.cat((X, -Y), -1), torch.cat((Y, X), -1)), -2)


def restored(X: Tensor, A: Tensor) -> Tensor:
    """The result X of an op on `embedded(A)` as a complex matrix where A is one."""
    return to_complex(X) if A.is_complex() else X


def to_complex(X: Tensor) -> Tensor:
    """The complex matrix of a real one: the mean of both copies, which keeps it Hermitian."""
    top, bottom = X.tensor_split(2, -2)
    (a, b), (c, d) = top.tensor_split(2, -1), bottom.tensor_split(2, -1)
    return torch.complex(a / 2 + d / 2, c / 2 - b / 2)
