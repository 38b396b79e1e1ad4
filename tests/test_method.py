"""The facts of docs/method.md that it does not prove, and the formulas that it does, in float64 and small.

Oracles are scipy, torch's autograd and central differences. The document names these tests; the last one holds it to
that, and to the functions and files it names.
"""

import itertools
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.interpolate
import scipy.linalg
import scipy.special
import torch

import fastsqrtm
from fastsqrtm import paper, testing
from fastsqrtm._reference import lyapunov, matrix, roots, scalars, series
from fastsqrtm.paper import CONVERGED_STEPS

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "method.md"
OPS = torch.ops.fastsqrtm
SMALL = [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8]  # eigenvalues of A/||A||_F
GROWTH_OF_NS_5 = 1.5**5
GAIN_OF_8_STEPS = 0.5 * 1.5**8


def symmetric(n, seed=0):
    G = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (G + G.mT) / 2


def spd(n=5, kappa=30.0, seed=0):
    return testing.spd(n, kappa, dtype=torch.float64, seed=seed)


def inner(A, B):
    return (A * B).sum().item()


def norm(A):
    return torch.linalg.matrix_norm(A, 2).item()


def error(actual, expected):
    return testing.relative_error(torch.as_tensor(actual), torch.as_tensor(expected)).item()


def along(function, A, E, step=1e-5):
    """Derivative of a function of a matrix along E, by central differences of fourth order."""
    f = [function(A + k * step * E) for k in (-2, -1, 1, 2)]
    return (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * step)


# The scalars: the matrix functions at one eigenvalue x of X = A/||A||_F.


def pade(x, degree=5):
    return 1 / (2 * degree + 1) + sum(w * x / (x + t) for t, w in scalars.pade_terms(degree))


def pade_slope(x, degree=5):
    return sum(w * t / (x + t) ** 2 for t, w in scalars.pade_terms(degree))


def quotient(x, degree):
    """E(x), O(x) with (1 + s)^N = E(s^2) + s O(s^2)."""
    N = 2 * degree + 1
    return tuple(sum(math.comb(N, 2 * k + odd) * x**k for k in range(degree + 1)) for odd in (0, 1))


def newton_schulz(x, steps=5):
    """The root and its derivative."""
    m, dm, y, dy = x, 1.0, x, 1.0
    for _ in range(steps):
        p, dp = (3 - m) / 2, -dm / 2
        y, dy = y * p, dy * p + y * dp
        m, dm = m * p * p, dm * p * p + 2 * m * p * dp
    return y, dy


def lyapunov_gain(b, steps=8):
    """x of 2 b x = 1 by the paper's iteration."""
    c = 1.0
    for _ in range(steps):
        c, b = (3 - b * b) * c / 2, b * (3 - b * b) / 2
    return c / 2


# 1. The root


def test_normalisers_bound_the_spectrum():
    for seed in range(5):
        A = symmetric(6, seed)
        assert norm(A) <= min(torch.linalg.matrix_norm(A).item(), torch.linalg.matrix_norm(A, 1).item())
        X, nu = matrix.normalise(A)
        assert torch.allclose(X * nu, A)
        assert norm(X) <= 1


@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6])
def test_conditioning(kappa):
    """Bounds the effect of a relative change eps of A on root, inverse root and gradient, and attains the bounds."""
    eps = 2.0**-24
    A, G = spd(6, kappa), symmetric(6, 1)
    _, V = torch.linalg.eigh(A)
    change = 1e-3 / kappa * norm(A)  # first order

    def relative(function, E):
        return norm(function(A + E) - function(A)) / norm(function(A)) / (norm(E) / norm(A))

    bounds = {0.5: kappa**0.5 / 2, -0.5: kappa / 2}
    random = symmetric(6, 2)
    worst = torch.outer(V[:, 0], V[:, 0])  # the eigenvector of the smallest eigenvalue
    for power, bound in bounds.items():
        assert relative(lambda A, p=power: testing.exact_sqrtm(A, p), random * change / norm(random)) < 1.01 * bound
        assert relative(lambda A, p=power: testing.exact_sqrtm(A, p), worst * change) == pytest.approx(bound, rel=0.01)
    X = testing.exact_gradient(A, G)
    assert error(testing.exact_gradient(A + worst * change, G), X) < 1.01 * kappa / 2 * change / norm(A)
    # Rounding the entries to float32 is such a change, at most eps ||A||_F.
    rounded = testing.exact_sqrtm(A.float())
    assert error(rounded, testing.exact_sqrtm(A)) < eps * kappa**0.5 / 2


# 2. The derivative


