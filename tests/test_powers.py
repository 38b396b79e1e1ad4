"""Promises of powm, inv_root, logm and expm_sym: accuracy against eigh, gradients, special matrices, invariance.

The oracle is the eigendecomposition in float64 for float32, and in numpy's extended precision for float64.
"""

import math

import numpy as np
import pytest
import torch

import fastsqrtm
from fastsqrtm import testing
from fastsqrtm._reference.scalars import fractions_of_logarithm, fractions_of_power

EXPONENTS = (-2.0, -1.25, -1.0, -0.9, -0.5, -1 / 3, -0.25, -0.125, 0.1, 0.25, 0.5, 0.7, 1.0, 1.5, 2.0)
FLOAT, DOUBLE = torch.float32, torch.float64


def power(exponent):
    return lambda A, **options: fastsqrtm.powm(A, exponent, **options)


def loewner(w, f, derivative, flat):
    """Divided differences of f at eigenvalues w, the derivative where they are closer than `flat`."""
    x, y = w[..., :, None], w[..., None, :]
    close = abs(x - y) <= flat * (x + y)
    where = torch.where if isinstance(w, torch.Tensor) else np.where
    return where(close, derivative((x + y) / 2), (f(x) - f(y)) / where(close, 1, x - y))


def spectral(w, V, G, exponent, flat):
    """f(A) and the gradient of <G, f(A)>, for the power, or for the logarithm where the exponent is None."""
    if exponent is None:
        f, derivative = (torch.log if isinstance(w, torch.Tensor) else np.log), lambda x: 1 / x
    else:
        f, derivative = lambda x: x**exponent, lambda x: exponent * x ** (exponent - 1)
    Vt = V.swapaxes(-2, -1)
    return (V * f(w)[..., None, :]) @ Vt, V @ (loewner(w, f, derivative, flat) * (Vt @ G @ V)) @ Vt


def by_eigh(A, G, exponent):
    """As anybody would do it in the precision of A."""
    w, V = torch.linalg.eigh(A)
    return spectral(w.clamp_min(torch.finfo(A.dtype).eps * w[..., -1:]), V, G, exponent, 1e-3)


def exact(A, G, exponent):
    if A.dtype == FLOAT:
        w, V = torch.linalg.eigh(A.double())
        return spectral(w, V, G.double(), exponent, 1e-7)
    found = []
    for matrix, cotangent in zip(A.numpy(), G.numpy(), strict=True):
        w, V = testing.extended_eigh(matrix)
        kind = None if exponent is None else np.longdouble(exponent)
        found.append(spectral(w, V, cotangent.astype(np.longdouble), kind, 1e-9))
    return tuple(torch.from_numpy(np.stack(x).astype(np.float64)) for x in zip(*found, strict=True))


def problem(n, kappa, dtype, batch=(2,)):
    A = testing.spd(n, kappa, batch, dtype=dtype, seed=n)
    G = torch.randn(*A.shape, dtype=dtype, generator=torch.Generator().manual_seed(n))
    return A, G + G.mT


def value_and_gradient(function, A, G):
    leaf = A.clone().requires_grad_()
    Y = function(leaf)
    Y.backward(G)
    return Y.detach(), leaf.grad


def norm_errors(found, expected):
    return [testing.relative_error(a, b).max().item() for a, b in zip(found, expected, strict=True)]


@pytest.mark.parametrize(("dtype", "n", "kappa"), [
    *((FLOAT, n, kappa) for n in (5, 16, 64) for kappa in (2.0, 1e2, 1e4, 1e6)),
    *((DOUBLE, n, kappa) for n in (5, 12) for kappa in (2.0, 1e4, 1e8, 1e12)),
])  # fmt: skip
def test_as_accurate_as_eigh(dtype, n, kappa):
    """At most twice its error, or a few roundings, which the logarithm has of each root twice or four times; beyond
    exponents of 1/2 the error of the root, which is larger. Its error is a matter of luck, such as the order of the
    rows: that of a square root at condition number 1e12 and n = 5 goes from 1.2e-11 to 7.8e-11. So it has three orders.
    """
    A, G = problem(n, kappa, dtype)
    for exponent in (None, *EXPONENTS):
        function = fastsqrtm.logm if exponent is None else power(exponent)
        expected = exact(A, G, exponent)
        ours = norm_errors(value_and_gradient(function, A, G), expected)
        eigh = [0.0, 0.0]
        for shift in range(3):
            rolled = [tuple(x.roll((shift, shift), (1, 2)) for x in pair) for pair in ((A, G), expected)]
            eigh = list(map(max, eigh, norm_errors(by_eigh(*rolled[0], exponent), rolled[1])))
        eps = torch.finfo(dtype).eps
        few = (8 if exponent is not None else 32 if dtype == DOUBLE else 16) * eps
        root = (0.4 if n <= 8 else 0.2) * math.sqrt(kappa) * eps if exponent is not None and exponent > 0.5 else 0
        assert ours[0] <= max(2 * eigh[0], few, root), (exponent, ours, eigh)
        # The gradient of a polynomial is known better than that of a root, from which it is not made.
        assert ours[1] <= max(2 * eigh[1], 16 * eps, 4 * math.sqrt(kappa) * root), (exponent, ours, eigh)


