"""The demo: covariances of real photographs, their roots, inverse roots and gradients, and what whitening does to them.

Two photographs that come with scikit-learn are cut into 64 regions; the 4 x 4 colour patches of a region, 48 numbers
each, have one 48 x 48 covariance matrix: a table and the first figure. In the second each photograph gets the look of
the other, by whitening and colouring of its patches.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import unfold

import fastsqrtm
from fastsqrtm import metrics, paper, transfer

from .testing import exact_gradient, exact_sqrtm, relative_error, time_in_turn

try:
    import matplotlib
    from sklearn.datasets import load_sample_images
    from tqdm import tqdm

    from . import style
except ImportError as error:
    raise SystemExit(f"The demo needs {str(error.name).partition('.')[0]}: pip install fastsqrtm[demo]") from error

PATCH, ROWS, COLUMNS = 4, 4, 8  # a photograph, 427 x 640, has 4 x 8 regions of 104 x 80 pixels
HEIGHT, WIDTH = 104, 80
RIDGE = 0.05  # of the mean variance, added to the diagonal: condition number about 1e3 instead of 5e4


class Method(NamedTuple):
    name: str
    root: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    colour: str


METHODS = [
    Method("fastsqrtm.sqrtm", fastsqrtm.sqrtm, fastsqrtm.inv_sqrtm, "#063d2b"),
    Method("fastsqrtm.mpa_lya", fastsqrtm.mpa_lya, fastsqrtm.mpa_lya_inv, "#0b6e4f"),
    Method(
        "  degree 32, 16 iterations",
        lambda A: fastsqrtm.mpa_lya(A, degree=32, iterations=16),
        lambda A: fastsqrtm.mpa_lya_inv(A, degree=32, iterations=16),
        "#3fa37c",
    ),
    Method("fastsqrtm.mtp_lya", fastsqrtm.mtp_lya, fastsqrtm.mtp_lya_inv, "#9bd1b8"),
    Method(
        "Newton-Schulz, 5 steps", partial(paper.sqrtm, method="ns"), partial(paper.inv_sqrtm, method="ns"), "#edae49"
    ),
    Method(
        "eigendecomposition", partial(paper.sqrtm, method="eigh"), partial(paper.inv_sqrtm, method="eigh"), "#30638e"
    ),
]

WHITENERS = {
    "mpa_lya_inv": fastsqrtm.mpa_lya_inv,
    "mpa_lya_inv, degree=32": lambda A: fastsqrtm.mpa_lya_inv(A, degree=32),
    "inv_sqrtm": fastsqrtm.inv_sqrtm,
    "eigendecomposition": METHODS[-1].inverse,
}


class Photographs(NamedTuple):
    images: Tensor  # (2, 416, 640, 3), 0 to 1
    means: Tensor  # (64, 48), of the patches of a region
    covariances: Tensor  # (64, 48, 48), float64, with the ridge


class Restyled(NamedTuple):
    """Of an image (1, 3, H, W), and how far its 8 x 8 patches are from those of the look that is wanted."""

    image: Tensor
    distance: float


def run(output: Path) -> None:
    second = output.with_stem(f"{output.stem}_style")
    with tqdm(total=5 + len(METHODS) + len(WHITENERS), desc="reading the photographs", unit="step") as bar:
        photographs = load()
        bar.update()
        bar.set_description("accuracy")
        errors = {}
        for method in METHODS:
            errors[method.name] = measure_errors(method, photographs.covariances)
            bar.update()
        bar.set_description("time")
        times = measure_times(photographs.covariances.float())
        bar.update()
        bar.set_description("whitening")
        whitened = {}
        for name, whitener in WHITENERS.items():
            Z = whitener(photographs.covariances.float()).double()
            whitened[name] = Z @ photographs.covariances @ Z
            bar.update()
        bar.set_description("style transfer")
        temple, flower = (style.reduced(image.permute(2, 0, 1)[None].float(), 2) for image in photographs.images)
        restyled = {
            "temple, look of a flower": restyle(temple, flower),
            "flower, look of a temple": restyle(flower, temple),
        }
        bar.update()
        bar.set_description("drawing")
        draw(photographs, errors, times, whitened, output)
        bar.update()
        draw_styles([flower, temple], restyled, second)
        bar.update()
    print(report(photographs, errors, times, whitened))
    print(report_styles(restyled))
    print(f"\nwrote {output} and {second}")


def load() -> Photographs:
    images = torch.stack([torch.tensor(image) for image in load_sample_images().images])
    images = images[:, : ROWS * HEIGHT].double() / 255
    patches = _regions(images).unfold(1, PATCH, 1).unfold(2, PATCH, 1)  # all of them, overlapping
    patches = patches.reshape(len(patches), -1, 3 * PATCH**2)
    means = patches.mean(1)
    centred = patches - means[:, None]
    A = centred.mT @ centred / centred.shape[1]
    ridge = RIDGE * A.diagonal(dim1=1, dim2=2).mean(-1)
    return Photographs(images, means, A + ridge[:, None, None] * torch.eye(A.shape[-1]))


def _regions(images: Tensor) -> Tensor:
    """(2, 416, 640, 3) -> (64, 104, 80, 3)."""
    return images.reshape(2, ROWS, HEIGHT, COLUMNS, WIDTH, 3).transpose(2, 3).reshape(-1, HEIGHT, WIDTH, 3)


def whiten_image(photographs: Photographs, Z: Tensor) -> Tensor:
    """The first photograph with every patch x replaced by Z (x - mean), in patches side by side."""
    patches = _regions(photographs.images).unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)
    shape = patches.shape
    flat = patches.reshape(len(Z), -1, Z.shape[-1])
    regions = ((flat - photographs.means[:, None]) @ Z).reshape(shape).permute(0, 1, 4, 2, 5, 3)
    half = regions[: ROWS * COLUMNS].reshape(ROWS, COLUMNS, HEIGHT, WIDTH, 3)
    return half.transpose(1, 2).reshape(ROWS * HEIGHT, COLUMNS * WIDTH, 3)


def restyle(content: Tensor, look: Tensor) -> dict[str, Restyled]:
    """A photograph (1, 3, H, W) in the look of another, in three columns of the second figure."""
    images = {
        "as it is": content,
        "colours moved": transfer.color_transfer(content, look),
        "patches whitened and coloured": style.by_patches(content, look),
    }
    mean, covariance = _moments(look)
    return {
        name: Restyled(x, (metrics.frechet_distance(*_moments(x), mean, covariance) / covariance.trace()).item())
        for name, x in images.items()
    }


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the patches of an image as it is shown, without what is darker than black."""
    patches = unfold(image.clamp(0, 1).double(), style.PATCH)[0]
    return patches.mean(1), torch.cov(patches)