@pytest.mark.parametrize("power", [0.5, -0.5])
def test_loewner_matrix(power):
    """The derivative by divided differences is that of scipy's root of [[A, E], [0, A]], and is its own adjoint."""
    A, E, G = spd(), symmetric(5, 1), symmetric(5, 2)
    values, V = torch.linalg.eigh(A)
    K = paper.divided_differences(values, power < 0, "exact", 0)
    block = np.block([[A.numpy(), E.numpy()], [np.zeros((5, 5)), A.numpy()]])
    root = scipy.linalg.sqrtm(block)
    root = root if power > 0 else scipy.linalg.inv(root)

    def derivative(E):
        return V @ (K * (V.mT @ E @ V)) @ V.mT

    assert error(derivative(E), np.ascontiguousarray(root[:5, 5:].real)) < 1e-12
    assert inner(G, derivative(E)) == pytest.approx(inner(derivative(G), E), rel=1e-12)
    assert error(derivative(G), testing.exact_gradient(A, G, power)) < 1e-12


def test_gradients_solve_lyapunov_equations():
    A, G, H = spd(), symmetric(5, 1), symmetric(5, 2)
    S, Z = testing.exact_sqrtm(A), testing.exact_sqrtm(A, -0.5)

    def solve(B, C):
        return scipy.linalg.solve_continuous_lyapunov(B.numpy(), C.numpy())

    assert error(OPS.sqrtm_backward(S, G), solve(S, G)) < 1e-13
    assert error(OPS.inv_sqrtm_backward(Z, H), solve(S, -Z @ H @ Z)) < 1e-13
    assert error(OPS.inv_sqrtm_lya_backward(Z, H, 40), solve(Z, -Z @ Z @ H @ Z @ Z)) < 1e-12
    both = OPS.sqrtm_and_inv_backward(S, Z, G, H)
    assert error(both, solve(S, G - Z @ H @ Z)) < 1e-13


# 3. Taylor and Pade


def test_taylor_series():
    published = "1 -1/2 -1/8 -1/16 -5/128 -7/256 -21/1024 -33/2048 -429/32768 -715/65536 -2431/262144"
    assert scalars.taylor_coefficients(10, 0.5) == [float(Fraction(c)) for c in published.split()]
    for degree in (1, 4, 10, 40):
        worst = math.comb(2 * degree, degree) / 4**degree
        root, inverse = (scalars.taylor_coefficients(degree, power) for power in (0.5, -0.5))
        assert sum(root) == pytest.approx(worst, rel=1e-12)
        assert sum(inverse) == pytest.approx((2 * degree + 1) * worst, rel=1e-12)
        for x in SMALL:
            excess = sum(c * (1 - x) ** k for k, c in enumerate(root)) - math.sqrt(x)
            assert -1e-15 < excess < worst * (1 - x) ** (degree + 1)
    assert math.comb(20, 10) / 4**10 == pytest.approx(0.176, abs=5e-4)


@pytest.mark.parametrize("degree", [1, 2, 5, 12])
def test_pade_closed_form(degree):
    N = 2 * degree + 1
    for x in (*SMALL, 0.5, 1.0, 3.0):
        even, odd = quotient(x, degree)
        s = math.sqrt(x)
        q = ((1 - s) / (1 + s)) ** N
        assert even / odd / s == pytest.approx((1 + q) / (1 - q), rel=1e-12)
        assert pade(x, degree) == pytest.approx(even / odd, rel=1e-12)
        assert pade(x, degree) / s - 1 == pytest.approx(2 * q / (1 - q), rel=1e-9, abs=1e-14)
        inverse = 1 / N + sum(w / (1 + t * x) for t, w in scalars.pade_terms(degree))
        assert inverse == pytest.approx(1 / pade(x, degree), rel=1e-12)
        assert inverse == pytest.approx(pade(1 / x, degree), rel=1e-12)
    assert pade(0.0, degree) == 1 / N
    for angle in (0.1, 0.4, 1.2):
        x = -(math.tan(angle) ** 2)
        assert pade(x, degree) == pytest.approx(math.tan(angle) / math.tan(N * angle), rel=1e-9)


def test_pade_coefficients_are_the_published_ones():
    p = "1 -11/4 11/4 -77/64 55/256 -11/1024"
    q = "1 -9/4 7/4 -35/64 15/256 -1/1024"
    assert testing.paper_pade_coefficients(5) == tuple([float(Fraction(c)) for c in x.split()] for x in (p, q))


@pytest.mark.parametrize(("x", "degree"), [(1e-1, 11), (1e-2, 36), (1e-3, 115)])
def test_degree_for_six_digits(x, degree):
    def relative(degree):
        even, odd = quotient(x, degree)
        return even / odd / math.sqrt(x) - 1

    assert relative(degree) <= 1e-6 < relative(degree - 1)


