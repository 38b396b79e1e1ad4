"""Learn which few directions of an image tell the digits of scikit-learn apart, through a least squares solution.

    pip install fastsqrtm scikit-learn
    python examples/fit_projection.py

A linear classifier sees 8 numbers of each image. They are 8 pixels that pivoted QR picks, the 8 principal components,
or the image in an orthonormal basis that is trained: for each basis `lstsq` solves for the best classifier, and the
gradient goes through the solution (variable projection). It prints the accuracy of each on images not seen before.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fastsqrtm import linalg


def classifier(features: Tensor, labels: Tensor) -> Tensor:
    """The least squares solution for one target of each class."""
    return linalg.lstsq(features, nn.functional.one_hot(labels).to(features.dtype))


def accuracy(train: Tensor, test: Tensor, labels: Tensor, test_labels: Tensor) -> float:
    scores = test @ classifier(train, labels)
    return (scores.argmax(-1) == test_labels).double().mean().item()


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directions", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150)
    arguments = parser.parse_args(argv)
    k = arguments.directions

    data = load_digits()
    images, labels = torch.tensor(data.data) / 16, torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order] - images.mean(0), labels[order]
    fitted, tuned, tested = slice(0, 600), slice(600, 1200), slice(1200, None)  # classifiers, bases, and the final test
    known = slice(0, 1200)

    pixels = linalg.qr(images[known], pivoting=True, k=k).P[:k]
    components = torch.linalg.svd(images[known], full_matrices=False).Vh[:k]

    basis = nn.Linear(64, k, bias=False, dtype=images.dtype)
    basis.weight.data = components.clone()
    linalg.orthogonal(basis)
    optimiser = torch.optim.Adam(basis.parameters(), 0.03)
    targets = nn.functional.one_hot(labels).to(images.dtype)
    for _ in range(arguments.steps):
        optimiser.zero_grad()
        best = classifier(basis(images[fitted]), labels[fitted])
        (basis(images[tuned]) @ best - targets[tuned]).square().mean().backward()
        optimiser.step()

    found = {}
    for name, features in (
        (f"{k} pixels by pivoted QR", images[:, pixels]),
        (f"{k} principal components", images @ components.T),
        (f"{k} trained directions", basis(images).detach()),
        ("all 64 pixels", images),
    ):
        found[name] = accuracy(features[known], features[tested], labels[known], labels[tested])
        print(f"{name:24s} {found[name]:.1%}")
    return found


if __name__ == "__main__":
    main()
