"""Conversion of networks: batch norm to whitening, whitening into convolutions, calibration, published checkpoints."""

import copy
import runpy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from fastsqrtm import nn, statistics


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Residual(torch.nn.Module):
    """A network in the style of torchvision's ResNets, with a shortcut and a functional ReLU."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, stride=2, groups=2)
        self.bn2 = torch.nn.BatchNorm2d(8, momentum=None)
        self.down = torch.nn.Conv2d(8, 8, 3, stride=2)
        self.bn3 = torch.nn.BatchNorm2d(8, affine=False)
        self.fc = torch.nn.Linear(8, 5)
        self.bn4 = torch.nn.BatchNorm1d(5, eps=1e-3)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)) + self.bn3(self.down(x)))
        return self.bn4(self.fc(x.mean((2, 3))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Residual()
    for seed in range(3):
        net(images(16, 3, 9, 9, seed=seed) * torch.tensor([1.0, 5.0, 0.1])[:, None, None])
    for m in net.modules():
        if getattr(m, "weight", None) is not None and "BatchNorm" in type(m).__name__:
            torch.nn.init.uniform_(m.weight, 0.5, 2.0)
            torch.nn.init.normal_(m.bias)
    return net.eval()


@pytest.mark.parametrize("options", [{}, {"group_size": 3}, {"shrinkage": 0.0}, {"shrinkage": 0.5, "group_size": 4}])
def test_conversion_leaves_evaluation_as_it_was(net, options):
    x = images(16, 3, 9, 9, seed=5)
    expected, weight = net(x), net.bn1.weight
    converted = nn.convert_batchnorm(net, "all", **options)
    assert converted is net and not any("BatchNorm" in type(m).__name__ for m in net.modules())
    torch.testing.assert_close(net(x), expected, atol=1e-6 * expected.abs().max().item(), rtol=1e-6)
    assert net.bn1.weight is weight and not net.bn1.training
    assert (net.bn2.momentum, net.bn2.num_batches_tracked, net.bn3.weight, net.bn4.eps) == (None, 3, None, 1e-3)
    assert isinstance(net.bn4, nn.BatchWhitening1d) and isinstance(net.bn1, nn.BatchWhitening2d)
    net.train()(x).square().sum().backward()
    assert net.conv1.weight.grad.norm() > 0 and not torch.allclose(net.eval()(x), expected)


def test_what_is_converted(net):
    first = nn.convert_batchnorm(copy.deepcopy(net))
    kinds = [type(m).__name__ for m in first.modules() if "Batch" in type(m).__name__]
    assert kinds == ["BatchWhitening2d", "BatchNorm2d", "BatchNorm2d", "BatchNorm1d"]
    chosen = nn.convert_batchnorm(copy.deepcopy(net), lambda name, bn: name == "bn2" and bn.num_features == 8)
    assert isinstance(chosen.bn2, nn.BatchWhitening2d) and isinstance(chosen.bn1, torch.nn.BatchNorm2d)
    alone = nn.convert_batchnorm(torch.nn.BatchNorm3d(4, dtype=torch.float64, track_running_stats=False))
    assert isinstance(alone, nn.BatchWhitening3d) and alone.running_cov is None and alone.weight.dtype == torch.float64
    synced = nn.convert_batchnorm(torch.nn.SyncBatchNorm(4)).eval()
    assert synced.sync and synced(images(2, 4, 3)).shape == (2, 4, 3)
    norm = torch.nn.BatchNorm2d(4)
    shared = nn.convert_batchnorm(torch.nn.Sequential(norm, torch.nn.ReLU(), norm))
    assert shared[0] is shared[2] and isinstance(shared[0], nn.BatchWhitening2d)

    class Activated(torch.nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    with pytest.raises(RuntimeError, match="a batch norm must be selected"):
        nn.convert_batchnorm(torch.nn.Sequential(Activated(4)), "all")  # its activation would be lost
    with pytest.raises(RuntimeError, match="select must be"):
        nn.convert_batchnorm(net, "last")
    with pytest.raises(RuntimeError, match="shrinkage must be below 1"):
        nn.convert_batchnorm(net, shrinkage=1.0)


def trained(layer, *shape):
    """The layer in evaluation, with statistics of correlated batches and random weights."""
    torch.nn.init.uniform_(layer.weight, 0.5, 2.0)
    torch.nn.init.normal_(layer.bias)
    for seed in range(10):
        layer(images(*shape, seed=seed).cumsum(1) + 2)
    return layer.eval()


FOLDS = {
    "plain": (torch.nn.Conv2d(4, 6, 3), 4),
    "stride and padding": (torch.nn.Conv2d(4, 6, 3, 2, 1, padding_mode="circular"), None),
    "dilation, no bias": (torch.nn.Conv2d(4, 6, 3, dilation=2, bias=False), 2),
    "grouped": (torch.nn.Conv2d(4, 6, 3, groups=2), 3),
    "depthwise": (torch.nn.Conv2d(6, 6, 3, groups=6), 1),
    "transposed": (torch.nn.ConvTranspose2d(4, 6, 3, 2, bias=False), 4),
    "transposed, grouped": (torch.nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), 3),
    "1-D": (torch.nn.Conv1d(4, 6, 3), 4),
    "3-D": (torch.nn.Conv3d(4, 6, 2), 5),
    "linear": (torch.nn.Linear(4, 6), 4),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folding_keeps_the_output(case):
    torch.manual_seed(0)
    source, group_size = copy.deepcopy(FOLDS[case])
    dims = 0 if isinstance(source, torch.nn.Linear) else source.weight.dim() - 2
    kind = {0: nn.BatchWhitening1d, 1: nn.BatchWhitening1d, 2: nn.BatchWhitening2d, 3: nn.BatchWhitening3d}[dims]
    layer = trained(kind(6, group_size=group_size), 12, 6, *[4] * dims)
    net = torch.nn.Sequential(source, layer, torch.nn.ReLU()).eval()
    x = images(5, 6 if case == "depthwise" else 4, *[7] * dims)
    expected = net(x)
    folded = nn.fold(net)
    assert isinstance(folded[1], torch.nn.Identity) and isinstance(net[1], nn.BatchWhitening1d.__mro__[1])
    torch.testing.assert_close(folded(x), expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)
    torch.testing.assert_close(net(x), expected)  # the original is as it was


def test_folds_a_residual_network(net):
    nn.convert_batchnorm(net, "all", group_size=4)
    for seed in range(20):
        net.train()(images(16, 3, 9, 9, seed=seed))
    x = images(4, 3, 9, 9, seed=50)
    expected = net.eval()(x)
    folded = nn.fold(net)
    assert not any(isinstance(m, nn.BatchWhitening2d) for m in folded.modules())
    torch.testing.assert_close(folded(x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.export.export(folded, (x,)).module()(x), folded(x))


class Twice(torch.nn.Module):
    def __init__(self, inner, use):
        super().__init__()
        self.conv, self.white, self.use = torch.nn.Conv2d(4, 4, 1), inner, use

    def forward(self, x):
        return self.use(self, x)


def refused(use, **options):
    return Twice(nn.BatchWhitening2d(4, **options), use).eval()


REFUSED = {
    "in front of it": refused(lambda m, x: m.white(F.relu(m.conv(x)))),
    "used more than once": refused(lambda m, x: m.white(m.conv(x)) + m.conv(x)),
    "a Conv2d or a whitening": refused(lambda m, x: (lambda y: m.white(y) + y)(m.conv(x))),
    "training mode": refused(lambda m, x: m.white(m.conv(x))).train(),
    "without running statistics": refused(lambda m, x: m.white(m.conv(x)), track_running_stats=False),
    "does not call": refused(lambda m, x: m.conv(x)),
    "must be able to trace": refused(lambda m, x: m.white(m.conv(x)) if x.sum() > 0 else x),
    "hooks": refused(lambda m, x: m.white(m.conv(x))),
    "across the 2 groups": torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1, groups=2), nn.BatchWhitening2d(4)).eval(),
    "must have a batch whitening": torch.nn.Conv2d(4, 4, 1),
}
REFUSED["hooks"].conv.register_forward_hook(lambda m, x, y: 2 * y)


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_folded_is_refused(reason):
    with pytest.raises(RuntimeError, match=reason):
        nn.fold(REFUSED[reason])


def test_what_cannot_be_folded_may_stay():
    net = torch.nn.Sequential(
        nn.BatchWhitening2d(4), torch.nn.Conv2d(4, 4, 1), nn.BatchWhitening2d(4), torch.nn.ReLU()
    ).eval()
    folded = nn.fold(net, strict=False)
    assert [type(m).__name__ for m in folded] == ["BatchWhitening2d", "Conv2d", "Identity", "ReLU"]
    torch.testing.assert_close(folded(images(2, 4, 3, 3)), net(images(2, 4, 3, 3)), atol=1e-5, rtol=1e-5)


def test_calibration_pools_unequal_batches():
    """The buffers are the statistics of all samples, which the mean over batches is not."""
    x = images(40, 4, 3, 3).cumsum(1).double() + torch.arange(40).double()[:, None, None, None]
    net = torch.nn.Sequential(nn.BatchWhitening2d(4, group_size=3), torch.nn.Dropout(0.5)).double()
    net[0](x)
    net.eval()
    before = net[0].weight.clone()
    assert nn.calibrate(net, x.split([7, 20, 13]), progress=False) is net
    mean, cov, _ = statistics.covariance(x, group_size=3, correction=1)
    torch.testing.assert_close(net[0].running_mean, mean)
    torch.testing.assert_close(net[0].running_cov, cov)
    assert net[0].num_batches_tracked == 3 and not net[0].training and not net[1].training
    assert torch.equal(net[0].weight, before)
    _, white, _ = statistics.covariance(net(x), group_size=3, correction=1)
    shrunk = statistics.shrink(cov, net[0].shrinkage, net[0].eps, channels=4)
    torch.testing.assert_close(white[0], torch.linalg.solve(shrunk[0], cov[0]), atol=1e-3, rtol=1e-3)


def test_calibration_of_batch_norms_modes_and_limits(net):
    net.train()
    net.bn2.eval()
    modes = {name: m.training for name, m in net.named_modules()}
    x = images(24, 3, 9, 9)
    nn.calibrate(net, [(batch, None) for batch in x.split(8)], batches=2, progress=False)
    assert {name: m.training for name, m in net.named_modules()} == modes
    rows = net.conv1(x[:16]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(net.bn1.running_mean, rows.mean(1))
    torch.testing.assert_close(net.bn1.running_var, rows.var(1))
    assert net.bn1.track_running_stats and net.bn1.num_batches_tracked == 2
    net(x)
    assert net.bn1.num_batches_tracked == 3  # training goes on
    with pytest.raises(RuntimeError, match="loader must give a batch"):
        nn.calibrate(net, [], progress=False)
    with pytest.raises(RuntimeError, match="a layer with running statistics"):
        nn.calibrate(torch.nn.Linear(3, 3), [x])


def published(source, G=2, g=3, seed=0):
    """A state of each published layer and what it computes in evaluation: W (x - mean), or by a covariance."""
    generator = torch.Generator().manual_seed(seed)
    groups = 1 if source.startswith("dbn") else G
    root = torch.randn(groups, g, g, generator=generator)
    matrix = root @ root.mT / g + 0.5 * torch.eye(g)
    mean = torch.randn(groups, g, 1, generator=generator)
    weight, bias = torch.rand(2, G * g, generator=generator)
    shape = {"zcanorm": (G, g, 1), "switch_whiten": (G * g,)}.get(source, (1, G * g, 1, 1))
    state = {"weight": weight.view(shape), "bias": bias.view(shape), "running_mean": mean}
    name = {"iternorm": "running_wm", "zcanorm": "running_subspace", "switch_whiten": "running_cov"}
    state[name.get(source, "running_projection")] = matrix
    if source == "switch_whiten":
        state |= {"sw_mean_weight": torch.tensor([9.0, 0.0]), "sw_var_weight": torch.tensor([9.0, 0.0])}
    if source.startswith("dbn"):
        state |= {"running_mean": mean[0], "running_projection": matrix[0]}

    def whiten(x):
        W = matrix.double()
        if source in ("dbn2", "switch_whiten"):
            values, vectors = torch.linalg.eigh(W + 1e-5 * torch.eye(g))
            W = (vectors * values[:, None] ** -0.5) @ vectors.mT
        rows = x.double().transpose(0, 1).reshape(G, g, -1) - mean
        y = (W @ rows).reshape(G * g, x.shape[0], *x.shape[2:]).transpose(0, 1)
        return y * weight[:, None, None] + bias[:, None, None]

    return state, whiten


@pytest.mark.parametrize("source", ["iternorm", "zcanorm", "dbn", "dbn2", "switch_whiten"])
@pytest.mark.parametrize("prefix", ["", "body.1."])
def test_published_checkpoints_keep_their_output(source, prefix):
    state, whiten = published(source)
    exact = source in ("dbn2", "switch_whiten")
    layer = nn.BatchWhitening2d(6, group_size=3, **({"shrinkage": 0.0} if exact else {}))
    model = torch.nn.ModuleDict({"body": torch.nn.Sequential(torch.nn.ReLU(), layer)}) if prefix else layer
    theirs = {prefix + key: value for key, value in state.items()}
    kept = dict(theirs)
    nn.load_published(model, theirs, source)
    assert theirs.keys() == kept.keys() and all(theirs[key] is kept[key] for key in kept)
    x = images(4, 6, 5, 5)
    torch.testing.assert_close(layer.eval()(x).double(), whiten(x), atol=1e-5, rtol=1e-5)


def test_published_checkpoints_that_do_not_fit():
    state, _ = published("iternorm")
    layer = nn.BatchWhitening2d(6, group_size=3)
    with pytest.raises(RuntimeError, match="source must be one of"):
        nn.load_published(layer, state, "caffe")
    with pytest.raises(RuntimeError, match="running_subspace must be in the checkpoint"):
        nn.load_published(layer, state, "zcanorm")
    with pytest.raises(RuntimeError, match=r"must be \(1, 6, 6\)"):
        nn.load_published(nn.BatchWhitening2d(6), state, "iternorm")
    mixed, _ = published("switch_whiten")
    mixed["sw_var_weight"] = torch.ones(2)
    with pytest.warns(UserWarning, match=r"a share of 0\.50"):
        nn.load_published(layer, mixed, "switch_whiten")


def test_the_example_trains_folds_and_exports(capsys):
    pytest.importorskip("sklearn")
    path = Path(__file__).resolve().parent.parent / "examples" / "whiten_resnet.py"
    results = runpy.run_path(str(path))["main"](["--epochs", "1"])
    assert results["whitening"]["population"] > 0.3  # ten classes
    assert results["exported"]["difference"] < 1e-3
    assert "whitening" in capsys.readouterr().out
