"""The numbers of the methods, in Python floats: Pade, Taylor, Zolotarev and partial fractions. Their C++ twins are in
csrc/scalars and in csrc/include/fastsqrtm/detail/partial_fractions.h.
"""

import functools
import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor


def pade_terms(degree: int) -> list[tuple[float, float]]:
    """Shift t_j and weight w_j of the [degree, degree] Pade approximant of sqrt(x) about 1 in partial fractions.

    Twin of pade_term in csrc/scalars/coefficients.h, which has the formulas.
    """
    shifts = [math.tan(math.pi * j / (2 * degree + 1)) ** 2 for j in range(1, degree + 1)]
    return [(t, 2 * (1 + t) / (2 * degree + 1)) for t in shifts]


def taylor_coefficients(degree: int, power: float) -> list[float]:
    """Coefficients 0..degree of (1 - z)^power. Twin of taylor_next in csrc/scalars/coefficients.h."""
    c = [1.0]
    for k in range(1, degree + 1):
        c.append(c[-1] * (k - 1 - power) / k)
    return c


class RootDesign(NamedTuple):
    """Scalars of the accurate roots. csrc/scalars/zolotarev.h has the formulas and their sources."""

    constant: float
    terms: tuple[tuple[float, float], ...]  # shift, weight
    scales: tuple[float, ...]  # of the Newton steps
    error: float

    def error_at(self, eigenvalue: float) -> float:
        """The relative error of the root at an eigenvalue."""
        nu = math.sqrt(eigenvalue) * (self.constant + sum(w / (eigenvalue + t) for t, w in self.terms))
        for scale in self.scales:
            nu = scale * (nu + 1 / nu) / 2
        return abs(nu - 1)

    def largest_inverse(self, smallest: Tensor | float) -> Tensor | float:
        return 1 / (smallest * (self.constant + sum(w / (smallest + t) for t, w in self.terms)))


def zolotarev_node(degree: int, i: int, low: float) -> float:
    if 2 * i > degree:
        return low * low / zolotarev_node(degree, degree - i, low)
    a, b, c = [1.0], low, [math.sqrt(1 - low * low)]
    while c[-1] > 1e-17 * a[-1] and len(a) < 16:
        c.append((a[-1] - b) / 2)
        a, b = [*a, (a[-1] + b) / 2], math.sqrt(a[-1] * b)
    phase = math.ldexp(math.pi * i / (2 * degree), len(a) - 1)
    for k in range(len(a) - 1, 0, -1):
        phase = (phase + math.asin(c[k] / a[k] * math.sin(phase))) / 2
    return (low * math.tan(phase)) ** 2


@functools.cache
def design(poles: int, steps: int, lowest: float) -> RootDesign:
    low, degree = math.sqrt(lowest), 2 * poles + 1
    nodes = [zolotarev_node(degree, i, low) for i in range(1, degree)]
    shifts, zeros = nodes[::2], nodes[1::2]
    weights = [
        math.prod(z - t for z in zeros) / math.prod(s - t for s in shifts if s != t) for t in shifts
    ]  # of the partial fractions

    def value(nu: float) -> float:
        return nu * math.prod((nu * nu + z) / (nu * nu + t) for z, t in zip(zeros, shifts, strict=True))

    scale = 1 / math.sqrt(value(low) * value(1))
    log_h, scales = math.log(value(1) / value(low)) / 2, []
    for _ in range(steps):
        log_h = math.log1p(2 * math.sinh(log_h / 2) ** 2) / 2
        scales.append(math.exp(-log_h))
    terms = tuple((t, scale * w) for t, w in zip(shifts, weights, strict=True))
    return RootDesign(scale, terms, tuple(scales), math.expm1(log_h))


LOWEST_EIGENVALUE = {torch.float32: 1e-6, torch.float64: 1e-12}
SINGULAR_EIGENVALUE = {dtype: lowest / 2 for dtype, lowest in LOWEST_EIGENVALUE.items()}
LARGEST_SPECTRAL_ORDER = 4
MOST_NEGATIVE_EIGENVALUE = -1 / 64
FINEST_TOLERANCE = {torch.float32: 5e-7, torch.float64: 2e-15}


