"""Frechet and Bures distances against singular values, closed forms and peers; their gradients; the accumulator."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from fastsqrtm import gaussians, metrics
from fastsqrtm.testing import extended_eigh, spd

DOUBLE = torch.float64


def samples(n, d, seed=0, decay=0.0, batch=()):
    """Features whose standard deviations fall as k^-decay."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, n, d, generator=generator, dtype=DOUBLE)
    return x * torch.arange(1, d + 1, dtype=DOUBLE) ** -decay * (1 + 0.3 * seed) + 0.1 * seed


def exact(x, y):
    """The distance of samples by LAPACK's singular values."""
    X, Y = ((z - z.mean(-2, keepdim=True)).double() / (z.shape[-2] - 1) ** 0.5 for z in (x.double(), y.double()))
    spread = (X**2).sum((-2, -1)) + (Y**2).sum((-2, -1))
    means = (x.double().mean(-2) - y.double().mean(-2)).square().sum(-1)
    return means + spread - 2 * torch.linalg.svdvals(X @ Y.mT).sum(-1)


def moments(x):
    return x.mean(0), torch.cov(x.T)


@pytest.fixture(params=[64, 0], ids=["lapack", "own"])
def decomposition(request, monkeypatch):
    """Small matrices by LAPACK's decompositions as usual, and by those that large ones get."""
    monkeypatch.setattr(gaussians, "SMALL", request.param)


SIZES = [(64, 8, 8), (64, 8, 128), (96, 12, 768), (96, 48, 93), (96, 96, 96), (96, 97, 97), (160, 320, 1280)]


@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("d, n, m", SIZES)
def test_values_are_those_of_singular_values(d, n, m, decay):
    x, y = samples(n, d, 0, decay), samples(m, d, 1, decay)
    for dtype, bound in ((DOUBLE, 2e-12), (torch.float32, 1e-6)):
        a, b = x.to(dtype), y.to(dtype)
        expected = exact(a, b)
        assert abs(metrics.frechet_distance(*moments(a), *moments(b)) - expected) <= bound * expected
        found = metrics.frechet_distance_of_samples(a, b)
        assert found.dtype == dtype
        assert abs(found - expected) <= (2e-12 if dtype == DOUBLE else 1e-6) * expected
        assert metrics.frechet_distance_of_samples(a, a) == 0 or metrics.frechet_distance_of_samples(a, a) < 1e-12
        assert metrics.frechet_distance(*moments(a), *moments(a)) <= bound * a.double().var(0).sum()


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("scale", [1.3, 1.02])
def test_values_of_ill_conditioned_covariances(decay, scale):
    """In a basis that no channel shows, where the eigenvalues of the congruence lose most."""
    Q = torch.linalg.qr(samples(100, 100, 5)).Q
    x, y = samples(200, 100, 0, decay) @ Q, scale * samples(200, 100, 2, decay) / 1.6 @ Q
    expected = exact(x, y)
    assert abs(metrics.frechet_distance(*moments(x), *moments(y)) - expected) < 1e-9 * expected


@pytest.mark.slow
@pytest.mark.parametrize("n, m", [(64, 64), (64, 1024), (1024, 1024)])
def test_values_at_many_features(n, m):
    x, y = samples(n, 512, 0, 0.5), samples(m, 512, 1, 0.5)
    expected = exact(x, y)
    for found in (metrics.frechet_distance(*moments(x), *moments(y)), metrics.frechet_distance_of_samples(x, y)):
        assert abs(found - expected) <= 1e-11 * expected


def test_diagonal_covariances_have_a_closed_form(decomposition):
    a, b = samples(3, 9, 1).abs(), samples(3, 9, 2).abs()
    b[0, :4] = 0  # singular
    m = samples(3, 9, 3)
    found = metrics.frechet_distance(m, a.diag_embed(), m + 2, b.diag_embed())
    torch.testing.assert_close(found, 36 + (a.sqrt() - b.sqrt()).square().sum(-1), rtol=1e-13, atol=0)
    found = metrics.bures_distance(a.diag_embed(), b.diag_embed())
    torch.testing.assert_close(found, (a.sqrt() - b.sqrt()).square().sum(-1).sqrt(), rtol=1e-13, atol=0)


def test_near_distributions_have_digits(decomposition):
    """Differences of traces would leave nothing of a squared distance of 1e-20."""
    a = torch.linspace(1, 3, 7, dtype=DOUBLE)
    Q = torch.linalg.qr(samples(7, 7)).Q
    for size in (1e-3, 1e-6):
        found = metrics.bures_distance(Q * a**2 @ Q.T, Q * (a + size) ** 2 @ Q.T)
        assert abs(found - size * 7**0.5) < 1e-14 + 1e-9 * size


