"""Train a network on the digits of scikit-learn with Shampoo, whose preconditioners are inverse fourth roots.

    pip install fastsqrtm scikit-learn
    python examples/shampoo.py

It prints the loss and the accuracy on held-out digits of SGD and of Shampoo after as many steps.
"""

import argparse
from collections.abc import Iterable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import fastsqrtm


class Shampoo(torch.optim.Optimizer):
    """Gupta, Koren and Singer 2018, with exponential averages: a weight matrix W of gradient G takes the step
    L^(-1/4) G R^(-1/4) for the averages L of G G^T and R of G^T G, scaled to the norm of G. Vectors take that of SGD.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.05,
        momentum: float = 0.9,
        average: float = 0.95,
        every: int = 5,
        rel_eps: float = 1e-4,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "average": average, "every": every, "rel_eps": rel_eps}
        )

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for W in group["params"]:
                self._step(W, group)

    def _step(self, W: Tensor, group: dict) -> None:
        state, G = self.state[W], W.grad
        if W.dim() == 2:
            for side, outer in (("left", G @ G.mT), ("right", G.mT @ G)):
                mean = state.setdefault(side, torch.zeros_like(outer))
                mean.lerp_(outer, 1 - group["average"])
                if state.get("steps", 0) % group["every"] == 0:
                    # A preconditioner needs no more than two digits.
                    state[f"{side} root"] = fastsqrtm.inv_root(mean, 4, rel_eps=group["rel_eps"], rtol=1e-2)
            step = state["left root"] @ G @ state["right root"]
            G = step * (G.norm() / step.norm().clamp_min(1e-30))
        state["steps"] = state.get("steps", 0) + 1
        velocity = state.setdefault("velocity", torch.zeros_like(W))
        velocity.mul_(group["momentum"]).add_(G)
        W.sub_(velocity, alpha=group["lr"])


def train(optimiser: type[torch.optim.Optimizer], steps: int, lr: float) -> tuple[float, float]:
    """The loss on the training set and the accuracy on the rest."""
    images, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
    images, test = (images.float() / 16).split([1437, 360])
    labels, truth = labels.split([1437, 360])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))
    optimiser = optimiser(net.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(images), (256,))
        optimiser.zero_grad()
        F.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimiser.step()
    with torch.no_grad():
        loss = F.cross_entropy(net(images), labels).item()
        return loss, (net(test).argmax(1) == truth).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=0.05)
    options = parser.parse_args()
    for name, optimiser in (("SGD", torch.optim.SGD), ("Shampoo", Shampoo)):
        loss, accuracy = train(optimiser, options.steps, options.lr)
        print(f"{name:8} loss {loss:.4f}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
