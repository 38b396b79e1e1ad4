"""Whitening and colouring: features or colours get the mean and covariance of others, by roots or optimal transport.

Everything acts on (B, C, ...), images or their features; the statistics are those of an image over its pixels. Moments
and roots are float64; directions without variance, as dead channels and masks of few pixels have them, stay without.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import gaussians, roots, statistics
from ._ops import check as _check
from ._ops.route import without_autocast
from ._ops.table import DTYPES, Matrix

LIVE = 1e-9
"""Default `eps`: real VGG features have live variances down to 1e-9 of the largest, and dead ones at 0."""


def whiten(x: Tensor, *, groups: int = 1, eps: float = LIVE, mask: Tensor | None = None) -> Tensor:
    """Remove the mean of each image over its pixels and decorrelate its channels, by the symmetric inverse root (ZCA).

    Args:
        x: (B, C, ...), float16, bfloat16, float32 or float64: images or features with any dimensions of pixels.
        groups: Into how many parts the channels are cut; C must be a multiple of it. Each part is whitened alone.
        eps: Directions with less than this share of the largest variance are dead: they become 0.
        mask: The pixels that count and change, boolean, (B, ...) or (...) without the channels; None stands for all.

    Returns:
        C^(-1/2) (x - mean), in the shape and dtype of x, of variance 1 (over n - 1 pixels) in every live direction.
        Pixels outside the mask keep their values. A single pixel, or equal ones, give 0.

    Gradient:
        To x, through the statistics as well, to any order; finite where variances are equal or zero. Where directions
        are dead it is that of changes that leave them dead.

    Cost:
        4 N C^2 flop for N pixels and an eigendecomposition of C x C for each image; C / groups takes the place of C.

    Raises:
        RuntimeError: A shape does not fit, groups does not divide C, or eps is out of range.

    Source:
        Li et al., Universal Style Transfer via Feature Transforms, NeurIPS 2017.

    Example:
        >>> x = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(1)
        >>> z = fastsqrtm.transfer.whiten(x)
        >>> torch.allclose(torch.cov(z[0].flatten(1)), torch.eye(8), atol=1e-4)
        True
    """
    content = _pixels("whiten", "x", x, mask, "mask", groups)
    _share("whiten", "eps", eps)
    moments = _moments(content, groups)
    return _applied(content, _inverse_root(moments.cov, eps), moments.mean, torch.zeros_like(moments.mean), 1.0)


def color(z: Tensor, style: Tensor, *, groups: int = 1, eps: float = LIVE, style_mask: Tensor | None = None) -> Tensor:
    """Give white features the mean and covariance of a style over its pixels.

    Args:
        z: (B, C, ...), as from `whiten`, of any dtype that it takes.
        style: (B or 1, C, ...), with any number of pixels.
        groups: As for `whiten`.
        eps: As for `whiten`, of the style.
        style_mask: The pixels of the style that count, boolean, without the channels; at least one.

    Returns:
        S^(1/2) z + mean for the covariance S of the style, in the shape and dtype of z.

    Gradient:
        As `whiten`, to z and to the style.

    Cost:
        As `whiten`.

    Raises:
        RuntimeError: As `whiten`; the style has other channels, or neither one image nor B.

    Source:
        As `whiten`.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> style = torch.randn(1, 3, 20, 20, generator=generator).cumsum(1) + 5
        >>> z = fastsqrtm.transfer.whiten(torch.randn(2, 3, 8, 8, generator=generator))
        >>> colored = fastsqrtm.transfer.color(z, style)
        >>> torch.allclose(torch.cov(colored[0].flatten(1)), torch.cov(style[0].flatten(1)), rtol=1e-3)
        True
    """
    content = _pixels("color", "z", z, None, "mask", groups)
    target = _style("color", content, style, style_mask, groups)
    _share("color", "eps", eps)
    moments = _moments(target, groups)
    return _applied(content, _root(moments.cov, eps), torch.zeros_like(moments.mean), moments.mean, 1.0)


def whiten_color(
    content: Tensor,
    style: Tensor,
    *,
    strength: float = 1.0,
    groups: int = 1,
    eps: float = LIVE,
    mask: Tensor | None = None,
    style_mask: Tensor | None = None,
) -> Tensor:
    """Whiten the content and give it the colours of the style: the WCT of style transfer, as one map per image.

    Args:
        content: (B, C, ...), as x of `whiten`.
        style: (B or 1, C, ...), with any number of pixels.
        strength: From 0, which leaves the content as it is, to 1, which gives it the style's statistics.
        groups: As for `whiten`.
        eps: As for `whiten`, of both.
        mask: The pixels of the content that count and change; the others keep their values.
        style_mask: The pixels of the style that count. Where it has none, the content keeps its values.

    Returns:
        S^(1/2) C^(-1/2) (x - mean) + mean of the style, mixed with the content by the strength, in the shape and dtype
        of the content. Equal images give the content back. One pixel of the style gives its values everywhere.

    Gradient:
        As `whiten`, to both.

    Cost:
        2 N C^2 flop for each image's covariance and 2 N C^2 for the map, and two eigendecompositions.

    Raises:
        RuntimeError: As `whiten` and `color`; strength is out of range.

    Source:
        As `whiten`.

    Example:
        >>> x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(fastsqrtm.transfer.whiten_color(x, x), x, atol=1e-6)
        True
    """
    function = "whiten_color"
    pixels = _pixels(function, "content", content, mask, "mask", groups)
    target = _style(function, pixels, style, style_mask, groups)
    _share(function, "eps", eps)
    _share(function, "strength", strength)
    source, wanted = _moments(pixels, groups), _moments(target, groups)
    if target.counts is not None:
        present = (wanted.number > 0)[:, None]
        pixels = pixels._replace(changes=present if pixels.changes is None else pixels.changes & present)
    return _applied(pixels, _root(wanted.cov, eps) @ _inverse_root(source.cov, eps), source.mean, wanted.mean, strength)


def transport(A: Tensor, B: Tensor) -> Tensor:
    """Compute the optimal transport map between centred Gaussians: the symmetric T with T A T = B.

    Args:
        A: (..., n, n), positive semidefinite covariances, float16, bfloat16, float32 or float64; computed in float64.
        B: As A. Leading dimensions broadcast.

    Returns:
        T = A^(-1/2) (A^(1/2) B A^(1/2))^(1/2) A^(-1/2), symmetric positive semidefinite, float64 if an argument is,
        otherwise float32. Of all maps that turn the one covariance into the other, x -> T x moves the least. Where A is
        singular T is the least such map. NaN and Inf give NaN, in that matrix alone.

    Gradient:
        X with X A T + T A X = dB - T dA T, by the adjoint of this equation; of first order: a second one raises.

    Cost:
        As the gradient of `metrics.frechet_distance`: about 15 n^3 flop.

    Raises:
        RuntimeError: The matrices are not square, of one size, or of these dtypes.

    Source:
        Olkin and Pukelsheim, Linear Algebra and its Applications 48, 1982.

    Example:
        >>> A, B = fastsqrtm.testing.spd(4, kappa=10), fastsqrtm.testing.spd(4, kappa=10, seed=1)
        >>> T = fastsqrtm.transfer.transport(A, B)
        >>> torch.allclose(T @ A @ T, B, atol=1e-6)
        True
    """
    function = "transport"
    for name, C in (("A", A), ("B", B)):
        _check.first(function, Matrix(name, "nn"), C)
    if A.shape[-1] != B.shape[-1]:
        _check.fail(function, f"B must have the size of A {tuple(A.shape)}", tuple(B.shape))
    dtype = torch.float64 if torch.float64 in (A.dtype, B.dtype) else torch.float32
    wide_A, wide_B = torch.broadcast_tensors(A.double(), B.double())
    finite = (wide_A.isfinite() & wide_B.isfinite()).all(-1).all(-1)[..., None, None]
    if finite.numel() == 0:
        return wide_A.to(dtype)
    T = gaussians.transport(function, torch.where(finite, wide_A, 0), torch.where(finite, wide_B, 0))
    return torch.where(finite, T, torch.nan).to(dtype)


def color_transfer(image: Tensor, reference: Tensor) -> Tensor:
    """Give an image the mean and covariance of the colours of another, by the map that changes them least.

    Args:
        image: (B, C, H, W) or (C, H, W), float16, bfloat16, float32 or float64; C is 3 for colours.
        reference: Likewise, one for all images or one for each, of any size.

    Returns:
        T (x - mean) + mean of the reference, with the optimal T, in the shape and dtype of the image. Colours may leave
        their range: `.clamp(0, 1)` before they are shown.

    Gradient:
        To both, through the statistics; of first order.

    Cost:
        Two passes over the pixels; the matrices are C x C.

    Raises:
        RuntimeError: Shapes do not fit.

    Source:
        Pitie and Kokaram, The linear Monge-Kantorovitch linear colour mapping, CVMP 2007.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> image, reference = torch.rand(3, 20, 30, generator=generator), torch.rand(3, 9, 9, generator=generator) / 2
        >>> result = fastsqrtm.transfer.color_transfer(image, reference)
        >>> torch.allclose(torch.cov(result.flatten(1)), torch.cov(reference.flatten(1)), atol=1e-6)
        True
    """
    function = "color_transfer"
    images = [x[None] if isinstance(x, Tensor) and x.dim() == 3 else x for x in (image, reference)]
    pixels = _pixels(function, "image", images[0], None, "mask", 1)
    target = _style(function, pixels, images[1], None, 1, name="reference")
    source, wanted = _moments(pixels, 1), _moments(target, 1)
    A, B = torch.broadcast_tensors(source.cov, wanted.cov)
    T = transport(A, B)
    return _applied(pixels, T, source.mean, wanted.mean, 1.0).reshape(image.shape)


class _Pixels(NamedTuple):
    x: Tensor  # (B, C, ...), as given
    flat: Tensor  # (B, C, N)
    counts: Tensor | None  # (B, N), which pixels count in the statistics; None stands for all
    changes: Tensor | None  # (B, N) or (B or 1, 1), which pixels change; None stands for all


class _Moments(NamedTuple):
    number: Tensor  # (B,), of pixels
    mean: Tensor  # (B, C, 1), float64
    cov: Tensor  # (B, groups, C / groups, C / groups), float64


def _pixels(function: str, name: str, x: Any, mask: Any, mask_name: str, groups: int) -> _Pixels:
    _check.strided(function, name, x)
    if x.dtype not in DTYPES:
        got = str(x.dtype).removeprefix("torch.")
        _check.fail(function, f"{name} must be float16, bfloat16, float32 or float64", got)
    if x.dim() < 3:
        _check.fail(function, f"{name} must be (B, C, ...) with pixels", tuple(x.shape))
    _check.kind(function, "groups", groups, whole=True)
    if groups < 1 or x.shape[1] % groups:
        _check.fail(function, f"groups must divide the {x.shape[1]} channels", groups)
    flat = x.flatten(2)
    if mask is None:
        return _Pixels(x, flat, None, None)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = str(mask.dtype).removeprefix("torch.") if isinstance(mask, Tensor) else type(mask).__name__
        _check.fail(function, f"{mask_name} must be a boolean tensor", got)
    shape = (len(x), *x.shape[2:])
    if tuple(mask.shape) not in (shape, shape[1:], (1, *shape[1:])):
        _check.fail(function, f"{mask_name} must be {shape} or {shape[1:]} to fit {name}", tuple(mask.shape))
    counts = mask.expand(shape).flatten(1)
    return _Pixels(x, flat, counts, counts)


def _style(
    function: str, content: _Pixels, style: Any, mask: Tensor | None, groups: int, name: str = "style"
) -> _Pixels:
    pixels = _pixels(function, name, style, mask, "style_mask", groups)
    batch, channels = content.x.shape[:2]
    if style.shape[1] != channels or len(style) not in (1, batch):
        _check.fail(function, f"{name} must be ({batch} or 1, {channels}, ...)", tuple(style.shape))
    return pixels


def _share(function: str, name: str, value: float) -> None:
    _check.kind(function, name, value)
    if not 0 <= value <= 1:
        _check.fail(function, f"{name} must be from 0 to 1", f"{value:g}")


def _moments(pixels: _Pixels, groups: int) -> _Moments:
    x = pixels.flat
    batch, channels, size = x.shape
    split = (groups, channels // groups) if channels else (groups, 0)
    if pixels.counts is None:
        number = torch.full((batch,), size, device=x.device)
        _, mean, gram = statistics.centre(x.double().unflatten(1, split), True)
        mean = mean.reshape(batch, channels, 1)
    else:
        counts = pixels.counts[:, None]
        number = pixels.counts.sum(-1)
        mean = torch.where(counts, x, 0).sum(-1, keepdim=True, dtype=torch.float64)
        mean = mean / number.clamp(min=1)[:, None, None]
        centred = torch.where(counts, x - mean, 0).unflatten(1, split)
        gram = centred @ centred.mT
    return _Moments(number, mean, gram / (number - 1).clamp(min=1)[:, None, None, None])


def _inverse_root(C: Tensor, eps: float) -> Tensor:
    """C^(-1/2) on the live directions of covariances, 0 elsewhere; NaN for NaN."""
    share = min(max(eps, C.shape[-1] * gaussians.EPS), 1 - gaussians.EPS)
    return roots.inv_sqrtm(C, null="zero", null_rtol=share)


def _root(C: Tensor, eps: float) -> Tensor:
    """C^(1/2) on the live directions, 0 elsewhere."""
    return gaussians.symmetric(C @ _inverse_root(C, eps))


def _applied(pixels: _Pixels, M: Tensor, mean: Tensor, target: Tensor, strength: float) -> Tensor:
    """M (x - mean) + target on the pixels that change, mixed with x, in at least float32."""
    x = pixels.flat
    dtype = torch.promote_types(x.dtype, torch.float32)
    M = M.reshape(len(M), *M.shape[-3:]) if M.dim() == 4 else M[:, None]
    groups, size = M.shape[1], M.shape[-1]
    wide = x.to(dtype)
    with without_autocast(x):
        parts = (wide - mean.to(dtype)).reshape(len(x) * groups, size, -1)
        shift = target.to(dtype).expand(len(x), -1, 1).reshape(len(parts), size, 1)
        maps = M.to(dtype).expand(len(x), -1, -1, -1).reshape(len(parts), size, size)
        y = torch.baddbmm(shift, maps, parts).reshape(x.shape)
        y = y if strength == 1 else wide + strength * (y - wide)
    if pixels.changes is not None:
        y = torch.where(pixels.changes[:, None], y, wide)
    return y.to(x.dtype).reshape(pixels.x.shape)