def cotangent(root: Tensor) -> Tensor:
    """Gradient of half the squared distance between the root of each region and that of the next, held fixed."""
    return root - root.roll(1, 0)


def measure_errors(method: Method, A: Tensor) -> dict[str, float]:
    """Relative errors in float32 against float64, median over the regions."""
    errors = {}
    for what, function, power in (("root", method.root, 0.5), ("inverse root", method.inverse, -0.5)):
        exact = exact_sqrtm(A, power)
        leaf = A.float().requires_grad_()
        result = function(leaf)
        (gradient,) = torch.autograd.grad(result, leaf, cotangent(exact).float())
        errors[what] = relative_error(result.detach(), exact).median().item()
        exact = exact_gradient(A, cotangent(exact), power)
        errors[f"gradient of the {what}"] = relative_error(gradient, exact).median().item()
    return errors


def measure_times(A: Tensor) -> dict[str, dict[str, float]]:
    """Milliseconds of root and of root + gradient; all methods in turn, so that they share the state of the machine."""
    G = cotangent(exact_sqrtm(A)).float()
    leaf = A.clone().requires_grad_()

    def training(function: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(leaf), leaf, G)

    forward = time_in_turn({m.name: partial(m.root, A) for m in METHODS}, 0.3)
    both = time_in_turn({m.name: training(m.root) for m in METHODS}, 0.5)
    return {
        m.name: {"root": 1e3 * median(forward[m.name]), "root + gradient": 1e3 * median(both[m.name])} for m in METHODS
    }


