"""What is compared with what: each study is a list of named networks."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn

import fastsqrtm.nn
from bench.applications import models
from bench.applications.data import Data

Make = Callable[[Data], nn.Module]


class Study(NamedTuple):
    title: str
    question: str
    data: str
    networks: dict[str, Make]
    rate: float = 0.05
    adam: bool = False


def _white(**options: Any) -> models.Norm:
    return partial(fastsqrtm.nn.BatchWhitening2d, **options)


def _cnn(norm: models.Norm = nn.BatchNorm2d) -> Make:
    return lambda data: models.small_cnn(data.images.shape[1], data.classes, norm)


def _head(make: Callable[[int, int], nn.Module]) -> Make:
    return lambda data: models.small_cnn(data.images.shape[1], data.classes, head=make(32, data.classes))


def _resnet(norm: models.Norm = nn.BatchNorm2d) -> Make:
    return lambda data: models.resnet18(data.images.shape[1], data.classes, norm, width=16)


def _vit(second_order: bool) -> Make:
    return lambda data: models.SmallViT(data.images.shape[1], data.classes, data.images.shape[2], second_order)


# The systems of the paper as `method` and `backward` of the layer, with its eps of 1e-2 and nothing else.
SYSTEMS: dict[str, dict[str, Any]] = {
    "SVD-Lya": {"method": "eigh", "backward": "lyapunov"},
    "SVD-Taylor": {"method": "eigh", "backward": "svd_taylor"},
    "SVD-Pade": {"method": "eigh", "backward": "svd_pade"},
    "NS": {"method": "ns"},
    "NS-Lya as printed": {"method": "ns", "backward": "lyapunov", "degree": 5, "iterations": 8},
    "MPA-Lya": {"method": "mpa", "backward": "lyapunov"},
    "MTP-Lya": {"method": "mtp", "backward": "lyapunov"},
    "inv_sqrtm": {},
}

RIDGES: dict[str, dict[str, float]] = {
    **{f"shrinkage {s:g}": {"shrinkage": s} for s in (0.0, 1e-3, 1e-2, 1e-1, 0.3)},
    **{f"shrinkage {s:g}, momentum 0.3": {"shrinkage": s, "momentum": 0.3} for s in (1e-2, 1e-1)},
    "eps 0.1": {"shrinkage": 0.0, "eps": 0.1},
}

STUDIES: dict[str, Study] = {
    "default": Study(
        "A default that is safe in evaluation",
        "Whitening after the first convolution: how far are running statistics from population statistics?",
        "fashion",
        {"batch norm": _cnn(), **{name: _cnn(_white(**options)) for name, options in RIDGES.items()}},
    ),
    "systems": Study(
        "The systems of the paper (Table 7)",
        "Do all systems train alike?",
        "fashion",
        {
            "batch norm": _cnn(),
            **{name: _cnn(_white(eps=1e-2, shrinkage=0.0, **options)) for name, options in SYSTEMS.items()},
        },
    ),
    "resnet": Study(
        "ResNet-18 (Table 3)",
        "Whitening after the first convolution of a ResNet-18 of a quarter of the width.",
        "fashion",
        {"batch norm": _resnet(), "whitening": _resnet(_white())},
    ),
    "pooling": Study(
        "Covariance pooling (Table 9)",
        "Does the covariance beat the mean, and its root the covariance?",
        "fashion",
        {
            "average": _head(models.average_head),
            "average, wide head": _head(models.wide_head),
            "covariance": _head(partial(models.covariance_head, normalize="none")),
            "root of the covariance": _head(partial(models.covariance_head, normalize="sqrt")),
        },
    ),
    "photographs": Study(
        "Colour patches",
        "Which photograph is the patch from?",
        "photographs",
        {"batch norm": _cnn(), "whitening": _cnn(_white())},
    ),
    "transformer": Study(
        "A small ViT (Table 4)",
        "Does a second-order head beat the class token?",
        "fashion",
        {"class token": _vit(False), "second-order head": _vit(True)},
        rate=1e-3,
        adam=True,
    ),
}
