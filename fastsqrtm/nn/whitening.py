"""Whitening layers: batch norm, group norm and domain norm with the inverse root of a covariance for the deviation."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import paper, roots, statistics
from .._ops import check as _check
from .._ops.route import without_autocast

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class _Root(nn.Module):
    """What every whitening layer has: a regulariser, a method of the inverse root, and weight and bias."""

    eps: float
    shrinkage: float
    method: str
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def _set_root(
        self,
        eps: float,
        shrinkage: float,
        method: str,
        backward: str = "auto",
        rtol: float | None = None,
        degree: int | None = None,
        iterations: int | None = None,
    ) -> None:
        statistics.checked_ridge(self._name, shrinkage, eps)
        self.eps, self.shrinkage, self.method, self.backward = eps, shrinkage, method, backward
        self.rtol, self.degree, self.iterations = rtol, degree, iterations
        if method == "auto" and (backward, degree, iterations) != ("auto", None, None):
            _check.fail(self._name, 'backward, degree and iterations need a method other than "auto"', repr(method))
        if method != "auto" and rtol is not None:
            _check.fail(self._name, 'rtol needs method="auto"', repr(method))
        self._inverse_root(torch.eye(1))  # wrong methods and numbers raise here

    @property
    def _name(self) -> str:
        return f"nn.{type(self).__name__}"

    def _inverse_root(self, cov: Tensor) -> Tensor:
        if self.method == "auto":
            return roots.inv_sqrtm(cov, rtol=self.rtol)
        options: dict[str, Any] = {"degree": self.degree, "iterations": self.iterations}
        return paper.inv_sqrtm(cov, method=self.method, backward=self.backward, **options)

    def _set_affine(self, channels: int, affine: bool, bias: bool, **factory: Any) -> None:
        self.affine = affine
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(name, nn.Parameter(torch.empty(channels, **factory)) if wanted else None)

    def reset_parameters(self) -> None:
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _repr_of_root(self) -> str:
        shown = "" if self.method == "auto" else f", method={self.method!r}"
        shown += "" if self.backward == "auto" else f", backward={self.backward!r}"
        options = {name: getattr(self, name) for name in ("rtol", "degree", "iterations")}
        return shown + "".join(f", {name}={value}" for name, value in options.items() if value is not None)


class _BatchWhitening(_Root):
    """Input of any number of dimensions; its subclasses check that."""

    _version = 1
    running_mean: Tensor | None
    running_cov: Tensor | None
    num_batches_tracked: Tensor | None
    _dimensions: tuple[int, ...] | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        group_size: int | None = None,
        # The smallest of 0, 0.01, 0.1 and 0.3 with which running statistics were as accurate as population statistics
        # at the end of training, and within a standard deviation of batch norm's halfway: docs/applications.md.
        shrinkage: float = 0.1,
        bias: bool = True,
        method: str = "auto",
        backward: str = "auto",
        rtol: float | None = None,
        degree: int | None = None,
        iterations: int | None = None,
        sync: bool = False,
        process_group: "ProcessGroup | None" = None,
    ) -> None:
        super().__init__()
        self._forget()
        _check.kind(self._name, "num_features", num_features, whole=True)
        if num_features < 1:
            _check.fail(self._name, "num_features must be positive", num_features)
        self.num_features, self.momentum, self.track_running_stats = num_features, momentum, track_running_stats
        self.group_size = statistics.checked_group_size(self._name, group_size, num_features)
        if momentum is not None:
            _check.kind(self._name, "momentum", momentum)
        self._set_root(eps, shrinkage, method, backward, rtol, degree, iterations)
        self.sync, self.process_group = sync, process_group
        self._set_affine(num_features, affine, bias, device=device, dtype=dtype)
        groups, size = -(-num_features // self.group_size), self.group_size
        if track_running_stats:
            self.register_buffer("running_mean", torch.empty(num_features, device=device, dtype=dtype))
            self.register_buffer("running_cov", torch.empty(groups, size, size, device=device, dtype=dtype))
            self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long, device=device))
        else:
            for name in ("running_mean", "running_cov", "num_batches_tracked"):
                self.register_buffer(name, None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set the running statistics to mean 0 and the identity, as before the first batch."""
        self._forget()
        if self.running_mean is not None and self.running_cov is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_cov.zero_().diagonal(dim1=-2, dim2=-1).fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Set the running statistics, weight and bias to what they are in a new layer."""
        self.reset_running_stats()
        super().reset_parameters()

    def extra_repr(self) -> str:
        shown = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}, "
            f"group_size={self.group_size}, shrinkage={self.shrinkage}"
        )
        return shown + self._repr_of_root() + (", sync=True" if self.sync else "")

    def forward(self, input: Tensor) -> Tensor:
        """Whiten the channels, dimension 1 of the input."""
        self._check_input(input)
        return self._whiten(input, self.weight, self.bias)

    def whitening_matrix(self) -> Tensor:
        """Return the matrices that evaluation multiplies each group of channels by, before weight and bias.

        Returns:
            (G, g, g), the inverse roots of the regularised running covariances, in float32 or wider. They are computed
            in float64, once until the statistics change, and the result must not be written to.
        """
        cov = self.running_cov
        if cov is None:
            _check.fail(self._name, "whitening_matrix needs track_running_stats=True", "False")
        if torch.compiler.is_compiling():
            return self._running_root(cov) if self._whitener is None else self._whitener
        version = -1 if cov.is_inference() else cov._version
        key = (version, self.eps, self.shrinkage, self.method, self.backward, self.rtol, self.degree, self.iterations)
        if self._whitener is not None and self._whitener_of is cov and self._whitener_key == key:
            return self._whitener
        with torch.inference_mode(False):  # what is kept must serve a backward later
            whitener = self._running_root(cov)
        if version >= 0 and type(cov) in (Tensor, nn.Buffer) and not torch._C._are_functorch_transforms_active():
            self._whitener, self._whitener_of, self._whitener_key = whitener, cov, key
        return whitener

    # The inverse root of the running covariance, the buffer that it is of, and what it was computed with. It is no
    # buffer: it is not in the state_dict, and `.to()`, copies and new statistics drop it.
    _whitener: Tensor | None
    _whitener_of: Tensor | None
    _whitener_key: tuple

    # Gets mean, covariance and number of samples of each batch in place of the buffers, for `calibrate`.
    _observer: Callable[[Tensor, Tensor, Tensor], None] | None = None

    def _forget(self) -> None:
        self._whitener, self._whitener_of, self._whitener_key = None, None, ()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._forget()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_whitener": None, "_whitener_of": None, "_whitener_key": ()}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> "_BatchWhitening":
        """Switch to training, or to evaluation, for which the inverse root is computed here."""
        self._forget()
        super().train(mode)
        if not mode and self.running_cov is not None and self.running_cov.device.type != "meta":
            self.whitening_matrix()
        return self

    def _check_input(self, x: Tensor) -> None:
        if self._dimensions and x.dim() not in self._dimensions:
            expected = " or ".join(f"{d}D" for d in self._dimensions)
            raise ValueError(f"fastsqrtm.{self._name}: expected {expected} input (got {x.dim()}D input)")
        if x.dim() < 2 or x.shape[1] != self.num_features or not x.is_floating_point():
            expected = f"input must have {self.num_features} channels in dimension 1 and a floating dtype"
            _check.fail(self._name, expected, f"{x.dtype} {tuple(x.shape)}")

    def _whiten(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        with without_autocast(x):
            if self.training or self.running_cov is None:
                return self._with_batch_statistics(x, weight, bias)
            return self._with_running_statistics(x, weight, bias)

    def _with_running_statistics(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        assert self.running_mean is not None
        z = statistics.wide(x)
        M = _scaled(self.whitening_matrix().to(z.dtype), weight)
        constant = -_applied_to_vector(M, self.running_mean.to(z.dtype).unsqueeze(0))
        constant = constant if bias is None else constant + bias
        return transformed(x, statistics.split(statistics.as_planes(z), self.group_size), M, constant)

    def _with_batch_statistics(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        group = self._group()
        samples = x.numel() // max(self.num_features, 1)
        if samples == 1 and group is None:
            raise ValueError(
                f"fastsqrtm.{self._name}: expected more than 1 value per channel when training, "
                f"got input size {x.shape}"
            )
        update = self.training and self.track_running_stats and self.running_mean is not None and not _recomputing()
        if update and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if samples == 0 and group is None:  # as batch norm has it: nothing to learn, and a gradient of zero
            x = x if weight is None else x * weight[0].to(x.dtype)
            return x.clone() if bias is None else x + bias[0].to(x.dtype)
        z = statistics.wide(x)
        found = statistics.moments(statistics.as_planes(z), self.group_size, group=group)
        if update:
            self._update(found)
        cov = statistics.ridged(found.cov[0], self.shrinkage, self.eps, self.num_features)
        M = _scaled(self._inverse_root(cov), weight)
        constant = None if bias is None else bias.to(z.dtype).unsqueeze(0)
        if found.offset is not None:
            offset = _applied_to_vector(M, found.offset)
            constant = offset if constant is None else constant + offset
        return transformed(x, found.parts, M, constant)

    @torch.no_grad()
    def _update(self, found: statistics.Moments) -> None:
        assert self.running_mean is not None and self.running_cov is not None and self.num_batches_tracked is not None
        mean, cov, samples = found.mean[0].detach(), found.cov[0].detach(), found.samples
        if self._observer is not None:
            self._observer(mean, cov, samples)
            return
        cov = statistics.with_identity(cov * (samples / (samples - 1).clamp(min=1)), self.num_features)
        factor: Tensor | float = 1 / self.num_batches_tracked.to(mean.dtype) if self.momentum is None else self.momentum
        if found.offset is not None:  # all processes may have no samples
            factor = factor * (samples > 0).to(mean.dtype)
        for buffer, new in ((self.running_mean, mean), (self.running_cov, cov)):
            weight = factor.to(buffer.dtype) if isinstance(factor, Tensor) else factor
            buffer.lerp_(new.to(buffer.dtype), weight)

    @torch.no_grad()
    def _running_root(self, cov: Tensor) -> Tensor:
        """In float64, because it is computed once and an old network must keep its output."""
        ridged = statistics.ridged(cov.double(), self.shrinkage, self.eps, self.num_features)
        return self._inverse_root(ridged).to(torch.promote_types(cov.dtype, torch.float32))

    def _group(self) -> "ProcessGroup | None":
        if not self.sync or not self.training:
            return None
        group = torch.distributed.group.WORLD if self.process_group is None else self.process_group
        if group is None:
            raise ValueError(f"fastsqrtm.{self._name}: sync=True needs torch.distributed.init_process_group first")
        return group if torch.distributed.get_world_size(group) > 1 else None


def _recomputing() -> bool:
    """Whether a checkpoint runs this forward again, inside a backward: its statistics are in the buffers already."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _scaled(whitener: Tensor, weight: Tensor | None) -> Tensor:
    """(G, g, g) -> (1, G, g, g): diag(weight) whitener."""
    if weight is not None:
        G, g, _ = whitener.shape
        weight = F.pad(weight.to(whitener.dtype), (0, G * g - weight.shape[0])) if weight.shape[0] % g else weight
        whitener = weight.to(whitener.dtype).view(G, g, 1) * whitener
    return whitener.unsqueeze(0)