@pytest.mark.parametrize("degree", [1, 5, 8])
def test_condition_of_the_pade_quotient(degree):
    """P and Q grow with x, so that their condition numbers on [0, 1] are the ratios of their ends."""
    ends = [quotient(x, degree) for x in (0.0, 1.0)]
    assert ends == [(1, 2 * degree + 1), (4**degree, 4**degree)]
    assert (np.diff([quotient(x, degree) for x in np.linspace(0, 1, 50)], axis=0) > 0).all()
    assert [round(4**5 / 11), 4**5] == [93, 1024]


# 4. The Lyapunov equation


def block_matrix(B, C):
    return torch.cat((torch.cat((B, C), 1), torch.cat((torch.zeros_like(B), -B), 1)))


def test_sign_of_the_block_matrix():
    B, C = spd(4), symmetric(4, 1)
    X = testing.exact_lyapunov(B, C)
    assert error(B @ X + X @ B, C) < 1e-13
    identity = torch.eye(4, dtype=torch.float64)
    assert error(scipy.linalg.signm(block_matrix(B, C).numpy()), block_matrix(identity, 2 * X)) < 1e-12


def test_steps_act_on_the_block_matrix_and_keep_the_solution():
    """A step for B and C is that of the block matrix, and the next pair is another equation with the same solution."""
    B, C, mu = spd(4), symmetric(4, 1), 1.7
    X, W = testing.exact_lyapunov(B, C), torch.linalg.inv(B)
    H, identity = block_matrix(B, C), torch.eye(8, dtype=torch.float64)
    steps = {
        "newton_schulz": ((3 * B - B @ B @ B) / 2, (3 * C - C @ B @ B - B @ B @ C + B @ C @ B) / 2),
        "newton": ((mu * B + W / mu) / 2, (mu * C + W @ C @ W / mu) / 2),
    }
    of_block = {
        "newton_schulz": H @ (3 * identity - H @ H) / 2,
        "newton": (mu * H + torch.linalg.inv(mu * H)) / 2,
    }
    for name, (next_B, next_C) in steps.items():
        assert error(block_matrix(next_B, next_C), of_block[name]) < 1e-13
        assert error(next_B @ X + X @ next_B, next_C) < 1e-12
    assert error(OPS.lyapunov(B, C, 1), steps["newton_schulz"][1] / 2) > 1e-3  # it normalises first
    s = torch.linalg.matrix_norm(B)
    first = (3 * C - (C @ B @ B + B @ B @ C - B @ C @ B) / s**2) / 2
    assert error(OPS.lyapunov(B, C, 1), first / s / 2) < 1e-13


def test_four_products_a_step():
    B, C = spd(5), symmetric(5, 1)
    U = C @ B
    V = B @ (U.mT - U / 2)
    assert error(V + V.mT, B @ B @ C - B @ C @ B + C @ B @ B) < 1e-14
    C = C.triu(1) - C.triu(1).mT  # skew: U^T is -B C, and the other half is V - V^T
    U = C @ B
    V = B @ (-U.mT - U / 2)
    assert error(V - V.mT, B @ B @ C - B @ C @ B + C @ B @ B) < 1e-14


def test_gain_of_the_iteration():
    """An entry of C is multiplied by at most 3/2 a step; the result is the solution times the iterate of b."""
    for b in (0.3, 0.03, 1e-4):
        iterate = b
        for _ in range(8):
            iterate = iterate * (3 - iterate**2) / 2
        assert lyapunov_gain(b) == pytest.approx(iterate / (2 * b), rel=1e-12)
        assert lyapunov_gain(b) < min(GAIN_OF_8_STEPS, 1 / (2 * b)) + 1e-12
    assert pytest.approx(12.8, abs=0.02) == GAIN_OF_8_STEPS
    assert lyapunov_gain(1e-9) == pytest.approx(GAIN_OF_8_STEPS)
    # The eigenvalue x of X is b^2. Relative errors of the gain.
    errors = {x: 1 - 2 * math.sqrt(x) * lyapunov_gain(math.sqrt(x)) for x in (3e-2, 1e-2, 1e-3)}
    assert errors[3e-2] < 1e-6
    assert errors[1e-2] == pytest.approx(1.7e-3, rel=0.05)
    assert errors[1e-3] == pytest.approx(0.31, abs=0.01)
    # The op, at one eigenvalue.
    A = torch.diag(torch.tensor([1.0, 1e-8], dtype=torch.float64))
    X = OPS.sqrtm_lya_backward(A, A.sqrt(), torch.eye(2, dtype=torch.float64), 8)
    assert X[1, 1].item() == pytest.approx(lyapunov_gain(1e-4), rel=1e-6)


