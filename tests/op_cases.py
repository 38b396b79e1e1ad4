"""What the tests know of each op: one row per line of ops.def, and the only list of ops in the generic tests.

A row has an oracle and the properties that no other op need share. Everything else comes from the table: the tests loop
over OPS below, make arguments by `inputs` and compare results by `errors`, so that one row takes a new op through
all of them. The oracles are float64 and written independently of the twins: by eigenvalues, by the paper's formulas in
`testing`, or by torch.linalg, and their gradients by autograd.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsqrtm import testing
from fastsqrtm._ops.definition import DEFINITIONS
from fastsqrtm._ops.route import apply
from fastsqrtm._ops.table import Matrix
from fastsqrtm._reference.scalars import PartialFractions, fractions_of_logarithm, fractions_of_power

POWERS = {"A": 1.0, "S": 0.5, "B": 0.5, "Z": -0.5}
"""Which power of the SPD matrix A a tensor argument is, by its name; those that are not here are arbitrary."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: the oracle, and what distinguishes the op from others."""

    oracle: Callable[..., Tensor | tuple[Tensor, ...]]
    """The results in float64, of the tensors in float64 and all numbers of the op."""
    powers: dict[str, float] = field(default_factory=dict)
    """Instead of POWERS, for the tensors that are another power of A here."""
    at_zero: tuple[float, ...] | None
    """The diagonal of each result, or the number that it is, where A is the zero matrix, whose negative powers are
    infinite on the diagonal. All other entries and all derivatives are zero there. None where nothing is promised."""
    definite: bool
    """Whether the results are NaN where the first tensor has a negative eigenvalue, as no polynomial is."""
    semidefinite: bool = True
    """Whether the results are finite where the first tensor has an eigenvalue zero."""
    largest_kappa: float = 1e8
    """Beyond this condition number of A the op in float64 may be NaN for a matrix that was rounded to float32."""
    exact_at: dict[str, int] = field(default_factory=dict)
    """The numbers at which the rule is the derivative of the op, for condition numbers up to 1.5; none where it always
    is. The paper's rule is that of the root that an approximant converges to."""
    seen: Callable[..., tuple[Tensor, ...]] | None = None
    """What of the differentiable results the rule is the derivative of; of a basis, the space that it spans."""
    rounding_in_cpp: float = 0.0
    """How far second derivatives in C++ may be from Python's: not at all, unless each has a table of its own."""
    extended: Callable[..., np.ndarray] | None = None
    """The oracle for one matrix in numpy's extended precision, at the default numbers."""


