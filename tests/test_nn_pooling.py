"""Covariance pooling and the head made of it."""

import hypothesis
import pytest
import torch
from hypothesis import strategies

import fastsqrtm
from fastsqrtm import nn
from fastsqrtm.testing import exact_sqrtm


def features(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[1], shape[1], generator=generator, dtype=dtype)
    return torch.einsum("ij,nj...->ni...", mixing, torch.randn(shape, generator=generator, dtype=dtype)) + 1


def covariances(x, eps=0.0):
    return torch.stack([torch.cov(sample.flatten(1), correction=0) for sample in x]) + eps * torch.eye(x.shape[1])


@pytest.mark.parametrize("shape", [(3, 6, 10), (3, 6, 4, 5), (3, 6, 3, 3, 2)])
def test_pools_the_root_of_the_covariance(shape):
    x = features(*shape)
    cov = covariances(x, 1e-3)
    root = exact_sqrtm(cov)
    upper = torch.triu_indices(6, 6)
    expected = {"triu": root[:, upper[0], upper[1]], "full": root.flatten(1), None: root}
    for vector, value in expected.items():
        pool = nn.CovariancePool(6, eps=1e-3, vector=vector)
        torch.testing.assert_close(pool(x), value)
        assert vector is None or pool(x).shape[1] == pool.out_features
    tokens = nn.CovariancePool(6, eps=1e-3, channel_dim=-1)
    torch.testing.assert_close(tokens(x.flatten(2).mT), expected["triu"])
    scaled = nn.CovariancePool(6, eps=1e-3, scale_off_diagonal=True)(x)
    torch.testing.assert_close(scaled.norm(dim=1), torch.linalg.matrix_norm(root))


def test_the_other_normalisations():
    x = features(3, 6, 10)
    cov = covariances(x)
    none = nn.CovariancePool(6, vector=None, normalize="none")(x)
    torch.testing.assert_close(none, cov)
    signed = nn.CovariancePool(6, vector=None, normalize="signed_sqrt", eps=0.0)(x)
    torch.testing.assert_close(signed, cov.sign() * cov.abs().sqrt())
    second = nn.CovariancePool(6, vector=None, normalize="none", centered=False)(x)
    torch.testing.assert_close(second, x @ x.mT / 10)
    shrunk = nn.CovariancePool(6, vector=None, shrinkage=0.5, eps=0.0)(x)
    target = cov.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(6)
    torch.testing.assert_close(shrunk, exact_sqrtm(cov / 2 + target / 2))


@hypothesis.given(strategies.permutations(range(12)), strategies.permutations(range(5)), strategies.integers(0, 99))
@hypothesis.settings(max_examples=20, deadline=None)
def test_positions_have_no_order_and_channels_keep_theirs(positions, channels, seed):
    x = features(2, 5, 12, seed=seed)
    pool = nn.CovariancePool(5, vector=None)
    torch.testing.assert_close(pool(x[:, :, positions]), pool(x))
    torch.testing.assert_close(pool(x[:, channels]), pool(x)[:, channels][:, :, channels])


@pytest.mark.parametrize("options", [{}, {"normalize": "none"}, {"method": "mpncov"}, {"centered": False}])
def test_gradients_to_second_order(options):
    x = features(2, 3, 7).requires_grad_()
    pool = nn.CovariancePool(3, **options)
    assert torch.autograd.gradcheck(pool, x)
    assert torch.autograd.gradgradcheck(pool, x)


