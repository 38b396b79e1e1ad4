"""The roots of large matrices and their gradients by torch's eigendecomposition: ops without kernels, which the public
functions take where LAPACK is faster than the steps of `roots`. docs/design.md has the measurement.

The eigenvalues and eigenvectors that the forward finds serve the backward as well, so they are results of these ops. At
singular matrices root, inverse root and gradient are those of `roots`.
"""

import math

import torch
from torch import Tensor

from .._ops.definition import Rule, torch_op
from .._ops.route import call
from .matrix import anticommutator, infinite_like, symmetric_part
from .roots import spectral_roots

SMALLEST_ORDER = 256
STRIPS = 4  # of a symmetric product, of which 5/8 is computed


def eigenvalues_are_faster(A: Tensor, rtol: float) -> bool:
    """Whether the roots of A go by its eigenvalues: a rule of device, dtype, order and tolerance, not of the batch."""
    large = A.shape[-1] >= SMALLEST_ORDER  # asked first, because every call comes here
    return large and rtol <= 1e-8 and A.device.type == "cpu" and A.dtype == torch.float64


def _symmetrised(A: Tensor) -> Tensor:
    """The symmetric part of one matrix, by a copy that torch transposes in blocks: three times as fast."""
    return A.T.clone(memory_format=torch.contiguous_format).mul_(0.5).add_(A, alpha=0.5)