def test_indefinite_matrices_count_as_the_nearest_semidefinite(decomposition):
    """Rank 5 of 40 rounded to float32, so that half of the null eigenvalues are negative in float64."""
    x, y = samples(6, 40, 0), samples(200, 40, 1)
    cov = torch.cov(x.float().T).double()
    assert torch.linalg.eigvalsh(cov)[0] < -1e-9
    found = metrics.frechet_distance(x.mean(0), cov, *moments(y))
    assert abs(found - exact(x, y)) < 1e-6 * found
    assert gaussians.factor(cov).any(0).sum() == 5
    one = torch.tensor([[1.0, 0], [0, -1e-9]], dtype=DOUBLE)
    torch.testing.assert_close(metrics.bures_distance(one, 4 * torch.eye(2, dtype=DOUBLE)), one.new_tensor(5**0.5))


def test_leading_dimensions_broadcast_and_every_element_is_its_own(decomposition):
    x, y = samples(9, 5, 0, batch=(3, 2)), samples(4, 5, 1, batch=(2,))
    whole = metrics.frechet_distance_of_samples(x, y)
    single = torch.tensor([[exact(x[i, j], y[j]) for j in range(2)] for i in range(3)], dtype=DOUBLE)
    torch.testing.assert_close(whole, single, rtol=1e-12, atol=0)
    C = spd(5, batch=(3, 1), dtype=DOUBLE)
    D = spd(5, batch=(2,), seed=1, dtype=DOUBLE)
    D[1] = torch.cov(samples(3, 5).T)  # singular beside a regular one
    whole = metrics.bures_distance(C, D)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(whole[i, j], metrics.bures_distance(C[i, 0], D[j]), rtol=1e-12, atol=0)
    assert metrics.bures_distance(C[:0], D).shape == (0, 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_gives_nan_in_its_element_alone(bad, decomposition):
    C = spd(4, batch=(3,), dtype=DOUBLE)
    D = C + 1
    whole = metrics.bures_distance(C, D)
    D = D.clone()
    D[1, 2, 3] = bad
    found = metrics.bures_distance(C, D)
    assert found[1].isnan()
    assert torch.equal(found[[0, 2]], whole[[0, 2]])
    x = samples(5, 4, batch=(2,))
    x[0, 1, 1] = bad
    assert metrics.frechet_distance_of_samples(x, samples(6, 4, 1)).isnan().tolist() == [True, False]


def test_zero_and_scale(decomposition):
    Z, C = torch.zeros(4, 4, dtype=DOUBLE), spd(4, dtype=DOUBLE)
    assert metrics.bures_distance(Z, Z) == 0
    torch.testing.assert_close(metrics.bures_distance(Z, C), C.trace().sqrt())
    for scale in (1e-100, 1e100):
        torch.testing.assert_close(metrics.bures_distance(scale * C, 4 * scale * C), (scale * C.trace()).sqrt())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_wider(dtype):
    x, y = samples(30, 6, 0).to(dtype), samples(30, 6, 1).to(dtype)
    found = metrics.frechet_distance_of_samples(x, y)
    assert found.dtype == torch.float32
    assert abs(found - exact(x, y)) < 1e-6 * found
    C = torch.diag(torch.tensor([60000.0, 60000.0])).to(torch.float16)  # beyond float16 in every square
    assert metrics.frechet_distance(torch.zeros(2), C, torch.zeros(2), C / 4) == 30000.0


def test_derivatives_of_regular_covariances(decomposition):
    for batch in ((), (2,)):
        A, B = (spd(4, 30, batch, seed=s, dtype=DOUBLE).requires_grad_() for s in (0, 1))
        m = samples(1, 4, 2, batch=batch)[..., 0, :].requires_grad_()
        for function in (
            lambda A, B: metrics.bures_distance(A, B),
            lambda A, B, m=m: metrics.frechet_distance(m, A, 2 * m, B),
        ):
            assert torch.autograd.gradcheck(function, (A, B))
            assert torch.autograd.gradgradcheck(function, (A, B))


@pytest.mark.parametrize("n, m", [(4, 3), (3, 6), (9, 3), (9, 9), (7, 7)])
def test_derivatives_to_samples(n, m, decomposition):
    x, y = samples(n, 6, 0).requires_grad_(), samples(m, 6, 1).requires_grad_()
    assert torch.autograd.gradcheck(metrics.frechet_distance_of_samples, (x, y))
    assert torch.autograd.gradgradcheck(metrics.frechet_distance_of_samples, (x, y))


@pytest.mark.parametrize("n, m", [(4, 4), (4, 6), (6, 4), (9, 4), (4, 9)])
def test_derivatives_of_singular_covariances_are_those_of_their_samples(n, m, decomposition):
    x, y = samples(n, 7, 0).requires_grad_(), samples(m, 7, 1).requires_grad_()
    R, S = samples(n, 7, 2), samples(m, 7, 3)
    found = []
    by_covariances = lambda x, y: metrics.frechet_distance(*moments(x), *moments(y))  # noqa: E731
    for function in (by_covariances, metrics.frechet_distance_of_samples):
        first = torch.autograd.grad(function(x, y), (x, y), create_graph=True)
        second = torch.autograd.grad((first[0] * R).sum() + (first[1] * S).sum(), (x, y))
        found.append((*first, *second))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("n, m", [(9, 8), (9, 4), (4, 6)])
def test_forward_mode_and_torch_func(n, m, decomposition):
    """Of regular and singular covariances, and of few samples."""
    x, y = samples(n, 6, 0, batch=(2,)), samples(m, 6, 1, batch=(2,))
    tangents = samples(n, 6, 2, batch=(2,)), samples(m, 6, 3, batch=(2,))

    def by_covariances(x, y):
        X, Y = (z - z.mean(-2, keepdim=True) for z in (x, y))
        return metrics.frechet_distance(x.mean(-2), X.mT @ X, y.mean(-2), Y.mT @ Y)

    for f in (metrics.frechet_distance_of_samples, by_covariances):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        gradients = torch.autograd.grad(f(a, b).sum(), (a, b))
        for one, other in zip(torch.func.vmap(torch.func.grad(f, (0, 1)))(x, y), gradients, strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(torch.func.vmap(f)(x, y), f(x, y))
        torch.testing.assert_close(torch.func.vmap(f, (0, None))(x, y[0]), f(x, y[:1]))
        value, tangent = torch.func.jvp(f, (x, y), tangents)
        expected = sum((g * t).sum((-2, -1)) for g, t in zip(gradients, tangents, strict=True))
        torch.testing.assert_close((value, tangent), (f(x, y), expected))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, tangents[0])
            tangent = torch.autograd.forward_ad.unpack_dual(f(dual, y)).tangent
        torch.testing.assert_close(tangent, (gradients[0] * tangents[0]).sum((-2, -1)))
        inner = torch.autograd.grad(f(a, b).sum(), a, create_graph=True)[0]
        (second,) = torch.autograd.grad((inner * tangents[0]).sum(), a)
        for of in (torch.func.vmap(torch.func.grad(f)), torch.func.grad(lambda x, y, f=f: f(x, y).sum())):
            _, found = torch.func.jvp(lambda x, of=of: of(x, y), (x,), (tangents[0],))  # forward over reverse
            torch.testing.assert_close(found, second, rtol=1e-7, atol=1e-9)


def test_a_third_derivative_is_an_error():
    A, B = (spd(3, seed=s, dtype=DOUBLE).requires_grad_() for s in (0, 1))
    value = metrics.bures_distance(A, B)
    for _ in range(2):
        value = torch.autograd.grad(value, A, create_graph=True)[0].square().sum()
    with pytest.raises(RuntimeError, match=r"fastsqrtm.bures_distance: derivatives exist to second order, got a third"):
        torch.autograd.grad(value, A)


def exact_map(A, B):
    """The optimal map from A to B in extended precision."""
    values, V = extended_eigh(A.numpy())
    root, inverse = (V * np.sqrt(values)) @ V.T, (V / np.sqrt(values)) @ V.T
    K = root @ B.numpy().astype(np.longdouble) @ root
    values, V = extended_eigh((K + K.T) / 2)
    return torch.from_numpy((inverse @ (V * np.sqrt(values)) @ V.T @ inverse).astype(np.float64))


@pytest.mark.parametrize("kappa", [1e2, 1e6])
def test_gradients_have_the_error_of_the_svd(kappa, decomposition):
    own, svd = 0.0, 0.0
    for seed in range(4):
        A, B = spd(12, kappa, dtype=DOUBLE, seed=seed), spd(12, kappa, dtype=DOUBLE, seed=seed + 9)
        T = exact_map(A, B)
        leaf = A.clone().requires_grad_()
        zero = torch.zeros(12, dtype=DOUBLE)
        (gradient,) = torch.autograd.grad(metrics.frechet_distance(zero, leaf, zero, B), leaf)
        own += (torch.eye(12, dtype=DOUBLE) - gradient - T).norm() / T.norm()
        L = torch.linalg.cholesky(A)
        U, s, _ = torch.linalg.svd(L.T @ torch.linalg.cholesky(B))
        X = torch.linalg.solve_triangular(L.T, U, upper=True)
        svd += (X * s @ X.T - T).norm() / T.norm()
    assert own < 10 * svd + 1e-13


def test_the_gradient_at_equal_matrices_is_zero_and_finite(decomposition):
    for A in (spd(5, 1e6, dtype=DOUBLE), torch.cov(samples(3, 5).T), torch.zeros(5, 5, dtype=DOUBLE), spd(5)):
        A, B = A.clone().requires_grad_(), A.clone().requires_grad_()
        distance = metrics.bures_distance(A, B)
        assert distance <= 1e-12 * A.trace().sqrt()
        for gradient in torch.autograd.grad(distance, (A, B)):
            assert not gradient.any()


def test_scipy_and_the_formulas_of_pytorch_fid_and_torchmetrics():
    linalg = pytest.importorskip("scipy.linalg")
    x, y = samples(60, 12, 0), samples(80, 12, 1)
    (m1, C1), (m2, C2) = moments(x), moments(y)
    found = metrics.frechet_distance(m1, C1, m2, C2)
    rest = (m1 - m2).square().sum() + C1.trace() + C2.trace()
    root = torch.from_numpy(np.real(linalg.sqrtm((C1 @ C2).numpy())))
    torch.testing.assert_close(found, rest - 2 * root.trace(), rtol=1e-12, atol=0)
    overlap = torch.linalg.eigvals(C1 @ C2).sqrt().real.sum()
    torch.testing.assert_close(found, rest - 2 * overlap, rtol=1e-12, atol=0)


def test_torchmetrics_itself():
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Features(torch.nn.Module):
        num_features = 12

        def forward(self, x):
            return x

    theirs, ours = fid.FrechetInceptionDistance(Features()), metrics.FrechetDistance(Features())
    theirs.set_dtype(DOUBLE)
    for metric in (theirs, ours):
        for x in samples(64, 12, 0).split(20):
            metric.update(x, real=True)
        metric.update(samples(50, 12, 1), real=False)
    torch.testing.assert_close(ours.compute(), theirs.compute(), rtol=1e-10, atol=0)


def test_pot_itself():
    ot = pytest.importorskip("ot.gaussian")
    (m1, C1), (m2, C2) = moments(samples(60, 12, 0)), moments(samples(80, 12, 1))
    found = metrics.frechet_distance(m1, C1, m2, C2).sqrt()
    torch.testing.assert_close(found, torch.as_tensor(ot.bures_wasserstein_distance(m1, m2, C1, C2)).reshape(()))
    torch.testing.assert_close(metrics.bures_distance(C1, C2), torch.as_tensor(ot.bures_distance(C1, C2)).reshape(()))


def test_pytorch_fid_itself():
    pytest.importorskip("torchvision")
    score = pytest.importorskip("pytorch_fid.fid_score")
    one, other = moments(samples(60, 12, 0)), moments(samples(80, 12, 1))
    theirs = score.calculate_frechet_distance(*(z.numpy() for z in (*one, *other)))
    assert abs(metrics.frechet_distance(*one, *other) - theirs) < 1e-10 * theirs


# ---- the accumulator


def filled(x, y, batch=7, **options):
    metric = metrics.FrechetDistance(**options)
    for part in x.split(batch):
        metric.update(part, real=True)
    for part in y.split(batch):
        metric(part, real=False)
    return metric


def test_batches_of_any_size_give_the_distance_of_all_samples():
    x, y = samples(40, 6, 0) + 1e6, samples(31, 6, 1) + 1e6  # sums of squares would lose 12 digits
    expected = metrics.frechet_distance_of_samples(x, y)
    for batch in (1, 7, 64):
        torch.testing.assert_close(filled(x, y, batch).compute(), expected, rtol=1e-7, atol=0)
    metric = filled(x, y)
    metric.update(x[:0], real=True)
    metric.update(x[0], real=True)  # one sample without a batch, as torchmetrics takes it
    expected = metrics.frechet_distance_of_samples(torch.cat((x, x[:1])), y)
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-7, atol=0)