def test_lyapunov_by_newton_steps():
    """At any condition number of B, against scipy; and the corrections at the end gain a factor ||E|| each."""
    for kappa in (1e1, 1e3, 1e6):
        B, C = spd(6, kappa), symmetric(6, 1)
        expected = scipy.linalg.solve_continuous_lyapunov(B.numpy(), C.numpy())
        assert error(OPS.lyapunov_newton(B, C), expected) < 1e-15 * kappa + 1e-14
    E, theta, C = symmetric(6, 2), 0.8, symmetric(6, 1)
    E = 0.01 * E / norm(E)
    exact = testing.exact_lyapunov(theta * (torch.eye(6) + E), C)
    X = C / (2 * theta)
    for k in range(1, 4):
        assert error(X, exact) < 1.1 * norm(E) ** k
        X = (C / theta - E @ X - X @ E) / 2


# 5. Exact gradients


@pytest.mark.parametrize("name", ["mpa", "mtp", "ns", "mpa_inv", "mtp_inv", "ns_inv"])
def test_exact_gradients(name):
    """<gradient, E> is the derivative of <G, root> along E, where the approximant is far from the root."""
    A, G = 3 * spd(5, 1e4), symmetric(5, 1)
    gradient = getattr(OPS, f"{name}_backward")(A, G)
    for seed in (2, 3):
        E = symmetric(5, seed)
        E = 1e-4 * E / norm(E)  # keeps A definite
        slope = along(lambda A: inner(G, getattr(OPS, name)(A)), A, E, 1e-2)
        assert inner(gradient, E) == pytest.approx(slope, rel=1e-7, abs=1e-9 * norm(gradient) * norm(E))


def test_derivatives_of_the_terms():
    X, G = spd(4), symmetric(4, 1)
    identity, t = torch.eye(4, dtype=torch.float64), 0.7
    R = torch.linalg.inv(X + t * identity)
    assert error(along(lambda X: X @ torch.linalg.inv(X + t * identity), X, G, 1e-3), t * R @ G @ R) < 1e-9
    R = torch.linalg.inv(identity + t * X)
    assert error(along(lambda X: torch.linalg.inv(identity + t * X), X, G, 1e-3), -t * R @ G @ R) < 1e-9
    X = X / 2
    for derivative, value in (
        (series.pade_derivative(X, G, 3, 0.5), lambda X: series.pade(X, 3)),
        (series.taylor_derivative(X, G, 7, 0.5), lambda X: series.taylor(X, 7, 0.5)),
        (series.newton_schulz_derivative(X, G, 4, -0.5), lambda X: series.newton_schulz(X, 4, True)),
    ):
        assert error(derivative[0], along(value, X, G, 1e-3)) < 1e-8
        assert error(derivative[1], value(X)) < 1e-13


def test_derivative_of_a_polynomial_is_its_own_adjoint():
    X, G, E = spd(4), symmetric(4, 1), symmetric(4, 2)

    def derivative(E):
        return series.newton_schulz_derivative(X, E, 3, 0.5)[0]

    assert inner(G, derivative(E)) == pytest.approx(inner(derivative(G), E), rel=1e-12)


# 6. Newton-Schulz


@pytest.mark.parametrize("inverse", [False, True])
def test_forms_of_newton_schulz(inverse):
    """Coupled, with the product M, and with two steps at once: the same polynomial."""
    X = spd(5)
    X = X / torch.linalg.matrix_norm(X)
    identity = torch.eye(5, dtype=torch.float64)
    Y, Z = X, identity
    for _ in range(4):
        P = (3 * identity - Z @ Y) / 2
        Y, Z = Y @ P, P @ Z
    M, pairs = X, identity if inverse else X
    for _ in range(2):
        F = identity - M
        F2 = F @ F
        P = identity + F / 2 + 3 / 8 * F2 + 5 / 16 * F2 @ F + F2 @ F2 / 16
        pairs, M = pairs @ P, M @ P @ P
    expected = Z if inverse else Y
    assert error(series.newton_schulz(X, 4, inverse), expected) < 1e-13
    assert error(pairs, expected) < 1e-13
    op = OPS.ns_inv if inverse else OPS.ns
    scale = torch.linalg.matrix_norm(spd(5)) ** (-0.5 if inverse else 0.5)
    assert error(op(spd(5), 4), expected * scale) < 1e-13


