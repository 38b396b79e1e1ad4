"""Situations that users of matrix roots met elsewhere, rebuilt as small inputs: what they need is what they get."""

import math

import pytest
import torch

import fastsqrtm
from fastsqrtm import testing


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def covariance(channels, samples, seed=0, batch=(4,)):
    """Of nonnegative features, in float64, with fewer samples than channels singular."""
    x = torch.randn(*batch, channels, samples, generator=generator(seed), dtype=torch.float64)
    x = torch.relu(x) + 0.1 * x
    x = x - x.mean(-1, keepdim=True)
    return x @ x.mT / samples


def clamped_root(A):
    """By eigendecomposition in the precision of A, negative eigenvalues clamped."""
    values, V = torch.linalg.eigh(A)
    return (V * values.clamp_min(0).sqrt()[..., None, :]) @ V.mT


def assert_as_good_as_the_eigendecomposition(S, A):
    """Of A in its precision: the root and its trace. The truth for float64 is another eigendecomposition."""

    def trace(X):
        return X.diagonal(dim1=-2, dim2=-1).sum(-1)

    exact = clamped_root(A.double())
    other = clamped_root(A.flip(-1, -2)).flip(-1, -2).double()
    rounding = 8 * torch.finfo(A.dtype).eps
    for measure in (lambda X: testing.relative_error(X, exact), lambda X: (trace(X) / trace(exact) - 1).abs()):
        assert measure(S.double()).mean() <= 2 * measure(other).mean() + rounding


ROUNDED = {
    "bfloat16": lambda C: C.bfloat16().float(),
    "float16": lambda C: C.half().float(),
    "float32": lambda C: C.float(),
    "float32 to float64": lambda C: C.float().double(),
    "float16 to float64": lambda C: C.half().double(),
    "bfloat16 to float64": lambda C: C.bfloat16().double(),
}


@pytest.mark.parametrize("rounded", ROUNDED)
@pytest.mark.parametrize(("channels", "samples"), [(3, 2), (5, 3), (17, 9), (64, 49), (150, 60)])
def test_covariances_rounded_by_somebody(path, channels, samples, rounded):
    A = ROUNDED[rounded](covariance(channels, samples, batch=(64 if channels < 20 else 16,)))
    S = path("sqrtm")(A)
    assert S.isfinite().all() and path("inv_sqrtm")(A).isfinite().all()
    assert_as_good_as_the_eigendecomposition(S, A)
    G = torch.randn(A.shape, generator=generator(1), dtype=A.dtype)
    X = path("sqrtm_backward")(S, G)
    limit = torch.linalg.matrix_norm(G) / (2 * torch.finfo(A.dtype).eps ** 0.5 * torch.linalg.matrix_norm(S, 2))
    assert (torch.linalg.matrix_norm(X) <= 1.2 * limit).all()  # the norm of S is estimated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 16, 65])
