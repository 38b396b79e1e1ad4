"""Whole networks: batch norm into whitening, whitening into the convolution, population statistics, checkpoints."""

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import statistics
from .._ops import check as _check
from .whitening import BatchWhitening1d, BatchWhitening2d, BatchWhitening3d, _BatchWhitening, _scaled

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

M = TypeVar("M", bound=nn.Module)

_COUNTERPARTS: dict[type[nn.Module], type[_BatchWhitening]] = {
    nn.BatchNorm1d: BatchWhitening1d,
    nn.BatchNorm2d: BatchWhitening2d,
    nn.BatchNorm3d: BatchWhitening3d,
    nn.SyncBatchNorm: _BatchWhitening,  # of any number of dimensions
}


def convert_batchnorm(module: M, select: str | Callable[[str, nn.Module], bool] = "first", **options: Any) -> M:
    """Replace batch norms of a network by whitening, so that its output in evaluation stays what it was.

    Args:
        module: The network; it is changed. BatchNorm1d, 2d, 3d and SyncBatchNorm count, not their subclasses.
        select: "first" replaces the first batch norm, in the order of `named_modules`, "all" every one, and a function
            `select(name, batch_norm)` those for which it is true.
        options: Keywords of `BatchWhitening2d`, such as group_size and shrinkage.

    Returns:
        module, or the new layer if module itself was a batch norm. Weights, running means, eps, momentum and mode are
        those of the batch norm. running_cov is such that its regularised form is the diagonal matrix of the variances
        plus eps: evaluation gives the old output up to rounding, and training moves on from there.

    Gradient:
        None; parameters keep requires_grad.

    Cost:
        One root of each layer that is replaced.

    Raises:
        RuntimeError: No batch norm is selected, or shrinkage is 1.

    Source:
        Huang et al., CVPR 2018, and Huang et al., *Iterative Normalization*, CVPR 2019, for the first layer.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
        >>> x = torch.randn(2, 3, 8, 8)
        >>> before = net(x)
        >>> torch.allclose(fastsqrtm.nn.convert_batchnorm(net)(x), before, atol=1e-6)
        True
        >>> type(net[1]).__name__
        'BatchWhitening2d'
    """
    found = {
        name: m
        for name, m in module.named_modules(remove_duplicate=False)
        if type(m) in _COUNTERPARTS and isinstance(m, _BatchNorm)
    }
    if select == "first":
        first = next(iter(found.values()), None)
        chosen = {name: m for name, m in found.items() if m is first}
    elif select == "all":
        chosen = found
    elif callable(select):
        chosen = {name: m for name, m in found.items() if select(name, m)}
    else:
        _check.fail("nn.convert_batchnorm", 'select must be "first", "all" or a function', repr(select))
    if not chosen:
        _check.fail("nn.convert_batchnorm", "a batch norm must be selected", f"{len(found)} found, none selected")
    new: dict[int, _BatchWhitening] = {}  # a batch norm that has several names becomes one layer
    for name, old in chosen.items():
        layer = new.setdefault(id(old), new[id(old)] if id(old) in new else _from_batchnorm(old, options))
        if name == "":
            return layer  # type: ignore[return-value]
        module.set_submodule(name, layer)
    return module


def _from_batchnorm(old: _BatchNorm, options: dict[str, Any]) -> _BatchWhitening:
    reference = next((x for x in (old.running_mean, old.weight) if x is not None), torch.empty(0))
    sync = {"sync": True, "process_group": old.process_group} if isinstance(old, nn.SyncBatchNorm) else {}
    layer = _COUNTERPARTS[type(old)](
        old.num_features,
        old.eps,
        old.momentum,
        old.affine,
        old.track_running_stats,
        **{"device": reference.device, "dtype": reference.dtype, "bias": old.bias is not None, **sync, **options},
    )
    if layer.shrinkage == 1:
        _check.fail("nn.convert_batchnorm", "shrinkage must be below 1", 1)
    for name, parameter in old.named_parameters(recurse=False):
        setattr(layer, name, parameter)
    if old.running_mean is not None and old.running_var is not None and layer.running_mean is not None:
        assert layer.running_cov is not None and layer.num_batches_tracked is not None
        with torch.no_grad():
            layer.running_mean.copy_(old.running_mean)
            diagonal = torch.diag_embed(_grouped(old.running_var.double(), layer.group_size))
            layer.running_cov.copy_(_before_ridge(diagonal, layer))
            if old.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(old.num_batches_tracked)
    layer.train(old.training)
    return layer