def test_newton_schulz_error():
    """e = 1 - m goes to (3 e^2 + e^3)/4 <= e^2; small m and y grow by 9/4 and 3/2; how many steps converge."""
    for m in (1e-9, 0.1, 0.5, 0.9, 1.0):
        e, following = 1 - m, m * ((3 - m) / 2) ** 2
        assert 1 - following == pytest.approx((3 * e**2 + e**3) / 4, abs=1e-15)
        assert 1 - following <= e**2 + 1e-15
        first, second = 1 + e / 2, 1 + (3 * e**2 + e**3) / 8
        assert first * second == pytest.approx(1 + e / 2 + 3 / 8 * e**2 + 5 / 16 * e**3 + e**4 / 16, rel=1e-15)
    assert newton_schulz(1e-12)[0] / 1e-12 == pytest.approx(GROWTH_OF_NS_5, rel=1e-9)
    assert pytest.approx(7.59, abs=0.01) == GROWTH_OF_NS_5
    for precision, needed in ((torch.float32, 24), (torch.float64, 50)):
        eps = torch.finfo(precision).eps

        def relative(steps, x=eps):
            return 1 - newton_schulz(x, steps)[0] / math.sqrt(x)

        assert relative(needed) <= 2 * eps < relative(needed - 1)
        assert needed <= CONVERGED_STEPS[precision]


def test_newton_schulz_amplifies_no_more_than_it_must():
    """A perturbation of M grows by divided differences of g(m) = m (3 - m)^2/4, all in [0, 9/4] on [0, 1]."""
    m = np.linspace(0, 1, 101)
    g = m * (3 - m) ** 2 / 4
    differences = (g[:, None] - g)[~np.eye(101, dtype=bool)] / (m[:, None] - m)[~np.eye(101, dtype=bool)]
    assert differences.min() >= 0
    assert differences.max() <= 9 / 4
    X = spd(5) / 1.2
    values, V = torch.linalg.eigh(X)
    slopes = 3 * (3 - values) * (1 - values) / 4
    gaps = values[:, None] - values + torch.eye(5)
    g = values * (3 - values) ** 2 / 4
    K = (g[:, None] - g) / gaps + slopes.diag()
    identity, E = torch.eye(5, dtype=torch.float64), symmetric(5, 1)
    step = along(lambda M: M @ (3 * identity - M) @ (3 * identity - M) / 4, X, E, 1e-3)
    assert error(step, V @ (K * (V.mT @ E @ V)) @ V.mT) < 1e-9


def coupled_and_symmetrised(Y, Z):
    M = Z @ Y
    P = (3 * torch.eye(len(Y), dtype=Y.dtype) - (M + M.mT) / 2) / 2
    Y, Z = Y @ P, P @ Z
    return (Y + Y.mT) / 2, (Z + Z.mT) / 2


@pytest.mark.parametrize("r", [2.0, 3 + 8**0.5, 10.0, 100.0])
def test_coupled_iteration_made_symmetric_is_unstable(r):
    """At S = diag(r, 1) a perturbation with dZ = S^-1 dY S^-1 goes to 1/2 - (r + 1/r)/4 times itself in one step."""
    S = torch.diag(torch.tensor([r, 1.0], dtype=torch.float64))
    dY = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    dZ = dY / r
    step = 1e-4
    plus, minus = (coupled_and_symmetrised(S + h * dY, S.inverse() + h * dZ) for h in (step, -step))
    factor = 0.5 - (r + 1 / r) / 4
    for i, d in enumerate((dY, dZ)):
        assert torch.allclose((plus[i] - minus[i]) / (2 * step), factor * d, rtol=1e-5, atol=1e-5)
    assert (abs(factor) > 1 + 1e-12) == (r > 3 + 8**0.5)


def test_rounding_of_newton_schulz():
    """In float32 at condition number 1e4: the product form is as good as the conditioning, the other form is lost."""
    A = testing.spd(32, 1e4, dtype=torch.float64, seed=1)
    exact, nu = testing.exact_sqrtm(A), torch.linalg.matrix_norm(A)
    bound = 2.0**-24 * 1e4**0.5
    assert error(OPS.ns(A.float(), 28), exact) < 2 * bound
    assert error(testing.twin("ns")(A.float(), 28), exact) < 2 * bound
    Y, Z = (A / nu).float(), torch.eye(32)
    for _ in range(28):
        Y, Z = coupled_and_symmetrised(Y, Z)
    lost = error(Y.double() * nu.sqrt(), exact)
    assert math.isnan(lost) or lost > 1


# 7. Newton-Schulz with a Lyapunov gradient

PAIRS = {  # root and its slope, gradient, at an eigenvalue x
    "ns_5_lya_8": (newton_schulz, lyapunov_gain),
    "ns_5_lya": (newton_schulz, lambda f: 1 / (2 * f)),
    "exact_lya_8": (lambda x: (math.sqrt(x), 0.5 / math.sqrt(x)), lyapunov_gain),
    "mpa_lya_8": (lambda x: (pade(x), pade_slope(x)), lyapunov_gain),
    "mpa_lya": (lambda x: (pade(x), pade_slope(x)), lambda f: 1 / (2 * f)),
    "ns_52_lya": (lambda x: newton_schulz(x, 52), lambda f: 1 / (2 * f)),
}