def _symmetric_product(P: Tensor, Q: Tensor) -> Tensor:
    """P Q for two matrices where that is symmetric."""
    n = P.shape[-1]
    X, width = P.new_empty(n, n), -(-n // STRIPS)
    for start in range(0, n, width):
        end = min(start + width, n)
        torch.mm(P[start:end], Q[:, :end], out=X[start:end, :end])
        X[:start, start:end] = X[start:end, :start].T
        on_diagonal = X[start:end, start:end]
        on_diagonal.copy_(_symmetrised(on_diagonal))
    return X


def _floored(s: Tensor) -> Tensor:
    """The eigenvalues of a root for its gradient: twin of inverse_of_root."""
    least = torch.finfo(s.dtype).eps ** 0.5 * s[-1]
    return s if s[0] >= least else s + least.square() / (s + least)


def _roots(A: Tensor, inverse_too: bool) -> tuple[Tensor, ...]:
    """A^(1/2), A^(-1/2) if wanted, the eigenvalues of the root for its gradient and the eigenvectors, in rows."""
    A = _symmetrised(A)
    n = A.shape[-1]
    smallest, largest = (x.item() for x in A.aminmax())
    largest = max(-smallest, largest)
    diagonal = A.diagonal()
    if A.count_nonzero() == diagonal.count_nonzero() or not math.isfinite(largest):
        w, order = diagonal.sort()
        V, unit = torch.eye(n, dtype=A.dtype)[order], 1.0
    else:
        unit = 2.0 ** (math.frexp(largest)[1] // 2)  # whose square rounds nothing
        w, V = torch.linalg.eigh(A.div_(unit).div_(unit))
        V = V.T.contiguous()  # as LAPACK leaves it
    f, g = spectral_roots(w if math.isfinite(largest) else torch.full_like(w, math.nan))
    roots = [_symmetric_product((V * f[:, None]).T, V).mul_(unit)]
    if inverse_too:
        roots.append(_symmetric_product((V * g[:, None]).T, V).div_(unit) if largest else infinite_like(A))
    return *roots, _floored(f) * unit if largest else torch.full_like(f, math.inf), V


def _each(A: Tensor, inverse_too: bool) -> tuple[Tensor, ...]:
    """The results of every matrix of a batch. They are computed one by one, as LAPACK does it, and in memory of their
    own, as the place of an operand can change the bits of a product.
    """
    n = A.shape[-1]
    found = zip(*(_roots(matrix, inverse_too) for matrix in A.reshape(-1, n, n)), strict=True)
    return tuple((torch.stack(x) if len(x) > 1 else x[0]).reshape(*A.shape[:-2], *x[0].shape) for x in found)


@torch_op("(Tensor A) -> (Tensor S, Tensor s, Tensor V)", "nn -> nn, n:float64, nn:float64")
def sqrtm_by_eigenvalues(A: Tensor) -> tuple[Tensor, ...]:
    """S = A^(1/2), and its eigenvalues and eigenvectors, in rows."""
    return _each(A, False)


@torch_op("(Tensor A) -> (Tensor S, Tensor Z, Tensor s, Tensor V)", "nn -> nn, nn, n:float64, nn:float64")
def sqrtm_and_inv_by_eigenvalues(A: Tensor) -> tuple[Tensor, ...]:
    """S = A^(1/2) and Z = A^(-1/2), and the eigenvalues and eigenvectors, in rows, of S."""
    return _each(A, True)


@torch_op("(Tensor B, Tensor b, Tensor V, Tensor C) -> Tensor", "nn, n:float64, nn:float64, nn -> nn")
def lyapunov_by_eigenvalues(B: Tensor, b: Tensor, V: Tensor, C: Tensor) -> Tensor:
    """X with B X + X B = sym(C) for B = V^T diag(b) V. B is there for its derivative."""
    n = C.shape[-1]
    found = []
    for values, vectors, matrix in zip(b.reshape(-1, n), V.reshape(-1, n, n), C.reshape(-1, n, n), strict=True):
        own = vectors.clone() if vectors.data_ptr() % 64 else vectors
        Y = _symmetric_product(own @ _symmetrised(matrix), own.T)
        Y /= values[:, None] + values
        found.append(_symmetric_product(own.T, Y @ own))
    return (torch.stack(found) if len(found) > 1 else found[0]).reshape(C.shape)


def _solve(S: Tensor, s: Tensor, V: Tensor, _: tuple, direction: Tensor) -> Tensor:
    return call("lyapunov_by_eigenvalues", S, s, V, direction)


sqrtm_by_eigenvalues.rule = Rule(lambda A, S, s, V: (S, s, V), _solve, _solve)


def _save_both(A: Tensor, S: Tensor, Z: Tensor, s: Tensor, V: Tensor) -> tuple[Tensor, ...]:
    return S, Z, s, V


def _finite(Z: Tensor, s: Tensor) -> Tensor:
    """Z, and 0 for that of the zero matrix, where every derivative is 0."""
    return torch.where(s[..., :1, None].isinf(), 0, Z)


def _both_roots_vjp(S: Tensor, Z: Tensor, s: Tensor, V: Tensor, numbers: tuple, G: Tensor, H: Tensor) -> Tensor:
    Z = _finite(Z, s)
    return _solve(S, s, V, numbers, G - Z @ symmetric_part(H) @ Z)


def _both_roots_jvp(S: Tensor, Z: Tensor, s: Tensor, V: Tensor, numbers: tuple, dA: Tensor) -> tuple[Tensor, Tensor]:
    dS, Z = _solve(S, s, V, numbers, dA), _finite(Z, s)
    return dS, -Z @ dS @ Z


sqrtm_and_inv_by_eigenvalues.rule = Rule(_save_both, _both_roots_vjp, _both_roots_jvp)


def _lyapunov_vjp(
    B: Tensor, b: Tensor, V: Tensor, X: Tensor, numbers: tuple, G: Tensor
) -> tuple[Tensor, None, None, Tensor]:
    Y = _solve(B, b, V, numbers, G)
    return -symmetric_part(anticommutator(Y, X)), None, None, Y


def _lyapunov_jvp(
    B: Tensor, b: Tensor, V: Tensor, X: Tensor, numbers: tuple, dB: Tensor, db: Tensor, dV: Tensor, dC: Tensor
) -> Tensor:
    return _solve(B, b, V, numbers, dC - anticommutator(symmetric_part(dB), X))


lyapunov_by_eigenvalues.rule = Rule(lambda B, b, V, C, X: (B, b, V, X), _lyapunov_vjp, _lyapunov_jvp)