@pytest.mark.parametrize("negative", [1e-6, 1e-4, 1e-2])
def test_indefinite_matrices(path, n, negative, dtype):
    """The root of the positive semidefinite part, however the negative part came about."""
    values = torch.linspace(0, 1, n, dtype=torch.float64) ** 2
    values[: n // 2] -= negative
    Q = torch.linalg.qr(torch.randn(6, n, n, generator=generator(n), dtype=torch.float64))[0]
    A = ((Q * values) @ Q.mT).to(dtype)
    assert_as_good_as_the_eigendecomposition(path("sqrtm")(A), A / 2 + A.mT / 2)
    assert path("sqrtm")(A - 0.1 * torch.eye(n, dtype=dtype)).isnan().all()


@pytest.mark.parametrize("ridge", [0.0, 1e-8, 1e-5, 1e-3])
def test_half_precision_with_a_ridge_and_under_autocast(ridge):
    C = covariance(64, 49, batch=(8,)).bfloat16()
    expected = clamped_root(C.double() + ridge * torch.eye(64, dtype=torch.float64))
    assert (testing.relative_error(fastsqrtm.sqrtm(C, eps=ridge), expected) < 2**-8).all()
    with torch.autocast("cpu", torch.bfloat16):
        for function in (fastsqrtm.sqrtm, fastsqrtm.inv_sqrtm):
            assert function(C, eps=ridge).isfinite().all()
        assert torch.ops.fastsqrtm.sqrtm(C).isfinite().all()
        x = C.clone().requires_grad_()
        (X,) = torch.autograd.grad(fastsqrtm.sqrtm(x, eps=ridge).float().square().sum(), x)
        assert X.isfinite().all()


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.2, 4.0, 6.0, 8.0])
@pytest.mark.parametrize("dense", [False, True])
def test_decaying_spectra(path, exponent, dense):
    """Traces of roots add up what null directions contribute."""
    n = 150
    values = torch.arange(1, n + 1, dtype=torch.float64) ** -exponent
    Q = torch.linalg.qr(torch.randn(3, n, n, generator=generator(2), dtype=torch.float64))[0]
    A = ((Q * values) @ Q.mT if dense else values.diag_embed().expand(3, n, n)).float()
    A = A / 2 + A.mT / 2
    assert_as_good_as_the_eigendecomposition(path("sqrtm")(A), A)


@pytest.mark.parametrize("exponent", [6, 12])
@pytest.mark.parametrize("n", [20, 50, 150])
def test_null_directions_of_float32_count_as_in_float64(path, n, exponent):
    """The eigenvalues are those of the entries, and only the root is rounded."""
    values = torch.arange(1, n + 1, dtype=torch.float64) ** -exponent
    Q = torch.linalg.qr(torch.randn(8, n, n, generator=generator(n), dtype=torch.float64))[0]
    A = ((Q * values) @ Q.mT).float()
    A = A / 2 + A.mT / 2
    exact, other = clamped_root(A.double()), clamped_root(A).double()
    ours, theirs = (testing.relative_error(S, exact).mean() for S in (path("sqrtm")(A).double(), other))
    assert ours <= theirs / 5
    ours, theirs = (
        (S - exact).diagonal(dim1=1, dim2=2).sum(-1).abs().mean() for S in (path("sqrtm")(A).double(), other)
    )
    assert ours <= theirs / 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_diagonal_matrices_are_exact(path, dtype):
    """Rounding has no preferred side, and a small diagonal entry is not lost beside a large one."""
    for n in (1, 2, 7, 40):
        assert torch.equal(path("sqrtm")(torch.eye(n, dtype=dtype)), torch.eye(n, dtype=dtype))
        assert torch.equal(path("inv_sqrtm")(torch.eye(n, dtype=dtype)), torch.eye(n, dtype=dtype))
    A = torch.tensor([4.0, 1.0, 1e-20, 0.0], dtype=dtype)
    # On some processors those of torch, which the reference has, are not always the nearest numbers.
    roots = torch.tensor([math.sqrt(a) for a in A.tolist()], dtype=dtype), A.sqrt()
    S = path("sqrtm")(A.diag_embed())
    assert any(torch.equal(S, root.diag_embed()) for root in roots)
    assert path("sqrtm")(torch.tensor([1.0, -0.1], dtype=dtype).diag_embed()).isnan().all()
    assert torch.equal(
        path("sqrtm")(torch.tensor([1.0, -0.01], dtype=dtype).diag_embed()),
        torch.eye(2, dtype=dtype) * torch.tensor([1.0, 0.0], dtype=dtype),
    )


def test_singular_matrices_have_no_inverse_root():
    """`converged` and `check` say so, whatever rounding made of the zeros."""
    for seed in range(60):
        d, N = 4 + seed, 2 + seed // 2
        for dtype in (torch.float32, torch.float64):
            C = torch.cov(torch.randn(N, d, generator=generator(seed), dtype=dtype).T)
            S, Z = fastsqrtm.sqrtm_and_inv(C)
            assert not fastsqrtm.root_info(C, Z=Z).converged
            assert fastsqrtm.root_info(C, S).converged
    with pytest.raises(RuntimeError, match="every matrix must converge"):
        fastsqrtm.inv_sqrtm(C, check=True)
    with pytest.raises(RuntimeError, match="every matrix must converge"):
        fastsqrtm.inv_sqrtm(torch.diag(torch.tensor([1.0, 1.0, 3e-8])), check=True)