def left(pair, x):
    """2 x |K - f'|/f, the rest of a derivative that an inconsistent gradient fails to cancel; and 1/f."""
    root, gradient = PAIRS[pair]
    f, slope = root(x)
    return 2 * x * abs(gradient(f) - slope) / f, 1 / f


def test_slope_and_lyapunov_gradient_at_a_root_that_has_not_converged():
    """NS-5 near zero: y = 7.59 x with slope 7.59, and a gradient of 1/(2 y), or of 12.8 with eight steps."""
    for x in (1e-5, 1e-7, 1e-9):
        y, slope = newton_schulz(x)
        assert y / x == pytest.approx(GROWTH_OF_NS_5, rel=2e-3)
        assert slope == pytest.approx(GROWTH_OF_NS_5, rel=2e-3)
        assert lyapunov_gain(y) == pytest.approx(GAIN_OF_8_STEPS, rel=1e-4)
    for x, ratio in ((1e-3, 9.1), (1e-4, 87), (1e-6, 8.7e3)):
        y, slope = newton_schulz(x)
        assert 1 / (2 * y) / slope == pytest.approx(ratio, rel=0.01)
    ratios = [1 / (2 * pade(x)) / pade_slope(x) for x in np.logspace(-12, 0, 200)]
    assert 1 - 1e-3 < min(ratios)
    assert max(ratios) < 1.52


def test_what_an_inconsistent_gradient_leaves():
    limit = 2 * (GAIN_OF_8_STEPS / GROWTH_OF_NS_5 - 1)
    assert limit == pytest.approx(1.375, abs=1e-3)
    for x in (3e-3, 1e-3, 1e-4, 1e-6, 1e-8):
        leftover, gain = left("ns_5_lya_8", x)
        assert leftover == pytest.approx(limit, rel=0.05)
        assert gain == pytest.approx(1 / (GROWTH_OF_NS_5 * x), rel=0.05)
    for x in (1e-4, 1e-5, 1e-6):
        assert left("ns_5_lya", x)[0] == pytest.approx(1 / (GROWTH_OF_NS_5**2 * x), rel=0.02)
    assert pytest.approx(57.7, abs=0.1) == GROWTH_OF_NS_5**2
    for x, leftover in ((1e-2, 0.0017), (1e-3, 0.31), (1e-4, 0.75), (1e-5, 0.92), (1e-6, 0.974)):
        assert left("exact_lya_8", x)[0] == pytest.approx(leftover, rel=0.02)
        if x <= 1e-4:
            assert leftover == pytest.approx(1 - 2 * GAIN_OF_8_STEPS * math.sqrt(x), abs=0.01)
    table = {
        "ns_5_lya_8": (0.49, 1.38, 1.375, 1.8e3),
        "ns_5_lya": (0.57, 172, 1.7e4, 2.3e5),
        "exact_lya_8": (1.7e-3, 0.75, 0.97, 75),
        "mpa_lya_8": (0.14, 4.0e-3, 4.1e-5, 0.044),
        "ns_52_lya": (0, 0, 0, 0),
    }
    for pair, (*leftovers, amplified) in table.items():
        assert [left(pair, x)[0] for x in (1e-2, 1e-4, 1e-6)] == pytest.approx(leftovers, rel=0.03, abs=1e-12)
        assert math.prod(left(pair, 1e-4)) == pytest.approx(amplified, rel=0.03, abs=1e-10)
    grid = np.logspace(-8, 0, 200)
    assert max(left("mpa_lya_8", x)[0] for x in grid) < 0.14
    assert max(left("mpa_lya", x)[0] for x in grid) < 0.2
    assert max(left("mpa_lya", x)[1] for x in grid) < 11
    assert max(left("ns_52_lya", x)[0] for x in grid) < 1e-12