def test_merging_is_accumulating():
    x, y = samples(40, 6, 0), samples(31, 6, 1)
    parts = [filled(x[:10], y[:0]), filled(x[10:13], y[:20]), filled(x[13:], y[20:]), metrics.FrechetDistance()]
    parts[3].merge(*parts[:3])
    torch.testing.assert_close(parts[3].compute(), filled(x, y).compute(), rtol=1e-12, atol=0)
    assert parts[0].real_number == 10


def test_state_is_saved_copied_and_moved_in_float64():
    x, y = samples(40, 6, 0), samples(31, 6, 1)
    metric = filled(x, y)
    expected = metric.compute()
    assert set(metric.state_dict()) == {f"{k}_{n}" for k in ("real", "fake") for n in ("number", "mean", "scatter")}
    loaded = metrics.FrechetDistance()
    loaded.load_state_dict(metric.state_dict())
    for other in (loaded, copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric).half()):
        assert other.real_mean.dtype == DOUBLE
        assert torch.equal(other.compute(), expected)
    assert "real_count=40, fake_count=31" in repr(metric)
    metric.update(x, real=False)
    assert torch.equal(loaded.compute(), expected)  # nothing is shared


def test_reset_keeps_the_real_samples_if_asked():
    x, y, z = samples(40, 6, 0), samples(31, 6, 1), samples(20, 6, 2)
    metric = filled(x, y, reset_real_features=False)
    metric.reset()
    metric.update(z, real=False)
    torch.testing.assert_close(metric.compute(), filled(x, z).compute(), rtol=1e-12, atol=0)
    metric = filled(x, y)
    metric.reset()
    assert (metric.real_number, metric.fake_number) == (0, 0)
    metric.update(samples(4, 3), real=True)  # another number of features, after a reset