def test_more_channels_than_positions():
    x = features(2, 64, 7, 7, dtype=torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(nn.CovariancePool(64)(x).square().sum(), x)
    assert gradient.isfinite().all()
    dead = torch.zeros(2, 8, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(nn.CovariancePool(8)(dead).sum(), dead)
    assert gradient.eq(0).all()


def mpncov(x, steps):
    """fast MPN-COV by its formulas, in float64: centred covariance, Newton-Schulz steps on A over its trace."""
    M = x.flatten(2).shape[2]
    centring = torch.eye(M, dtype=x.dtype) / M - torch.ones(M, M, dtype=x.dtype) / M**2
    A = x.flatten(2) @ centring @ x.flatten(2).mT
    trace = A.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    eye = torch.eye(A.shape[1], dtype=x.dtype)
    Y, Z = A / trace, eye.expand_as(A)
    for _ in range(steps):
        T = (3 * eye - Z @ Y) / 2
        Y, Z = Y @ T, T @ Z
    return torch.stack([matrix[torch.ones_like(matrix).triu().bool()] for matrix in Y * trace.sqrt()])


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_fast_mpncov_keeps_its_output(steps):
    x = features(3, 8, 5, 5)
    torch.testing.assert_close(nn.CovariancePool.mpncov(8, steps=steps)(x), mpncov(x, steps))


def test_fast_mpncov_keeps_its_weights():
    """Their state_dict: a convolution of 1 x 1, a batch norm, under the name conv_dr_block."""
    torch.manual_seed(0)
    theirs = torch.nn.Module()
    theirs.conv_dr_block = torch.nn.Sequential(
        torch.nn.Conv2d(10, 6, 1, bias=False), torch.nn.BatchNorm2d(6), torch.nn.ReLU()
    )
    theirs = theirs.double()
    x = features(4, 10, 5, 5)
    theirs.conv_dr_block(x)
    ours = torch.nn.Sequential(nn.CovariancePool.mpncov(10, 6, 5)).double()
    ours.load_state_dict({f"0.{key}": value for key, value in theirs.state_dict().items()})
    torch.testing.assert_close(ours.eval()(x), mpncov(theirs.eval().conv_dr_block(x), 5))
    assert ours(x).shape == (4, 21)


def test_half_precision_autocast_compile_and_export():
    torch._dynamo.reset()
    x = features(4, 6, 5, 5, dtype=torch.float32)
    pool = nn.CovariancePool(6, 4)
    expected = pool.eval()(x)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.export.export(pool, (x,)).module()(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pool(x).dtype == torch.float32
    half = nn.CovariancePool(6)(x.bfloat16())
    torch.testing.assert_close(half, nn.CovariancePool(6)(x.bfloat16().float()).bfloat16())


def test_errors_name_the_argument():
    for arguments, message in (
        ({"normalize": "log"}, "normalize must be one of"),
        ({"vector": "tril"}, "vector must be one of"),
        ({"reduce": 0}, "reduce must be positive"),
        ({"eps": -1.0}, "eps must be finite"),
        ({"method": "qr"}, "method"),
        ({"method": "mpncov", "degree": 0}, "degree must be positive"),
        ({"rtol": 2.0}, "rtol must be"),
    ):
        with pytest.raises(RuntimeError, match=message):
            nn.CovariancePool(8, **arguments)
    for x in (torch.randn(2, 7, 3), torch.randn(2, 8), torch.ones(2, 8, 3, dtype=torch.long)):
        with pytest.raises(RuntimeError, match="8 channels in dimension 1"):
            nn.CovariancePool(8)(x)
    assert "out_features=36" in repr(nn.CovariancePool(8))
    assert list(nn.CovariancePool(8).state_dict()) == []


def test_the_head_is_the_sum_of_two_classifiers():
    torch.manual_seed(0)
    tokens = torch.randn(3, 1 + 20, 12, dtype=torch.float64)
    head = nn.SecondOrderHead(12, 5, dim=4, dtype=torch.float64)
    projected = head.projection(tokens[:, 1:])
    root = exact_sqrtm(covariances(projected.mT, head.pool.eps))
    upper = torch.triu_indices(4, 4)
    expected = head.classifier(tokens[:, 0]) + head.visual(root[:, upper[0], upper[1]])
    torch.testing.assert_close(head(tokens), expected)
    torch.testing.assert_close(head(torch.cat([tokens[:, :1], tokens[:, 1:].flip(1)], 1)), expected)
    without = nn.SecondOrderHead(12, 5, dim=4, class_token=False, dtype=torch.float64)
    torch.testing.assert_close(without(tokens.flip(1)), without(tokens))
    with pytest.raises(RuntimeError, match="tokens must be"):
        head(tokens[:, :1])
    head(tokens).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in head.parameters())


def test_two_heads_do_not_share_their_options():
    """The published code changes its configuration when a model is made."""
    heads = [nn.SecondOrderHead(12, 5, dim=4, eps=eps) for eps in (1e-3, 1e-5)]
    assert [head.pool.eps for head in heads] == [1e-3, 1e-5]
    assert isinstance(fastsqrtm.nn.SecondOrderHead(12, 5), torch.nn.Module)
