"""The roots of large matrices and their gradients by torch's eigendecomposition: ops without kernels, which the public
functions take where LAPACK is faster than the steps of `roots`. docs/design.md has the measurement.

The eigenvalues and eigenvectors that the forward finds serve the backward as well, so they are results of these ops. At
singular matrices root, inverse root and gradient are those of `roots`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._ops.definition import Rule, torch_op
from .._ops.native import native
from .._ops.route import call
from .matrix import anticommutator, identity_like, infinite_like, one_norm, symmetric_part
from .powers import rational_second
from .roots import spectral_roots
from .scalars import MOST_NEGATIVE_EIGENVALUE, PartialFractions, fractions_of_logarithm, fractions_of_power

# Where LAPACK is faster depends on the processor. On a Zen 5, family 26 of AMD, steps gain more than LAPACK does.
_ZEN5 = native.C is not None and (native.C.cpu_capability(), native.C.cpu_family()) == ("avx512", "AuthenticAMD 26")
SMALLEST_ORDER = 640 if _ZEN5 else 256
SMALLEST_ORDER_OF_POWERS = {torch.float32: 384 if _ZEN5 else 192, torch.float64: 48}
SMALLEST_ORDER_OF_DYADIC_POWERS = {torch.float32: math.inf if _ZEN5 else 512, torch.float64: 192 if _ZEN5 else 128}
POLES = 80  # of a second derivative: on condition numbers up to 1 / eps to rounding
SMALLEST_IN_STRIPS = 192
STRIPS = 4  # of a symmetric product, of which 5/8 is computed


def eigenvalues_are_faster(A: Tensor, rtol: float) -> bool:
    """Whether the roots of A go by its eigenvalues: a rule of processor, dtype, order and tolerance, not of batch."""
    large = A.shape[-1] >= SMALLEST_ORDER  # asked first, because every call comes here
    return large and rtol <= 1e-8 and A.device.type == "cpu" and A.dtype == torch.float64


def powers_by_eigenvalues_are_faster(A: Tensor, exponent: float, rtol: float) -> bool:
    """Whether the power of A, or for the exponent 0 its logarithm, goes by its eigenvalues. Multiples of 1/8 cost but a
    few roots, and those of 1/2 one, as above.
    """
    if rtol > 1e-8 or A.device.type != "cpu" or (exponent and exponent % 1 == 0):
        return False
    if exponent and (2 * exponent) % 1 == 0:
        return eigenvalues_are_faster(A, rtol)
    dyadic = exponent and (8 * exponent) % 1 == 0
    orders = SMALLEST_ORDER_OF_DYADIC_POWERS if dyadic else SMALLEST_ORDER_OF_POWERS
    return A.shape[-1] >= orders[A.dtype]


def _symmetrised(A: Tensor) -> Tensor:
    """The symmetric part of one matrix, by a copy that torch transposes in blocks: three times as fast."""
    return A.T.clone(memory_format=torch.contiguous_format).mul_(0.5).add_(A, alpha=0.5)


def _symmetric_product(P: Tensor, Q: Tensor) -> Tensor:
    """P Q for two matrices where that is symmetric."""
    n = P.shape[-1]
    if n < SMALLEST_IN_STRIPS:
        return _symmetrised(P @ Q)
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


def _in_eigenvectors(w: Tensor, V: Tensor, C: Tensor, scale: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """V^T scale(V sym(C) V^T, w) V for each matrix, where `scale` multiplies entries by a symmetric function of two
    eigenvalues. The eigenvectors are read from aligned memory, for the reason that `_each` has.
    """
    n = C.shape[-1]
    found = []
    for values, vectors, matrix in zip(w.reshape(-1, n), V.reshape(-1, n, n), C.reshape(-1, n, n), strict=True):
        own = vectors.clone() if vectors.data_ptr() % 64 else vectors
        Y = scale(_symmetric_product(own @ _symmetrised(matrix), own.T), values)
        found.append(_symmetric_product(own.T, Y @ own))
    return (torch.stack(found) if len(found) > 1 else found[0]).reshape(C.shape)


@torch_op("(Tensor B, Tensor b, Tensor V, Tensor C) -> Tensor", "nn, n:float64, nn:float64, nn -> nn")
def lyapunov_by_eigenvalues(B: Tensor, b: Tensor, V: Tensor, C: Tensor) -> Tensor:
    """X with B X + X B = sym(C) for B = V^T diag(b) V. B is there for its derivative."""
    return _in_eigenvectors(b, V, C, lambda Y, s: Y.div_(s[:, None] + s))


def _solve(S: Tensor, s: Tensor, V: Tensor, _: tuple, direction: Tensor) -> Tensor:
    return call("lyapunov_by_eigenvalues", S, s, V, direction)


sqrtm_by_eigenvalues.rule = Rule(lambda A, S, s, V: (S, s, V), _solve, _solve)


def _save_both(A: Tensor, S: Tensor, Z: Tensor, s: Tensor, V: Tensor) -> tuple[Tensor, ...]:
    return S, Z, s, V


def _both_roots_vjp(S: Tensor, Z: Tensor, s: Tensor, V: Tensor, numbers: tuple, G: Tensor, H: Tensor) -> Tensor:
    return _solve(S, s, V, numbers, G + call("inv_backward", Z, H))


def _both_roots_jvp(S: Tensor, Z: Tensor, s: Tensor, V: Tensor, numbers: tuple, dA: Tensor) -> tuple[Tensor, Tensor]:
    dS = _solve(S, s, V, numbers, dA)
    return dS, call("inv_backward", Z, dS)


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


# Powers and the logarithm, which is the exponent 0. A float32 matrix comes in float64, in which these are as fast.


def _divided_differences(w: Tensor, exponent: float) -> Tensor:
    """(f(x) - f(y)) / (x - y) for all pairs of positive eigenvalues, to rounding however close they are."""
    x, y = torch.maximum(w[:, None], w), torch.minimum(w[:, None], w)
    d = (x - y) / y
    change = torch.log1p(d)
    if exponent:
        change = torch.expm1(exponent * change)
    return torch.where(d == 0, exponent or 1.0, change / torch.where(d == 0, 1, d)) * y ** (exponent - 1)


def _power(A: Tensor, exponent: float) -> tuple[Tensor, Tensor, Tensor]:
    """The power, the eigenvalues for its gradient and the eigenvectors, in rows, of one matrix."""
    A = _symmetrised(A)
    if not A.isfinite().all():
        return torch.full_like(A, math.nan), A.new_full(A.shape[:1], math.nan), torch.eye(len(A), dtype=A.dtype)
    from_identity = A - identity_like(A)
    near = exponent == 0 and bool(torch.linalg.matrix_norm(from_identity) < 0.5)  # where log x has the digits of x - 1
    d, V = torch.linalg.eigh(from_identity if near else A)
    w, V = 1 + d if near else d, V.T.contiguous()
    size = w.abs().max()
    w = w.where(w[0] >= MOST_NEGATIVE_EIGENVALUE * size, math.nan)
    floored = w.clamp_min(torch.finfo(w.dtype).eps * size)
    f = w.clamp_min(0) ** exponent if exponent > 0 else floored**exponent if exponent else floored.log()
    f = torch.log1p(d) if near else f
    return _symmetric_product((V * f[:, None]).T, V), floored, V


@torch_op(
    "(Tensor A, float exponent) -> (Tensor Y, Tensor w, Tensor V)", "nn -> nn, n:float64, nn:float64", "exponent -1..1"
)
def power_by_eigenvalues(A: Tensor, exponent: float) -> tuple[Tensor, ...]:
    """Y = A^exponent, or log A for 0, and the eigenvalues and eigenvectors, in rows, of A."""
    n = A.shape[-1]
    found = zip(*(_power(matrix, exponent) for matrix in A.reshape(-1, n, n)), strict=True)
    return tuple(torch.stack(x).reshape(*A.shape[:-2], *x[0].shape) for x in found)


@torch_op(
    "(Tensor A, Tensor w, Tensor V, Tensor G, float exponent) -> Tensor",
    "nn, n:float64, nn:float64, nn -> nn",
    "exponent -1..1",
)
def power_derivative_by_eigenvalues(A: Tensor, w: Tensor, V: Tensor, G: Tensor, exponent: float) -> Tensor:
    """The derivative of the power along sym(G), self-adjoint. A is there for its derivative."""
    return _in_eigenvectors(w, V, G, lambda Y, x: Y.mul_(_divided_differences(x, exponent)))


def _second_derivative(A: Tensor, G: Tensor, D: Tensor, exponent: float) -> Tensor:
    """By partial fractions on all condition numbers: sums of positive terms, so differentiable and without loss."""
    eps = torch.finfo(A.dtype).eps
    scale = torch.exp2(one_norm(symmetric_part(A.detach())).log2().ceil())
    X = A / scale + eps * identity_like(A)
    if exponent:
        series = fractions_of_power(exponent, eps, POLES)
    else:  # log x = (x - 1) q(x), the terms of which are divided
        quotient = fractions_of_logarithm(eps, POLES)
        series = PartialFractions(0.0, False, tuple((s, -v * (1 + 1 / s)) for s, v in quotient.terms))
    return scale ** (exponent - 2) * rational_second(X, G, D, series)


def _differentiate(A: Tensor, w: Tensor, V: Tensor, numbers: tuple, direction: Tensor) -> Tensor:
    return call("power_derivative_by_eigenvalues", A, w, V, direction, *numbers)


power_by_eigenvalues.rule = Rule(lambda A, Y, w, V: (A, w, V), _differentiate, _differentiate)


def _derivative_vjp(
    A: Tensor, w: Tensor, V: Tensor, G: Tensor, numbers: tuple, D: Tensor
) -> tuple[Tensor, None, None, Tensor]:
    return _second_derivative(A, G, D, *numbers), None, None, _differentiate(A, w, V, numbers, D)


def _derivative_jvp(
    A: Tensor, w: Tensor, V: Tensor, G: Tensor, numbers: tuple, dA: Tensor, dw: Tensor, dV: Tensor, dG: Tensor
) -> Tensor:
    return _second_derivative(A, G, dA, *numbers) + _differentiate(A, w, V, numbers, dG)


power_derivative_by_eigenvalues.rule = Rule(lambda A, w, V, G, Y: (A, w, V, G), _derivative_vjp, _derivative_jvp)
