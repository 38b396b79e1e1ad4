"""sqrtm, inv_sqrtm, sqrtm_and_inv are right at any conditioning, to a tolerance, with the gradient of their own map."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.gradcheck import GradcheckError

import fastsqrtm
from fastsqrtm import paper, testing
from fastsqrtm._ops.native import native
from fastsqrtm._ops.route import call
from fastsqrtm._reference import scalars

FUNCTIONS = {0.5: fastsqrtm.sqrtm, -0.5: fastsqrtm.inv_sqrtm}
PAPER = {0.5: paper.sqrtm, -0.5: paper.inv_sqrtm}
ROUNDINGS = 16  # precisions of error that any result may have: the eigendecomposition of the identity is exact
LARGEST_KAPPA = {torch.float32: 1e6, torch.float64: 1e12}
# The root of a singular matrix is known to the root of its rounding.
ROOT_FLOOR = {dtype: 2 * torch.finfo(dtype).eps ** 0.5 for dtype in LARGEST_KAPPA}


def gradient(function, A, G):
    leaf = A.detach().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, G)[0]


def cotangent(A):
    G = torch.randn(A.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return (G + G.mT).to(A.dtype)


def truth(A, G, power):
    """Root and gradient in a precision above that of A."""
    if A.dtype == torch.float32:
        return testing.exact_sqrtm(A, power), testing.exact_gradient(A, G, power)
    return testing.extended_root_and_gradient(A, G, power)


def sensitivities(A, G, power):
    """The effect on each root and gradient, in precisions, of a random change of A by one precision; at least 1.

    Measured by differences of first order, for a change of a thousandth of the smallest eigenvalue, and in float64 for
    float64 too: two digits are enough. The largest of four changes, as one or two may miss the sensitive direction.
    """
    A, G = A.double(), G.double()
    functions = (testing.exact_sqrtm, lambda A, power: testing.exact_gradient(A, G, power))
    generator = torch.Generator().manual_seed(10)
    h = 1e-3 * torch.linalg.eigvalsh(A).amin(-1)
    units = []
    for function in functions:
        found = []
        for _ in range(4):
            E = torch.randn(A.shape, generator=generator, dtype=torch.float64)
            E = E + E.mT
            E = E / torch.linalg.matrix_norm(E, keepdim=True)
            change = testing.relative_error(function(A + h[:, None, None] * E, power), function(A, power))
            found.append(change / h * torch.linalg.matrix_norm(A))
        units.append(torch.stack(found).amax(0).clamp_min(1))
    return units


def check_against_eigh(A, power):
    """At most 4 times the error of the eigendecomposition in the same dtype, in the mean over the batch.

    An ill-conditioned root is wrong in one direction, by a number of either sign: where the error of the
    eigendecomposition happens to be near zero, ours is many times as large. The batch must be large enough that this
    does not happen to all of it. The unit of each error is the effect of rounding the matrix: otherwise the worst
    conditioned matrix alone would decide the mean.
    """
    G = cotangent(A)
    exact, units = truth(A, G, power), sensitivities(A, G, power)

    def errors(function):
        results = function(A), gradient(function, A, G)
        return [(testing.relative_error(r, e) / u).mean() for r, e, u in zip(results, exact, units, strict=True)]

    ours = errors(FUNCTIONS[power])
    theirs = errors(lambda A: PAPER[power](A, method="eigh"))
    for what, our, their, unit in zip(("root", "gradient"), ours, theirs, units, strict=True):
        slack = ROUNDINGS * torch.finfo(A.dtype).eps * (1 / unit).mean()
        assert our <= 4 * their + slack, (what, our, their)


@pytest.mark.parametrize("power", FUNCTIONS)
@pytest.mark.parametrize("spectrum", ["log", "clustered", "one_small", "two_level", "repeated", "identity", "wishart"])
@pytest.mark.parametrize("n", [1, 3, 8, 17, 33, 64, pytest.param(100, marks=pytest.mark.slow)])
def test_float32_is_as_accurate_as_the_eigendecomposition(n, spectrum, power):
    for kappa in (1e0, 1e2, 1e4, 1e6):
        check_against_eigh(testing.spd(n, kappa, (64 if n < 10 else 16,), spectrum, seed=n), power)


@pytest.mark.parametrize("power", FUNCTIONS)
@pytest.mark.parametrize("spectrum", ["log", "clustered", "one_small", "two_level"])
@pytest.mark.parametrize(
    ("n", "batch"),
    [(1, 4), (3, 64), (9, 24), pytest.param(33, 8, marks=pytest.mark.slow)],  # there the exact root takes long
)
def test_float64_is_as_accurate_as_the_eigendecomposition(n, batch, spectrum, power):
    for kappa in (1e0, 1e3, 1e6, 1e9, 1e12):
        check_against_eigh(testing.spd(n, kappa, (batch,), spectrum, torch.float64, seed=n), power)


@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
@pytest.mark.parametrize("power", FUNCTIONS)
def test_two_by_two(power, dtype):
    """LAPACK has a closed form for n = 2, exact to the last bits. Ours is as good as the conditioning allows."""
    for kappa in (1e0, 1e2, 1e4, 1e6, LARGEST_KAPPA[dtype]):
        A = testing.spd(2, kappa, (8,), dtype=dtype)
        G = cotangent(A)
        root, gradients = truth(A, G, power)
        bound = 2 * torch.finfo(dtype).eps * (kappa**0.5 if power > 0 else kappa)
        slack = ROUNDINGS * torch.finfo(dtype).eps
        assert testing.relative_error(FUNCTIONS[power](A), root).mean() < bound + slack
        assert testing.relative_error(gradient(FUNCTIONS[power], A, G), gradients).mean() < bound * kappa**0.5 + slack


@pytest.mark.slow
@pytest.mark.parametrize("power", FUNCTIONS)
@pytest.mark.parametrize("n", [257, 512, 1024])
def test_large_matrices(n, power):
    for kappa in (1e2, 1e6):
        check_against_eigh(testing.spd(n, kappa, (1,), seed=n), power)


@pytest.mark.parametrize("power", FUNCTIONS)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_scales(scale, power):
    A = testing.spd(20, 1e3, (3,))
    exact = testing.exact_sqrtm(A, power) * scale**power
    assert testing.relative_error(FUNCTIONS[power](A * scale), exact).max() < 1e-4
    if power > 0 or scale > 1e-20:  # the gradient of the inverse root grows with the power -3/2 of the scale
        G = cotangent(A)
        exact = testing.exact_gradient(A, G, power) * scale ** (power - 1)
        assert testing.relative_error(gradient(FUNCTIONS[power], A * scale, G), exact).max() < 1e-3


@pytest.mark.parametrize("power", FUNCTIONS)
@pytest.mark.parametrize("n", [4, 17, 48])
def test_covariances_of_as_many_samples_as_dimensions(n, power):
    samples = torch.randn(64 if n < 10 else 16, n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    A = samples @ samples.mT / n
    check_against_eigh(A[torch.linalg.cond(A) < LARGEST_KAPPA[torch.float32]].float(), power)


def test_covariances_of_photographs():
    datasets = pytest.importorskip("sklearn.datasets")
    images = torch.stack([torch.from_numpy(image) for image in datasets.load_sample_images().images]).double() / 255
    patches = images[:, :416, :640].unfold(1, 4, 4).unfold(2, 4, 4).reshape(2 * 26, -1, 48)
    patches = patches - patches.mean(1, keepdim=True)
    for eps in (1e-3, 1e-5):
        A = (patches.mT @ patches / patches.shape[1] + eps * torch.eye(48)).float()
        for power in FUNCTIONS:
            check_against_eigh(A, power)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_random_spectra(data):
    """In the mean over random bases: of a single matrix the eigendecomposition may happen to be right."""
    n = data.draw(st.integers(3, 24))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    smallest = -math.log10(LARGEST_KAPPA[dtype])
    exponents = data.draw(st.lists(st.floats(smallest, 0), min_size=n, max_size=n))
    values = 10 ** torch.tensor([0.0, *exponents[1:]], dtype=torch.float64)
    bases = max(16, 144 // n)
    Q = torch.linalg.qr(torch.randn(bases, n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)).Q
    A = ((Q * values) @ Q.mT).to(dtype)
    check_against_eigh((A + A.mT) / 2, data.draw(st.sampled_from(list(FUNCTIONS))))


@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
@pytest.mark.parametrize("power", FUNCTIONS)
def test_tolerance_is_honoured_and_looser_is_not_slower(path, power, dtype):
    name = "sqrtm" if power > 0 else "inv_sqrtm"
    tolerances = [1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-9, 1e-12]
    costs = []
    for rtol in tolerances:
        for spectrum in ("log", "two_level", "one_small"):
            for kappa in (1e1, 1e4):
                A = testing.spd(24, kappa, (3,), spectrum, dtype)
                G = cotangent(A)
                S = path(name)(A, rtol)
                X = path(f"{name}_backward")(S, G, rtol)
                floor = 100 * kappa * torch.finfo(dtype).eps
                exact = testing.exact_sqrtm(A, power), testing.exact_gradient(A, G, power)
                assert testing.relative_error(S, exact[0]).max() < 3 * rtol + floor, (rtol, spectrum, kappa)
                assert testing.relative_error(X, exact[1]).max() < 3 * rtol + floor, (rtol, spectrum, kappa)
        design = scalars.root_design(rtol, dtype)
        costs.append(len(design.terms) + max(0, 2 * len(design.scales) - 1))
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize("rtol", [1e-1, 1e-3])
def test_tolerance_is_honoured_where_the_norm_is_overestimated(path, rtol, n, dtype):
    """By 1.7: the smallest eigenvalue is then below the interval of the design, and is not singular."""
    condition = 0.9 * LARGEST_KAPPA[dtype]
    w = torch.full((n,), 1 / condition, dtype=torch.float64)
    w[-3:] = 1
    V = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    A = ((V * w) @ V.T).to(dtype)
    error = testing.relative_error(path("inv_sqrtm")(A, rtol), testing.exact_sqrtm(A[None], -0.5)[0])
    assert error <= rtol + condition * torch.finfo(dtype).eps / 10


@pytest.mark.usefixtures("native_only")
@pytest.mark.parametrize("rtol", [0.0, 1e-1, 1e-3, 1e-6, 1e-10])
def test_the_design_has_one_content(rtol):
    for dtype in LARGEST_KAPPA:
        ours, twin = native.C.root_design(rtol, dtype.itemsize), scalars.root_design(rtol, dtype)
        assert ours["constant"] == pytest.approx(twin.constant, rel=1e-9)
        assert ours["scales"] == pytest.approx(list(twin.scales), rel=1e-12)
        assert [x for term in ours["terms"] for x in term] == pytest.approx(
            [x for t in twin.terms for x in t], rel=1e-9
        )
        assert ours["error"] == pytest.approx(twin.error, rel=1e-6, abs=1e-18)


@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
@pytest.mark.parametrize("rtol", [0.0, 1e-2, 1e-5])
def test_the_error_of_a_design_is_what_it_says(rtol, dtype):
    """The scalar iteration in float64 over the whole interval, next to the error of the design."""
    design = scalars.root_design(rtol, dtype)
    x = torch.logspace(math.log10(scalars.LOWEST_EIGENVALUE[dtype]), 0, 20001, dtype=torch.float64)
    Y = design.constant + sum(w / (x + t) for t, w in design.terms)
    X = x * Y
    for scale in design.scales:
        X, Y = scale / 2 * (X + 1 / Y), scale / 2 * (Y + 1 / X)
    worst = (X / x.sqrt() - 1).abs().max().item()
    assert worst == pytest.approx(design.error, rel=1e-3, abs=2e-15)


@pytest.mark.parametrize("name", ["mpa", "mtp", "mpa_inv", "mtp_inv"])
@pytest.mark.parametrize("degree", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("n", [1, 2, 5, 17])
def test_exact_gradient_is_that_of_the_approximant(path, n, degree, name):
    A = testing.spd(n, 1e4, (2,), dtype=torch.float64, seed=n)
    G = torch.randn(2, n, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leaf = A.clone().requires_grad_()
    root = testing.twin(name).compute(leaf, degree)  # plain torch, differentiated by torch
    (expected,) = torch.autograd.grad(root, leaf, G)
    actual = path(f"{name}_backward")(A, G, degree)
    assert testing.relative_error(actual, expected).max() < 1e-11
    assert torch.equal(actual, actual.mT)
    assert testing.relative_error(path(f"{name}_backward")(A.float(), G.float(), degree), expected).max() < 1e-4
    assert torch.equal(path(name)(A, degree), path(name.replace("mpa", "mpa_lya").replace("mtp", "mtp_lya"))(A, degree))


def both_by(method):
    return lambda A: (paper.sqrtm(A, method=method), paper.inv_sqrtm(A, method=method))


@pytest.mark.parametrize("method", ["auto", "mpa", "mtp", "ns"])
@pytest.mark.parametrize("function", ["sqrtm", "inv_sqrtm", "sqrtm_and_inv"])
def test_finite_differences_and_second_derivatives(function, method):
    A = testing.spd(3, kappa=20, batch=(2,), dtype=torch.float64).requires_grad_()
    if method == "auto":
        root = getattr(fastsqrtm, function)
    elif function == "sqrtm_and_inv":
        root = both_by(method)
    else:
        root = functools.partial(getattr(paper, function), method=method)
    assert torch.autograd.gradcheck(root, (A,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(root, (A,), check_fwd_over_rev=True)


def test_the_papers_gradient_does_not_pass_where_the_exact_one_does():
    A = testing.spd(3, kappa=20, dtype=torch.float64).requires_grad_()
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(lambda A: paper.sqrtm(A, method="mpa", backward="lyapunov"), (A,))


def test_gradcheck_at_a_condition_number():
    """The finite differences of an ill-conditioned root, in relative terms."""
    A = testing.spd(4, kappa=1e6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(fastsqrtm.sqrtm, (A,), eps=1e-10, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
def test_both_roots_are_the_single_ones(path, dtype):
    for n in (1, 5, 16, 40, 70):
        A = testing.spd(n, 1e3, (3,), dtype=dtype)
        S, Z = path("sqrtm_and_inv")(A)
        assert torch.equal(S, path("sqrtm")(A))
        assert torch.equal(Z, path("inv_sqrtm")(A))
        G, H = torch.randn(2, 3, n, n, generator=torch.Generator().manual_seed(1)).to(dtype)
        X = path("sqrtm_and_inv_backward")(S, Z, G, H)
        parts = path("sqrtm_backward")(S, G) + path("inv_sqrtm_backward")(Z, H)
        assert testing.relative_error(X, parts).max() < 1e4 * torch.finfo(dtype).eps


def test_one_cotangent_of_two():
    A = testing.spd(7, 50, (2,), dtype=torch.float64)
    for i, single in enumerate((fastsqrtm.sqrtm, fastsqrtm.inv_sqrtm)):
        pair = gradient(lambda A, i=i: fastsqrtm.sqrtm_and_inv(A)[i], A, cotangent(A))
        assert testing.relative_error(pair, gradient(single, A, cotangent(A))).max() < 1e-12


@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
@pytest.mark.parametrize("spectrum", ["rank_one", "rank_deficient"])
@pytest.mark.parametrize("n", [1, 2, 9, 33, 64])
def test_singular_matrices(path, n, spectrum, dtype):
    """The docstrings are right: the root is off by at most sqrt(eps)-like amounts, everything is finite."""
    A = testing.spd(n, 100, (64 if n < 30 else 16,), spectrum, dtype)
    G = cotangent(A)
    S, Z = path("sqrtm")(A), path("inv_sqrtm")(A)
    norm = torch.linalg.matrix_norm(A.double(), 2)
    limit = torch.finfo(dtype).eps ** -0.5
    exact = testing.exact_sqrtm(A)
    assert (torch.linalg.matrix_norm(S.double() - exact, 2) <= ROOT_FLOOR[dtype] * norm.sqrt()).all()
    assert (torch.linalg.eigvalsh(S.double()).amin(-1) > -n * torch.finfo(dtype).eps * norm.sqrt()).all()
    assert (torch.linalg.matrix_norm(Z.double(), 2) * norm.sqrt() <= 1.01 * limit).all()
    X = path("sqrtm_backward")(S, G)
    sizes = torch.linalg.matrix_norm(X.double()) * norm.sqrt()
    assert (sizes <= 1.2 * limit / 2 * torch.linalg.matrix_norm(G.double())).all()
    assert path("inv_sqrtm_backward")(Z, G).isfinite().all()
    assert path("sqrtm_and_inv_backward")(S, Z, G, G).isfinite().all()


@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
@pytest.mark.parametrize("n", [65, 100, 130, 200, 255])
def test_eigenvalues_far_below_rounding(path, n, dtype):
    """Rank one, and a spectrum that falls below every rounding within a few eigenvalues: the steps of the
    eigendecomposition bring the rounding of the largest one to all others, and must come to an end there.
    """
    generator = torch.Generator().manual_seed(n)
    u = torch.randn(16, n, 1, dtype=torch.float64, generator=generator)
    Q = torch.linalg.qr(torch.randn(16, n, n, dtype=torch.float64, generator=generator)).Q
    falling = (Q * 10.0 ** (-4.0 * torch.arange(n, dtype=torch.float64))) @ Q.mT
    A = torch.cat([u @ u.mT, falling]).to(dtype)
    S, Z = path("sqrtm_and_inv")(A)
    norm, eps = torch.linalg.matrix_norm(A.double(), 2), torch.finfo(dtype).eps
    assert (torch.linalg.matrix_norm(S.double() @ S.double() - A.double(), 2) <= 4 * n**0.5 * eps * norm).all()
    assert (torch.linalg.matrix_norm(Z.double(), 2) * norm.sqrt() <= 1.01 * eps**-0.5).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_covariances(path, dtype):
    """Rounded to half precision they are indefinite, by more than float32 explains."""
    rank, n = 20, 40
    samples = torch.randn(5, rank, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = (samples.mT @ samples / rank).to(dtype)
    assert (torch.linalg.eigvalsh(A.float()).amin(-1) < 0).any()
    exact = testing.exact_sqrtm(A)
    assert (testing.relative_error(path("sqrtm")(A), exact) < torch.finfo(dtype).eps).all()
    assert (testing.relative_error(path("sqrtm")(A.float()), exact) < 1e-4).all()


ROOTS = {fastsqrtm.sqrtm: "S", fastsqrtm.inv_sqrtm: "Z", fastsqrtm.sqrtm_and_inv: "SZ"}


def info_of(function, A):
    return fastsqrtm.root_info(A, **dict(zip(ROOTS[function], testing.results(function(A)), strict=True)))


def test_info_and_check():
    good = testing.spd(6, 1e3, (2, 3))
    S = fastsqrtm.sqrtm(good)
    info = fastsqrtm.root_info(good, S)
    assert info.residual.shape == info.converged.shape == (2, 3)
    assert info.converged.all() and (info.residual < 1e-5).all()
    assert fastsqrtm.plan(good).design.newton_steps == 2
    error = testing.relative_error(S, testing.exact_sqrtm(good))
    assert (error <= 2 * info.residual).all() and (info.residual <= 2 * error + 2e-7).all()  # rounding of the residual
    loose = fastsqrtm.root_info(good, fastsqrtm.sqrtm(good, rtol=1e-2), rtol=1e-2)
    assert loose.converged.all() and (loose.residual > 1e-5).any()
    assert fastsqrtm.plan(good, rtol=1e-2).design.newton_steps == 1
    root, inverse = fastsqrtm.sqrtm_and_inv(good)
    both = fastsqrtm.root_info(good, root, inverse)
    assert both.converged.all() and torch.equal(root, S) and inverse.shape == S.shape
    assert torch.equal(both.residual, torch.maximum(info.residual, fastsqrtm.root_info(good, Z=inverse).residual))
    single = testing.spd(6, 1e3)
    assert not fastsqrtm.root_info(single, paper.sqrtm(single, method="mpa")).converged

    bad = good.clone()
    bad[1, 0, 2, 2] = math.nan
    assert info_of(fastsqrtm.sqrtm, bad).converged.tolist() == [[True] * 3, [False, True, True]]
    assert torch.equal(fastsqrtm.sqrtm(good, check=True), S)
    with pytest.raises(RuntimeError, match=r"A must be finite, got NaN or Inf in matrix \(1, 0\)"):
        fastsqrtm.sqrtm(bad, check=True)
    singular = testing.spd(6, spectrum="rank_one")
    assert info_of(fastsqrtm.sqrtm, singular).residual < 1e-2
    message = r"every matrix must converge \(1 of 1 did not\), got a residual of .* at \(\)"
    with pytest.raises(RuntimeError, match=message):
        fastsqrtm.inv_sqrtm(singular, check=True)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 0), (0, 0)])
def test_info_of_nothing(shape):
    A = torch.ones(shape)
    info = fastsqrtm.root_info(A, *fastsqrtm.sqrtm_and_inv(A, check=True))
    assert info.residual.shape == shape[:-2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_info_at_any_scale(scale, dtype):
    A = (testing.spd(8, 50, (3,), dtype=torch.float64) * scale).to(dtype)
    for function in ROOTS:
        assert info_of(function, A).converged.all()


def test_eps_is_added_to_the_diagonal():
    A = testing.spd(5, spectrum="rank_one", batch=(2,), dtype=torch.float64)
    shifted = A + 0.01 * torch.eye(5, dtype=A.dtype)
    for function in (fastsqrtm.sqrtm, fastsqrtm.inv_sqrtm):
        assert testing.relative_error(function(A, eps=0.01), function(shifted)).max() < 1e-14
        assert torch.autograd.gradcheck(lambda A, f=function: f(A, eps=0.01), (A.clone().requires_grad_(),))


def failure(function=fastsqrtm.sqrtm, **arguments):
    with pytest.raises(RuntimeError) as caught:
        function(torch.eye(3), **arguments)
    return str(caught.value)


def test_what_does_not_go_together_is_refused():
    prefix = "fastsqrtm.paper.sqrtm: "
    expected = "method must be one of mpa, mtp, ns, eigh, pi, got 'cholesky'"
    assert failure(paper.sqrtm, method="cholesky") == prefix + expected
    expected = "backward of method mpa must be auto or one of exact, lyapunov, bartels_stewart, got 'svd'"
    assert failure(paper.sqrtm, method="mpa", backward="svd") == prefix + expected
    expected = "iterations is not an argument of method mpa with backward exact, got 3"
    assert failure(paper.sqrtm, method="mpa", iterations=3) == prefix + expected
    assert failure(paper.sqrtm, method="mpa", eps=-1.0) == prefix + "eps must be finite and not negative, got -1"
    for function, arguments in (
        (fastsqrtm.sqrtm, {"method": "mpa"}),
        (fastsqrtm.sqrtm, {"degree": 3}),
        (paper.sqrtm, {"method": "mpa", "rtol": 0.1}),
    ):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{list(arguments)[-1]}'"):
            function(torch.eye(3), **arguments)
    prefix = "fastsqrtm.sqrtm: "
    assert failure(rtol=-1.0) == prefix + "rtol must be from 0 to 1, got -1"
    assert failure(eps=-1.0) == prefix + "eps must be finite and not negative, got -1"
    assert failure(eps=math.nan).endswith("got nan")
    with pytest.raises(RuntimeError, match=r"fastsqrtm.inv_sqrtm: A must be \(..., n, n\), got \(3, 4\)"):
        fastsqrtm.inv_sqrtm(torch.ones(3, 4), eps=1.0)
    with pytest.raises(
        RuntimeError, match=r"fastsqrtm.lyapunov: iterations and rtol exclude each other, got 3 and 0.1"
    ):
        fastsqrtm.lyapunov(torch.eye(2), torch.eye(2), 3, rtol=0.1)


def test_methods_are_the_ops_of_the_paper():
    A = testing.spd(6, batch=(2,))
    for inverse, function in (("", paper.sqrtm), ("_inv", paper.inv_sqrtm)):
        for method in ("mpa", "mtp"):
            lya = function(A, method=method, backward="lyapunov", degree=3, iterations=4)
            assert torch.equal(lya, getattr(fastsqrtm, f"{method}_lya{inverse}")(A, 3, 4))
            assert torch.equal(function(A, method=method, degree=3), call(f"{method}{inverse}", A, 3))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
def test_lyapunov_to_a_tolerance(path, dtype, symmetric):
    for n in (1, 2, 7, 16, 33, 70):
        for kappa in (1.0, 1e2, 1e4):
            B = testing.spd(n, kappa, (2,), dtype=dtype, seed=n)
            C = torch.randn(2, n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64).to(dtype)
            C = C + C.mT if symmetric else C
            exact = testing.exact_lyapunov(B, C)
            # In float64 the eigendecomposition is wrong by a few roundings too.
            floor = (10 * kappa + ROUNDINGS) * torch.finfo(dtype).eps
            for rtol in (0.0, 1e-3):
                X = path("lyapunov_newton")(B, C, rtol)
                assert testing.relative_error(X, exact).max() < 3 * rtol + floor, (n, kappa, rtol)


def test_lyapunov_to_a_tolerance_has_derivatives():
    B = testing.spd(3, 20, (2,), dtype=torch.float64).requires_grad_()
    C = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)

    def solve(B, C):
        return fastsqrtm.lyapunov(B, C, rtol=0.0)

    assert torch.autograd.gradcheck(solve, (B, C), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(solve, (B, C))


@pytest.mark.parametrize("method", ["auto", "mpa"])
def test_torch_func(method):
    A = testing.spd(3, 10, (4,), dtype=torch.float64)

    def loss(A):
        S, Z = fastsqrtm.sqrtm_and_inv(A) if method == "auto" else both_by(method)(A)
        return (S.sin() * Z.cos()).sum()

    (expected,) = torch.autograd.grad(loss(leaf := A.clone().requires_grad_()), leaf)
    assert testing.relative_error(torch.func.grad(loss)(A), expected).max() < 1e-12
    assert testing.relative_error(torch.func.vmap(torch.func.grad(loss))(A), expected).max() < 1e-12
    H = torch.func.hessian(loss)(A[0])
    assert testing.relative_error(torch.func.jacrev(torch.func.jacrev(loss))(A[0]), H).max() < 1e-10
    assert testing.relative_error(torch.func.jacfwd(torch.func.jacfwd(loss))(A[0]), H).max() < 1e-10


def test_compile_and_export_both_roots():
    torch._dynamo.reset()

    def loss(A):
        S, Z = fastsqrtm.sqrtm_and_inv(A * 2.0, rtol=1e-4)
        return (S - Z).sin().sum()

    A = testing.spd(5, 10, (2,), dtype=torch.float64).requires_grad_()
    B = A.detach().clone().requires_grad_()
    loss(A).backward()
    torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")(B).backward()
    assert testing.relative_error(B.grad, A.grad).max() < 1e-12


def test_nothing_is_shared_between_matrices_of_different_kinds(path, same):
    """Good, singular, zero, indefinite and NaN matrices in one batch, each as it is alone.

    The twin differs by rounding: of the root by sqrt(kappa), of its inverse by kappa times as much. A ridge or a scale
    that a neighbour needed would change more.
    """
    kappa = 1e5
    A = torch.stack([
        testing.spd(17, kappa), testing.spd(17, spectrum="rank_one"), torch.zeros(17, 17), -torch.eye(17),
        torch.full((17, 17), math.nan), 1e20 * testing.spd(17, 3.0), testing.spd(17, kappa, seed=1),
    ])  # fmt: skip
    together = torch.stack(path("sqrtm_and_inv")(A), 1)
    alone = torch.stack([torch.stack(path("sqrtm_and_inv")(matrix)) for matrix in A])
    for i, condition in ((0, kappa), (5, 3.0), (6, kappa)):
        assert same(together[i, 0], alone[i, 0], condition**0.5)
        assert same(together[i, 1], alone[i, 1], condition)
    for i in (2, 3, 4):  # 0 and infinity, NaN, NaN
        assert torch.equal(together[i].nan_to_num(7.0), alone[i].nan_to_num(7.0))
    # Rounding decides about the ridge of a singular matrix, and its inverse root is that of the ridge.
    assert together[1].isfinite().all() and alone[1].isfinite().all()
    difference = together[1, 0].double() - alone[1, 0].double()
    assert torch.linalg.matrix_norm(difference, 2) <= ROOT_FLOOR[torch.float32]  # ||A|| = 1
    if same.bits:
        assert torch.equal(together.nan_to_num(7.0), alone.nan_to_num(7.0))


@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
@pytest.mark.parametrize("excess", [0.5, 1.5, 8])
@pytest.mark.parametrize("n", [12, 28, 40, pytest.param(150, marks=pytest.mark.slow)])
def test_the_largest_eigenvalue_is_far_from_the_largest_entry(path, n, excess, dtype):
    """A power iteration that starts at the largest entry of the diagonal never sees the other block."""
    condition = excess * LARGEST_KAPPA[dtype]
    A = torch.eye(n, dtype=torch.float64) * (n - 1) / condition
    A[0, 0] += 2
    A[1:, 1:] += 1
    A = A.to(dtype)
    smallest = A[1, 1].double() - 1  # an eigenvalue n - 2 times; an eigendecomposition would find it less accurately
    largest = smallest + n - 1

    def exact(power):
        root = torch.eye(n, dtype=torch.float64) * smallest**power
        root[1:, 1:] += (largest**power - smallest**power) / (n - 1)
        root[0, 0] = A[0, 0].double() ** power
        return root

    S, Z = exact(0.5), exact(-0.5)
    unit = torch.finfo(dtype).eps
    both = path("sqrtm_and_inv")(A)
    for root in (both[0], path("sqrtm")(A)):
        assert testing.relative_error(root, S) <= 4 * condition**0.5 * unit
    for inverse_root in (both[1], path("inv_sqrtm")(A)):
        if excess < 2:  # beyond that A counts as singular
            assert testing.relative_error(inverse_root, Z) <= condition * unit


@pytest.mark.parametrize("spectrum", ["log", "clustered", "one_small", "two_level", "repeated", "wishart"])
@pytest.mark.parametrize("function", ROOTS)
@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
def test_every_root_within_the_range_has_converged(dtype, function, spectrum):
    for n in (1, 2, 3, 8, 33, 64):
        for kappa in (1e1, 1e4, LARGEST_KAPPA[dtype]):
            info = info_of(function, testing.spd(n, kappa, (3,), spectrum, dtype, seed=n))
            assert info.converged.all(), (n, kappa, info)


@pytest.mark.parametrize("dtype", LARGEST_KAPPA)
def test_what_is_told_of_zero_and_singular_matrices(dtype):
    """Only `check` raises; the root of zero is right, and it has no inverse."""
    A = torch.zeros(3, 4, 4, dtype=dtype)
    A[1, 0, 0] = 1
    A[2] = 1
    info = info_of(fastsqrtm.sqrtm, A)
    assert info.residual.isfinite().all()
    assert info.converged[0]
    assert not info_of(fastsqrtm.inv_sqrtm, A).converged.any()
    with pytest.raises(RuntimeError, match="every matrix must converge"):
        fastsqrtm.sqrtm_and_inv(A, check=True)


def test_what_is_told_of_a_root_that_is_none():
    A = torch.stack((testing.spd(8, 1e3), -torch.eye(8), torch.full((8, 8), math.nan)))
    assert info_of(fastsqrtm.sqrtm, A).converged.tolist() == [True, False, False]
    assert not fastsqrtm.root_info(A, paper.sqrtm(A, method="mpa")).converged.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_eps_of_half_types_is_not_lost(dtype):
    eps = 1e-3
    x = torch.ones(4, 4, dtype=dtype).requires_grad_()
    S = fastsqrtm.sqrtm(x, eps=eps)
    assert S.dtype == dtype
    exact = testing.exact_sqrtm(torch.ones(4, 4).double() + eps * torch.eye(4))
    assert testing.relative_error(S, exact) < torch.finfo(dtype).eps
    G = cotangent(x.detach())
    (X,) = torch.autograd.grad(S, x, G)
    bound = torch.linalg.matrix_norm(G.double()) / (2 * math.sqrt(eps))
    assert torch.linalg.matrix_norm(X.double()) <= 1.01 * bound
    assert fastsqrtm.sqrtm(torch.eye(2, dtype=torch.float16), eps=1e5).isfinite().all()  # 1e5 exceeds float16


@pytest.mark.parametrize("rank", [3, 8, 12])
def test_gradient_of_low_rank_in_bfloat16(path, rank):
    """The root is saved as rounded to eight bits, which leaves it indefinite by as much."""
    v = torch.randint(-2, 3, (50, 24, rank), generator=torch.Generator().manual_seed(rank)).float()
    A = (v @ v.mT).bfloat16()
    S = path("sqrtm")(A)
    X = path("sqrtm_backward")(S, S)
    assert X.isfinite().all()
    residual = testing.relative_error(S.double() @ X.double() + X.double() @ S.double(), S.double())
    assert residual.median() < 0.02  # a few roundings of S; more where it is left all but singular
