"""The picture of docs/guide/style.md: ``python -m bench.pictures docs/images/style.jpg``, in a quarter of an hour.

Photographs and textures of scikit-image in the look of one another, by each method of ``python -m fastsqrtm style``.
"""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from fastsqrtm import style, transfer

PAIRS = [("chelsea", "immunohistochemistry", 0.9), ("astronaut", "brick", 0.5)]  # and the strength of the features
SIZE, STEPS = 256, 40


def photograph(name: str) -> torch.Tensor:
    from skimage import data

    pixels = getattr(data, name)()
    picture = Image.fromarray(pixels).convert("RGB")
    picture.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(
        1, picture.height, picture.width, 3
    ).permute(0, 3, 1, 2) / 255  # fmt: skip


def columns(content: str, look: str, strength: float, vgg: style.VGG16, bar: tqdm) -> list[torch.Tensor]:
    image, reference = photograph(content), photograph(look)
    return [
        image,
        reference,
        transfer.color_transfer(image, reference),
        style.by_patches(image, reference),
        style.by_features(vgg, image, reference, strength, STEPS, bar),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__)
    parser.add_argument("output", type=Path, help="JPEG or PNG by its name")
    options = parser.parse_args()
    vgg = style.VGG16()
    with tqdm(total=2 * STEPS * len(PAIRS), unit="step", file=sys.stderr) as bar:
        rows = [columns(*pair, vgg, bar) for pair in PAIRS]
    height = [max(image.shape[2] for image in row) for row in rows]
    widths = [max(row[k].shape[3] for row in rows) for k in range(len(rows[0]))]
    sheet = torch.ones(1, 3, sum(height) + 4 * (len(rows) - 1), sum(widths) + 4 * (len(widths) - 1))
    top = 0
    for row, tall in zip(rows, height, strict=True):
        left = 0
        for image, wide in zip(row, widths, strict=True):
            y, x = top + (tall - image.shape[2]) // 2, left + (wide - image.shape[3]) // 2
            sheet[:, :, y : y + image.shape[2], x : x + image.shape[3]] = image.clamp(0, 1)
            left += wide + 4
        top += tall + 4
    style.save(sheet, options.output)


if __name__ == "__main__":
    main()