def _applied_to_vector(M: Tensor, v: Tensor) -> Tensor:
    """(B, G, g, g), (B, C) -> (B, C)."""
    channels = v.shape[1]
    v = F.pad(v, (0, -channels % M.shape[-1])).unflatten(1, (-1, M.shape[-1]))
    return (M @ v.unsqueeze(-1)).flatten(1)[:, :channels]


def transformed(x: Tensor, parts: list[Tensor], M: Tensor, constant: Tensor | None) -> Tensor:
    """M (B, G, g, g) times the parts (N, G, g, L) of x, plus constant (B, C), in the shape, layout and dtype of x."""
    channels = x.shape[1]
    last = statistics.has_channels_last(x) and M.shape[0] == 1
    results, group, channel = [], 0, 0
    for part in parts:
        groups, size = part.shape[1], part.shape[2]
        block = M[:, group : group + groups, :size, :size]
        added = None
        if constant is not None:
            added = constant[:, channel : channel + groups * size].unflatten(1, (groups, size))
        results.append(_product(part, block, added, last))
        group, channel = group + groups, channel + groups * size
    y = torch.cat(results, -1 if last else 1) if len(results) > 1 else results[0]
    if last and x.dim() > 2:  # (N L, C)
        return y.view(x.shape[0], *x.shape[2:], channels).movedim(-1, 1).to(x.dtype)
    # No view of what nobody else has: FSDP and in-place operations treat views with care.
    result: Tensor = torch.ops.aten._unsafe_view(y, x.shape)
    return result.to(x.dtype)


