"""``python -m fastsqrtm info`` says which code runs where, ``demo`` whitens photographs, ``style`` restyles one."""

import argparse
import platform
from pathlib import Path

import torch

import fastsqrtm

from ._ops.native import native

PLANNED = [(1, 64), (64, 48), (256, 128), (4, 1024)]


def info() -> None:
    rows = {
        "fastsqrtm": fastsqrtm.__version__,
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "cpu": f"{platform.machine()}, native kernels for {native.C.cpu_capability()}" if native.C
        else f"{platform.machine()}, pure torch: {native.reason}",
        "gpu": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
    }  # fmt: skip
    if native.C:
        rows |= {f"build: {key}": value for key, value in native.C.build_info().items()}
    for batch, n in PLANNED:
        rows[f"plan: {batch} x {n}"] = str(fastsqrtm.plan(torch.empty(batch, n, n)))
    width = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key:<{width}}  {', '.join(value) if isinstance(value, list) else value}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fastsqrtm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="build, devices, and the path taken for a few sizes")
    photographs = commands.add_parser(
        "demo", help="roots and whitening of photographs and their styles, tables and figures"
    )
    photographs.add_argument(
        "--output", type=Path, default=Path("fastsqrtm_demo.png"),
        help="the figure of whitening; that of style transfer is NAME_style.png beside it (%(default)s)",
    )  # fmt: skip
    restyle = commands.add_parser("style", help="give a photograph the look of another")
    restyle.add_argument("content", type=Path, help="the photograph whose subject stays")
    restyle.add_argument("style", type=Path, help="the photograph whose look it gets")
    restyle.add_argument("-o", "--output", type=Path, required=True, help="the result, PNG or JPEG by its name")
    restyle.add_argument(
        "--method", choices=("features", "patches", "colors"), default="features",
        help="features of VGG16, in minutes; patches of pixels or colors alone, in seconds (%(default)s)",
    )  # fmt: skip
    restyle.add_argument("--size", type=int, default=384, help="pixels of the longer sides (%(default)s)")
    restyle.add_argument("--strength", type=float, default=0.8, help="from 0, the photograph, to 1 (%(default)s)")
    restyle.add_argument("--steps", type=int, default=40, help="of the descent, at each of two sizes (%(default)s)")
    options = parser.parse_args()
    if options.command == "info":
        info()
    elif options.command == "style":
        from . import style  # needs the packages of fastsqrtm[style]

        paths = (options.content, options.style, options.output)
        style.run(*paths, style.Options(options.method, options.size, options.strength, options.steps))
    else:
        from . import demo  # needs the packages of fastsqrtm[demo]

        demo.run(options.output)


if __name__ == "__main__":
    main()
