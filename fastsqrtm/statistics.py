"""Means and covariances of groups of channels: the one place for centring, precision, groups and several processes.

The layers of `fastsqrtm.nn` are made of `moments`; `covariance` is the public face of the same computation.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ._ops import check as _check
from ._ops.route import without_autocast

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Statistics", "covariance", "shrink"]


class Statistics(NamedTuple):
    """What `covariance` returns.

    mean: (C,), or (N, C) for each sample.
    cov: (G, g, g), or (N, G, g, g) for each sample: the covariance of each group of g channels. Where the last group is
        smaller, the rows and columns that it lacks are those of the identity.
    samples: How many samples each covariance is the mean of, a tensor without dimensions.
    """

    mean: Tensor
    cov: Tensor
    samples: Tensor


def covariance(
    x: Tensor,
    *,
    dim: int = 1,
    group_size: int | None = None,
    per_sample: bool = False,
    correction: int = 0,
    process_group: "ProcessGroup | None" = None,
) -> Statistics:
    """Compute the mean and the covariance of the channels of x, by groups, over all samples or for each one.

    Args:
        x: Two or more dimensions, any floating dtype. All dimensions but the channels are positions that are averaged.
        dim: The dimension of the channels.
        group_size: Channels are taken in groups of this many, in their order, and the last group may be smaller; None
            takes all channels as one group.
        per_sample: Keep the first dimension, which must not be that of the channels: one covariance for each sample.
        correction: The covariance is divided by samples - correction: 0 gives the biased, 1 the unbiased one.
        process_group: The processes whose samples count as one batch, `torch.distributed.group.WORLD` for all. They
            may have different numbers of samples, and none. Not for `per_sample`.

    Returns:
        A `Statistics` of mean, cov and samples, in float32 or the wider dtype of x, also under autocast. Samples are
        centred before they are multiplied, so a mean much larger than the deviation costs no digits.

    Gradient:
        To x, exact, to any order. With a process group it is that of the sum of the results of all processes.

    Cost:
        2 m g^2 flop for m samples of g channels, and as much backward; one copy of x is kept for backward. Across
        processes one all_reduce of C (g + 1) + 1 numbers in float64 forward, and one backward.

    Raises:
        RuntimeError: x has no channels dimension or no floating dtype; group_size or correction is out of range.

    Source:
        Chan, Golub and LeVeque, Am. Stat. 37(3), 1983, for the sum over processes.

    Example:
        >>> x = torch.randn(8, 6, 5, 5)
        >>> mean, cov, samples = fastsqrtm.statistics.covariance(x, group_size=4, correction=1)
        >>> mean.shape, cov.shape, int(samples)
        (torch.Size([6]), torch.Size([2, 4, 4]), 200)
        >>> torch.allclose(cov[0], torch.cov(x.transpose(0, 1).flatten(1)[:4]), atol=1e-5)
        True
    """
    function = "statistics.covariance"
    _check.strided(function, "x", x)
    if x.dim() < 2 or not x.is_floating_point():
        _check.fail(function, "x must have a floating dtype and two or more dimensions", f"{x.dtype} {tuple(x.shape)}")
    _check.kind(function, "dim", dim, whole=True)
    if not -x.dim() <= dim < x.dim():
        _check.fail(function, f"dim must be from {-x.dim()} to {x.dim() - 1}", dim)
    dim %= x.dim()
    if per_sample and (dim == 0 or process_group is not None):
        _check.fail(function, "per_sample needs samples in the first dimension, of one process", f"dim={dim}")
    size = checked_group_size(function, group_size, x.shape[dim])
    _check.kind(function, "correction", correction, whole=True)
    with without_autocast(x):
        planes = as_planes(wide(x.unsqueeze(0) if dim == 0 else x.movedim(dim, 1)), per_sample)
        found = moments(planes, size, per_sample=per_sample, group=process_group)
        cov = found.cov * (found.samples / (found.samples - correction).clamp(min=1)) if correction else found.cov
        cov = with_identity(cov, x.shape[dim])
    mean = found.mean if per_sample else found.mean[0]
    return Statistics(mean, cov if per_sample else cov[0], found.samples)


def shrink(cov: Tensor, shrinkage: float = 0.0, eps: float = 0.0, *, channels: int | None = None) -> Tensor:
    """Move covariances towards a multiple of the identity, so that their smallest eigenvalue is known.

    Args:
        cov: (..., G, g, g), or (..., g, g) if `channels` is not given.
        shrinkage: From 0 to 1: how far to go to the identity times the mean variance of the group.
        eps: Added to the diagonal.
        channels: The number of channels if the last of the G groups is smaller: what it lacks does not count.

    Returns:
        (1 - shrinkage) cov + (shrinkage v + eps) I with the mean variance v of each group, like cov. No eigenvalue is
        below shrinkage v + eps.

    Gradient:
        To cov, exact, to any order.

    Cost:
        A few operations an entry.

    Raises:
        RuntimeError: shrinkage is not from 0 to 1, or eps is negative.

    Source:
        Ledoit and Wolf, J. Multivariate Anal. 88(2), 2004, for the target.

    Example:
        >>> fastsqrtm.statistics.shrink(torch.diag(torch.tensor([3.0, 1.0])), 0.5, 1.0)
        tensor([[3.5000, 0.0000],
                [0.0000, 2.5000]])
    """
    checked_ridge("statistics.shrink", shrinkage, eps)
    return ridged(cov, shrinkage, eps, cov.shape[-1] if channels is None else channels)


def checked_group_size(function: str, group_size: int | None, channels: int) -> int:
    if group_size is None:
        return channels
    _check.kind(function, "group_size", group_size, whole=True)
    if not 1 <= group_size <= max(channels, 1):
        _check.fail(function, f"group_size must be from 1 to the {channels} channels, or None", group_size)
    return group_size


def checked_ridge(function: str, shrinkage: float, eps: float) -> None:
    for name, value, high in (("shrinkage", shrinkage, 1.0), ("eps", eps, float("inf"))):
        _check.kind(function, name, value)
        if not 0 <= value <= high or value == float("inf"):
            limits = "be from 0 to 1" if high == 1.0 else "be finite and not negative"
            _check.fail(function, f"{name} must {limits}", f"{value:g}")


def ridged(cov: Tensor, shrinkage: float, eps: float, channels: int) -> Tensor:
    """`shrink` without its checks. Entries of the diagonal beyond `channels` become the mean variance of their group,
    or 1 where that is 0, so that they do not change its condition number.
    """
    g = cov.shape[-1]
    diagonal = cov.diagonal(dim1=-2, dim2=-1)
    if cov.dim() > 2 and channels % g:
        real = (torch.arange(cov.shape[-3] * g, device=cov.device) < channels).view(-1, g)
        diagonal = diagonal * real
        variance = diagonal.sum(-1, keepdim=True) / real.sum(-1, keepdim=True)
        added = torch.where(real, shrinkage * variance + eps, torch.where(variance > 0, variance, 1))
        cov = cov * (real[:, :, None] & real[:, None, :])
        return (1 - shrinkage) * cov + added.diag_embed()
    if shrinkage == 0:
        return cov + torch.full_like(cov[..., 0], eps).diag_embed() if eps else cov
    variance = diagonal.mean(-1, keepdim=True)
    return (1 - shrinkage) * cov + (shrinkage * variance + eps).expand_as(diagonal).diag_embed()


def wide(x: Tensor) -> Tensor:
    """x in float32, or in its own dtype if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def has_channels_last(x: Tensor) -> bool:
    """Whether the channels of (N, C, ...) are the innermost in memory, and not those of the positions."""
    return x.dim() == 2 or (x.shape[1] > 1 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous())