def departure(E: Tensor) -> tuple[float, float, float, float]:
    """The distance of E from the identity: mean |off-diagonal|, mean |diagonal - 1|, largest entry of |E - I|, and the
    share of directions whose variance is within 10% of 1."""
    difference = (E - torch.eye(E.shape[-1])).abs()
    diagonal = difference.diagonal(dim1=-2, dim2=-1)
    off_diagonal = (difference.sum() - diagonal.sum()) / (difference.numel() - diagonal.numel())
    unit = ((torch.linalg.eigvalsh(E) - 1).abs() < 0.1).double().mean()
    return off_diagonal.item(), diagonal.mean().item(), difference.max().item(), unit.item()


def _scaled(A: Tensor) -> Tensor:
    """Scales to mean variance 1, to compare with the identity before whitening."""
    return A / A.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]


def report(photographs: Photographs, errors: dict, times: dict, whitened: dict) -> str:
    A = photographs.covariances
    cpu = fastsqrtm.plan(A).cpu
    backend = f"native, {cpu.capability}" if cpu else "pure torch, no native library"
    out = [
        "",
        f"{len(A)} covariances ({A.shape[-1]} x {A.shape[-1]}) of the colour patches of two photographs, with a ridge",
        f"of {RIDGE:.0%} of the mean variance; condition number {torch.linalg.cond(A).median():.0f} (median); float32;",
        f"fastsqrtm {fastsqrtm.__version__} ({backend}), torch {torch.__version__}, {torch.get_num_threads()} threads",
        "",
        "                                 relative error against float64             milliseconds",
        "                               root  gradient   inverse  gradient       root   root + gradient",
    ]
    ours = times[METHODS[0].name]["root + gradient"]
    for method in METHODS:
        e, t = errors[method.name], times[method.name]
        out.append(
            f"{method.name:<26}" + "".join(f"{value:10.1e}" for value in e.values())
            + f"{t['root']:11.2f}{t['root + gradient']:11.2f}  ({t['root + gradient'] / ours:.1f}x)"
        )  # fmt: skip
    out += [
        "",
        "whitening, Z A Z         mean |off-diag|   mean |diag - 1|   max |entry - I|   directions within 10% of 1",
    ]
    for name, E in {"before (mean variance 1)": _scaled(A), **whitened}.items():
        off_diagonal, diagonal, largest, unit = departure(E)
        out.append(f"{name:<25}{off_diagonal:15.1e}{diagonal:18.1e}{largest:18.1e}{unit:22.0%}")
    return "\n".join(out)


def report_styles(restyled: dict[str, dict[str, Restyled]]) -> str:
    out = ["", "style transfer: squared distance of 8 x 8 patches from those of the look, in units of their variance"]
    out.append(" " * 25 + "".join(f"{name:>{len(name) + 5}}" for name in next(iter(restyled.values()))))
    for name, results in restyled.items():
        out.append(f"{name:<25}" + "".join(f"{r.distance:{len(column) + 5}.3f}" for column, r in results.items()))
    return "\n".join(out)


def draw_styles(looks: list[Tensor], restyled: dict[str, dict[str, Restyled]], output: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(16, 6), layout="constrained")
    for row, look, results in zip(axes, looks, restyled.values(), strict=True):
        shown = {"the look": look, **{f"{column}: {r.distance:.3f}": r.image for column, r in results.items()}}
        for axis, (title, image) in zip(row, shown.items(), strict=True):
            axis.imshow(image[0].clamp(0, 1).permute(1, 2, 0).numpy())
            axis.set_title(title)
            axis.set_axis_off()
    figure.suptitle("squared distance of the 8 x 8 patches from those of the look, in units of their variance")
    figure.savefig(output, dpi=80)
    pyplot.close(figure)


