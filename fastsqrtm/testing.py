"""Matrices of given spectrum, exact answers, the paper's formulas to the letter, and error measures, for tests.

Everything exact is float64. The paper's formulas are written independently of the twins in `_reference`, with the solve
and the six products per step that the paper has; the ops differ from them by rounding only.
"""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ._ops.definition import DEFINITIONS, Definition, unpacked
from ._ops.table import OPS as OPS

SPECTRA = (
    "log",
    "clustered",
    "one_small",
    "two_level",
    "wishart",
    "identity",
    "repeated",
    "rank_one",
    "rank_deficient",
)


def eigenvalues(n: int, kappa: float, spectrum: str, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """n eigenvalues from 1/kappa to 1 (but for identity, rank_one and rank_deficient), in float64."""
    values = torch.rand(*batch, n, generator=generator, dtype=torch.float64)
    if spectrum in ("log", "rank_deficient"):
        values = kappa**-values
        values[..., :1] = 1.0
        values[..., 1:][..., -1:] = 1 / kappa
        if spectrum == "rank_deficient":
            values[..., (n + 1) // 2 :] = 0.0
    elif spectrum == "clustered":
        values = (1 + 1e-6 * values) / math.sqrt(kappa)
        values[..., :1] = 1.0
        values[..., 1:][..., -1:] = 1 / kappa
    elif spectrum == "one_small":
        values = torch.ones_like(values)
        values[..., 1:][..., -1:] = 1 / kappa
    elif spectrum == "two_level":
        values = torch.ones_like(values)
        values[..., (n + 1) // 2 :] = 1 / kappa
    elif spectrum == "identity":
        values = torch.ones_like(values)
    elif spectrum == "repeated":
        values = kappa ** -(torch.arange(n, dtype=torch.float64) * 3 // max(n, 1) / 2).expand_as(values)
    elif spectrum == "rank_one":
        values = torch.zeros_like(values)
        values[..., :1] = 1.0
    else:
        raise ValueError(f"spectrum must be one of {', '.join(SPECTRA)}, got {spectrum}")
    return values


def spd(
    n: int,
    kappa: float = 10.0,
    batch: tuple[int, ...] = (),
    spectrum: str = "log",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Tensor:
    """Random symmetric positive (semi)definite matrices (*batch, n, n) of condition number kappa; Hermitian ones for a
    complex dtype.

    Spectra: log (log-uniform), clustered (all but two in one place), one_small, two_level, identity, repeated (three
    values), rank_one, rank_deficient (half of them zero), and wishart, covariances of 2n samples, where kappa is not
    used.

    Example:
        >>> A = fastsqrtm.testing.spd(5, kappa=100, dtype=torch.float64)
        >>> round(torch.linalg.cond(A).item(), 6)
        100.0
    """
    generator = torch.Generator().manual_seed(seed)
    precise = torch.complex128 if dtype.is_complex else torch.float64
    if spectrum == "wishart":
        samples = torch.randn(*batch, n, 2 * n, generator=generator, dtype=precise)
        A = samples @ samples.mH / max(2 * n, 1)
    else:
        values = eigenvalues(n, kappa, spectrum, batch, generator)
        Q = torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=precise)).Q
        A = Q * values[..., None, :] @ Q.mH
    return ((A + A.mH) / 2).to(dtype)


def twin(name: str) -> Definition:
    """An op in plain torch, with the checks and the input policy of the op."""
    return DEFINITIONS[name]


def results(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The results of an op as a tuple, whether it has one or several."""
    return unpacked(output)


def opcheck(name: str, arguments: tuple) -> None:
    """Run torch's opcheck."""
    torch.library.opcheck(getattr(torch.ops.fastsqrtm, name).default, arguments)


def time_in_turn(
    contenders: dict[str, Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Measure the seconds of a call of every contender, in turn (A B A B) for about `seconds` each and at least three
    rounds. By `time.thread_time` other work on the machine does not count, nor that of other threads.

    In turn, so that ratios within a round hold on a machine whose speed drifts. One time is the mean of as many calls
    as fill a millisecond.
    """
    calls = {}
    for name, contender in contenders.items():
        contender()
        start = clock()
        contender()
        calls[name] = math.ceil(1e-3 / (clock() - start))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    end = clock() + seconds * len(contenders)
    while min(map(len, times.values())) < 3 or clock() < end:
        for name, contender in contenders.items():
            start = clock()
            for _ in range(calls[name]):
                contender()
            times[name].append((clock() - start) / calls[name])
    return times


def relative_error(actual: Tensor, expected: Tensor) -> Tensor:
    """||actual - expected||_F / ||expected||_F of each matrix, in float64 or complex128; 0 for 0/0."""
    precise = torch.complex128 if actual.is_complex() else torch.float64
    actual, expected = actual.to(precise), expected.to(precise)
    error = torch.linalg.vector_norm(actual - expected, dim=(-2, -1))
    return torch.where(error == 0, 0, error / torch.linalg.vector_norm(expected, dim=(-2, -1)))


def exact_sqrtm(A: Tensor, power: float = 0.5) -> Tensor:
    """A^power by eigendecomposition in float64 or complex128: power 1/2 for the root, -1/2 for the inverse root."""
    values, V = torch.linalg.eigh(A.to(torch.complex128 if A.is_complex() else torch.float64))
    return V * values.clamp(min=0)[..., None, :] ** power @ V.mH


def exact_gradient(A: Tensor, G: Tensor, power: float = 0.5) -> Tensor:
    """Gradient of <G, A^power> in closed form, power 1/2 or -1/2, by eigendecomposition in float64."""
    values, V = torch.linalg.eigh(A.double())
    s = values.clamp(min=0) ** power
    divided = 1 / (s[..., :, None] + s[..., None, :])
    if power == -0.5:
        divided = -divided * (s[..., :, None] * s[..., None, :]) ** 2
    G = (G.double() + G.double().mT) / 2
    return V @ (divided * (V.mT @ G @ V)) @ V.mT


def exact_lyapunov(B: Tensor, C: Tensor) -> Tensor:
    """X with B X + X B = C by eigendecomposition in float64."""
    values, V = torch.linalg.eigh(B.double())
    return V @ (V.mT @ C.double() @ V / (values[..., :, None] + values[..., None, :])) @ V.mT


def extended_inverse(A: np.ndarray) -> np.ndarray:
    """Inverse of an SPD matrix in numpy's extended precision, by Gauss-Jordan without pivots."""
    A = A.copy()
    for k in range(len(A)):
        pivot, column = A[k, k], A[:, k].copy()
        A[:, k] = 0
        A[k, k] = 1
        A[k] /= pivot
        column[k] = 0
        A -= column[:, None] * A[k]
    return A


def extended_eigh(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of a symmetric matrix in extended precision, by Jacobi's rotations."""
    A, V = A.astype(np.longdouble), np.eye(len(A), dtype=np.longdouble)
    for _ in range(30):
        largest = 0
        for p in range(len(A) - 1):
            for q in range(p + 1, len(A)):
                size = abs(A[p, q]) / max(np.sqrt(abs(A[p, p] * A[q, q])), np.finfo(np.longdouble).tiny)
                if size <= 1e-19:
                    continue
                largest = max(largest, size)
                tau = (A[q, q] - A[p, p]) / (2 * A[p, q])
                t = (1 if tau >= 0 else -1) / (abs(tau) + np.sqrt(1 + tau * tau))
                c = 1 / np.sqrt(1 + t * t)
                rotation = np.array([[c, t * c], [-t * c, c]])
                A[:, [p, q]] = A[:, [p, q]] @ rotation
                A[[p, q]] = rotation.T @ A[[p, q]]
                V[:, [p, q]] = V[:, [p, q]] @ rotation
        if largest == 0:
            break
    return np.diagonal(A).copy(), V


def extended_root_and_gradient(A: Tensor, G: Tensor, power: float = 0.5) -> tuple[Tensor, Tensor]:
    """A^power and the gradient of <G, A^power>, power 1/2 or -1/2, (batch, n, n), computed in extended precision."""
    found = []
    for matrix, cotangent in zip(A.numpy(), G.numpy(), strict=True):
        values, V = extended_eigh(matrix)
        s = np.sqrt(values)
        loewner = 1 / (s[:, None] + s)
        if power < 0:
            loewner = -loewner / (s[:, None] * s)
        C = (cotangent.astype(np.longdouble) + cotangent.T) / 2
        found.append(((V * (s if power > 0 else 1 / s)) @ V.T, V @ (loewner * (V.T @ C @ V)) @ V.T))
    root, gradient = (torch.from_numpy(np.stack(x).astype(np.float64)) for x in zip(*found, strict=True))
    return root, gradient


def _each(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """One matrix at a time: batched LU can hang on CPU."""
    flat = [x.double().reshape(-1, *x.shape[-2:]) for x in tensors]
    return torch.stack([function(*matrices) for matrices in zip(*flat, strict=True)]).reshape(tensors[0].shape)


def _polynomial(coefficients: list[float], W: Tensor) -> Tensor:
    """sum_k c_k W^k from the powers of W, as the paper has it."""
    power = torch.eye(W.shape[-1], dtype=W.dtype)
    total = torch.zeros_like(W)
    for c in coefficients:
        total = total + c * power
        power = power @ W
    return total


def paper_pade_coefficients(degree: int) -> tuple[list[float], list[float]]:
    """Numerator and denominator of the Pade approximant of sqrt(1 - w), constant terms 1.

    From sqrt(x) ~ sum_k binom(N, 2k) x^k / sum_k binom(N, 2k + 1) x^k, N = 2 degree + 1, with x = 1 - w, in integers.
    """
    N = 2 * degree + 1

    def in_w(odd: int) -> list[float]:
        integers = [
            (-1) ** j * sum(math.comb(N, 2 * k + odd) * math.comb(k, j) for k in range(j, degree + 1))
            for j in range(degree + 1)
        ]
        return [c / integers[0] for c in integers]

    return in_w(0), in_w(1)


def paper_taylor_coefficients(degree: int, power: float) -> list[float]:
    """(-1)^k binom(power, k), k = 0..degree."""
    return [(-1) ** k * math.prod((power - i) / (i + 1) for i in range(k)) for k in range(degree + 1)]


def paper_mpa(A: Tensor, degree: int = 5, inverse: bool = False) -> Tensor:
    """sqrt(nu) Q^-1 P, or P^-1 Q / sqrt(nu) for the inverse root."""
    p, q = paper_pade_coefficients(degree)

    def one(A: Tensor) -> Tensor:
        nu = torch.linalg.matrix_norm(A)
        W = torch.eye(A.shape[-1], dtype=A.dtype) - A / nu
        P, Q = _polynomial(p, W), _polynomial(q, W)
        return torch.linalg.solve(P, Q) / nu.sqrt() if inverse else torch.linalg.solve(Q, P) * nu.sqrt()

    return _each(one, A)


def paper_mtp(A: Tensor, degree: int = 10, inverse: bool = False) -> Tensor:
    """sqrt(nu) (I - sum_k |binom(1/2, k)| W^k), or the series of (I - W)^(-1/2) / sqrt(nu)."""
    coefficients = paper_taylor_coefficients(degree, -0.5 if inverse else 0.5)

    def one(A: Tensor) -> Tensor:
        nu = torch.linalg.matrix_norm(A)
        root = _polynomial(coefficients, torch.eye(A.shape[-1], dtype=A.dtype) - A / nu)
        return root / nu.sqrt() if inverse else root * nu.sqrt()

    return _each(one, A)


def paper_lyapunov(B: Tensor, C: Tensor, iterations: int = 8, scale: Tensor | None = None) -> Tensor:
    """The paper's iteration from B/scale, C/scale; scale (...), ||B||_F unless given."""
    scale = torch.linalg.matrix_norm(B.double()) if scale is None else scale

    def one(B: Tensor, C: Tensor, s: Tensor) -> Tensor:
        three = 3 * torch.eye(B.shape[-1], dtype=B.dtype)
        B, C = B / s, C / s
        for _ in range(iterations):
            C = (C @ (three - B @ B) - B @ B @ C + B @ C @ B) / 2
            B = B @ (three - B @ B) / 2
        return C / 2

    return _each(one, B, C, scale[..., None, None])


def paper_gradient(A: Tensor, S: Tensor, G: Tensor, iterations: int = 8) -> Tensor:
    """The paper's backward of the root, scaled by sqrt(||A||_F) as in the authors' code."""
    return paper_lyapunov(S, (G + G.mT) / 2, iterations, torch.linalg.matrix_norm(A.double()).sqrt())


def paper_inverse_gradient(Z: Tensor, G: Tensor, iterations: int = 8) -> Tensor:
    """The paper's backward of the inverse root, each matrix scaled by its own norm."""
    Z, G = Z.double(), (G.double() + G.double().mT) / 2
    return paper_lyapunov(Z, -Z @ Z @ G @ Z @ Z, iterations)