@functools.cache
def root_design(rtol: float, dtype: torch.dtype) -> RootDesign:
    """The design with the fewest inverses whose error is at most rtol, for float32 or float64."""

    def cost(design: RootDesign) -> tuple[int, float]:
        return len(design.terms) + max(0, 2 * len(design.scales) - 1), design.error

    designs = (design(p, k, LOWEST_EIGENVALUE[dtype]) for p, k in itertools.product(range(1, 9), range(6)))
    return min((d for d in designs if d.error <= max(rtol, FINEST_TOLERANCE[dtype])), key=cost)


@functools.cache
def smallest_regular(design: RootDesign, dtype: torch.dtype) -> float:
    """The smallest eigenvalue that neither counts as singular nor needs more steps, as in zolotarev.h."""
    allowed = max(design.error, torch.finfo(dtype).eps / (20 * SINGULAR_EIGENVALUE[dtype]))
    below, above = -60.0, math.log(LOWEST_EIGENVALUE[dtype])
    for _ in range(30):
        middle = (below + above) / 2
        if design.error_at(math.exp(middle)) <= allowed:
            above = middle
        else:
            below = middle
    return max(SINGULAR_EIGENVALUE[dtype], math.exp(above))


@functools.cache
def minimax_quintics(steps: int, smallest: float, margin: float) -> list[tuple[float, float, float]]:
    """(a, b, c) of each step x <- a x + b x^3 + c x^5 whose composition is nearest to 1 on [smallest, 1].

    Each is the minimax polynomial of the interval that the one before leaves, whose upper end rounding may exceed by a
    factor of `margin`: Amsel, Persson, Musco and Gower, Polar Express, 2025, prove that no composition does better. Its
    error has one size and alternating signs at both ends of the interval and at the two extrema between (Remez).
    """
    low, high, found = smallest, 1.0, []
    for _ in range(steps):
        high *= margin
        if high - low < 0.05:  # there the limit, whose first two derivatives at 1 are zero
            a, b, c = 15 / 8, -10 / 8, 3 / 8
            error = max(abs(1 - (a * x + b * x**3 + c * x**5)) for x in (low, high))
        else:
            inner = [low + (high - low) / 4, low + (high - low) * 3 / 4]
            for _ in range(30):
                points = (low, *inner, high)
                a, b, c, error = _solved([[x, x**3, x**5, (-1.0) ** i, 1.0] for i, x in enumerate(points)])
                root = math.sqrt(9 * b * b - 20 * a * c)
                inner = [math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))]
            error = abs(error)
        found.append((a, b, c))
        low, high = 1 - error, 1 + error
    return found


def _solved(rows: list[list[float]]) -> list[float]:
    """The solution of a small linear system, right side in the last column, by elimination with pivots."""
    for k in range(len(rows)):
        rows[k:] = sorted(rows[k:], key=lambda row: -abs(row[k]))
        for row in rows[:k] + rows[k + 1 :]:
            factor = row[k] / rows[k][k]
            row[k:] = [x - factor * y for x, y in zip(row[k:], rows[k][k:], strict=True)]
    return [row[-1] / row[k] for k, row in enumerate(rows)]


