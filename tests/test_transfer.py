"""Whitening, colouring and transport: the moments that they promise, masks, dead channels, gradients."""

import math

import pytest
import torch

from fastsqrtm import transfer
from fastsqrtm.testing import exact_sqrtm, relative_error, spd

DOUBLE = torch.float64


def features(batch=2, channels=6, size=(9, 7), seed=0, dtype=DOUBLE):
    """Correlated channels with means."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, *size, generator=generator, dtype=DOUBLE)
    mixing = torch.randn(channels, channels, generator=generator, dtype=DOUBLE)
    return (torch.einsum("ij,bj...->bi...", mixing, x) + 3).to(dtype)


def cov(x, mask=None):
    flat = x.double().flatten(2)
    return torch.stack([torch.cov(image if mask is None else image[:, mask.flatten()]) for image in flat])


@pytest.mark.parametrize("size", [(30,), (9, 7), (3, 4, 5)])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_whitening_gives_every_group_unit_covariance(groups, size):
    x = features(size=size)
    z = transfer.whiten(x, groups=groups)
    assert z.shape == x.shape
    part = 6 // groups
    for k in range(0, 6, part):
        block = slice(k, k + part)
        assert (cov(z)[:, block, block] - torch.eye(part, dtype=DOUBLE)).abs().max() < 1e-9
        torch.testing.assert_close(z[:, block], transfer.whiten(x[:, block]))  # each group as if alone
    assert z.flatten(2).mean(-1).abs().max() < 1e-12


def test_whitening_is_the_symmetric_one():
    x = features(batch=1)
    centred = x.flatten(2) - x.flatten(2).mean(-1, keepdim=True)
    expected = exact_sqrtm(cov(x), -0.5) @ centred
    torch.testing.assert_close(transfer.whiten(x).flatten(2), expected)


@pytest.mark.parametrize("dtype, bound", [(DOUBLE, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_the_result_has_the_moments_of_the_style(dtype, bound):
    content, style = features(dtype=dtype), features(size=(4, 11), seed=1, dtype=dtype)
    for styles in (style, style[:1]):
        for result in (
            transfer.whiten_color(content, styles),
            transfer.color(transfer.whiten(content), styles),
            transfer.color_transfer(content, styles),
        ):
            assert result.dtype == dtype
            assert relative_error(cov(result), cov(styles.expand_as(style))).max() < bound
            means = result.double().flatten(2).mean(-1) - styles.double().flatten(2).mean(-1)
            assert means.abs().max() < 10 * bound


def test_strength_mixes_and_equal_images_give_themselves():
    content, style = features(), features(seed=1)
    whole = transfer.whiten_color(content, style)
    assert torch.equal(transfer.whiten_color(content, style, strength=0), content)
    torch.testing.assert_close(transfer.whiten_color(content, style, strength=0.25), 0.75 * content + 0.25 * whole)
    for result in (transfer.whiten_color(content, content), transfer.color_transfer(content, content)):
        torch.testing.assert_close(result, content)
    dead = content.clone()
    dead[:, 2] = 5.0
    dead[:, 3] = dead[:, 4]
    torch.testing.assert_close(transfer.whiten_color(dead, dead), dead, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("pixels", [0, 1, 2, 5, 63])
def test_masks_of_few_pixels(pixels):
    content, style = features(), features(seed=1)
    mask = torch.zeros(9, 7, dtype=torch.bool)
    mask.view(-1)[torch.randperm(63, generator=torch.Generator().manual_seed(0))[:pixels]] = True
    result = transfer.whiten_color(content, style, mask=mask)
    assert torch.equal(result[:, :, ~mask], content[:, :, ~mask])
    if pixels:
        alone = transfer.whiten_color(content[:, :, mask], style)  # the masked pixels as an image of their own
        torch.testing.assert_close(result[:, :, mask], alone)
    if pixels == 1:
        torch.testing.assert_close(result[:, :, mask], style.flatten(2).mean(-1, keepdim=True))
    result = transfer.whiten_color(content, style, style_mask=mask)
    if pixels:
        torch.testing.assert_close(result, transfer.whiten_color(content, style[:, :, mask]))
    else:
        assert torch.equal(result, content)
    z = transfer.whiten(content, mask=mask)
    live = min(max(pixels - 1, 0), 6)
    if pixels > 1:
        assert torch.allclose(cov(z, mask).diagonal(dim1=1, dim2=2).sum(-1), torch.full((2,), live, dtype=DOUBLE))


def test_every_image_has_its_own_mask():
    content, style = features(), features(seed=1)
    masks = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    masks[1] = False
    result = transfer.whiten_color(content, style, mask=masks)
    torch.testing.assert_close(result[:1], transfer.whiten_color(content[:1], style[:1], mask=masks[0]))
    assert torch.equal(result[1], content[1])


def test_dead_channels_stay_finite_and_live_directions_get_the_style():
    content, style = features(), features(seed=1)
    content[:, 1] = 0
    content[:, 4] = content[:, 3] * 2
    style[:, 0] = -1
    for dtype in (DOUBLE, torch.float32):
        result = transfer.whiten_color(content.to(dtype), style.to(dtype))
        assert result.isfinite().all()
        whitened = cov(transfer.whiten(content.to(dtype)))
        values = torch.linalg.eigvalsh(whitened)
        assert (values[:, :2].abs() < 1e-5).all()
        assert ((values[:, 2:] - 1).abs() < 1e-4).all()
        # S^(1/2) on the live directions of the content
        expected = exact_sqrtm(cov(style)) @ whitened @ exact_sqrtm(cov(style))
        assert relative_error(cov(result), expected).max() < 1e-4
        assert (result[:, 0] + 1).abs().max() < 1e-3


def test_nan_stays_in_its_image():
    content, style = features(), features(seed=1)
    expected = transfer.whiten_color(content, style)
    content[1, 2, 3, 3] = math.nan
    result = transfer.whiten_color(content, style)
    torch.testing.assert_close(result[0], expected[0])
    assert result[1].isnan().all()


def test_gradients():
    content, style = features(1, 3, (7,)).requires_grad_(), features(1, 3, (5,), seed=1).requires_grad_()
    mask = torch.tensor([True] * 5 + [False] * 2)
    for function in (
        lambda x, y: transfer.whiten(x),
        lambda x, y: transfer.whiten_color(x, y, strength=0.7, mask=mask),
        lambda x, y: transfer.color(x, y),
        lambda x, y: transfer.color_transfer(x[..., None], y[..., None]),
    ):
        assert torch.autograd.gradcheck(function, (content, style))
    A, B = (spd(4, 20, (2,), seed=s, dtype=DOUBLE).requires_grad_() for s in (0, 1))
    assert torch.autograd.gradcheck(transfer.transport, (A, B))


def test_forward_mode_torch_func_and_second_derivatives():
    content, style = features(2, 3, (7,)), features(2, 3, (7,), seed=1)
    tangents = features(2, 3, (7,), seed=2), features(2, 3, (7,), seed=3)
    mask = torch.tensor([True] * 5 + [False] * 2)
    once = lambda x, y: transfer.color_transfer(x[..., None], y[..., None])[..., 0]  # noqa: E731
    twice = (
        lambda x, y: transfer.whiten(x),
        lambda x, y: transfer.whiten_color(x, y, strength=0.7, mask=mask, style_mask=mask),
        transfer.color,
    )
    for f in (once, *twice):
        loss = lambda x, y, f=f: (f(x[None], y[None]) * tangents[1][:1]).sum()  # noqa: E731
        x, y = content.clone().requires_grad_(), style.clone().requires_grad_()
        total = sum(loss(*pair) for pair in zip(x, y, strict=True))
        (expected,) = torch.autograd.grad(total, x)
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(content, style), expected)
        torch.testing.assert_close(torch.func.vmap(loss)(content, style).sum(), total.detach())
        _, tangent = torch.func.jvp(lambda x, f=f: f(x, style), (content,), (tangents[0],))
        pairs = zip(content, style, tangents[0], strict=True)
        one = torch.stack(
            [torch.func.jvp(lambda x, y=y, f=f: f(x[None], y[None])[0], (x,), (t,))[1] for x, y, t in pairs]
        )
        torch.testing.assert_close(tangent, one)
        torch.testing.assert_close((tangent[:1] * tangents[1][:1]).sum(), (expected[0] * tangents[0][0]).sum())
        if f in twice:
            short = content[:1].clone().requires_grad_(), style[:1].clone().requires_grad_()
            assert torch.autograd.gradgradcheck(f, short)
    A = spd(3, dtype=DOUBLE).requires_grad_()
    (first,) = torch.autograd.grad(transfer.transport(A, A.detach() + 1).square().sum(), A, create_graph=True)
    with pytest.raises(RuntimeError, match=r"fastsqrtm.transport: derivatives exist to first order, got a second"):
        torch.autograd.grad(first.sum(), A)


def test_gradients_with_dead_and_equal_directions():
    """Differences over what keeps the rank: a change of the live pixels of a mask of three."""
    x, style = features(1, 5, (3,)), features(1, 5, (3,), seed=1)
    assert torch.autograd.gradcheck(lambda x: transfer.whiten(x), (x.requires_grad_(),))
    assert torch.autograd.gradcheck(lambda x: transfer.whiten_color(x, style), (x,))
    equal = torch.eye(4, dtype=DOUBLE)[None].requires_grad_()  # variances that are all equal
    (gradient,) = torch.autograd.grad(transfer.whiten(equal).square().sum() + transfer.whiten(equal).sum(), equal)
    assert gradient.isfinite().all()


def test_transport_is_symmetric_and_moves_covariances():
    A, B = spd(8, 1e4, (3,), dtype=DOUBLE), spd(8, 1e4, (3,), seed=1, dtype=DOUBLE)
    T = transfer.transport(A, B)
    assert relative_error(T @ A @ T, B).max() < 1e-11
    torch.testing.assert_close(T, T.mT, rtol=0, atol=0)
    assert (torch.linalg.eigvalsh(T) > 0).all()
    torch.testing.assert_close(transfer.transport(A, A), torch.eye(8, dtype=DOUBLE).expand(3, 8, 8), rtol=0, atol=1e-9)
    broadcast = transfer.transport(A[0].float(), B.float())
    assert broadcast.dtype == torch.float32
    torch.testing.assert_close(broadcast[2], transfer.transport(A[0], B[2]).float(), rtol=1e-2, atol=1e-3)
    A[1, 0, 0] = math.nan
    assert transfer.transport(A, B).isnan().all(-1).all(-1).tolist() == [False, True, False]


def test_pot_has_the_same_map():
    ot = pytest.importorskip("ot.gaussian")
    A, B = spd(6, 100, dtype=DOUBLE), spd(6, 100, seed=1, dtype=DOUBLE)
    zero = torch.zeros(1, 6, dtype=DOUBLE)
    theirs, _ = ot.bures_wasserstein_mapping(zero, zero, A, B)
    torch.testing.assert_close(transfer.transport(A, B), theirs.reshape(6, 6))


def test_color_transfer_of_single_images():
    image, reference = features(1, 3)[0], features(1, 3, (5, 4), seed=1)[0]
    result = transfer.color_transfer(image, reference)
    assert result.shape == image.shape
    torch.testing.assert_close(torch.cov(result.flatten(1)), torch.cov(reference.flatten(1)))
    # No map to these moments moves the pixels less.
    moved = (result - image).square().sum()
    assert moved < (transfer.whiten_color(image[None], reference[None])[0] - image).square().sum() + 1e-9


def test_errors_name_what_is_wrong():
    x = features()
    mask = torch.ones(9, 7, dtype=torch.bool)
    cases = [
        (lambda: transfer.whiten(x[0, 0]), r"whiten: x must be \(B, C, ...\) with pixels, got \(9, 7\)"),
        (lambda: transfer.whiten(x.int()), "whiten: x must be float16"),
        (lambda: transfer.whiten(x, groups=4), "groups must divide the 6 channels, got 4"),
        (lambda: transfer.whiten(x, eps=-1.0), "eps must be from 0 to 1, got -1"),
        (lambda: transfer.whiten(x, mask=mask.float()), "mask must be a boolean tensor, got float32"),
        (lambda: transfer.whiten(x, mask=mask[:5]), r"mask must be \(2, 9, 7\) or \(9, 7\) to fit x, got \(5, 7\)"),
        (lambda: transfer.whiten_color(x, x, strength=2), "strength must be from 0 to 1"),
        (lambda: transfer.whiten_color(x, x[:, :3]), r"whiten_color: style must be \(2 or 1, 6, ...\)"),
        (lambda: transfer.color(x, features(3)), r"color: style must be \(2 or 1, 6, ...\)"),
        (lambda: transfer.color_transfer(x, x[:, :3]), r"color_transfer: reference must be \(2 or 1, 6, ...\)"),
        (lambda: transfer.transport(torch.eye(2), torch.eye(3)), r"transport: B must have the size of A \(2, 2\)"),
    ]
    for call, message in cases:
        with pytest.raises(RuntimeError, match=message):
            call()
