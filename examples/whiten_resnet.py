"""Replace the first batch norm of a ResNet by whitening, train on the digits of scikit-learn, evaluate and export.

    pip install fastsqrtm scikit-learn
    python examples/whiten_resnet.py

It prints the accuracy of batch norm and of whitening, with running statistics and with those of the data.
"""

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import fastsqrtm.nn


class Block(nn.Module):
    """As in torchvision: two convolutions, and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layers = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1))
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    net.train()
    optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(100):
            optimiser.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimiser.step()
        schedule.step()


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (net.eval()(images).argmax(1) == labels).float().mean().item()


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args(argv).epochs
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    seen, held_out = slice(1400), slice(1400, None)

    torch.manual_seed(0)
    plain = ResNet()
    nets = {"batch norm": plain, "whitening": fastsqrtm.nn.convert_batchnorm(copy.deepcopy(plain))}
    results = {}
    for name, net in nets.items():
        train(net, images[seen], labels[seen], epochs)
        running = accuracy(net, images[held_out], labels[held_out])
        fastsqrtm.nn.calibrate(net, images[seen].split(200), progress=False)
        results[name] = {"running": running, "population": accuracy(net, images[held_out], labels[held_out])}
        print(f"{name:<12} running statistics {running:.3f}, population {results[name]['population']:.3f}")

    folded = fastsqrtm.nn.fold(nets["whitening"])
    program = torch.export.export(folded, (images[held_out],))
    difference = (program.module()(images[held_out]) - nets["whitening"](images[held_out])).abs().max().item()
    print(f"folded into the convolution and exported: outputs differ by {difference:.1e}")
    results["exported"] = {"difference": difference}
    return results


if __name__ == "__main__":
    main()