@pytest.mark.parametrize("kappa", [10**7.5, 1e8, 1e9])
def test_too_ill_conditioned_for_an_inverse_root(kappa):
    A = testing.spd(64, kappa, (50,), dtype=torch.float32)
    assert not fastsqrtm.root_info(A, Z=fastsqrtm.inv_sqrtm(A)).converged.any()


def test_a_negative_part_beyond_rounding_is_told():
    """The root of what a float32 covariance becomes in float64 is finite, and `converged` tells."""
    C = torch.cov(torch.randn(20, 64, generator=generator(3)).T)
    assert fastsqrtm.root_info(C, fastsqrtm.sqrtm(C)).converged
    S = fastsqrtm.sqrtm(C.double())
    assert S.isfinite().all() and not fastsqrtm.root_info(C.double(), S).converged
    with pytest.raises(RuntimeError, match="every matrix must converge"):
        fastsqrtm.sqrtm(C.double(), check=True)


@pytest.mark.parametrize(
    ("dtype", "kappa"), [*((torch.float32, 10.0**k) for k in range(0, 13, 3)), (torch.float64, 1e9)]
)
def test_residual_bounds_the_error(dtype, kappa):
    slack = 2 * torch.finfo(dtype).eps
    if dtype == torch.float64:
        slack *= kappa**0.5  # the error of the oracle, which is of the same precision
    for n in (2, 9, 70):
        A = testing.spd(n, kappa, (5,), dtype=dtype)
        S = fastsqrtm.sqrtm(A)
        for root in (S, S + 1e-3 * torch.linalg.matrix_norm(S, keepdim=True) * torch.eye(n, dtype=dtype)):
            error = testing.relative_error(root, clamped_root(A.double()))
            assert (error <= 8 * fastsqrtm.root_info(A, root).residual + slack).all()