@pytest.mark.parametrize("x", [1e-2, 1e-4, 1e-6])
def test_scale_of_a_whitened_direction(x):
    """The derivative of z = S^-1 d by log s, d = s u, through the functions themselves, for diag(1, s^2)."""

    def whitened(**options):
        log_s = torch.tensor(math.log(x) / 2, dtype=torch.float64, requires_grad=True)
        s = log_s.exp()
        A = torch.stack((torch.ones_like(s), s**2)).diag()
        z = s / (paper.sqrtm(A, **options) if options else fastsqrtm.sqrtm(A))[1, 1]
        return z.item(), torch.autograd.grad(z, log_s)[0].item()

    ns_lya = {"method": "ns", "backward": "lyapunov"}
    z, derivative = whitened(**ns_lya)  # the default converges: no derivative is left
    assert z == pytest.approx(1, rel=1e-7)
    assert abs(derivative) < 1e-7
    f, slope = newton_schulz(x)
    for gradient, options in (
        (lyapunov_gain(f), {**ns_lya, "degree": 5, "iterations": 8}),
        (1 / (2 * f), {**ns_lya, "degree": 5}),
        (slope, {"method": "ns", "degree": 5}),  # the exact gradient of the map computed
    ):
        z, derivative = whitened(**options)
        assert z == pytest.approx(math.sqrt(x) / f, rel=1e-3)
        assert derivative == pytest.approx(math.sqrt(x) / f * (1 - 2 * x * gradient / f), rel=2e-3, abs=1e-3)


# 8. Gradients of the eigendecomposition


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_svd_pi_is_the_gradient_of_power_iteration(iterations, inverse):
    """Power iterations with deflation from the exact eigenvectors, differentiated by torch."""
    values = torch.tensor([1.0, 2.0, 3.0, 5.0], dtype=torch.float64)
    V, G = torch.linalg.qr(symmetric(4, 3)).Q, symmetric(4, 1)
    A = ((V * values) @ V.mT).requires_grad_()
    rest, root = A, 0
    for i in reversed(range(4)):
        v = V[:, i]
        for _ in range(iterations):
            v = rest @ v
            v = v / torch.linalg.vector_norm(v)
        eigenvalue = v @ rest @ v
        root = root + eigenvalue ** (-0.5 if inverse else 0.5) * torch.outer(v, v)
        rest = rest - eigenvalue * torch.outer(v, v)
    assert error(root.detach(), testing.exact_sqrtm(A.detach(), -0.5 if inverse else 0.5)) < 1e-13
    (expected,) = torch.autograd.grad(inner_of(root, G), A)
    K = paper.divided_differences(values, inverse, "svd_pi", iterations)
    assert error(V @ (K * (V.mT @ G @ V)) @ V.mT, (expected + expected.mT) / 2) < 1e-13


def inner_of(A, B):
    return (A * B).sum()


def test_factors_of_truncated_series():
    """The ratio of SVD-Taylor and SVD-PI to the exact divided difference, in closed form, and at ties."""
    k = 9
    for q in (0.01, 0.3, 0.9, 0.999):
        values = torch.tensor([2 * q, 2.0], dtype=torch.float64)
        for inverse in (False, True):
            exact, taylor, pi = (
                paper.divided_differences(values, inverse, backward, k)[0, 1].item()
                for backward in ("exact", "svd_taylor", "svd_pi")
            )
            assert taylor / exact == pytest.approx(1 - q ** (k + 1), rel=1e-10)
            factor = 1 - q ** (k - 1) * (q + q**0.5 + 1) if inverse else 1 + q ** (k - 0.5)
            assert pi / exact == pytest.approx(factor, rel=1e-10, abs=1e-10)
    tie = torch.tensor([2.0, 2.0], dtype=torch.float64)
    for inverse, twice in ((False, 2), (True, -2)):
        right = paper.divided_differences(tie, inverse, "exact", k)[0, 1]
        assert paper.divided_differences(tie, inverse, "svd_taylor", k)[0, 1] == 0
        assert torch.allclose(paper.divided_differences(tie, inverse, "svd_pi", k)[0, 1], twice * right)


def test_svd_pade_is_exact_away_from_ties():
    p, q = scipy.interpolate.pade([1.0, 1.0, 1.0], 1)  # of the geometric series: 1/(1 - q)
    assert p(0.3) / q(0.3) == pytest.approx(1 / 0.7)
    values = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    for inverse in (False, True):
        exact, pade = (paper.divided_differences(values, inverse, b, 0) for b in ("exact", "svd_pade"))
        assert torch.allclose(pade, exact, rtol=1e-14)
    eps = torch.finfo(torch.float32).eps
    for gap in (1e-1, 1e-2, 1e-3, 1e-4):
        errors = []
        for value in torch.linspace(1, 1.9, 50):
            values = torch.stack((value * (1 - gap), value))
            exact = paper.divided_differences(values.double(), False, "exact", 0)
            pade = paper.divided_differences(values, False, "svd_pade", 0)
            errors.append(abs(pade / exact - 1)[0, 1].item())
        assert 0.1 * eps / gap < max(errors) < 4 * eps / gap