@pytest.mark.parametrize("lowest", [0.5, 2.0**-12, 5e-7])
def test_rational_functions_have_the_rate_of_the_best_approximation(lowest):
    """For every exponent: 16 exp(-2 pi^2 poles / log(16 / lowest)), to rounding; positive weights."""
    x = torch.logspace(math.log10(lowest), 0, 501, dtype=DOUBLE)
    for poles in (1, 3, 8, 20, 32):
        bound = 16 * math.exp(-2 * math.pi**2 * poles / math.log(16 / lowest)) + 4e-14
        for exponent in (-0.999, -0.9, -0.5, -1 / 3, -0.1, -1e-9, 1e-9, 0.25, 0.6, 0.999999):
            series = fractions_of_power(exponent, lowest, poles)
            assert ((series(x) * x**-exponent - 1).abs() <= bound).all(), (exponent, poles)
            assert all(weight > 0 and scale > 0 for scale, weight in series.terms)
        if poles > 1:
            y = torch.cat([x, 1 + x])
            bound = 16 * math.exp(-2 * math.pi**2 * poles / math.log(32 / lowest)) + 4e-14
            error = fractions_of_logarithm(lowest, poles)(y) * (y - 1) - y.log()
            assert (error.abs() <= bound).all(), poles


def test_the_ends_of_the_exponents_are_powers_too():
    x = torch.logspace(-3, 0, 101, dtype=DOUBLE)
    for exponent in (-1.0, 0.0, 1.0):
        assert torch.allclose(fractions_of_power(exponent, 1e-3, 12)(x), x**exponent, rtol=1e-12)


