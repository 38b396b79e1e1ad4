"""The four roots compute the paper's approximants: at any size, batch, degree and scale."""

import math

import pytest
import torch

from fastsqrtm import testing
from fastsqrtm._ops.native import native
from fastsqrtm._reference import scalars

ROOTS = ["mpa_lya", "mtp_lya"]
INVERSE_ROOTS = ["mpa_lya_inv", "mtp_lya_inv"]
SIZES = [1, 2, 3, 5, 8, 13, 16, 17, 31, 33, 48, 64, 65, 100]


def paper(name, A, degree):
    literal = testing.paper_mpa if name.startswith("mpa") else testing.paper_mtp
    return literal(A, degree, inverse=name.endswith("inv"))


def scalar(name, x, degree):
    """The approximant at an eigenvalue x of A/||A||_F, from formulas that neither the ops nor the paper's form use."""
    if name.startswith("mpa"):
        q = ((1 - x.sqrt()) / (1 + x.sqrt())) ** (2 * degree + 1)
        y = x.sqrt() * (1 + q) / (1 - q)
        return 1 / y if name.endswith("inv") else y
    power = -0.5 if name.endswith("inv") else 0.5
    binomial = [math.prod((power - i) / (i + 1) for i in range(k)) for k in range(degree + 1)]
    return sum(c * (x - 1) ** k for k, c in enumerate(binomial))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", ROOTS + INVERSE_ROOTS)
def test_is_the_papers_formula(path, name, n):
    degree = 5 if name.startswith("mpa") else 10
    A = testing.spd(n, kappa=100, batch=(2, 2), dtype=torch.float64, seed=n)
    expected = paper(name, A, degree)
    assert testing.relative_error(path(name)(A), expected).max() < 1e-11
    assert testing.relative_error(path(name)(A.float()), expected).max() < 2e-5


@pytest.mark.parametrize("name", ROOTS + INVERSE_ROOTS)
def test_every_degree(path, name):
    A = testing.spd(6, kappa=50, batch=(2,), dtype=torch.float64)
    values, V = torch.linalg.eigh(A)
    nu = torch.linalg.matrix_norm(A)[:, None]
    scale = 1 / nu.sqrt() if name.endswith("inv") else nu.sqrt()
    for degree in range(1, 33 if name.startswith("mpa") else 129):
        expected = V * (scale * scalar(name, values / nu, degree))[:, None, :] @ V.mT
        assert testing.relative_error(path(name)(A, degree), expected).max() < 1e-12, degree


@pytest.mark.parametrize("name", ROOTS + INVERSE_ROOTS)
def test_default_degree(path, name):
    A = testing.spd(5)
    assert torch.equal(path(name)(A), path(name)(A, 5 if name.startswith("mpa") else 10))


@pytest.mark.parametrize("spectrum", testing.SPECTRA)
@pytest.mark.parametrize("name", ROOTS + INVERSE_ROOTS)
def test_spectra(path, name, spectrum):
    A = testing.spd(20, 1e4, (3,), spectrum, torch.float64)
    expected = paper(name, A, 5)
    assert testing.relative_error(path(name)(A, 5), expected).max() < 1e-11


@pytest.mark.parametrize("name", ["mpa_lya", "mpa_lya_inv"])
def test_converges_to_the_exact_root(path, name):
    A = testing.spd(12, kappa=2, batch=(3,), dtype=torch.float64)
    expected = testing.exact_sqrtm(A, -0.5 if name.endswith("inv") else 0.5)
    assert testing.relative_error(path(name)(A, 32), expected).max() < 1e-12


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("name", ROOTS + INVERSE_ROOTS)
def test_any_scale(path, name, scale):
    A = testing.spd(24, batch=(2,))
    expected = path(name)(A.double()) * math.sqrt(scale) ** (-1 if name.endswith("inv") else 1)
    assert testing.relative_error(path(name)(A * scale), expected).max() < 1e-5


@pytest.mark.parametrize("n", [3, 17, 64, 150])
@pytest.mark.parametrize("name", ROOTS + INVERSE_ROOTS)
def test_result_is_symmetric_and_of_the_symmetric_part(path, name, n):
    A = testing.spd(n, batch=(2,), dtype=torch.float64)
    skew = torch.triu(torch.ones_like(A), 1)
    S = path(name)(A)
    assert torch.equal(S, S.mT)
    assert testing.relative_error(path(name)(A + skew - skew.mT), S).max() < 1e-12


@pytest.mark.usefixtures("native_only")
def test_coefficients_are_those_of_the_reference():
    for degree in range(1, 33):
        for ours, theirs in zip(native.C.pade_terms(degree), scalars.pade_terms(degree), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-13)
    for power in (0.5, -0.5):
        assert native.C.taylor_coefficients(128, power) == pytest.approx(
            scalars.taylor_coefficients(128, power), rel=1e-13
        )
