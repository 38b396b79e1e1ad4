"""Real images that come in packages: nothing is downloaded at run time.

Fashion-MNIST is read from the files of the Debian package dataset-fashion-mnist; colour patches are cut from the
photographs that come with scikit-image and scikit-learn.
"""

import functools
import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FASHION = Path("/usr/share/datasets/fashion-mnist")
PATCH, STRIDE = 32, 16


class Data(NamedTuple):
    images: Tensor  # (N, channels, height, width), zero mean and unit deviation
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int

    def subset(self, train: int, test: int, seed: int) -> "Data":
        """Random images of either half; the test images are the same for every seed."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))[:train]
        held_out = torch.randperm(len(self.test_images), generator=torch.Generator().manual_seed(0))[:test]
        return Data(
            self.images[order], self.labels[order], self.test_images[held_out], self.test_labels[held_out], self.classes
        )


def _read(path: Path, offset: int) -> np.ndarray:
    if not path.exists():
        raise SystemExit(
            f"{path} is missing: apt-get install dataset-fashion-mnist, or name the directory of its files with --data"
        )
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


@functools.cache
def fashion(folder: Path = FASHION) -> Data:
    """60,000 and 10,000 grey images of clothes, 28 x 28, in ten classes."""
    parts = []
    for name in ("train", "t10k"):
        pixels = _read(folder / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
        labels = _read(folder / f"{name}-labels-idx1-ubyte.gz", 8)
        # The mean and the deviation of the training pixels.
        parts += [(torch.tensor(pixels).float() / 255 - 0.2860) / 0.3530, torch.tensor(labels).long()]
    return Data(*parts, classes=10)


@functools.cache
def photographs() -> Data:
    """Colour patches, 32 x 32: which photograph is this from? Left halves train, right halves test."""
    try:
        from skimage import data
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise SystemExit(f"{error.name} is missing: pip install scikit-image scikit-learn") from error
    names = ("astronaut", "coffee", "chelsea", "hubble_deep_field", "immunohistochemistry", "retina", "rocket")
    images = [getattr(data, name)() for name in names] + list(load_sample_images().images)
    halves: list[list[Tensor]] = [[], []]
    labels: list[list[Tensor]] = [[], []]
    for label, image in enumerate(images):
        pixels = torch.tensor(np.ascontiguousarray(image[..., :3])).float().permute(2, 0, 1) / 255
        middle = pixels.shape[2] // 2
        for side, half in enumerate((pixels[:, :, :middle], pixels[:, :, middle:])):
            patches = half.unfold(1, PATCH, STRIDE).unfold(2, PATCH, STRIDE)
            patches = patches.permute(1, 2, 0, 3, 4).reshape(-1, 3, PATCH, PATCH)
            halves[side].append(patches)
            labels[side].append(torch.full((len(patches),), label))
    train, test = (torch.cat(half) for half in halves)
    mean, deviation = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    train, test = ((x - mean) / deviation for x in (train, test))
    return Data(train, torch.cat(labels[0]), test, torch.cat(labels[1]), len(images))