@pytest.mark.parametrize("exponent", [None, -1.5, -0.3, -0.25, 0.7, 1.25])
def test_derivatives_of_any_order(exponent):
    function = fastsqrtm.logm if exponent is None else power(exponent)
    A = testing.spd(3, 30.0, (2,), dtype=DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(function, A, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, A[:1].detach().requires_grad_(), check_fwd_over_rev=True)


def test_third_derivatives():
    """Along one direction, against differences of the second ones."""
    A, D = problem(3, 10.0, DOUBLE, ())

    def second(A):
        return torch.func.hessian(lambda h: fastsqrtm.powm(A + h * D, -0.3).square().sum())(
            torch.zeros((), dtype=DOUBLE)
        )

    third = torch.func.grad(lambda h: second(A + h * D))(torch.zeros((), dtype=DOUBLE))
    difference = (second(A + 1e-4 * D) - second(A - 1e-4 * D)) / 2e-4
    assert torch.allclose(third, difference, rtol=1e-4)


def test_derivatives_of_the_exponential():
    A = torch.randn(2, 4, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(fastsqrtm.expm_sym, A, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(fastsqrtm.expm_sym, A[:1].detach().requires_grad_())


def test_gradient_of_the_pseudo_inverse_root():
    """Along changes that keep the rank, as that of inv_sqrtm."""
    X = torch.randn(2, 5, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda X: fastsqrtm.inv_root(X @ X.mT, 3, null="zero"), X)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_powers_multiply(exponent):
    A = testing.spd(9, 50.0, (3,), dtype=DOUBLE)
    identity = torch.eye(9, dtype=DOUBLE).expand(3, 9, 9)
    assert torch.allclose(fastsqrtm.powm(A, exponent) @ fastsqrtm.powm(A, -exponent), identity, atol=1e-12)
    assert torch.allclose(fastsqrtm.expm_sym(exponent * fastsqrtm.logm(A)), fastsqrtm.powm(A, exponent), rtol=1e-10)


def test_inv_root_is_a_power():
    A = testing.spd(9, 50.0, (3,), dtype=DOUBLE)
    for p in (1, 2, 3, 4, 5, 6, 7, 8, 2.5):
        assert torch.equal(fastsqrtm.inv_root(A, p), fastsqrtm.powm(A, -1 / p))
    assert torch.equal(fastsqrtm.inv_root(A, 2), fastsqrtm.inv_sqrtm(A, rtol=0.0))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("exponent", [-0.25, -1 / 3, 0.7])
def test_scale(scale, exponent):
    A = testing.spd(7, 1e3, (2,), dtype=DOUBLE)
    expected = scale**exponent * fastsqrtm.powm(A, exponent)
    assert torch.allclose(fastsqrtm.powm(scale * A, exponent), expected, rtol=1e-9)
    shift = math.log(scale) * torch.eye(7, dtype=DOUBLE)
    assert torch.allclose(fastsqrtm.logm(scale * A), fastsqrtm.logm(A) + shift, atol=1e-10)


def test_the_logarithm_keeps_its_digits_near_the_identity():
    E = 1e-9 * testing.spd(8, 10.0, (2,), dtype=DOUBLE)
    A = torch.eye(8, dtype=DOUBLE) + E
    assert torch.allclose(fastsqrtm.logm(A), A - torch.eye(8, dtype=DOUBLE) - E @ E / 2, atol=3e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "function", [power(-0.25), power(-1 / 3), power(0.7), fastsqrtm.logm], ids=["-1/4", "-1/3", "0.7", "log"]
)
def test_half_types_are_rounded_once(dtype, function):
    A = testing.spd(8, 10.0, (2,), dtype=DOUBLE).to(dtype)
    assert torch.equal(function(A), function(A.float()).to(dtype))


def test_rtol():
    """It trades accuracy for time: fewer inverses, and an error below it."""
    for dtype, kappa in ((FLOAT, 1e3), (DOUBLE, 1e6)):
        A, G = problem(12, kappa, dtype)
        for exponent in (None, -1 / 3, -0.25, 0.3):
            function = fastsqrtm.logm if exponent is None else power(exponent)
            expected = exact(A, G, exponent)[0]
            for rtol in (1e-1, 1e-2, 1e-3):
                size = 1.0 if exponent is not None else expected.norm(dim=(-2, -1)).max().item()
                assert testing.relative_error(function(A, rtol=rtol), expected).max() <= rtol * max(1.0, 1 / size)


def infinite(n):
    return torch.full((n,), math.inf).diag_embed()


def test_the_zero_matrix():
    Z = torch.zeros(2, 5, 5)
    Z[1] = testing.spd(5)
    for exponent in EXPONENTS:
        for null in ("ridge", "zero"):
            Y = fastsqrtm.powm(Z, exponent, null=null)
            at_zero = infinite(5) if exponent < 0 and null == "ridge" else torch.zeros(5, 5)
            assert torch.equal(Y[0], at_zero), exponent
            assert torch.allclose(Y[1], fastsqrtm.powm(Z[1], exponent), rtol=1e-4, atol=1e-4), (exponent, null)
            leaf = Z.clone().requires_grad_()
            fastsqrtm.powm(leaf, exponent, null=null)[1].sum().backward()
            assert leaf.grad[0].abs().max() == 0 and leaf.grad.isfinite().all()
    assert torch.equal(fastsqrtm.powm(Z, 0)[0], torch.eye(5))
    assert torch.equal(fastsqrtm.logm(Z)[0], -infinite(5).nan_to_num(posinf=math.inf))
    leaf = Z.clone().requires_grad_()
    fastsqrtm.logm(leaf)[1].sum().backward()
    assert leaf.grad[0].abs().max() == 0 and leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE])
def test_singular_matrices(dtype):
    """An eigenvalue zero counts as eps, or maps to zero; positive powers are those of the semidefinite part."""
    A = testing.spd(8, 10.0, (2,), "rank_deficient", dtype)
    w, V = torch.linalg.eigh(A.double())
    null, eps = w < 1e-6 * w[..., -1:], torch.finfo(dtype).eps
    for exponent in (-0.25, -1 / 3, -0.9):
        zero = fastsqrtm.powm(A, exponent, null="zero").double()
        on_range = torch.where(null, 1, w) ** exponent * ~null
        assert testing.relative_error(zero, (V * on_range[..., None, :]) @ V.mT).max() <= 1e3 * eps
        ridge = fastsqrtm.powm(A, exponent)
        assert ridge.isfinite().all()
        assert torch.linalg.eigvalsh(ridge.double()).amax() <= 1.1 * (eps * w.amax()) ** exponent
    for exponent in (0.25, 0.7, 1.5):
        root = fastsqrtm.powm(A, exponent).double()
        exact_power = (V * (torch.where(null, 0, w) ** exponent)[..., None, :]) @ V.mT
        assert testing.relative_error(root, exact_power).max() <= 20 * (16 * eps) ** min(exponent, 0.5), exponent
    logarithm = fastsqrtm.logm(A)
    assert logarithm.isfinite().all()
    assert abs(torch.linalg.eigvalsh(logarithm.double()).amin() - math.log(eps)) < 2
    for function in (power(-0.25), power(-1 / 3), power(0.7), fastsqrtm.logm):
        assert value_and_gradient(function, A, torch.ones_like(A))[1].isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("function", [
    power(-2), power(-0.25), power(-1 / 3), power(0.3), power(1.7), fastsqrtm.logm, fastsqrtm.expm_sym,
], ids=range(7))  # fmt: skip
def test_a_bad_matrix_harms_itself_alone(function, bad):
    A = testing.spd(6, 10.0, (3,))
    expected = function(A)
    A[1] = -A[1] if bad == -1 else A[1].index_fill(0, torch.tensor([2]), bad)
    found = function(A)
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert found[1].isnan().all() or (bad == -1 and function is fastsqrtm.expm_sym)


@pytest.mark.parametrize("exponent", [None, -0.25, -0.125, -1 / 3, 0.3])
def test_a_matrix_has_one_answer_in_every_batch(exponent, native_only):
    """Bit for bit where no torch product is taken."""
    function = fastsqrtm.logm if exponent is None else power(exponent)
    A, G = problem(20, 1e3, FLOAT, (5,))
    whole, one = (value_and_gradient(function, A[x], G[x]) for x in (slice(None), slice(2, 3)))
    for many, alone in zip(whole, one, strict=True):
        same = torch.equal(many[2:3], alone)
        assert same or (exponent is None and torch.allclose(many[2:3], alone, rtol=1e-3, atol=1e-5))


def test_shapes_and_views():
    for function in (power(-0.3), power(1.5), power(-1), power(0), fastsqrtm.logm, fastsqrtm.expm_sym):
        for shape in ((0, 0), (0, 3, 3), (2, 0, 0), (1, 1), (2, 3, 4, 4)):
            assert function(torch.ones(shape) + torch.eye(shape[-1])).shape == shape
        A = testing.spd(5, 10.0, (3,), dtype=DOUBLE)
        assert torch.allclose(function(A.mT.expand(2, 3, 5, 5)[:, ::2]), function(A[::2].contiguous()))


def test_transforms():
    A = testing.spd(5, 10.0, (3,), dtype=DOUBLE)
    for function in (power(-1 / 3), power(-0.25), fastsqrtm.logm):
        assert torch.allclose(torch.func.vmap(function)(A), function(A), rtol=1e-12)
        gradient = torch.func.vmap(torch.func.grad(lambda x, function=function: function(x).square().sum()))(A)
        assert torch.allclose(gradient, value_and_gradient(function, A, 2 * function(A))[1], rtol=1e-9)


@pytest.mark.slow
def test_compile():
    A = testing.spd(5, 10.0, (3,), dtype=DOUBLE)
    for function in (power(-1 / 3), fastsqrtm.logm):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(A), function(A), rtol=1e-12)
        G = torch.ones_like(A)
        assert torch.allclose(value_and_gradient(compiled, A, G)[1], value_and_gradient(function, A, G)[1])