def draw(photographs: Photographs, errors: dict, times: dict, whitened: dict, output: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    A = photographs.covariances
    region = ROWS * COLUMNS // 2 + 3  # one with the roof and the sky
    figure = pyplot.figure(figsize=(17, 8.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[0.85, 1])

    before, after, covariance, identity = top.subplots(1, 4, width_ratios=[1.5, 1.5, 1, 1])
    image = whiten_image(photographs, fastsqrtm.inv_sqrtm(A.float()).double())
    before.imshow(photographs.images[0].numpy())
    before.set_title("a photograph")
    after.imshow((0.5 + image / 6).clamp(0, 1).numpy())  # three standard deviations each way
    after.set_title("its patches whitened, region by region")
    for axis, matrix, title in (
        (covariance, _scaled(A)[region], f"covariance of one region + {RIDGE:.0%} ridge"),
        (identity, whitened["inv_sqrtm"][region], "after whitening: the identity"),
    ):
        shown = axis.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(title)
    top.colorbar(shown, ax=[covariance, identity], shrink=0.75, aspect=25)
    for axis in (before, after, covariance, identity):
        axis.set_xticks([])
        axis.set_yticks([])

    variances, accuracy, speed = bottom.subplots(1, 3, width_ratios=[1.2, 1.2, 1.2])
    styles = zip(("#8fc7ae", "#3fa37c", "#0b6e4f", "#30638e"), ("-", "-", "-", "--"), (2, 2, 3, 2), strict=True)
    variances.plot(_spectrum(_scaled(A)).numpy(), color="#888888", label="before whitening", linewidth=2)
    for (name, E), (colour, line, width) in zip(whitened.items(), styles, strict=True):
        variances.plot(_spectrum(E).numpy(), line, color=colour, label=name, linewidth=width)
    variances.set_yscale("log")
    variances.set_xlabel("direction, from weakest to strongest")
    variances.set_title("variance by direction: the paper's method\nshrinks the weak ones, inv_sqrtm whitens all")
    variances.legend()

    place = range(len(METHODS))
    kinds = list(errors[METHODS[0].name])
    for kind, marker in zip(kinds, "osD^", strict=True):
        accuracy.plot([errors[m.name][kind] for m in METHODS], place, marker, markersize=8, label=kind, alpha=0.85)
    accuracy.set_xscale("log")
    accuracy.set_title(
        "relative error against float64: sqrtm has that of\nrounding, mpa_lya that of the paper's method"
    )
    accuracy.legend(loc="center left")
    bars = speed.barh(place, [times[m.name]["root + gradient"] for m in METHODS], color=[m.colour for m in METHODS])
    speed.bar_label(bars, fmt="{:.3g} ms", padding=3)
    speed.margins(x=0.15)
    ours, lya, eigh = (times[METHODS[k].name]["root + gradient"] for k in (0, 1, -1))
    speed.set_title(
        f"root + gradient, {len(A)} matrices: sqrtm is {lya / ours:.1f} x the speed\n"
        f"of mpa_lya, {eigh / ours:.1f} x that of eigh"
    )
    names = [m.name.strip() for m in METHODS]
    for axis, labels in ((accuracy, names), (speed, [])):
        axis.set_ylim(len(METHODS) - 0.4, -0.6)
        axis.set_yticks(place if labels else [], labels)
    speed.set_xlabel(f"milliseconds, {torch.get_num_threads()} threads")
    for axis in (variances, accuracy, speed):
        axis.grid(axis="both" if axis is variances else "x", alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=100)
    pyplot.close(figure)


def _spectrum(E: Tensor) -> Tensor:
    """Eigenvalues in ascending order, median over the regions."""
    return torch.linalg.eigvalsh(E).median(0).values