def shapes(name: str, n: int, batch: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """The shapes of the tensor arguments."""
    sizes = {"n": n, "k": n, "m": n + 2}
    return [(*batch, *(sizes[letter] for letter in matrix.dims)) for matrix in testing.OPS[name].tensors]


def power_of(name: str, matrix: Matrix) -> float | None:
    """Which power of A a tensor argument is, None for an arbitrary one."""
    symmetric = len(matrix.dims) == 2 and matrix.equal
    return {**POWERS, **CASES[name].powers}.get(matrix.name) if symmetric else None


def inputs(
    name: str, n: int, batch: tuple[int, ...] = (), kappa: float = 25.0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Arguments of an op for one A of condition number kappa; its root and inverse root are better conditioned."""
    return inputs_at(name, testing.spd(n, kappa, batch, dtype=torch.float64, seed=n), dtype, seed=n)


def inputs_at(name: str, A: Tensor, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Arguments of an op for an SPD matrix: powers of it where the row says so, and random numbers elsewhere.

    Each random square matrix is general, or symmetric, in turn. A is scaled, so that no norm is a power of two and no
    logarithm near zero.
    """
    op = testing.OPS[name]
    A = 0.37 * A.double()
    generator = torch.Generator().manual_seed(seed)
    found = []
    for matrix, shape in zip(op.tensors, shapes(name, A.shape[-1], tuple(A.shape[:-2])), strict=True):
        power = power_of(name, matrix)
        if power is None:
            X = torch.randn(shape, generator=generator, dtype=torch.float64)
            if len(matrix.dims) == 2 and matrix.equal:
                flat = X.view(math.prod(shape[:-2]), *shape[-2:])
                flat[1::2] = (flat + flat.mT)[1::2]
        else:
            X = A if power == 1 else testing.exact_sqrtm(A, power)
        found.append(X.to(matrix.dtype or dtype))
    return found


def at_zero(name: str, arguments: list[Tensor], place: int) -> list[Tensor]:
    """The arguments with those of the zero matrix in one place of the batch."""
    found = [x.clone() for x in arguments]
    for matrix, x in zip(testing.OPS[name].tensors, found, strict=True):
        if (power := power_of(name, matrix)) is not None:
            x[place] = torch.eye(x.shape[-1]) * 0 if power > 0 else infinite(x[place])
    return found


def infinite(x: Tensor) -> Tensor:
    """What a negative power of the zero matrix is: infinite on the diagonal."""
    return torch.full_like(x[..., 0], math.inf).diag_embed()


def known_at_zero(name: str, found: tuple[Tensor, ...]) -> bool:
    """Whether the results, of one zero matrix, are what the row says."""
    for x, matrix, value in zip(found, testing.OPS[name].results, CASES[name].at_zero, strict=True):
        diagonal = torch.full_like(x[..., 0], value).diag_embed() if matrix.dims else torch.full_like(x, value)
        if not torch.equal(x, diagonal):
            return False
    return True


def defaults(name: str, values: dict[str, Any] | None = None) -> list[Any]:
    """All numbers of an op: those that are given, and the defaults of the others."""
    return [(values or {}).get(number.name, number.default) for number in testing.OPS[name].numbers]


def dispatched(name: str) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """An op as the dispatcher has it."""
    return getattr(torch.ops.fastsqrtm, name)


def by_route(name: str, values: dict[str, Any] | None = None) -> Callable[..., tuple[Tensor, ...]]:
    """An op at given numbers by the route that its derivatives need."""
    return lambda *tensors: testing.results(apply(DEFINITIONS[name], *tensors, *defaults(name, values)))


def differentiable(name: str, values: dict[str, Any] | None = None) -> Callable[..., tuple[Tensor, ...]]:
    """By the same route the results that have derivatives."""
    return lambda *tensors: with_derivatives(name, by_route(name, values)(*tensors))


def with_derivatives(name: str, found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of the results of an op those that have derivatives, as far as its rule speaks of them."""
    kept = tuple(x for x, has in zip(found, testing.OPS[name].differentiable, strict=True) if has)
    seen = CASES[name].seen
    return kept if seen is None else seen(*kept)


def cast(name: str, tensors: Iterable[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Arguments in another dtype, but for those whose dtype the table has."""
    return [x.to(matrix.dtype or dtype) for x, matrix in zip(tensors, testing.OPS[name].tensors, strict=True)]


def errors(name: str, actual: Any, expected: Any) -> list[Tensor]:
    """||actual - expected||_F / ||expected||_F of each matrix, in float64, 0 for 0/0; one tensor for each result."""
    found = []
    pairs = zip(testing.results(actual), testing.results(expected), strict=True)
    for matrix, pair in zip(testing.OPS[name].results, pairs, strict=True):
        rows = (x[..., None].flatten(x.dim() - len(matrix.dims))[..., None, :] for x in pair)
        found.append(testing.relative_error(*rows))
    return found


def largest_error(name: str, actual: Any, expected: Any) -> float:
    """Of all matrices and results; NaN if any is."""
    found = torch.cat([error.flatten() for error in errors(name, actual, expected)])
    return found.max().item() if found.numel() else 0.0


# Oracles.


def symmetric(G: Tensor) -> Tensor:
    return (G + G.mT) / 2


def gradient_of(function: Callable[..., Tensor], **options: bool) -> Callable[..., Tensor]:
    """The gradient of <G, function(A)>, by autograd of torch through the formula."""

    def gradient(A: Tensor, G: Tensor, *numbers: int) -> Tensor:
        with torch.enable_grad():
            leaf = A.detach().requires_grad_()
            return symmetric(torch.autograd.grad(function(leaf, *numbers, **options), leaf, G)[0])

    return gradient


def newton_schulz(A: Tensor, iterations: int, inverse: bool = False) -> Tensor:
    """The coupled iteration for A/||A||_F, two general products a step and one for their residual."""
    nu = torch.linalg.matrix_norm(A, keepdim=True)
    identity = torch.eye(A.shape[-1], dtype=A.dtype)
    Y, Z = A / nu, identity.expand_as(A)
    for _ in range(iterations):
        T = 1.5 * identity - Z @ Y / 2
        Y, Z = Y @ T, T @ Z
    return Z / nu.sqrt() if inverse else Y * nu.sqrt()


def extended_pade(A: np.ndarray, inverse: bool = False) -> np.ndarray:
    """Degree 5 by partial fractions."""
    identity = np.eye(len(A), dtype=np.longdouble)
    nu = np.sqrt((A * A).sum())
    X = A / nu
    Y = identity
    for j in range(1, 6):
        t = np.tan(np.arctan(np.longdouble(1)) * 4 * j / 11) ** 2
        term = testing.extended_inverse(identity + t * X) if inverse else X @ testing.extended_inverse(X + t * identity)
        Y = Y + 2 * (1 + t) * term
    return Y / 11 / np.sqrt(nu) if inverse else Y / 11 * np.sqrt(nu)


def extended_taylor(A: np.ndarray, inverse: bool = False) -> np.ndarray:
    """Degree 10 by Horner's rule."""
    identity = np.eye(len(A), dtype=np.longdouble)
    nu = np.sqrt((A * A).sum())
    power = np.longdouble(-0.5 if inverse else 0.5)
    c = [np.prod([(i - power) / (i + 1) for i in range(k)], initial=np.longdouble(1)) for k in range(11)]
    Y = 0 * identity
    for coefficient in reversed(c):
        Y = Y @ (identity - A / nu) + coefficient * identity
    return Y / np.sqrt(nu) if inverse else Y * np.sqrt(nu)


def extended_lyapunov(B: np.ndarray, C: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """Eight iterations."""
    scale = np.sqrt((B * B).sum()) if scale is None else scale
    B, C = B / scale, C / scale
    for _ in range(8):
        M = B @ B
        C = (3 * C - C @ M - M @ C + B @ C @ B) / 2
        B = (3 * B - B @ M) / 2
    return C / 2


def extended_gradient(A: np.ndarray, S: np.ndarray, G: np.ndarray) -> np.ndarray:
    return extended_lyapunov(S, (G + G.T) / 2, np.sqrt(np.sqrt((A * A).sum())))


def extended_inverse_gradient(Z: np.ndarray, G: np.ndarray) -> np.ndarray:
    return extended_lyapunov(Z, -Z @ Z @ ((G + G.T) / 2) @ Z @ Z)


def exact_inverse(A: Tensor) -> Tensor:
    """By eigenvalues, as batched LU can hang on CPU."""
    return testing.exact_sqrtm(A, -1.0)


def inverse_root_gradient(Z: Tensor, G: Tensor, rtol: float) -> Tensor:
    return testing.exact_lyapunov(Z, -Z @ Z @ symmetric(G) @ Z @ Z)


def of_eigenvalues(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """V function(w) V^T."""

    def value(A: Tensor) -> Tensor:
        w, V = torch.linalg.eigh(symmetric(A))
        return (V * function(w)[..., None, :]) @ V.mT

    return value


def rational_power(A: Tensor, *numbers: float) -> Tensor:
    """Of the eigenvalues; that the function is the power is in test_powers.py."""
    return of_eigenvalues(fractions_of_power(*numbers))(A)


def rational_log(A: Tensor, *numbers: float) -> Tensor:
    return of_eigenvalues(fractions_of_logarithm(*numbers))(A)


def derivative_of_eigenvalues(A: Tensor, G: Tensor, series: PartialFractions) -> Tensor:
    """By Loewner's matrix: (f(x) - f(y))/(x - y) = sum_j slope_j / ((1 + h_j x) (1 + h_j y))."""
    w, V = torch.linalg.eigh(symmetric(A))
    K = torch.zeros_like(A)
    for (scale, _), slope in zip(series.terms, series.slopes(), strict=True):
        K = K + slope / ((1 + scale * w[..., :, None]) * (1 + scale * w[..., None, :]))
    return V @ (K * (V.mT @ symmetric(G) @ V)) @ V.mT


def householder(A: Tensor, complete: bool = False) -> tuple[Tensor, ...]:
    """numpy's factors, of LAPACK."""
    factors = (np.linalg.qr(matrix.numpy(), "complete" if complete else "reduced") for matrix in A.flatten(0, -3))
    return tuple(torch.from_numpy(np.stack(x)).unflatten(0, A.shape[:-2]) for x in zip(*factors, strict=True))


def longest_first(A: Tensor) -> Tensor:
    """The permutation of pivoted QR, by orthogonalising all columns against each that comes next."""
    A, taken = A.clone(), []
    for _ in range(A.shape[-1]):
        lengths = torch.linalg.vector_norm(A, dim=-2)
        for earlier in taken:
            lengths.scatter_(-1, earlier, -1.0)
        taken.append(lengths.argmax(-1, keepdim=True))
        q = A.gather(-1, taken[-1][..., None, :].expand(*A.shape[:-1], 1))
        q = q / torch.linalg.vector_norm(q, dim=-2, keepdim=True)
        A -= q @ (q.mH @ A)
    return torch.cat(taken, -1)


def pivoted(A: Tensor, complete: bool = False) -> tuple[Tensor, ...]:
    P = longest_first(A)
    return *householder(A.gather(-1, P[..., None, :].expand_as(A)), complete), P


def basis_and_space(Q: Tensor, R: Tensor) -> tuple[Tensor, ...]:
    """What does not depend on the choice of the last columns of a square Q beside a deep R."""
    Q1, Q2 = Q.split((R.shape[-1], Q.shape[-1] - R.shape[-1]), -1)
    return Q1, Q2 @ Q2.mT, R


def qr_gradient(Q: Tensor, R: Tensor, G: Tensor, H: Tensor) -> Tensor:
    """Entry by entry; R and H are upper triangular."""
    R, H = R.triu().numpy(), H.triu().numpy()
    W = np.tril(R @ H.swapaxes(-1, -2) - (G.mT @ Q).numpy())
    X = G + Q @ torch.from_numpy(W + np.tril(W, -1).swapaxes(-1, -2))
    return torch.from_numpy(np.linalg.solve(R, X.mT.numpy())).mT


INFINITE = math.inf
SOLVE = {"iterations": 30}  # converged at the condition numbers of exact_at
PADE, TAYLOR = {"degree": 32, **SOLVE}, {"degree": 128, **SOLVE}

# fmt: off
CASES = {
    "sqrtm": Case(
        oracle=lambda A, rtol: testing.exact_sqrtm(A), at_zero=(0,), definite=True, largest_kappa=1e6,
    ),
    "inv_sqrtm": Case(
        oracle=lambda A, rtol: testing.exact_sqrtm(A, -0.5), at_zero=(INFINITE,), definite=True, largest_kappa=1e6,
    ),
    "sqrtm_and_inv": Case(
        oracle=lambda A, rtol: (testing.exact_sqrtm(A), testing.exact_sqrtm(A, -0.5)),
        at_zero=(0, INFINITE), definite=True, largest_kappa=1e6,
    ),
    "sqrtm_backward": Case(
        oracle=lambda S, G, rtol: testing.exact_lyapunov(S, symmetric(G)), at_zero=(0,), definite=True,
    ),
    "inv_sqrtm_backward": Case(oracle=inverse_root_gradient, at_zero=(0,), definite=True),
    "sqrtm_and_inv_backward": Case(
        oracle=lambda S, Z, G, H, rtol: testing.exact_lyapunov(S, symmetric(G) - Z @ symmetric(H) @ Z),
        at_zero=(0,), definite=True,
    ),
    "inv": Case(
        oracle=exact_inverse, at_zero=(INFINITE,), definite=True, semidefinite=False, largest_kappa=1e6,
    ),
    "inv_and_logdet": Case(
        oracle=lambda A: (exact_inverse(A), torch.linalg.eigvalsh(A).log().sum(-1)),
        at_zero=(INFINITE, -INFINITE), definite=True, semidefinite=False, largest_kappa=1e6,
    ),
    "inv_backward": Case(
        oracle=lambda Z, G: -Z @ symmetric(G) @ Z, powers={"Z": -1.0}, at_zero=(0,), definite=False,
    ),
    "rational_power": Case(oracle=rational_power, at_zero=None, definite=True, rounding_in_cpp=1e-11),
    "rational_log": Case(oracle=rational_log, at_zero=None, definite=True, rounding_in_cpp=1e-11),
    "rational_power_backward": Case(
        oracle=lambda A, G, *numbers: derivative_of_eigenvalues(A, G, fractions_of_power(*numbers)),
        at_zero=None, definite=True, rounding_in_cpp=1e-11,
    ),
    "rational_log_backward": Case(
        oracle=lambda A, G, *numbers: derivative_of_eigenvalues(A, G, fractions_of_logarithm(*numbers)),
        at_zero=None, definite=True, rounding_in_cpp=1e-11,
    ),
    "qr": Case(oracle=householder, at_zero=None, definite=False),
    "qr_complete": Case(
        oracle=lambda A: householder(A, complete=True), at_zero=None, definite=False, seen=basis_and_space,
    ),
    "qr_pivoted": Case(oracle=pivoted, at_zero=None, definite=False),
    "qr_pivoted_complete": Case(
        oracle=lambda A: pivoted(A, complete=True), at_zero=None, definite=False, seen=basis_and_space,
    ),
    "qr_backward": Case(oracle=qr_gradient, powers={"R": 0.5}, at_zero=None, definite=False),
    "lyapunov": Case(
        oracle=testing.paper_lyapunov, at_zero=(0,), definite=False, exact_at=SOLVE, extended=extended_lyapunov,
    ),
    "lyapunov_newton": Case(
        oracle=lambda B, C, rtol: testing.exact_lyapunov(B, C), at_zero=(0,), definite=True,
    ),
    "mpa_lya": Case(
        oracle=lambda A, degree, _: testing.paper_mpa(A, degree),
        at_zero=(0,), definite=True, exact_at=PADE, extended=extended_pade,
    ),
    "mtp_lya": Case(
        oracle=lambda A, degree, _: testing.paper_mtp(A, degree),
        at_zero=(0,), definite=False, exact_at=TAYLOR, extended=extended_taylor,
    ),
    "mpa_lya_inv": Case(
        oracle=lambda A, degree, _: testing.paper_mpa(A, degree, inverse=True),
        at_zero=(INFINITE,), definite=True, exact_at=PADE, extended=lambda A: extended_pade(A, inverse=True),
    ),
    "mtp_lya_inv": Case(
        oracle=lambda A, degree, _: testing.paper_mtp(A, degree, inverse=True),
        at_zero=(INFINITE,), definite=False, exact_at=TAYLOR, extended=lambda A: extended_taylor(A, inverse=True),
    ),
    "sqrtm_lya_backward": Case(
        oracle=testing.paper_gradient, at_zero=(0,), definite=False, exact_at=SOLVE, extended=extended_gradient,
    ),
    "inv_sqrtm_lya_backward": Case(
        oracle=testing.paper_inverse_gradient,
        at_zero=(0,), definite=False, exact_at=SOLVE, extended=extended_inverse_gradient,
    ),
    "mpa": Case(oracle=testing.paper_mpa, at_zero=(0,), definite=True),
    "mtp": Case(oracle=testing.paper_mtp, at_zero=(0,), definite=False),
    "ns": Case(oracle=newton_schulz, at_zero=(0,), definite=False),
    "mpa_inv": Case(
        oracle=lambda A, degree: testing.paper_mpa(A, degree, inverse=True), at_zero=(INFINITE,), definite=True,
    ),
    "mtp_inv": Case(
        oracle=lambda A, degree: testing.paper_mtp(A, degree, inverse=True), at_zero=(INFINITE,), definite=False,
    ),
    "ns_inv": Case(
        oracle=lambda A, iterations: newton_schulz(A, iterations, inverse=True), at_zero=(INFINITE,), definite=False,
    ),
    "mpa_backward": Case(oracle=gradient_of(testing.paper_mpa), at_zero=(0,), definite=True),
    "mtp_backward": Case(oracle=gradient_of(testing.paper_mtp), at_zero=(0,), definite=False),
    "ns_backward": Case(oracle=gradient_of(newton_schulz), at_zero=(0,), definite=False),
    "mpa_inv_backward": Case(oracle=gradient_of(testing.paper_mpa, inverse=True), at_zero=(0,), definite=True),
    "mtp_inv_backward": Case(oracle=gradient_of(testing.paper_mtp, inverse=True), at_zero=(0,), definite=False),
    "ns_inv_backward": Case(oracle=gradient_of(newton_schulz, inverse=True), at_zero=(0,), definite=False),
}
# fmt: on

OPS = {name: op for name, op in testing.OPS.items() if name in CASES}
"""The table, of which test_op_cases.py tells the lines that have no row."""
