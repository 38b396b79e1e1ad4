"""Losses made of whitening."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import roots, statistics
from .._ops import check as _check
from .._ops.route import without_autocast


class WMSELoss(nn.Module):
    """Compare whitened embeddings of several views of the same images, for self-supervised learning (W-MSE).

    Whitening keeps the embeddings from collapsing to one point, so no negatives are needed.

    Args:
        dim: The size of an embedding.
        slice_size: Whiten the batch in random slices of this many samples, each by itself; None takes the batch as one.
            At least 2 dim: the covariance of fewer samples is close to singular.
        iterations: How many random divisions into slices are averaged.
        eps, shrinkage: The regulariser of the covariance, as for `BatchWhitening2d`.
        normalize: Compare directions, 2 - 2 cos; otherwise the mean squared difference.
        gather: Whiten the embeddings of all processes together, which must have equal batches.

    Returns:
        A number: the mean over all pairs of views and all samples. The root is computed in float32 or wider.

    Gradient:
        Exact, to any order. With `gather`, of the sum of the losses of all processes.

    Cost:
        4 N dim^2 flop for each view and iteration forward, 8 backward, and a root of dim for each slice. The slices of
        all views and iterations are one batch of roots.

    Raises:
        RuntimeError: There are fewer than two views, they differ in shape, or the batch is not made of slices.

    Source:
        Ermolov, Siarohin, Sangineto and Sebe, *Whitening for Self-Supervised Representation Learning*, ICML 2021, with
        the symmetric inverse root in the place of the inverse Cholesky factor.

    Example:
        >>> loss = fastsqrtm.nn.WMSELoss(16, slice_size=64)
        >>> view = torch.randn(128, 16)
        >>> bool(loss(view, view) < 1e-4), bool(loss(view, torch.randn(128, 16)) > 1)
        (True, True)
    """

    def __init__(
        self,
        dim: int,
        slice_size: int | None = None,
        iterations: int = 1,
        *,
        eps: float = 0.0,
        shrinkage: float = 0.0,
        normalize: bool = True,
        gather: bool = False,
    ) -> None:
        super().__init__()
        statistics.checked_ridge("nn.WMSELoss", shrinkage, eps)
        if slice_size is not None and slice_size < 2 * dim:
            _check.fail("nn.WMSELoss", f"slice_size must be at least 2 dim = {2 * dim}", slice_size)
        if iterations < 1:
            _check.fail("nn.WMSELoss", "iterations must be positive", iterations)
        self.dim, self.slice_size, self.iterations = dim, slice_size, iterations
        self.eps, self.shrinkage, self.normalize, self.gather = eps, shrinkage, normalize, gather

    def extra_repr(self) -> str:
        return (
            f"{self.dim}, slice_size={self.slice_size}, iterations={self.iterations}, eps={self.eps}, "
            f"shrinkage={self.shrinkage}, normalize={self.normalize}" + (", gather=True" if self.gather else "")
        )

    def forward(self, *views: Tensor) -> Tensor:
        """Compare two or more views (N, dim)."""
        if len(views) < 2 or any(v.dim() != 2 or v.shape != views[0].shape or v.shape[1] != self.dim for v in views):
            expected = f"two or more views of equal shape (N, {self.dim}) are needed"
            _check.fail("nn.WMSELoss", expected, [tuple(view.shape) for view in views])
        with without_autocast(views[0]):
            z = statistics.wide(torch.stack(views))
            if self.gather:
                z = gathered(z).movedim(0, 1).flatten(1, 2)
            number, batch, dim = z.shape
            size = batch if self.slice_size is None else self.slice_size
            if size == 0 or batch % size or size < 2:
                _check.fail("nn.WMSELoss", f"the batch must be a multiple of {max(size, 2)}", batch)
            order = torch.stack([torch.randperm(batch, device=z.device) for _ in range(self.iterations)])
            slices = z[:, order].reshape(-1, size, dim)
            found = statistics.moments(slices.mT, dim, per_sample=True)
            cov = statistics.ridged(found.cov[:, 0] * (size / (size - 1)), self.shrinkage, self.eps, dim)
            white = found.parts[0][:, 0].mT @ roots.inv_sqrtm(cov)
            white = white.reshape(number, -1, dim)
            if self.normalize:
                white = F.normalize(white, dim=-1)
            pairs = [(white[i] - white[j]).square() for i in range(number) for j in range(i + 1, number)]
            total = torch.stack(pairs)
            return total.sum(-1).mean() if self.normalize else total.mean()


def gathered(x: Tensor) -> Tensor:
    """(processes, ...): x of every process, with gradients to all of them, to any order."""
    group = torch.distributed.group.WORLD
    if group is None:
        raise ValueError("fastsqrtm.nn.WMSELoss: gather=True needs torch.distributed.init_process_group first")
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return statistics.all_reduce(
        torch.stack([x if k == rank else torch.zeros_like(x) for k in range(processes)]), group
    )
