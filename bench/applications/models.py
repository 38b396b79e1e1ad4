"""The networks of the studies. `norm` makes the normalisation of the first layer; batch norm is everywhere else."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import fastsqrtm.nn

Norm = Callable[[int], nn.Module]


def small_cnn(channels: int, classes: int, norm: Norm = nn.BatchNorm2d, head: nn.Module | None = None) -> nn.Module:
    """Three convolutions of 16, 32 and 32 channels, then a pooling head of 32 channels."""
    layers: list[nn.Module] = []
    for width, make in ((16, norm), (32, nn.BatchNorm2d), (32, nn.BatchNorm2d)):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), make(width), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(*layers[:-1], head or average_head(32, classes))


def average_head(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def wide_head(channels: int, classes: int) -> nn.Module:
    """Average pooling and a layer as wide as the triangle of the covariance."""
    width = channels * (channels + 1) // 2
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, classes)
    )


def covariance_head(channels: int, classes: int, normalize: str) -> nn.Module:
    pool = fastsqrtm.nn.CovariancePool(channels, normalize=normalize, eps=1e-4)
    return nn.Sequential(pool, nn.Linear(pool.out_features, classes))


class Block(nn.Module):
    """Two convolutions and a shortcut, as in the ResNets for CIFAR."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(channels: int, classes: int, norm: Norm = nn.BatchNorm2d, width: int = 64) -> nn.Module:
    """ResNet-18 for images of 28 or 32 pixels; the paper whitens after the first convolution only."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1, bias=False), norm(width), nn.ReLU()]
    previous = width
    for stage in range(4):
        for block in range(2):
            layers.append(Block(previous, width << stage, 2 if stage and not block else 1))
            previous = width << stage
    return nn.Sequential(*layers, average_head(previous, classes))


class SmallViT(nn.Module):
    """Four blocks on tokens of 48 numbers; the head gets (N, 1 + L, 48)."""

    def __init__(self, channels: int, classes: int, image: int, second_order: bool, patch: int = 4) -> None:
        super().__init__()
        size, tokens = 48, (image // patch) ** 2
        self.embed = nn.Conv2d(channels, size, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, size))
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + tokens, size))
        block = nn.TransformerEncoderLayer(size, 4, 2 * size, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 4, nn.LayerNorm(size), enable_nested_tensor=False)
        self.second_order = second_order
        self.head = (
            fastsqrtm.nn.SecondOrderHead(size, classes, 24, eps=1e-4) if second_order else nn.Linear(size, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], 1) + self.position
        tokens = self.blocks(tokens)
        scores: Tensor = self.head(tokens if self.second_order else tokens[:, 0])
        return scores