class PartialFractions(NamedTuple):
    """constant + sum_j weight_j q_j(x) with q_j = h / (1 + h) where `quotient`, else 1 / (1 + h), h = scale_j x."""

    constant: float
    quotient: bool
    terms: tuple[tuple[float, float], ...]  # scale, weight

    def slopes(self) -> list[float]:
        """Of the derivative sum_j slope_j / (1 + h)^2."""
        return [(1 if self.quotient else -1) * scale * weight for scale, weight in self.terms]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The value at numbers."""
        value = torch.full_like(x, self.constant)
        for scale, weight in self.terms:
            value = value + weight * (scale * x if self.quotient else 1) / (1 + scale * x)
        return value


def gauss_jacobi(count: int, a: float, b: float, wanted: int) -> list[tuple[float, float]]:
    """The `wanted` nodes that are nearest to 1, as z = 1 - y, of Gauss' rule for (1 - y)^(a - 1) (1 + y)^(b - 1) on
    [-1, 1], a, b > 0, and their weights. Newton's iteration on the Jacobi polynomials q_k with q_k = 1 at z = 0, by the
    recurrence of their differences, which has the digits of small z.
    """
    s = a + b - 2
    mass = 2 ** (s + 1) * math.gamma(a) * math.gamma(b) / math.gamma(a + b)
    # q_k+1 - q_k = steps_k z q_k + keeps_k (q_k - q_k-1), and the squares of the orthonormal polynomials at z = 0. For
    # k = 0 the general formulas are 0/0 where a + b = 1.
    steps, keeps, sizes = [-(s + 2) / (2 * a)], [0.0], [1 / mass, a * (s + 3) / b / mass]
    for k in range(1, count):
        steps.append(-(2 * k + s + 1) * (2 * k + s + 2) / (2 * (k + s + 1) * (k + a)))
        keeps.append(k * (k - 1 + b) * (2 * k + s + 2) / ((k + s + 1) * (2 * k + s) * (k + a)))
        sizes.append(sizes[-1] * (k + a) * (k + s + 1) * (2 * k + s + 3) / ((k + 1) * (k + b) * (2 * k + s + 1)))

    def at(z: float) -> tuple[float, float, float]:
        """The polynomial of degree `count`, its derivative, and the sum of the squares of those below."""
        q, slope, change, change_slope, squares = 1.0, 0.0, 0.0, 0.0, 0.0
        for k in range(count):
            squares += sizes[k] * q * q
            change_slope = steps[k] * (q + z * slope) + keeps[k] * change_slope
            change = steps[k] * z * q + keeps[k] * change
            q, slope = q + change, slope + change_slope
        return q, slope, squares

    nodes: list[tuple[float, float]] = []
    for j in range(wanted):
        z = 2 * math.sin(math.pi * (4 * j + 1 + 2 * a) / (8 * count + 4 * (a + b - 1))) ** 2
        for _ in range(30):
            p, slope, _ = at(z)
            change = p / (slope - p * sum(1 / (z - other) for other, _ in nodes))
            z -= change
            if abs(change) <= 1e-16 * z:
                break
        z = max(z, 1e-30)  # zero would be a pole at zero
        nodes.append((z, 1 / at(z)[2]))
    return nodes


def _poles(lowest: float, a: float, b: float, count: int) -> list[tuple[float, float, float]]:
    """Pole t, weight and tan(theta / 2), y = cos(theta), of Gauss' rule in Zolotarev's variable. The weight has the
    factor 2 K' / pi.
    """
    low = math.sqrt(lowest)
    means, halves, geometric = [1.0], [math.sqrt(1 - lowest)], low
    while halves[-1] > 1e-17 * means[-1] and len(means) < 16:
        halves.append((means[-1] - geometric) / 2)
        means, geometric = [*means, (means[-1] + geometric) / 2], math.sqrt(means[-1] * geometric)
    found = []
    for beyond in (False, True):  # the middle, where sc(K' - u) = 1 / (l sc(u))
        wanted = count // 2 if beyond else count - count // 2
        for z, weight in gauss_jacobi(count, *((b, a) if beyond else (a, b)), wanted):
            tangent = math.sqrt(z / (2 - z))
            phase = math.ldexp(math.atan(tangent), len(means) - 1)
            for k in range(len(means) - 1, 0, -1):
                phase = (phase + math.asin(halves[k] / means[k] * math.sin(phase))) / 2
            t = (low * math.tan(phase)) ** 2
            weight /= means[-1]
            found.append((lowest / t, weight, 1 / tangent) if beyond else (t, weight, tangent))
    return found


@functools.cache
def fractions_of_power(exponent: float, lowest: float, count: int) -> PartialFractions:
    """x^exponent on [lowest, 1], -1 <= exponent <= 1: csrc/include/fastsqrtm/detail/partial_fractions.h."""
    quotient = exponent > 0
    a = min(max(1 - exponent if quotient else -exponent, 1e-14), 1 - 1e-14)
    terms = []
    for t, weight, tangent in _poles(lowest, 1 - a, a, count):
        ratio = (math.sqrt(t) / tangent) ** (1 - 2 * a)
        weight *= math.sin(math.pi * min(a, 1 - a)) / math.pi * ratio * math.sqrt((lowest + t) * (1 + t))
        terms.append((1 / t, weight if quotient else weight / t))
    return PartialFractions(0.0, quotient, tuple(terms))


@functools.cache
def fractions_of_logarithm(lowest: float, count: int) -> PartialFractions:
    """log(x) / (x - 1) on [lowest, 2]."""
    terms = []
    for half, weight, tangent in _poles(lowest / 2, 1.0, 1.0, count):
        t = 2 * half
        weight *= math.sqrt(half * (lowest / 2 + half) * (1 + half)) / (1 + t) * (tangent + 1 / tangent)
        terms.append((1 / t, weight / t))
    return PartialFractions(0.0, False, tuple(terms))