def as_planes(x: Tensor, per_sample: bool = False) -> Tensor:
    """(N, C, ...) -> (N, C, L), or (1, C, N L) of channels-last input unless per sample. A view where possible."""
    if not per_sample and has_channels_last(x):
        return x.movedim(1, -1).reshape(-1, x.shape[1]).mT.unsqueeze(0)
    return x.unsqueeze(-1) if x.dim() == 2 else x.flatten(2)


class Moments(NamedTuple):
    """Statistics with what a layer goes on with.

    parts: The samples minus their mean in this process: (N, G, g, L), and (N, 1, r, L) of a smaller last group.
    offset: (B, C), the mean in this process minus `mean`; None where there is one process.
    mean: (B, C), of all processes; B is 1, or N for each sample.
    cov: (B, G, g, g), biased, zero in the rows and columns that a smaller last group lacks.
    samples: How many samples all processes have, a tensor without dimensions.
    """

    parts: list[Tensor]
    offset: Tensor | None
    mean: Tensor
    cov: Tensor
    samples: Tensor


def split(x: Tensor, size: int) -> list[Tensor]:
    """(N, C, L) -> views (N, G, size, L) and, if channels are left over, (N, 1, r, L)."""
    channels = x.shape[1]
    rest = channels % size if size else 0
    if rest == 0:
        return [x.unflatten(1, (-1, size) if channels else (1, 0))]
    if rest == channels:
        return [x.unsqueeze(1)]
    return [x[:, : channels - rest].unflatten(1, (-1, size)), x[:, channels - rest :].unsqueeze(1)]


