"""The whitening layers: exact whitening, and the conventions of the modules of torch that they replace."""

import copy
import io
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import fastsqrtm
from fastsqrtm import nn, statistics

LAYERS = {
    (6, 5): nn.BatchWhitening1d,
    (6, 5, 7): nn.BatchWhitening1d,
    (6, 5, 4, 3): nn.BatchWhitening2d,
    (4, 5, 3, 3, 2): nn.BatchWhitening3d,
}


def correlated(*shape, kappa=10.0, dtype=torch.float32, mean=0.0, seed=0):
    """Samples whose covariance has the condition number kappa, over the channels in dimension 1."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]
    basis, _ = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64))
    deviations = torch.logspace(0, torch.tensor(kappa).log10().item() / 2, channels, dtype=torch.float64)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (torch.einsum("ij,nj...->ni...", basis * deviations, noise).contiguous() + mean).to(dtype)


def departure(y, group_size=None):
    """The largest entry of the covariance of each group, minus the identity."""
    _, cov, _ = statistics.covariance(y.double(), group_size=group_size)
    return (cov - torch.eye(cov.shape[-1])).abs().max().item()


@pytest.mark.parametrize(
    "dtype, kappa", [(torch.float32, 1.0), (torch.float32, 1e2), (torch.float32, 1e4), (torch.float64, 1e6)]
)
@pytest.mark.parametrize("channels, group_size", [(12, None), (12, 4), (10, 4), (7, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_group_is_white_without_regularisers(dtype, kappa, channels, group_size, channels_last):
    x = correlated(32, channels, 7, 7, kappa=kappa, dtype=dtype, mean=3.0)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    layer = nn.BatchWhitening2d(channels, eps=0.0, shrinkage=0.0, group_size=group_size, dtype=dtype)
    y = layer(x)
    assert departure(y, group_size) < 1e-3
    assert (y.shape, y.dtype, y.stride()) == (x.shape, x.dtype, x.stride())
    layer.momentum = 1.0  # the statistics of this batch alone
    layer(x)
    y = layer.eval()(x)
    samples = x.numel() / channels
    assert departure(y * (samples / (samples - 1)) ** 0.5, group_size) < 1e-3
    assert y.stride() == x.stride()


@pytest.mark.parametrize("group_size", [3, 4, 10])
def test_a_group_is_whitened_as_by_a_layer_of_its_own(group_size):
    x = correlated(16, 10, 5, 5, dtype=torch.float64)
    layer = nn.BatchWhitening2d(10, group_size=group_size, dtype=torch.float64)
    y = layer(x)
    for k, part in enumerate(x.split(group_size, 1)):
        alone = nn.BatchWhitening2d(part.shape[1], dtype=torch.float64)
        expected = alone(part)
        torch.testing.assert_close(y[:, k * group_size :][:, : part.shape[1]], expected)
        assert layer.running_cov is not None
        torch.testing.assert_close(layer.running_cov[k, : part.shape[1], : part.shape[1]], alone.running_cov[0])


@pytest.mark.parametrize("shape", LAYERS)
def test_matches_the_formula_in_float64(shape):
    x = correlated(*shape, dtype=torch.float64, mean=2.0)
    layer = LAYERS[shape](5, eps=1e-2, shrinkage=0.1, dtype=torch.float64)
    torch.nn.init.uniform_(layer.weight)
    torch.nn.init.uniform_(layer.bias)
    rows = x.movedim(1, -1).reshape(-1, 5)
    cov = torch.cov(rows.T, correction=0)
    values, vectors = torch.linalg.eigh(0.9 * cov + (0.1 * cov.diagonal().mean() + 1e-2) * torch.eye(5))
    white = (rows - rows.mean(0)) @ (vectors * values**-0.5) @ vectors.T * layer.weight + layer.bias
    torch.testing.assert_close(layer(x).movedim(1, -1).reshape(-1, 5), white)


def test_without_correlation_it_is_batch_norm():
    """With groups of one channel, in training and evaluation: outputs, buffers, gradients, over several steps."""
    for momentum in (0.3, None):
        ours = nn.BatchWhitening2d(5, 1e-3, momentum, group_size=1, shrinkage=0.0).double()
        norm = torch.nn.BatchNorm2d(5, 1e-3, momentum).double()
        for step in range(3):
            x = correlated(4, 5, 3, 3, dtype=torch.float64, mean=4.0, seed=step).requires_grad_()
            outputs = [layer(x) for layer in (ours, norm)]
            torch.testing.assert_close(*outputs)
            torch.testing.assert_close(*(torch.autograd.grad(y.pow(3).sum(), x)[0] for y in outputs))
        torch.testing.assert_close(ours.running_mean, norm.running_mean)
        torch.testing.assert_close(ours.running_cov.flatten(), norm.running_var)
        assert ours.num_batches_tracked == norm.num_batches_tracked == 3
        torch.testing.assert_close(ours.eval()(x), norm.eval()(x))


def test_running_statistics_are_unbiased_and_follow_momentum():
    batches = [correlated(8, 6, 3, 3, dtype=torch.float64, mean=k, seed=k) for k in range(4)]
    layer = nn.BatchWhitening2d(6, momentum=0.2, dtype=torch.float64)
    average = nn.BatchWhitening2d(6, momentum=None, dtype=torch.float64)
    mean, cov = torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    found = []
    for x in batches:
        layer(x), average(x)
        rows = x.movedim(1, -1).reshape(-1, 6)
        found.append((rows.mean(0), torch.cov(rows.T)))
        mean, cov = 0.8 * mean + 0.2 * found[-1][0], 0.8 * cov + 0.2 * found[-1][1]
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_cov[0], cov)
    torch.testing.assert_close(average.running_mean, torch.stack([m for m, _ in found]).mean(0))
    torch.testing.assert_close(average.running_cov[0], torch.stack([c for _, c in found]).mean(0))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_to_second_order(training, channels_last):
    layer = nn.BatchWhitening2d(4, group_size=3, dtype=torch.float64).train(training)
    x = correlated(3, 4, 2, 2, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    weight, bias = torch.rand(2, 4, dtype=torch.float64)

    def whiten(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(whiten, inputs)
    assert torch.autograd.gradgradcheck(whiten, inputs)


def test_backward_runs_twice():
    layer = nn.BatchWhitening2d(4)
    x = correlated(5, 4, 3, 3).requires_grad_()
    loss = layer(x).pow(3).sum()
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and first.norm() > 0
    (third,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(third, first)
    scales = torch.tensor([1.0, 2.0, -3.0])
    (batched,) = torch.autograd.grad(loss, x, scales, is_grads_batched=True)
    torch.testing.assert_close(batched, scales[:, None, None, None, None] * first, rtol=1e-4, atol=1e-4)


def test_per_sample_gradients_and_forward_mode():
    layer = nn.BatchWhitening1d(3, dtype=torch.float64).eval()
    xs = correlated(4, 3, 6, dtype=torch.float64)[:, None]
    loss = torch.func.grad(lambda x: layer(x).pow(2).sum())
    expected = torch.stack([loss(x) for x in xs])
    torch.testing.assert_close(torch.func.vmap(loss)(xs), expected)
    layer = nn.BatchWhitening1d(3, track_running_stats=False, dtype=torch.float64)
    x, v = correlated(8, 3, dtype=torch.float64), correlated(8, 3, dtype=torch.float64, seed=1)
    _, tangent = torch.func.jvp(layer, (x,), (v,))
    torch.testing.assert_close(tangent, (layer(x + 1e-6 * v) - layer(x - 1e-6 * v)) / 2e-6, atol=1e-7, rtol=1e-6)


# What may change the running covariance, after which evaluation must not use the old inverse root.
CHANGES = {
    "training": lambda layer, x: (layer.train(), layer(x), layer.eval()),
    "in place": lambda layer, x: layer.running_cov.mul_(4),
    "replaced": lambda layer, x: setattr(layer, "running_cov", 4 * layer.running_cov),
    "reset": lambda layer, x: layer.reset_running_stats(),
    "loaded": lambda layer, x: layer.load_state_dict({**layer.state_dict(), "running_cov": 9 * layer.running_cov}),
    "assigned": lambda layer, x: layer.load_state_dict(
        {**layer.state_dict(), "running_cov": 9 * layer.running_cov}, assign=True
    ),
    "eps": lambda layer, x: setattr(layer, "eps", 1.0),
    "method": lambda layer, x: setattr(layer, "method", "ns"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_evaluation_drops_its_inverse_root(change):
    x = correlated(6, 4, 3, 3, kappa=1e3)
    layer = nn.BatchWhitening2d(4, momentum=0.9)
    layer(x)
    before = layer.eval()(x)
    assert layer.whitening_matrix() is layer.whitening_matrix()
    CHANGES[change](layer, x)
    after = layer(x)
    fresh = nn.BatchWhitening2d(4, eps=layer.eps, method=layer.method)
    fresh.load_state_dict(layer.state_dict())
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, fresh.eval()(x))


def test_an_inverse_root_of_inference_mode_serves_a_backward():
    layer = nn.BatchWhitening2d(4).eval()
    layer.running_cov.mul_(4)
    x = correlated(6, 4, 3, 3)
    with torch.inference_mode():
        expected = layer(x)
    (gradient,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(layer(x), expected)
    assert gradient.norm() > 0


def test_results_are_no_views_and_may_be_overwritten():
    """As of batch norm: ReLU in place follows, and FSDP warns of views."""
    for shape, cls in LAYERS.items():
        for training in (True, False):
            layer = cls(5).train(training)
            x = correlated(*shape).requires_grad_()
            (expected,) = torch.autograd.grad(layer(x).relu().pow(2).sum(), x)
            y = layer(x)
            assert not y._is_view()
            (gradient,) = torch.autograd.grad(y.relu_().pow(2).sum(), x)
            torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


def test_copies_and_moves_have_their_own_inverse_root():
    x = correlated(6, 4, 3, 3)
    layer = nn.BatchWhitening2d(4)
    layer(x)
    expected = layer.eval()(x)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(layer),
        copy.copy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(buffer, weights_only=False),
        copy.deepcopy(layer).double().float(),
        copy.deepcopy(layer).to(memory_format=torch.channels_last),
    ]
    for other in copies:
        assert other._whitener is None
        torch.testing.assert_close(other(x), expected)
    half = copy.deepcopy(layer).bfloat16()
    torch.testing.assert_close(half(x.bfloat16()).float(), expected, atol=0.05, rtol=0.05)
    other = copy.deepcopy(layer)
    other.running_cov.mul_(4)
    torch.testing.assert_close(layer(x), expected)


def test_state_dict_has_the_keys_of_batch_norm():
    layer = nn.BatchWhitening2d(6, group_size=4)
    shapes = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    assert list(shapes) == ["weight", "bias", "running_mean", "running_cov", "num_batches_tracked"]
    assert shapes["running_cov"] == (2, 4, 4) and shapes["running_mean"] == (6,)
    other = nn.BatchWhitening2d(6, group_size=4)
    layer(correlated(5, 6, 4, 4))
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.running_cov, layer.running_cov)
    assert other.num_batches_tracked == 1
    assert list(nn.BatchWhitening2d(6, affine=False, track_running_stats=False).state_dict()) == []
    assert list(nn.BatchWhitening2d(6, bias=False).state_dict())[:2] == ["weight", "running_mean"]


def test_factory_arguments_and_repr():
    layer = nn.BatchWhitening1d(4, device="meta", dtype=torch.float64)
    assert {t.device.type for t in layer.state_dict().values()} == {"meta"}
    assert layer.running_cov.dtype == torch.float64 and layer.num_batches_tracked.dtype == torch.long
    materialised = layer.eval().to_empty(device="cpu")
    materialised.reset_parameters()
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(materialised(x), x, atol=1e-4, rtol=1e-4)
    shown = repr(nn.BatchWhitening2d(8, 1e-3, group_size=4, shrinkage=0.5, method="mpa", degree=7))
    assert shown == (
        "BatchWhitening2d(8, eps=0.001, momentum=0.1, affine=True, bias=True, track_running_stats=True, "
        "group_size=4, shrinkage=0.5, method='mpa', degree=7)"
    )


def test_without_running_statistics_evaluation_uses_the_batch():
    x = correlated(9, 4, 3, 3)
    layer = nn.BatchWhitening2d(4, track_running_stats=False)
    torch.testing.assert_close(layer.eval()(x), layer.train()(x))


@pytest.mark.parametrize("cls, shape", [(cls, shape) for shape, cls in LAYERS.items()])
def test_errors_are_those_of_batch_norm(cls, shape):
    layer = cls(5)
    norm = getattr(torch.nn, cls.__name__.replace("Whitening", "Norm"))(5)
    for x in (torch.randn(6, 5, 2, 2, 2, 2), torch.randn(6), torch.randn(1, 5, *[1] * (len(shape) - 2))):
        with pytest.raises(ValueError) as expected:
            norm(x)
        with pytest.raises(ValueError, match=r"fastsqrtm\.nn\.BatchWhitening") as error:
            layer(x)
        assert error.value.args[0].lower().endswith(expected.value.args[0].lower().rstrip("."))
    with pytest.raises(RuntimeError, match="5 channels"):
        layer(torch.randn(shape[0], 6, *shape[2:]))
    with pytest.raises(RuntimeError, match="floating"):
        layer(torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"group_size": 9}, "group_size must be from 1 to the 8 channels"),
        ({"group_size": 0}, "group_size must"),
        ({"shrinkage": 1.5}, "shrinkage must be from 0 to 1"),
        ({"eps": -1.0}, "eps must be finite and not negative"),
        ({"method": "cholesky"}, "method"),
        ({"method": "mpa", "degree": 99}, "degree must be from"),
        ({"method": "mpa", "rtol": 0.1}, "rtol needs"),
        ({"degree": 3}, "need a method"),
        ({"rtol": 2.0}, "rtol must be from"),
    ],
)
def test_wrong_arguments_raise_when_the_layer_is_made(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        nn.BatchWhitening2d(8, **arguments)


def test_an_empty_batch_leaves_the_statistics_alone():
    layer = nn.BatchWhitening2d(4)
    x = torch.randn(0, 4, 3, 3, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.shape and x.grad.shape == x.shape and layer.weight.grad.eq(0).all()
    assert torch.equal(layer.running_cov[0], torch.eye(4)) and layer.num_batches_tracked == 1
    assert layer.eval()(x).shape == x.shape


@pytest.mark.parametrize("case", ["dead channels", "fewer samples than channels", "constant"])
def test_directions_without_variance_are_bounded(case):
    shape = (2, 16, 2, 2) if case == "fewer samples than channels" else (8, 16, 4, 4)
    x = correlated(*shape)
    if case == "dead channels":
        x[:, 3:7] = 0
    if case == "constant":
        x = torch.full_like(x, 1e3)
    x.requires_grad_()
    layer = nn.BatchWhitening2d(16)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.square().sum() + y.sum(), x)
    assert y.abs().max() < 20 and gradient.isfinite().all()
    largest = torch.linalg.matrix_norm(layer.eval().whitening_matrix(), 2).max().item()
    variance = layer.running_cov.diagonal(dim1=1, dim2=2).mean().item()
    assert largest <= 1.001 * (layer.shrinkage * variance + layer.eps) ** -0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    """Means of 1e3 (float16: 60): in the half types the covariance would be rounding alone."""
    mean = 1e3 if dtype == torch.bfloat16 else 60.0
    x = correlated(64, 8, 6, 6, kappa=100.0, mean=mean).mul(20 if dtype == torch.bfloat16 else 1).to(dtype)
    layer = nn.BatchWhitening2d(8, eps=0.0, shrinkage=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == dtype and departure(y.float()) < 0.05
    assert layer.running_cov.dtype == torch.float32
    torch.testing.assert_close(y, nn.BatchWhitening2d(8, eps=0.0, shrinkage=0.0)(x.float()).to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert departure(layer(correlated(64, 8, 6, 6, mean=1e3))) < 1e-3
        assert layer.eval()(x).dtype == dtype


def test_every_system_of_the_paper_is_a_method():
    x = correlated(64, 6, 4, 4, kappa=2.0, dtype=torch.float64).requires_grad_()
    exact = nn.BatchWhitening2d(6, dtype=torch.float64)(x)
    for method, rows in fastsqrtm.paper.METHODS.items():
        for backward, system in rows.items():
            if system.inverse is None:
                with pytest.raises(RuntimeError):
                    nn.BatchWhitening2d(6, method=method, backward=backward)
                continue
            layer = nn.BatchWhitening2d(6, method=method, backward=backward, dtype=torch.float64)
            y = layer(x)
            torch.testing.assert_close(y, exact, atol=0.1, rtol=0.1)
            assert torch.autograd.grad(y.pow(3).sum(), x)[0].isfinite().all()
            assert layer.eval()(x).isfinite().all()


@pytest.mark.parametrize("group_size", [None, 3])
def test_compiles_in_one_graph(group_size):
    torch._dynamo.reset()
    layer, other = (nn.BatchWhitening2d(4, group_size=group_size) for _ in range(2))
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        x = correlated(6, 4, 3, 3, seed=seed)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [f(x) for f, x in zip((layer, compiled), inputs, strict=True)]
        torch.testing.assert_close(*outputs)
        gradients = (torch.autograd.grad(y.pow(3).sum(), x)[0] for y, x in zip(outputs, inputs, strict=True))
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.state_dict(), other.state_dict())
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(other, fullgraph=True, backend=counter)
    for _ in range(2):
        other.train()
        compiled(x)
        other.eval()
        torch.testing.assert_close(compiled(x), copy.deepcopy(other)(x))
    assert counter.frame_count == 2  # one of training, one of evaluation


def test_exports_in_evaluation_without_a_root():
    layer = nn.BatchWhitening2d(4, group_size=3)
    x = correlated(6, 4, 3, 3)
    layer(x)
    expected = layer.eval()(x)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x), expected)
    torch.testing.assert_close(program.module()(x[:3]), expected[:3])
    assert not any("fastsqrtm" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_updates_the_statistics_once(reentrant):
    x = correlated(6, 4, 3, 3).requires_grad_()
    layer, plain = nn.BatchWhitening2d(4), nn.BatchWhitening2d(4)
    y = checkpoint(layer, x, use_reentrant=reentrant)
    (gradient,) = torch.autograd.grad(y.pow(3).sum(), x) if not reentrant else (None,)
    if reentrant:
        y.pow(3).sum().backward()
        gradient = x.grad
    (expected,) = torch.autograd.grad(plain(x).pow(3).sum(), x)
    torch.testing.assert_close(gradient, expected)
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(layer.running_cov, plain.running_cov)


def test_frozen_statistics_have_gradients():
    """Fine-tuning in evaluation mode: the published layers raise or return none."""
    x = correlated(6, 4, 3, 3).requires_grad_()
    layer = nn.BatchWhitening2d(4).eval()
    layer.running_cov.copy_(fastsqrtm.testing.spd(4)[None])
    layer(x).pow(2).sum().backward()
    W = fastsqrtm.testing.exact_sqrtm(
        statistics.shrink(layer.running_cov.double(), layer.shrinkage, layer.eps), -0.5
    ).float()
    torch.testing.assert_close(x.grad, torch.einsum("ij,njhw->nihw", 2 * W[0] @ W[0], x.detach()), rtol=1e-4, atol=1e-4)
    assert layer.weight.grad.norm() > 0 and layer.bias.grad.norm() > 0


def test_group_whitening_whitens_each_sample():
    x = correlated(5, 16, 6, 6, dtype=torch.float64, mean=2.0)
    layer = nn.GroupWhitening(4, 16, eps=0.0, shrinkage=0.0, dtype=torch.float64)
    y = layer(x)
    for sample in y:
        assert departure(sample.reshape(1, 4, -1)) < 1e-10
    torch.testing.assert_close(y[:1], layer(x[:1]))  # the batch does not matter
    assert torch.equal(y, layer.eval()(x))
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert nn.GroupWhitening(4, 16)(torch.ones(2, 16, 3, 3)).eq(0).all()  # a constant sample
    with pytest.raises(ValueError, match="divisible"):
        nn.GroupWhitening(3, 16)
    small = nn.GroupWhitening(2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(small, correlated(2, 4, 3, dtype=torch.float64).requires_grad_())


def test_domain_whitening_keeps_domains_apart():
    x = correlated(12, 6, 4, 4, dtype=torch.float64)
    domain = torch.tensor([0, 1, 1, 0] * 3)
    x[domain == 1] = 5 * x[domain == 1] + 3
    layer = nn.DomainWhitening(6, 2, group_size=3, dtype=torch.float64)
    y = layer(x, domain)
    for d in range(2):
        alone = nn.BatchWhitening2d(6, group_size=3, dtype=torch.float64)
        torch.testing.assert_close(y[domain == d], alone(x[domain == d]))
        torch.testing.assert_close(layer.domains[d].running_cov, alone.running_cov)
    layer.eval()
    torch.testing.assert_close(layer(x[:2], domain[:2])[1:], layer(x[1:2], 1))
    for wrong in (2, torch.tensor([2] * 12), torch.tensor([0])):
        with pytest.raises(RuntimeError, match="domain must"):
            layer(x, wrong)


def test_wmse_compares_whitened_views():
    torch.manual_seed(0)
    view = correlated(64, 8, dtype=torch.float64, kappa=100.0)
    mixing = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    loss = nn.WMSELoss(8)
    assert loss(view, view).abs() < 1e-10
    assert loss(view, 3 * view + 5).abs() < 1e-10  # whitening forgets scale and shift
    other = correlated(64, 8, dtype=torch.float64, seed=3)
    white = [
        nn.BatchWhitening1d(8, eps=0.0, shrinkage=0.0, affine=False, dtype=torch.float64)(v) for v in (view, other)
    ]
    expected = (2 - 2 * torch.cosine_similarity(*white)).mean()
    torch.testing.assert_close(loss(view, other), expected)
    turned = nn.WMSELoss(8)(view @ mixing, other @ mixing)  # ZCA turns with its input
    torch.testing.assert_close(turned, expected)
    sliced = nn.WMSELoss(8, slice_size=16, iterations=3)
    assert torch.autograd.gradcheck(
        lambda x: torch.manual_seed(1) and sliced(x, other[:32]), view[:32].requires_grad_()
    )
    with pytest.raises(RuntimeError, match="slice_size must be at least"):
        nn.WMSELoss(8, slice_size=15)
    with pytest.raises(RuntimeError, match="multiple of 16"):
        sliced(view[:20], view[:20])
    with pytest.raises(RuntimeError, match="two or more views"):
        loss(view)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("dim", [1, -1])
def test_covariance_is_that_of_torch(per_sample, dim):
    x = correlated(4, 7, 5, 3, dtype=torch.float64, mean=100.0)
    expected = torch.stack([torch.cov(sample.flatten(1)) for sample in x]) if per_sample else torch.cov(
        x.movedim(1, 0).flatten(1)
    )  # fmt: skip
    found = statistics.covariance(x.movedim(1, dim), dim=dim, group_size=4, per_sample=per_sample, correction=1)
    torch.testing.assert_close(found.cov[..., 0, :, :], expected[..., :4, :4])
    torch.testing.assert_close(found.cov[..., 1, :3, :3], expected[..., 4:, 4:])
    assert found.cov[..., 1, 3, :].flatten().unique().tolist() == [0, 1]
    assert found.samples == (15 if per_sample else 60)


def test_a_large_mean_costs_no_digits():
    x = correlated(64, 6, 8, 8, mean=0.0)
    shifted = (x.double() + 1e4).float()
    exact = statistics.covariance(shifted.double()).cov
    torch.testing.assert_close(statistics.covariance(shifted).cov.double(), exact, rtol=1e-5, atol=1e-5)