def test_bartels_stewart():
    """The exact Lyapunov solve at whatever root the forward left, through the function, against scipy."""
    A, G = spd(), symmetric(5, 1)
    leaf = A.clone().requires_grad_()
    S = paper.sqrtm(leaf, method="ns", degree=3, backward="bartels_stewart")
    (gradient,) = torch.autograd.grad(S, leaf, G)
    assert error(gradient, scipy.linalg.solve_continuous_lyapunov(S.detach().numpy(), G.numpy())) < 1e-12


# 9. Zolotarev and Newton


def test_zolotarev_nodes():
    """c_i = l^2 sc^2(i K'/d; l'), with scipy's elliptic functions, whose parameter is 1 - l^2."""
    for low in (1e-1, 1e-3):
        m = 1 - low * low
        quarter = scipy.special.ellipkm1(low * low)
        for degree in (3, 7):
            for i in range(1, degree):
                sn, cn, _, _ = scipy.special.ellipj(i * quarter / degree, m)
                assert scalars.zolotarev_node(degree, i, low) == pytest.approx((low * sn / cn) ** 2, rel=1e-6)


def test_zolotarev_equioscillates():
    """y sqrt(x) touches 1/h and h in turn, 2 poles + 2 times on [lowest, 1]: nothing of this form is better."""
    for poles in (1, 2, 3):
        design = scalars.design(poles, 0, 1e-6)
        x = np.logspace(-6, 0, 200001)
        log = np.log(np.sqrt(x) * (design.constant + sum(w / (x + t) for t, w in design.terms)))
        h = math.log1p(design.error)
        turns = np.flatnonzero(np.diff(np.sign(np.diff(log)))) + 1
        extremes = log[[0, *turns, -1]] / h
        assert len(extremes) == 2 * poles + 2
        assert np.allclose(extremes, [(-1) ** (k + 1) for k in range(2 * poles + 2)], atol=1e-4)


def test_newton_after_zolotarev():
    """A step takes log h to log(cosh(log h))/2, about a quarter of its square."""
    errors = {
        1e-6: [6.4e-2, 9.7e-4, 2.3e-7],
        1e-12: [0.52, 4.3e-2, 4.5e-4, 5.1e-8, 6.5e-16],
    }
    for lowest, published in errors.items():
        designs = [scalars.design(3, steps, lowest) for steps in range(len(published))]
        assert [d.error for d in designs] == pytest.approx(published, rel=0.02)
        for design, following in itertools.pairwise(designs):
            log_h = math.log1p(design.error)
            after = math.log1p(2 * math.sinh(log_h / 2) ** 2) / 2  # log(cosh(log h))/2
            assert math.log1p(following.error) == pytest.approx(after, rel=1e-6, abs=1e-16)
            assert after <= log_h**2 / 4
            for nu in (math.exp(-log_h), 1.0, math.exp(log_h)):
                nu = following.scales[-1] * (nu + 1 / nu) / 2
                assert abs(math.log(nu)) == pytest.approx(after, rel=1e-6, abs=3e-16)
    chosen = [scalars.root_design(0.0, dtype) for dtype in (torch.float32, torch.float64)]
    assert [(len(d.terms), len(d.scales)) for d in chosen] == [(3, 2), (3, 4)]


def test_coupled_newton_steps_keep_the_quotient():
    """X_k = X Y_k in every step, and the steps converge to both roots."""
    A = spd(5)
    A = A / torch.linalg.matrix_norm(A)
    design = scalars.root_design(0.0, torch.float64)
    for steps in range(len(design.scales) + 1):
        X, Y, good = roots.newton_roots(A, design._replace(scales=design.scales[:steps]), False)
        assert good.all()
        assert error(X, A @ Y) < 1e-13
    assert error(X, testing.exact_sqrtm(A)) < 1e-13
    assert error(Y, testing.exact_sqrtm(A, -0.5)) < 1e-12


# The document


def test_document_names_what_exists():
    text = DOCUMENT.read_text()
    tests = re.findall(r"`(test_\w+)`", text)
    assert set(tests) >= {name for name in globals() if name.startswith("test_")}
    elsewhere = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for name in tests:
        assert f"def {name}(" in elsewhere, name
    modules = {module.__name__.split(".")[-1]: module for module in (lyapunov, matrix, paper, roots, scalars, series)}
    for name in re.findall(rf"`(?:{'|'.join(modules)}|testing)\.\w+`", text):
        module, attribute = name.strip("`").split(".")
        assert hasattr(modules.get(module, testing), attribute), name
    assert not re.search(r"`(reference|combinations|functional)\.", text)
    for path, names in re.findall(r"`(csrc/[\w/.]+)`((?: `\w+`)*)", text):
        source = (ROOT / path).read_text()
        for name in re.findall(r"\w+", names):
            assert re.search(rf"\b{name}\b", source), (path, name)