def _product(part: Tensor, M: Tensor, constant: Tensor | None, last: bool) -> Tensor:
    """(N, G g, L), or with the channels last (L, G g)."""
    N, G, g, L = part.shape
    M = M.expand(N, G, g, g).reshape(N * G, g, g)
    part = part.reshape(N * G, g, L)
    if last:
        part, M = part.mT, M.mT
        if constant is None:
            y = part @ M
        else:
            y = torch.baddbmm(constant.expand(N, G, g).reshape(N * G, 1, g), part, M)
        return y.transpose(0, 1).contiguous().view(L, G * g)
    if constant is None:
        y = M @ part
    else:
        y = torch.baddbmm(constant.expand(N, G, g).reshape(N * G, g, 1), M, part)
    return y.view(N, G * g, L)


class BatchWhitening1d(_BatchWhitening):
    """Whiten the channels of (N, C) or (N, C, L): as `BatchWhitening2d`, in the place of `torch.nn.BatchNorm1d`.

    Example:
        >>> layer = fastsqrtm.nn.BatchWhitening1d(6, shrinkage=0.0)
        >>> x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
        >>> y = layer(x @ (torch.eye(6) + 0.5))
        >>> torch.allclose(torch.cov(y.T, correction=0), torch.eye(6), atol=1e-3)
        True
    """

    _dimensions = (2, 3)


