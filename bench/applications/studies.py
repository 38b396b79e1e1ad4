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
    halfway: bool = False
    """Whether accuracies are measured in the middle of training as well."""
    published: str = ""
    claims: tuple[tuple[str, str], ...] = ()
    """Pairs of networks: the first should be at least as accurate as the second, with either statistics."""
    apart: tuple[str, ...] = ()
    """Networks that are not among those that should train alike; empty if the study does not ask."""


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
    **{f"shrinkage {s:g}": {"shrinkage": s} for s in (0.0, 1e-2, 1e-1, 0.3)},
    "shrinkage 0.1, momentum 0.3": {"shrinkage": 0.1, "momentum": 0.3},
}

STUDIES: dict[str, Study] = {
    "default": Study(
        "A default that is safe in evaluation",
        "Whitening after the first convolution: how far are running statistics from population statistics?",
        "fashion",
        {"batch norm": _cnn(), **{name: _cnn(_white(**options)) for name, options in RIDGES.items()}},
        halfway=True,
        claims=(("shrinkage 0.1", "batch norm"), ("shrinkage 0.1", "shrinkage 0")),
    ),
    "systems": Study(
        "The systems of the paper (Table 7)",
        "Do all systems train alike? The layer has the paper's eps of 1e-2 and no shrinkage.",
        "fashion",
        {name: _cnn(_white(eps=1e-2, shrinkage=0.0, **options)) for name, options in SYSTEMS.items()},
        apart=("NS-Lya as printed",),
        published="Validation errors of ResNet-18 on CIFAR-10 in the paper: SVD-Pade 4.65 ± 0.11, SVD-Taylor 4.50 ±"
        " 0.08, SVD-Lya 4.45 ± 0.16, NS 4.57 ± 0.15, MPA-Lya 4.39 ± 0.09, MTP-Lya 4.49 ± 0.13; it has no batch norm.",
    ),
    "resnet": Study(
        "ResNet-18 (Table 3)",
        "Does whitening after the first convolution of a ResNet-18, a quarter as wide, do as well as batch norm?",
        "fashion",
        {"batch norm": _resnet(), "whitening": _resnet(_white())},
        claims=(("whitening", "batch norm"),),
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
        published="Top-1 accuracies on ImageNet in the README of GCP_Optimization: ResNet-18 70.5 with average pooling"
        " and 74.6 with the root of the covariance, ResNet-50 76.0 and 78.6.",
        claims=(
            ("covariance", "average"),
            ("root of the covariance", "covariance"),
            ("root of the covariance", "average, wide head"),
        ),
    ),
    "photographs": Study(
        "Colour patches",
        "Which photograph is the patch from?",
        "photographs",
        {"batch norm": _cnn(), "whitening": _cnn(_white())},
        claims=(("whitening", "batch norm"),),
    ),
    "transformer": Study(
        "A small ViT (Table 4)",
        "Does a second-order head beat the class token?",
        "fashion",
        {"class token": _vit(False), "second-order head": _vit(True)},
        rate=1e-3,
        adam=True,
        published="Top-1 accuracies on ImageNet in the paper: So-ViT-7 75.9 with the dominant eigenpair alone, 76.5 to"
        " 76.8 with the whole root.",
        claims=(("second-order head", "class token"),),
    ),
}