def test_features_are_computed_without_gradient_and_widened():
    layer = torch.nn.Linear(5, 3)
    metric = metrics.FrechetDistance(lambda x: layer(x).bfloat16())
    metric.update(samples(9, 5).float(), real=True)
    assert metric.real_mean.dtype == DOUBLE
    assert not metric.real_mean.requires_grad


def test_errors_name_what_is_wrong():
    x, C = samples(4, 3), torch.eye(3)
    cases = [
        (lambda: metrics.frechet_distance(x[0], C, x[0], torch.eye(4)), r"cov2 must be \(..., 3, 3\) where mean1 is"),
        (lambda: metrics.frechet_distance(x[0], C, x[0, :2], C), r"mean2 must be \(..., 3\)"),
        (lambda: metrics.frechet_distance(x[0], C[:2], x[0], C), r"cov1 must be \(..., n, n\), got \(2, 3\)"),
        (lambda: metrics.frechet_distance(x[0].int(), C, x[0], C), "mean1 must be float16, .*, got int32"),
        (lambda: metrics.frechet_distance([0.0] * 3, C, x[0], C), "mean1 must be a tensor, got list"),
        (lambda: metrics.frechet_distance_of_samples(x[:1], x), "x must have at least 2 samples"),
        (lambda: metrics.frechet_distance_of_samples(x, x[:, :2]), r"y must be \(..., m, 3\)"),
        (lambda: metrics.bures_distance(C, torch.eye(2)), r"B must have the size of A \(3, 3\)"),
        (lambda: metrics.bures_distance(C.expand(2, 3, 3), C.expand(3, 3, 3)), "leading dimensions must broadcast"),
        (lambda: metrics.FrechetDistance(2048), "feature must be a function or module"),
        (lambda: metrics.FrechetDistance().update(x.int(), real=True), "must be floating-point"),
        (lambda: metrics.FrechetDistance().compute(), "at least 2 real samples are needed, got 0"),
        (lambda: filled(x, samples(4, 5)).compute(), "fake samples must have 3 features, got 5"),
    ]
    for call, message in cases:
        with pytest.raises(RuntimeError, match=message):
            call()


def _process(rank, path, results):
    torch.distributed.init_process_group("gloo", f"file://{path}", rank=rank, world_size=3)
    x, y = samples(21, 6, 0), samples(16, 6, 1)
    parts = ((x[:5], y[:16]), (x[5:], y[16:]), (x[:0], y[:0]))  # unequal, and one process without samples
    metric = filled(*parts[rank])
    local = metrics.FrechetDistance(sync=False)
    local.merge(metric)
    if rank == 0:
        assert not torch.allclose(local.compute(), metric.compute())
    else:
        metric.compute()
    results[rank] = metric.compute()  # a second time, so nothing was added to the state
    torch.distributed.destroy_process_group()


def test_processes_with_unequal_samples_agree_with_one(tmp_path):
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch has no gloo")
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_process, (str(tmp_path / "store"), results), nprocs=3)
        expected = filled(samples(21, 6, 0), samples(16, 6, 1)).compute()
        for rank in range(3):
            torch.testing.assert_close(results[rank], expected, rtol=1e-12, atol=0)