def _grouped(v: Tensor, size: int) -> Tensor:
    """(C,) -> (G, size), filled up with ones."""
    return torch.cat([v, v.new_ones(-v.shape[0] % size)]).view(-1, size)


def _before_ridge(cov: Tensor, layer: _BatchWhitening) -> Tensor:
    """The matrix that `statistics.shrink`, without its eps, maps to cov (G, g, g): it has the mean variance of cov."""
    channels, s = layer.num_features, layer.shrinkage
    inside = (torch.arange(cov.shape[0] * cov.shape[-1], device=cov.device) < channels).view(cov.shape[:2])
    diagonal = cov.diagonal(dim1=-2, dim2=-1) * inside
    variance = diagonal.sum(-1, keepdim=True) / inside.sum(-1, keepdim=True)
    cov = cov * (inside[:, :, None] & inside[:, None, :])
    return statistics.with_identity((cov - (s * variance * inside).diag_embed()) / (1 - s), channels)


def convert_sync_whitening(module: M, process_group: "ProcessGroup | None" = None) -> M:
    """Let every batch whitening of a network take the statistics of all processes, as `sync=True` does.

    Args:
        module: The network; it is changed. Wrap it in DistributedDataParallel after this.
        process_group: The processes whose batches count as one; None stands for all.

    Returns:
        module.

    Gradient:
        None.

    Cost:
        In training one all_reduce of C (g + 1) + 1 numbers in float64 forward and one backward, a layer.

    Raises:
        RuntimeError: The network has no batch whitening.

    Source:
        torch.nn.SyncBatchNorm.convert_sync_batchnorm, which converts batch norms and leaves these layers alone.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), fastsqrtm.nn.BatchWhitening1d(8))
        >>> fastsqrtm.nn.convert_sync_whitening(net)[1].sync
        True
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchWhitening)]
    if not layers:
        _check.fail("nn.convert_sync_whitening", "module must have a batch whitening", type(module).__name__)
    for layer in layers:
        layer.sync, layer.process_group = True, process_group
    return module


class _Population:
    """Means and covariances of the union of batches, in float64."""

    def __init__(self, channels: int, size: int) -> None:
        self.channels, self.size = channels, size
        self.count: Tensor | float = 0.0
        self.mean: Tensor | float = 0.0
        self.products: Tensor | float = 0.0

    def add(self, mean: Tensor, cov: Tensor, count: Tensor) -> None:
        """mean (C), cov (G, g, g) biased."""
        mean, cov, count = (x.detach().double() for x in (mean, cov, count))
        total = self.count + count
        offset = mean - self.mean
        share = count / total.clamp(min=1)
        between = statistics._outer(offset.unsqueeze(0), self.size)[0] * (self.count * share)
        self.products = self.products + cov * count + between
        self.mean = self.mean + offset * share
        self.count = total

    def unbiased(self) -> tuple[Tensor, Tensor]:
        assert isinstance(self.mean, Tensor) and isinstance(self.products, Tensor) and isinstance(self.count, Tensor)
        cov = self.products / (self.count - 1).clamp(min=1)
        return self.mean, statistics.with_identity(cov, self.channels)


@torch.no_grad()
def calibrate(
    model: M,
    loader: Iterable[Any],
    batches: int | None = None,
    device: Any = None,
    progress: bool = True,
) -> M:
    """Replace the running statistics of all whitening layers and batch norms by those of the data, at fixed weights.

    Running averages lag behind the weights while these change, and an inverse root amplifies what they miss in the weak
    directions. This takes every batch of the loader with the weights as they are, and pools means and covariances of
    all samples. Do it after training, before evaluation.

    Args:
        model: The network. Its layers use the statistics of the batch meanwhile; dropout is off.
        loader: Batches of inputs, or tuples and lists whose first entry is the input.
        batches: Stop after this many; None takes all.
        device: Where inputs are moved to; None leaves them.
        progress: Show a progress bar, if tqdm is installed.

    Returns:
        model, in the mode it was in.

    Gradient:
        None.

    Cost:
        One forward of each batch.

    Raises:
        RuntimeError: The loader is empty, or the model has no layer with running statistics.

    Source:
        Huang et al., CVPR 2018, and torch.optim.swa_utils.update_bn, which does this for batch norms.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), fastsqrtm.nn.BatchWhitening1d(8))
        >>> x = torch.randn(96, 4)
        >>> net = fastsqrtm.nn.calibrate(net, x.split(32), progress=False).eval()
        >>> net(x).mean(0).abs().max() < 1e-3
        tensor(True)
    """
    layers = [
        m
        for m in model.modules()
        if isinstance(m, (_BatchWhitening, _BatchNorm)) and m.track_running_stats and m.running_mean is not None
    ]
    if not layers:
        _check.fail("nn.calibrate", "model must have a layer with running statistics", type(model).__name__)
    modes = [(m, m.training) for m in model.modules()]
    populations: dict[nn.Module, _Population] = {}
    handles = []
    seen = 0
    try:
        model.eval()
        for layer in layers:
            size = layer.group_size if isinstance(layer, _BatchWhitening) else 1
            population = populations[layer] = _Population(layer.num_features, size)
            layer.training = True
            if isinstance(layer, _BatchWhitening):
                layer._forget()
                layer._observer = population.add
            else:
                layer.track_running_stats = False  # torch leaves the buffers alone
                handles.append(layer.register_forward_pre_hook(_observer(population)))
        for batch in _progress(loader, batches, progress):
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(x if device is None else x.to(device))
            seen += 1
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            if isinstance(layer, _BatchWhitening):
                layer._observer = None
                layer._forget()
            else:
                layer.track_running_stats = True
        for m, training in modes:
            m.training = training
    if seen == 0:
        _check.fail("nn.calibrate", "loader must give a batch", "none")
    for observed, population in populations.items():
        if isinstance(population.count, float):
            continue  # this layer was not reached
        mean, cov = population.unbiased()
        if isinstance(observed, _BatchWhitening):
            buffers = {"running_mean": mean, "running_cov": cov}
        else:
            buffers = {"running_mean": mean, "running_var": cov.flatten()}
        for name, value in buffers.items():
            getattr(observed, name).copy_(value)
        tracked = observed.num_batches_tracked
        if isinstance(tracked, Tensor):
            tracked.fill_(seen)
    return model


def _observer(population: _Population) -> Callable[[nn.Module, tuple], None]:
    def observe(_: nn.Module, inputs: tuple) -> None:
        population.add(*statistics.covariance(inputs[0], group_size=1))

    return observe


def _progress(loader: Iterable[Any], batches: int | None, progress: bool) -> Iterator[Any]:
    limited = itertools.islice(loader, batches)
    if progress:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return iter(limited)
        length = len(loader) if isinstance(loader, Sized) else None
        total = batches if length is None else length if batches is None else min(batches, length)
        return iter(tqdm(limited, total=total, desc="calibrate", unit="batch"))
    return iter(limited)


_FOLDABLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("fastsqrtm.nn") or super().is_leaf_module(m, module_qualified_name)


def fold(model: M, *, strict: bool = True) -> M:
    """Multiply each batch whitening into the convolution or linear layer before it, for inference.

    Args:
        model: A network in evaluation that torch.fx can trace. It is not changed.
        strict: Raise where a layer cannot be folded; otherwise leave it in place.

    Returns:
        A copy of model in which the whitening is an `torch.nn.Identity` and the layer before it has new weights and a
        bias. The output is the same up to rounding; the products are computed in float64.

    Gradient:
        None.

    Cost:
        For each layer, one product of the whitening matrix with the weights, once.

    Raises:
        RuntimeError: A whitening is in training mode or has no running statistics, follows something other than a
            convolution or linear layer, one whose output is used elsewhere, that is called more than once or
            parametrized, or mixes channels of several groups of a grouped convolution; or torch.fx cannot trace the
            model.

    Source:
        torch.nn.utils.fusion, for batch norms.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), fastsqrtm.nn.BatchWhitening2d(8))
        >>> x = torch.randn(4, 3, 8, 8)
        >>> _ = net(x)
        >>> folded = fastsqrtm.nn.fold(net.eval())
        >>> type(folded[1]).__name__, torch.allclose(folded(x), net(x), atol=1e-5)
        ('Identity', True)
    """
    model = copy.deepcopy(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _BatchWhitening)}
    if not layers:
        _check.fail("nn.fold", "model must have a batch whitening", type(model).__name__)
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        message = f"fastsqrtm.nn.fold: torch.fx must be able to trace the model, got {type(error).__name__}: {error}"
        raise RuntimeError(message) from error
    modules = dict(model.named_modules(remove_duplicate=False))
    calls: dict[int, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[id(modules[node.target])] = calls.get(id(modules[node.target]), 0) + 1
    for node in list(graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], _BatchWhitening):
            continue
        layer, before = modules[node.target], node.args[0]
        assert isinstance(layer, _BatchWhitening)
        source = modules.get(before.target) if isinstance(before, fx.Node) and before.op == "call_module" else None
        reason = _obstacle(layer, source, calls, len(before.users) if isinstance(before, fx.Node) else 0)
        if reason is None:
            assert source is not None and isinstance(before, fx.Node)
            _multiply_into(source, layer)
            model.set_submodule(str(node.target), nn.Identity())
        elif strict:
            _check.fail("nn.fold", f"{node.target} must be foldable", reason)
    left = [name for name, layer in layers.items() if id(layer) not in calls]
    if left and strict:
        _check.fail("nn.fold", f"{left[0]} must be foldable", "a layer that the model does not call as a module")
    return model


def _obstacle(layer: _BatchWhitening, source: nn.Module | None, calls: dict[int, int], users: int) -> str | None:
    """Why a whitening cannot be folded into the module before it."""
    if layer.training:
        return "a layer in training mode"
    if layer.running_cov is None:
        return "a layer without running statistics"
    if type(source) not in _FOLDABLE:
        return f"{type(source).__name__ if source is not None else 'no module'} in front of it"
    assert source is not None
    if users != 1 or calls[id(source)] != 1 or calls[id(layer)] != 1:
        return f"a {type(source).__name__} or a whitening that is used more than once"
    if hasattr(source, "parametrizations") or source._forward_hooks or source._forward_pre_hooks:
        return f"a {type(source).__name__} with parametrizations or hooks"
    channels = source.out_features if isinstance(source, nn.Linear) else source.out_channels
    if channels != layer.num_features:
        return f"{channels} channels in front of it"
    groups = getattr(source, "groups", 1)
    if groups > 1 and (channels // int(groups)) % layer.group_size:
        return f"groups of {layer.group_size} channels across the {groups} groups of a convolution"
    return None


@torch.no_grad()
def _multiply_into(source: Any, layer: _BatchWhitening) -> None:
    assert layer.running_mean is not None
    channels, size = layer.num_features, layer.group_size
    weight = None if layer.weight is None else layer.weight.double()
    blocks = _scaled(layer.whitening_matrix().double(), weight)[0]
    matrix = torch.block_diag(*blocks)[:channels, :channels]
    old = source.weight.double()
    if isinstance(source, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        # (in, out / groups, ...): the outputs of each group of inputs are multiplied by their block of the matrix.
        each = channels // source.groups
        parts = [
            torch.einsum("po,io...->ip...", matrix[k * each : (k + 1) * each, k * each : (k + 1) * each], part)
            for k, part in enumerate(old.chunk(source.groups))
        ]
        new = torch.cat(parts)
    elif getattr(source, "groups", 1) > 1:
        whole = old.unflatten(0, (-1, size))
        new = torch.einsum("gpo,go...->gp...", blocks, whole).flatten(0, 1)
    else:
        new = (matrix @ old.flatten(1)).view_as(old)
    bias = -layer.running_mean.double()
    bias = matrix @ (bias if source.bias is None else bias + source.bias.double())
    bias = bias if layer.bias is None else bias + layer.bias.double()
    source.weight = nn.Parameter(new.to(source.weight.dtype), source.weight.requires_grad)
    source.bias = nn.Parameter(bias.to(source.weight.dtype), source.weight.requires_grad)


_MATRICES = {
    "iternorm": ("running_wm", True),
    "zcanorm": ("running_subspace", True),
    "dbn": ("running_projection", True),
    "dbn2": ("running_projection", False),
    "switch_whiten": ("running_cov", False),
}
"""source -> the name of its matrix, and whether that whitens; otherwise it is a covariance."""


def load_published(model: nn.Module, state_dict: dict[str, Tensor], source: str, strict: bool = True) -> Any:
    """Load a checkpoint of a network with published whitening layers into the same network with ours.

    Args:
        model: The network, with a `BatchWhitening` of the same group size under the name of each of their layers.
        state_dict: Theirs; it is not changed.
        source: "iternorm" (IterNorm), "zcanorm" (ZCANormBatch of the paper's code), "dbn" or "dbn2" (DBN and DBN2 of
            IterNorm's code, whose groups share one matrix), or "switch_whiten".
        strict: As for `load_state_dict`.

    Returns:
        What `load_state_dict` returns. Where the checkpoint has a whitening matrix W, running_cov becomes the matrix
        whose regularised inverse root is W, so that evaluation gives what theirs gave. Their covariances, of "dbn2"
        and "switch_whiten", are taken as they are: give the layers their eps and shrinkage=0. Switchable whitening
        mixes them with statistics of the sample, which no batch whitening reproduces: a warning says where.

    Gradient:
        None.

    Cost:
        One inverse of each matrix, in float64.

    Raises:
        RuntimeError: The source is unknown, shapes do not fit, or a layer lacks its entries.

    Source:
        The public code of Huang et al. (IterNorm-pytorch), Song et al. (FastDifferentiableMatSqrt) and Pan et al.
        (Switchable-Whitening).

    Example:
        >>> layer = fastsqrtm.nn.BatchWhitening2d(4, affine=False)
        >>> theirs = {"running_mean": torch.zeros(1, 4, 1), "running_wm": 2 * torch.eye(4)[None]}
        >>> _ = fastsqrtm.nn.load_published(layer, theirs, "iternorm")
        >>> torch.allclose(layer.eval().whitening_matrix()[0], 2 * torch.eye(4))
        True
    """
    if source not in _MATRICES:
        _check.fail("nn.load_published", f"source must be one of {', '.join(map(repr, _MATRICES))}", repr(source))
    name, whitens = _MATRICES[source]
    translated = dict(state_dict)
    for path, layer in model.named_modules():
        if not isinstance(layer, _BatchWhitening) or layer.running_cov is None or layer.running_mean is None:
            continue
        prefix = f"{path}." if path else ""
        theirs = {key: translated.pop(prefix + key) for key in (name, "running_mean") if prefix + key in translated}
        if len(theirs) < 2:
            if strict:
                _check.fail("nn.load_published", f"{prefix}{name} must be in the checkpoint", "no such entry")
            continue
        matrix, mean = theirs[name].double(), theirs["running_mean"].double()
        shape, channels = layer.running_cov.shape, layer.num_features
        if source in ("dbn", "dbn2"):
            matrix, mean = matrix.expand(shape), mean.reshape(-1).repeat(shape[0])
        if matrix.shape != shape or mean.numel() != channels:
            expected = f"{prefix}{name} must be {tuple(shape)} for {channels} channels"
            _check.fail("nn.load_published", expected, f"{tuple(matrix.shape)} and {mean.numel()}")
        if whitens:
            inverse = torch.linalg.inv(matrix)
            eye = torch.eye(shape[-1], dtype=matrix.dtype, device=matrix.device)
            matrix = _before_ridge(inverse @ inverse.mT - layer.eps * eye, layer)
        translated[prefix + "running_cov"] = (matrix / 2 + matrix.mT / 2).to(layer.running_cov.dtype)
        translated[prefix + "running_mean"] = mean.reshape(-1).to(layer.running_mean.dtype)
        translated.setdefault(prefix + "num_batches_tracked", torch.tensor(0))
        for key in ("weight", "bias"):
            if prefix + key in translated:
                translated[prefix + key] = translated[prefix + key].reshape(-1)
                if getattr(layer, key) is None:
                    del translated[prefix + key]
        _drop_mixture(prefix, translated)
    return model.load_state_dict(translated, strict=strict)


def _drop_mixture(prefix: str, translated: dict[str, Tensor]) -> None:
    mixtures = [translated.pop(prefix + f"sw_{kind}_weight", None) for kind in ("mean", "var")]
    shares = [mixture.double().softmax(0)[0].item() for mixture in mixtures if mixture is not None]
    if shares and min(shares) < 0.99:
        warnings.warn(
            f"fastsqrtm.nn.load_published: {prefix.rstrip('.')} mixed a share of {min(shares):.2f} of batch whitening "
            "with statistics that a BatchWhitening does not have: its output differs",
            stacklevel=3,
        )