def test_autocast():
    A = testing.spd(5, 10.0, (3,))
    with torch.autocast("cpu", torch.bfloat16):
        for function in (power(-1 / 3), power(1.5), fastsqrtm.logm, fastsqrtm.expm_sym):
            half = function(A.bfloat16())
            assert half.dtype == FLOAT
            assert torch.allclose(half, function(A.bfloat16().float()))


def test_ridges():
    A = testing.spd(5, 10.0, (3,), dtype=DOUBLE)
    shifted = A + 0.5 * torch.eye(5, dtype=DOUBLE)
    assert torch.allclose(fastsqrtm.powm(A, -1 / 3, eps=0.5), fastsqrtm.powm(shifted, -1 / 3))
    assert torch.allclose(fastsqrtm.logm(A, eps=0.5), fastsqrtm.logm(shifted))


def test_wrong_arguments():
    A = torch.eye(3)
    for call, text in (
        (lambda: fastsqrtm.powm(A, 2.5), r"powm: exponent must be from -2 to 2, got 2.5"),
        (lambda: fastsqrtm.powm(A, math.nan), r"powm: exponent must be from -2 to 2, got nan"),
        (lambda: fastsqrtm.powm(A, "1"), r"powm: exponent must be a number"),
        (lambda: fastsqrtm.inv_root(A, 0.25), r"inv_root: p must be finite and at least 1/2, got 0.25"),
        (lambda: fastsqrtm.inv_root(A, 4, null="drop"), r"inv_root: null must be"),
        (lambda: fastsqrtm.powm(A, -1, null_rtol=0.1), r'powm: null_rtol needs null="zero"'),
        (lambda: fastsqrtm.logm(A, rtol=2.0), r"logm: rtol must be from 0 to 1, got 2"),
        (lambda: fastsqrtm.logm(torch.ones(2, 3)), r"logm: A must be"),
        (lambda: fastsqrtm.expm_sym(torch.ones(2, 3)), r"expm_sym: A must be"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call()
