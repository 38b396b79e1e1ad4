"""Writes a model that uses the ops for run_model.cpp: `python save_model.py <directory>`.

whiten.pt is TorchScript, whiten.pt2 is torch.export compiled by AOTInductor, and input.pt is their input: the digits of
scikit-learn, as means of 2 x 2 pixels.
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import fastsqrtm  # noqa: F401  registers the ops


class Whiten(torch.nn.Module):
    """(batch, features) -> the same shape with mean 0 and covariance I. TorchScript takes ops, not Python functions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(0)
        A = centred.mT @ centred / x.shape[0] + 1e-3 * torch.eye(x.shape[1])
        return centred @ torch.ops.fastsqrtm.inv_sqrtm(A, 0.0)


def main(directory: Path) -> None:
    images = torch.tensor(load_digits().images, dtype=torch.float32)
    x = torch.nn.functional.avg_pool2d(images, 2).flatten(1)
    torch.save(x, directory / "input.pt")
    torch.jit.script(Whiten()).save(directory / "whiten.pt")
    exported = torch.export.export(Whiten(), (x,))
    torch._inductor.aoti_compile_and_package(exported, package_path=str(directory / "whiten.pt2"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
