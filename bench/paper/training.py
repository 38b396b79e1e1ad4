"""Why NS-Lya does not converge: a small decorrelated-BN network on the digits of scikit-learn, and the scalar picture.

A 3 x 3 convolution sees 9 numbers of one grey channel and makes 16 of them, so the covariance of its output has rank 9,
as that of the first layer of a ResNet has rank 27 of 64: whitening meets the smallest eigenvalue there is, eps.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

import fastsqrtm
from fastsqrtm._reference import lyapunov, series

CHANNELS, BATCH, EPOCHS, RATE, SEEDS = 16, 100, 6, 0.1, (0, 1, 2)
EPSILONS = (1e-5, 1e-3)

# name -> arguments of fastsqrtm.paper.sqrtm; none: fastsqrtm.sqrtm
TRAINED = {
    "NS-Lya as printed": {"method": "ns", "backward": "lyapunov", "degree": 5, "iterations": 8},
    "NS-Lya, 8 steps and 8": {"method": "ns", "backward": "lyapunov", "degree": 8, "iterations": 8},
    "NS 5, exact Lyapunov": {"method": "ns", "backward": "bartels_stewart", "degree": 5},
    "SVD-Lya as printed": {"method": "eigh", "backward": "lyapunov", "iterations": 8},
    "NS-Lya (default)": {"method": "ns", "backward": "lyapunov"},
    "SVD-Lya (default)": {"method": "eigh", "backward": "lyapunov"},
    "NS": {"method": "ns", "backward": "ns"},
    "MPA-Lya": {"method": "mpa", "backward": "lyapunov"},
    "MTP-Lya": {"method": "mtp", "backward": "lyapunov"},
    "sqrtm": {},
}


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)


def whiten(x: Tensor, eps: float, arguments: dict) -> Tensor:
    """S^-1 (x - mean) with S^2 the covariance of the channels, by a solve, as the paper does."""
    samples, channels, *image = x.shape
    z = x.movedim(1, 0).flatten(1)
    z = z - z.mean(1, keepdim=True)
    root = fastsqrtm.paper.sqrtm if arguments else fastsqrtm.sqrtm
    S = root(z @ z.mT / z.shape[1], eps=eps, **arguments)
    return torch.linalg.solve(S, z).reshape(channels, samples, *image).movedim(0, 1)


def train(arguments: dict, eps: float, seed: int, epochs: int = EPOCHS) -> dict:
    """Loss at every step, the median and the largest norm of the gradient of the convolution, and the test accuracy."""
    torch.manual_seed(seed)
    images, labels = digits()
    held_out = slice(1400, None)
    convolution, classifier = torch.nn.Conv2d(1, CHANNELS, 3, padding=1), torch.nn.Linear(16 * CHANNELS, 10)
    parameters = [*convolution.parameters(), *classifier.parameters()]
    optimiser = torch.optim.SGD(parameters, RATE, momentum=0.9)

    def scores(x: Tensor) -> Tensor:
        return classifier(F.avg_pool2d(F.relu(whiten(convolution(x), eps, arguments)), 2).flatten(1))

    losses, norms = [], []
    for _ in range(epochs):
        for batch in torch.randperm(1400).split(BATCH):
            optimiser.zero_grad()
            loss = F.cross_entropy(scores(images[batch]), labels[batch])
            loss.backward()
            losses.append(loss.item())
            norms.append(convolution.weight.grad.norm().item())
            if not math.isfinite(losses[-1]) or not math.isfinite(norms[-1]):
                break  # the rest would be NaN
            optimiser.step()
        else:
            continue
        break
    with torch.no_grad():
        accuracy = (scores(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()
    return {
        "losses": losses,
        "final_loss": sum(losses[-14:]) / len(losses[-14:]),
        "gradient_median": sorted(norms)[len(norms) // 2],
        "gradient_max": max(norms),
        "accuracy": accuracy,
    }


def runs(bar) -> list[dict]:
    rows = []
    for eps in EPSILONS:
        for name, arguments in TRAINED.items():
            bar.set_description(f"training, {name}, eps {eps:g}")
            for seed in SEEDS:
                rows.append({"system": name, "eps": eps, "seed": seed, **train(arguments, eps, seed)})
            bar.update()
    return rows


# The scalar picture, at an eigenvalue x of A/||A||_F: f is the computed root, f' its derivative, and K stands for f' in
# the backward.


def lyapunov_gain(b: Tensor, iterations: int | None) -> Tensor:
    """The paper's steps for 1/(2 b)."""
    if iterations is None:
        return 1 / (2 * b)
    return lyapunov.solve_newton_schulz(b[:, None, None], torch.ones_like(b)[:, None, None], iterations)[:, 0, 0]


# curve -> forward series, iterations of its Lyapunov solve (None: solved)
SCALAR = {
    "NS 5, solved": ("ns", 5, None),
    "NS 5, 8 iterations": ("ns", 5, 8),
    "NS 8, solved": ("ns", 8, None),
    "NS 8, 8 iterations": ("ns", 8, 8),
    "MPA 5, solved": ("mpa", 5, None),
    "MPA 5, 8 iterations": ("mpa", 5, 8),
    "MTP 10, solved": ("mtp", 10, None),
    "MTP 10, 8 iterations": ("mtp", 10, 8),
    "exact root, 8 iterations": ("sqrt", 0, 8),
}


def scalar(points: int = 121) -> dict:
    """x, and for every curve K/f', 2 x |K - f'|/f, which should have cancelled in a whitening layer, and 1/f."""
    functions = {
        "ns": lambda X, k: series.newton_schulz(X, k, False),
        "mpa": series.pade,
        "mtp": lambda X, k: series.taylor(X, k, 0.5),
        "sqrt": lambda X, _: X.sqrt(),
    }
    x = torch.logspace(-6, 0, points, dtype=torch.float64)
    result = {"x": x.tolist(), "curves": {}}
    for name, (method, degree, iterations) in SCALAR.items():
        X = x[:, None, None].clone().requires_grad_()
        f = functions[method](X, degree)
        (derivative,) = torch.autograd.grad(f.sum(), X)
        f, derivative = f.detach()[:, 0, 0], derivative[:, 0, 0]
        K = lyapunov_gain(f, iterations)
        result["curves"][name] = {
            "ratio": (K / derivative).tolist(),
            "left": (2 * x * (K - derivative).abs() / f).tolist(),
            "amplification": (1 / f).tolist(),
        }
    return result