class BatchWhitening2d(_BatchWhitening):
    """Whiten the channels of (N, C, H, W) over the batch, in the place of `torch.nn.BatchNorm2d`.

    Batch norm divides each channel by its deviation; this multiplies each group of channels by the inverse square root
    of its covariance, which also removes the correlations (ZCA whitening). Weight and bias follow, for each channel.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: As for `torch.nn.BatchNorm2d`:
            eps is added to the variances, momentum weighs the new batch, and None averages all batches.
        group_size: How many neighbouring channels are whitened together; None takes all of them. The last group may be
            smaller. Give it several times as many samples (N H W) as channels.
        shrinkage: How far the covariance of a group moves towards the identity times its mean variance, from 0 to 1.
            No direction is amplified by more than (shrinkage v + eps)^(-1/2), v the mean variance. With eps = 0 and
            shrinkage = 0 the whitening is exact; docs/guide/layers.md says why that is not the default.
        method, backward, degree, iterations: "auto" computes the exact inverse root. Others are those of
            `fastsqrtm.paper.inv_sqrtm`.
        rtol: The accuracy of the inverse root with "auto", as for `fastsqrtm.inv_sqrtm`.
        sync: Take the statistics of the samples of all processes, in training. They may have different numbers of
            samples. Use this and no `torch.nn.SyncBatchNorm.convert_sync_batchnorm`, which does not know this layer.
        process_group: The processes of sync; None stands for all.

    Returns:
        In training the whitened batch, in the shape, dtype and memory format of the input. In evaluation the input
        minus `running_mean`, times the inverse root of `running_cov`: one product, of a matrix that is computed when
        the layer enters evaluation. Half precisions are computed in float32, under autocast as well.

        The buffers are running_mean (C), running_cov (G, g, g) and num_batches_tracked. The covariance that is stored
        is unbiased, as the variance of batch norm; that which whitens is biased. A forward that a checkpoint runs again
        leaves the buffers alone.

    Gradient:
        To input, weight and bias, in training and evaluation, to any order for "auto". Those of a direction without
        variance are bounded by eps and shrinkage.

    Cost:
        In training 4 m C g flop forward and 8 backward for m = N H W samples, and C g^2 times 6 and 21 for the roots.

    Raises:
        ValueError: The input has the wrong number of dimensions, or one value per channel in training.
        RuntimeError: The input has other channels or no floating dtype; an argument is out of range.

    Source:
        Huang, Yang, Lang and Deng, *Decorrelated Batch Normalization*, CVPR 2018.

    Example:
        >>> layer = fastsqrtm.nn.BatchWhitening2d(16, group_size=8, shrinkage=0.0)
        >>> x = torch.randn(32, 16, 8, 8).cumsum(1)  # neighbouring channels are correlated
        >>> _, cov, _ = fastsqrtm.statistics.covariance(layer(x), group_size=8)
        >>> torch.allclose(cov, torch.eye(8).expand(2, 8, 8), atol=1e-3)
        True
        >>> layer.eval()
        BatchWhitening2d(16, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, \
group_size=8, shrinkage=0.0)
    """

    _dimensions = (4,)


