"""``python -m bench paper`` runs the numerical studies of the paper with our code, and makes docs/paper.md and its
figures.

The data go to bench/results/<machine>-paper.json; ``--from`` makes the page and the figures from such a file.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from bench.paper import figures, report, training
from bench.paper.studies import STUDIES
from bench.run import ROOT, about, machine_kind


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench paper", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.25, help="per measurement (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="directory of the page (%(default)s)")
    parser.add_argument("--json", type=Path, help="default: bench/results/<machine>-paper.json, with --output there")
    parser.add_argument("--from", dest="source", type=Path, metavar="JSON", help="measure nothing")
    return parser.parse_args(argv)


def measure(seconds: float) -> dict:
    start = time.perf_counter()
    record = about({"threads": torch.get_num_threads(), "seconds": seconds})
    steps = len(STUDIES) + len(training.TRAINED) * len(training.EPSILONS)
    with tqdm(total=steps, unit="study", file=sys.stderr) as bar:
        for name, study in STUDIES.items():
            bar.set_description(name.replace("_", " "))
            record[name] = study(seconds)
            bar.update()
        record["training"] = training.runs(bar)
    record["scalar"] = training.scalar()
    record["minutes"] = (time.perf_counter() - start) / 60
    return record


def main(argv: list[str]) -> None:
    options = parse(argv)
    if options.source:
        record = json.loads(options.source.read_text())
    else:
        record = measure(options.seconds)
        beside = options.output if options.output != ROOT / "docs" else ROOT / "bench" / "results"
        target = options.json or beside / f"{machine_kind(record)}-paper.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n")
        record = json.loads(target.read_text())
    for name, draw in figures.FIGURES.items():
        draw(record, options.output / report.IMAGES / f"{name}.png")
    page = options.output / "paper.md"
    page.write_text(report.markdown(record))
    print(page)