def moments(
    x: Tensor,
    size: int,
    *,
    per_sample: bool = False,
    group: "ProcessGroup | None" = None,
) -> Moments:
    """The moments of (N, C, L), of the samples of all processes of a group where one is given."""
    parts, means, grams = [], [], []
    for part in split(x, size):
        centred, mean, gram = centre(part, per_sample)
        parts.append(centred)
        means.append(mean.flatten(1))
        rest = size - gram.shape[-1]
        grams.append(F.pad(gram, (0, rest, 0, rest)) if rest else gram)
    mean = torch.cat(means, 1) if len(means) > 1 else means[0]
    gram = torch.cat(grams, 1) if len(grams) > 1 else grams[0]
    samples = x.shape[2] if per_sample else x.shape[0] * x.shape[2]
    count = torch.full((), float(samples), dtype=x.dtype, device=x.device)
    if group is None:
        return Moments(parts, None, mean, gram / max(samples, 1), count)
    # In float64, since products of means are added and subtracted again: a mean of 1e3 deviations would cost float32
    # six digits. So the processes need no common shift near their means.
    local = mean.double()
    sums = count.view(1).double(), (count * local).flatten(), (gram + count * _outer(local, size)).flatten()
    packed = all_reduce(torch.cat(sums), group)
    count = packed[0].detach()
    average = packed[1 : x.shape[1] + 1].view_as(mean) / count.clamp(min=1)
    cov = packed[x.shape[1] + 1 :].view_as(gram) / count.clamp(min=1) - _outer(average, size)
    return Moments(parts, *(y.to(x.dtype) for y in (local - average, average, cov, count)))


def _outer(v: Tensor, size: int) -> Tensor:
    """(1, C) -> (1, G, size, size): the products of the channels of each group."""
    v = F.pad(v, (0, -v.shape[1] % size)).unflatten(1, (-1, size))
    return v.unsqueeze(-1) * v.unsqueeze(-2)


def with_identity(cov: Tensor, channels: int) -> Tensor:
    """cov with ones on the diagonal beyond `channels`."""
    if channels % max(cov.shape[-1], 1) == 0:
        return cov
    beyond = torch.arange(cov.shape[-3] * cov.shape[-1], device=cov.device) >= channels
    return cov + beyond.view(cov.shape[-3:-1]).to(cov.dtype).diag_embed()


def centre(x: Tensor, per_sample: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(N, G, g, L) -> x - mean, mean (B, G, g), and the sum of the products of channels (B, G, g, g)."""
    if torch.compiler.is_compiling():
        return _centre(x, per_sample)
    centred, mean, gram = _Centre.apply(x, per_sample)
    return centred, mean, gram


def _positions(x: Tensor, per_sample: bool) -> tuple[list[int], int]:
    return ([3], x.shape[3]) if per_sample else ([0, 3], x.shape[0] * x.shape[3])


def _mean(x: Tensor, per_sample: bool) -> Tensor:
    dims, samples = _positions(x, per_sample)
    return x.sum(dims, keepdim=True) / max(samples, 1)


def _products(x: Tensor, y: Tensor, per_sample: bool) -> Tensor:
    products = x @ y.mT
    return products if per_sample or x.shape[0] == 1 else products.sum(0, keepdim=True)


def _centre(x: Tensor, per_sample: bool) -> tuple[Tensor, Tensor, Tensor]:
    mean = _mean(x, per_sample)
    centred = x - mean
    return centred, mean.squeeze(-1), _products(centred, centred, per_sample)


def _times(symmetric: Tensor, x: Tensor) -> Tensor:
    """The product in the layout of x, of which that with the channels last is the transpose."""
    return (x.mT @ symmetric).mT if x.stride(-2) == 1 and x.shape[-2] > 1 else symmetric @ x


def _may_overwrite() -> bool:
    """Whether a backward may work in place, which saves two copies of the data: nobody differentiates it or maps it."""
    return not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()


class _Centre(torch.autograd.Function):
    """`_centre` with its backward in three passes over the data, where autograd makes eight. Differentiable again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, per_sample: bool) -> tuple[Tensor, Tensor, Tensor]:
        return _centre(x, per_sample)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.per_sample = inputs[1]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[0])
        ctx.save_for_forward(output[0])

    @staticmethod
    def backward(ctx: Any, dcentred: Tensor | None, dmean: Tensor | None, dgram: Tensor | None) -> Any:
        (centred,) = ctx.saved_tensors
        constant = None if dcentred is None else -_mean(dcentred, ctx.per_sample)
        if dmean is not None:
            through_mean = dmean.unsqueeze(-1) / max(_positions(centred, ctx.per_sample)[1], 1)
            constant = through_mean if constant is None else constant + through_mean
        if dcentred is not None and dgram is not None and constant is not None and _may_overwrite():
            return _times(dgram + dgram.mT, centred).add_(dcentred).add_(constant), None
        dx = constant if dcentred is None or constant is None else dcentred + constant
        if dgram is not None:
            through_gram = _times(dgram + dgram.mT, centred)
            dx = through_gram if dx is None else dx + through_gram
        return dx if dx is None else dx.expand_as(centred), None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> tuple[Tensor, Tensor, Tensor]:
        (centred,) = ctx.saved_tensors
        mean = _mean(dx, ctx.per_sample)
        dcentred = dx - mean
        products = _products(dcentred, centred, ctx.per_sample)
        return dcentred, mean.squeeze(-1), products + products.mT


def all_reduce(x: Tensor, group: "ProcessGroup") -> Tensor:
    """The sum of x over the processes; its gradient is the sum of the cotangents of all of them, to any order."""
    result: Tensor = _AllReduce.apply(x, group)
    return result


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: "ProcessGroup") -> Tensor:
        ctx.group = group
        x = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return all_reduce(cotangent, ctx.group), None