class BatchWhitening3d(_BatchWhitening):
    """Whiten the channels of (N, C, D, H, W): as `BatchWhitening2d`, in the place of `torch.nn.BatchNorm3d`.

    Example:
        >>> fastsqrtm.nn.BatchWhitening3d(4)(torch.randn(2, 4, 3, 5, 5)).shape
        torch.Size([2, 4, 3, 5, 5])
    """

    _dimensions = (5,)


class GroupWhitening(_Root):
    """Whiten the groups of channels of each sample by itself, in the place of `torch.nn.GroupNorm`.

    The channels of a sample are dealt into groups, and each group is one variable, with the values of its channels and
    positions as samples. Their covariance is num_groups x num_groups. There are no running statistics: training and
    evaluation are the same, and the batch does not matter.

    Args:
        num_groups, num_channels, eps, affine, device, dtype: As for `torch.nn.GroupNorm`.
        shrinkage, method, backward, rtol, degree, iterations: As for `BatchWhitening2d`.

    Returns:
        In the shape and dtype of the input, (N, C, ...).

    Gradient:
        As `BatchWhitening2d`.

    Cost:
        4 C L num_groups flop forward and 8 backward for each sample of L positions, and one root of num_groups.

    Raises:
        ValueError: num_channels is not divisible by num_groups.
        RuntimeError: As `BatchWhitening2d`.

    Source:
        Huang, Zhou, Liu, Zhu and Shao, *Group Whitening*, CVPR 2021.

    Example:
        >>> layer = fastsqrtm.nn.GroupWhitening(4, 16, shrinkage=0.0)
        >>> y = layer(torch.randn(2, 16, 5, 5).cumsum(1))
        >>> _, cov, _ = fastsqrtm.statistics.covariance(y.view(2, 4, -1), per_sample=True)
        >>> torch.allclose(cov[:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-3)
        True
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        shrinkage: float = 1e-3,
        method: str = "auto",
        backward: str = "auto",
        rtol: float | None = None,
        degree: int | None = None,
        iterations: int | None = None,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"fastsqrtm.{self._name}: num_channels must be divisible by num_groups, "
                f"got {num_channels} and {num_groups}"
            )
        self.num_groups, self.num_channels = num_groups, num_channels
        self._set_root(eps, shrinkage, method, backward, rtol, degree, iterations)
        self._set_affine(num_channels, affine, True, device=device, dtype=dtype)
        self.reset_parameters()

    def extra_repr(self) -> str:
        shown = f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
        return f"{shown}, shrinkage={self.shrinkage}" + self._repr_of_root()

    def forward(self, input: Tensor) -> Tensor:
        """Whiten (N, C, ...)."""
        if input.dim() < 2 or input.shape[1] != self.num_channels or not input.is_floating_point():
            expected = f"input must have {self.num_channels} channels in dimension 1 and a floating dtype"
            _check.fail(self._name, expected, f"{input.dtype} {tuple(input.shape)}")
        if input.numel() == 0:
            return input.clone()
        with without_autocast(input):
            z = statistics.wide(input).reshape(input.shape[0], self.num_groups, -1)
            found = statistics.moments(z, self.num_groups, per_sample=True)
            cov = statistics.ridged(found.cov, self.shrinkage, self.eps, self.num_groups)
            y = (self._inverse_root(cov) @ found.parts[0]).reshape(input.shape)
            if self.weight is not None and self.bias is not None:
                shape = (1, -1, *[1] * (input.dim() - 2))
                y = torch.addcmul(self.bias.view(shape).to(y.dtype), y, self.weight.view(shape).to(y.dtype))
        return y.to(input.dtype)


class DomainWhitening(_Root):
    """Whiten each domain by its own statistics, with one weight and bias for all, for domain adaptation.

    Args:
        num_features, eps, momentum, affine, track_running_stats: As for `BatchWhitening2d`.
        num_domains: How many sets of statistics there are.
        options: The other keywords of `BatchWhitening2d`.

    Returns:
        In the shape and dtype of the input, (N, C, ...), whitened by the statistics of `domain`.

    Gradient:
        As `BatchWhitening2d`.

    Cost:
        As `BatchWhitening2d`, a root for each domain that is present. A tensor of domains waits for the device.

    Raises:
        RuntimeError: A domain is out of range; otherwise as `BatchWhitening2d`.

    Source:
        Roy, Siarohin, Sangineto, Bulo, Sebe and Ricci, *Unsupervised Domain Adaptation Using Feature-Whitening and
        Consensus Loss*, CVPR 2019.

    Example:
        >>> layer = fastsqrtm.nn.DomainWhitening(8, num_domains=2)
        >>> layer(torch.randn(20, 8, 5, 5), domain=1).shape
        torch.Size([20, 8, 5, 5])
        >>> layer(torch.randn(20, 8, 5, 5), domain=torch.arange(20) % 2).shape  # mixed in one batch
        torch.Size([20, 8, 5, 5])
    """

    def __init__(
        self,
        num_features: int,
        num_domains: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        bias = options.pop("bias", True)
        self.num_features, self.num_domains = num_features, num_domains
        self._set_affine(num_features, affine, bias, device=device, dtype=dtype)
        self.domains = nn.ModuleList(
            _BatchWhitening(num_features, eps, momentum, False, track_running_stats, device, dtype, **options)
            for _ in range(num_domains)
        )
        self.reset_parameters()

    def forward(self, input: Tensor, domain: int | Tensor = 0) -> Tensor:
        """Whiten the input by the statistics of a domain, or each sample by those of its own."""
        if isinstance(domain, Tensor):
            if domain.shape != input.shape[:1] or domain.is_floating_point():
                _check.fail(self._name, f"domain must hold {input.shape[0]} whole numbers", tuple(domain.shape))
            order = domain.argsort(stable=True)
            counts = domain.bincount(minlength=self.num_domains).tolist()
            if len(counts) > self.num_domains:
                _check.fail(self._name, f"domain must be below {self.num_domains}", len(counts) - 1)
            pieces = [self._of_domain(d, piece) for d, piece in enumerate(input[order].split(counts)) if piece.shape[0]]
            return torch.cat(pieces)[order.argsort()] if pieces else input.clone()
        _check.kind(self._name, "domain", domain, whole=True)
        if not 0 <= domain < self.num_domains:
            _check.fail(self._name, f"domain must be from 0 to {self.num_domains - 1}", domain)
        return self._of_domain(domain, input)

    def _of_domain(self, domain: int, input: Tensor) -> Tensor:
        layer = self.domains[domain]
        assert isinstance(layer, _BatchWhitening)
        layer._check_input(input)
        return layer._whiten(input, self.weight, self.bias)