def test_asymmetry_is_told():
    C1, C2 = testing.spd(6, 10, (2, 3)), testing.spd(6, 20, (2, 3)).flip(-1, -2)
    product = C1 @ C2
    info = fastsqrtm.root_info(product, fastsqrtm.sqrtm(product))
    expected = torch.linalg.matrix_norm(product - product.mT) / torch.linalg.matrix_norm(product)
    assert torch.allclose(info.asymmetry, expected, rtol=1e-5)
    assert (fastsqrtm.root_info(C1, fastsqrtm.sqrtm(C1)).asymmetry < 1e-6).all()
    with pytest.raises(RuntimeError, match=r"must be symmetric to .*, got an asymmetry of \d.*e-01 at \(0, 0\)"):
        fastsqrtm.sqrtm(product, check=True)
    # The right way to the trace of the root of a product, as a Frechet distance needs it.
    S = fastsqrtm.sqrtm(C1.double())
    trace = fastsqrtm.sqrtm(S @ C2.double() @ S).diagonal(dim1=-2, dim2=-1).sum(-1)
    eigenvalues = torch.linalg.eigvals(product.double()).real
    assert torch.allclose(trace, eigenvalues.sqrt().sum(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_relative_ridge(dtype, scale):
    A = (scale * testing.spd(5, spectrum="rank_one", batch=(3,), dtype=torch.float64)).to(dtype)
    A[2] = 0
    for function in (fastsqrtm.sqrtm, fastsqrtm.inv_sqrtm):
        ridge = 0.01 * torch.linalg.matrix_norm(A[:2].double())[:, None, None] * torch.eye(5, dtype=torch.float64)
        expected = testing.exact_sqrtm(A[:2].double() + ridge, 0.5 if function is fastsqrtm.sqrtm else -0.5)
        assert testing.relative_error(function(A, rel_eps=0.01)[:2], expected).max() < 100 * torch.finfo(dtype).eps
    assert (fastsqrtm.sqrtm(A, rel_eps=0.01)[2] == 0).all()
    x = A.clone().requires_grad_()
    assert torch.autograd.grad(fastsqrtm.sqrtm(x, rel_eps=0.01).sum(), x)[0].isfinite().all()


def test_relative_ridge_is_differentiated():
    A = testing.spd(4, 30, (2,), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: fastsqrtm.inv_sqrtm(A, rel_eps=0.1), A)
    with pytest.raises(RuntimeError, match="rel_eps must be finite and not negative, got -1"):
        fastsqrtm.sqrtm(A, rel_eps=-1.0)


def pseudo_inverse_root(A, threshold=1e-10):
    values, V = torch.linalg.eigh(A)
    keep = values > threshold * values[..., -1:]
    return (V * (torch.where(keep, values, 1).rsqrt() * keep)[..., None, :]) @ V.mT


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_pseudo_inverse_root(rank):
    """Null directions become zero; the gradient is that of eigh, which has no ties here, at constant rank."""
    B = torch.randn(4, 6, rank, generator=generator(rank), dtype=torch.float64).requires_grad_()
    root = lambda B: fastsqrtm.inv_sqrtm(B @ B.mT, null="zero")  # noqa: E731
    assert torch.allclose(root(B), pseudo_inverse_root(B @ B.mT), rtol=1e-9)
    G = torch.randn(4, 6, 6, generator=generator(7), dtype=torch.float64)
    (X,) = torch.autograd.grad(root(B), B, G)
    # B B^T = B (B^T B) B^T / ... : its pseudo-inverse root is B (B^T B)^(-3/2) B^T, of a matrix of full rank.
    inverse = fastsqrtm.inv_sqrtm(B.mT @ B)
    (expected,) = torch.autograd.grad(B @ inverse @ inverse @ inverse @ B.mT, B, G)
    assert testing.relative_error(X, expected).max() < 1e-8
    assert torch.autograd.gradcheck(root, B, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(root, B)
    batched = torch.func.vmap(torch.func.grad(lambda B: root(B).sin().sum()))(B.detach())
    assert torch.allclose(batched, torch.autograd.grad(root(B).sin().sum(), B)[0])


def test_pseudo_inverse_root_of_what_users_have():
    dead = testing.spd(5, 10, (2,))
    dead[:, 2] = dead[:, :, 2] = 0
    Z = fastsqrtm.inv_sqrtm(dead, null="zero", check=True)
    assert (Z[:, 2].abs() < 1e-6).all() and testing.relative_error(Z, pseudo_inverse_root(dead.double())).max() < 1e-5
    C = torch.cov(torch.randn(20, 64, generator=generator(1)).T)
    for A, threshold in ((C, None), (C.double(), 1e-5)):
        projector = fastsqrtm.inv_sqrtm(A, null="zero", null_rtol=threshold) @ A
        projector = projector @ fastsqrtm.inv_sqrtm(A, null="zero", null_rtol=threshold)
        assert abs(projector.trace() - 19) < 1e-3
    assert (fastsqrtm.inv_sqrtm(torch.zeros(2, 3, 3), null="zero") == 0).all()
    assert fastsqrtm.inv_sqrtm(torch.zeros(0, 3, 3), null="zero").shape == (0, 3, 3)
    mixed = torch.stack((torch.eye(3), torch.full((3, 3), math.nan), -torch.eye(3)))
    assert fastsqrtm.inv_sqrtm(mixed, null="zero").isnan().flatten(1).all(1).tolist() == [False, True, True]
    assert fastsqrtm.inv_sqrtm(torch.eye(3).half(), null="zero").dtype == torch.float16
    compiled = torch.compile(lambda A: fastsqrtm.inv_sqrtm(A, null="zero"), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(dead), Z)
    for arguments, message in (
        ({"null": "drop"}, 'null must be "ridge" or "zero", got \'drop\''),
        ({"null_rtol": 0.1}, "null_rtol needs null=\"zero\", got null='ridge'"),
        ({"null": "zero", "null_rtol": 1.0}, "null_rtol must be at least 0 and less than 1, got 1"),
        ({"null": "zero", "check": True}, "A must be finite, got NaN or Inf in matrix \\(1,\\)"),
    ):
        with pytest.raises(RuntimeError, match=message):
            fastsqrtm.inv_sqrtm(mixed, **arguments)


def test_drift_of_root_and_square():
    """M <- sqrtm(M)^2 goes no further from M than three precisions a step, and M with exact roots does not move."""
    M = start = testing.spd(8, 10, dtype=torch.float64)
    for _ in range(100):
        S = fastsqrtm.sqrtm(M)
        M = S @ S
    assert testing.relative_error(M, start) < 100 * 3 * torch.finfo(torch.float64).eps
    D = torch.tensor([1.0, 4.0, 0.25]).diag_embed()
    assert torch.equal(fastsqrtm.sqrtm(D) @ fastsqrtm.sqrtm(D), D)


@pytest.mark.parametrize("kernel", ["rbf", "laplacian", "matern"])
@pytest.mark.parametrize("n", [33, 200, *(pytest.param(n, marks=pytest.mark.slow) for n in (600, 1000))])
def test_kernel_matrices_with_noise(n, kernel):
    """Most eigenvalues are those of the noise, a few millions of times larger."""
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    r = (x[:, None] - x).abs() / 0.2
    values = {"rbf": (-(r**2) / 2).exp(), "laplacian": (-r).exp(), "matern": (1 + 3**0.5 * r) * (-(3**0.5) * r).exp()}
    A = (values[kernel] + 1e-3 * torch.eye(n, dtype=torch.float64)).float()
    values, V = torch.linalg.eigh(A)
    for function, power in ((fastsqrtm.sqrtm, 0.5), (fastsqrtm.inv_sqrtm, -0.5)):
        exact = testing.exact_sqrtm(A, power)
        by_eigh = (V * values**power) @ V.T
        assert testing.relative_error(function(A), exact) <= 2 * testing.relative_error(by_eigh, exact)


@pytest.mark.parametrize("n", [32, 64, 128])
def test_inverse_roots_between_the_range_and_the_precision(path, n):
    """Whitening by a covariance of hardly more samples than features, beyond the interval of the design."""
    A = testing.spd(n, kappa=3.4e6, batch=(8,))
    exact = testing.exact_sqrtm(A, -0.5)
    values, V = torch.linalg.eigh(A)
    floored = torch.maximum(values, values.amax(-1, True) * torch.finfo(A.dtype).eps)
    by_eigh = (V * floored.rsqrt()[..., None, :]) @ V.mT
    ours, theirs = (testing.relative_error(Z, exact).mean() for Z in (path("inv_sqrtm")(A), by_eigh))
    assert ours <= theirs / 10


@pytest.mark.parametrize("n", [20, 60, 300])
def test_one_small_eigenvalue(n):
    """The sum of the large ones overestimates the norm, and the design is for eigenvalues down to 1e-6 of it."""
    Q = torch.linalg.qr(torch.randn(16, n, n, generator=generator(4), dtype=torch.float64))[0]
    values = torch.ones(n, dtype=torch.float64)
    values[0] = 1e-6
    A = ((Q * values) @ Q.mT).float()
    A = A / 2 + A.mT / 2
    values, V = torch.linalg.eigh(A)
    for function, power in ((fastsqrtm.sqrtm, 0.5), (fastsqrtm.inv_sqrtm, -0.5)):
        exact = testing.exact_sqrtm(A, power)
        by_eigh = (V * values[:, None] ** power) @ V.mT
        ours, theirs = (testing.relative_error(root, exact).mean() for root in (function(A), by_eigh))
        assert ours <= 2 * theirs
