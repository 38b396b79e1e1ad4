"""``python -m bench applications`` trains networks with our layers on real images and makes docs/applications.md.

Every run that is done is a line of the record; a command that was interrupted goes on where it stopped.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from bench.applications import data, report, training
from bench.applications.studies import STUDIES
from bench.run import ROOT, about, machine_kind

SIZES = {
    "quick": {"train": 640, "test": 500, "epochs": 1, "batch": 64, "seeds": 1},
    "small": {"train": 4000, "test": 2000, "epochs": 4, "batch": 64, "seeds": 5},
    "reported": {"train": 20000, "test": 10000, "epochs": 10, "batch": 128, "seeds": 5},
}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench applications", description=__doc__)
    add = parser.add_argument
    add("--size", choices=SIZES, default="reported", help="(%(default)s)")
    add("--studies", type=lambda text: text.split(","), default=list(STUDIES), help="comma-separated")
    add("--data", type=Path, default=data.FASHION, help="directory of the files of Fashion-MNIST (%(default)s)")
    add("--seeds", type=int, default=sys.maxsize, help="train no more of each network (those of the size)")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--record", type=Path, help="default: bench/results/<machine>-applications-<size>.jsonl")
    add("--output", type=Path, default=ROOT / "docs", help="directory of the page (%(default)s)")
    add("--minutes", type=float, default=float("inf"), help="start no run after this long")
    add("--from", dest="source", type=Path, metavar="JSONL", help="train nothing")
    return parser.parse_args(argv)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def planned(names: list[str], seeds: int) -> list[dict]:
    """The runs in the order of the seeds, so that an unfinished record has whole comparisons."""
    return [
        {"study": study, "network": network, "seed": seed}
        for seed in range(seeds)
        for study in names
        for network in STUDIES[study].networks
    ]


def one(plan: dict, size: dict, folder: Path) -> dict:
    study = STUDIES[plan["study"]]
    whole = data.fashion(folder) if study.data == "fashion" else data.photographs()
    part = whole.subset(size["train"], size["test"], plan["seed"])
    torch.manual_seed(plan["seed"])
    model = study.networks[plan["network"]](part)
    settings = {**size, "rate": study.rate, "adam": study.adam, "halfway": study.halfway}
    return {
        **plan,
        "parameters": sum(p.numel() for p in model.parameters()),
        **training.run(model, part, settings, plan["seed"]),
    }


def main(argv: list[str]) -> None:
    options = parse(argv)
    torch.set_num_threads(options.threads)
    size = SIZES[options.size]
    place = about({"threads": options.threads, "size": {"name": options.size, **size}})
    # Of all calls that make the record: those differ in studies and in where the data are.
    place["command"] = f"python -m bench applications --size {options.size} --threads {options.threads}"
    path = options.source or options.record
    path = path or ROOT / "bench" / "results" / f"{machine_kind(place)}-applications-{options.size}.jsonl"
    lines = read(path)
    if not options.source:
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(place) + "\n")
            lines = [place]
        elif lines[0]["size"] != place["size"]:
            raise SystemExit(f"{path} has runs of another size: {lines[0]['size']}")
        done = {(line["study"], line["network"], line["seed"]) for line in lines[1:]}
        plans = planned(options.studies, min(options.seeds, size["seeds"]))
        todo = [plan for plan in plans if (plan["study"], plan["network"], plan["seed"]) not in done]
        with tqdm(todo, unit="run", file=sys.stderr) as bar:
            for plan in bar:
                if bar.format_dict["elapsed"] > 60 * options.minutes:
                    break
                bar.set_description(f"{plan['study']}: {plan['network']}, seed {plan['seed']}")
                result = one(plan, size, options.data)
                with path.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                lines.append(result)
    print(report.write(lines, options.output, f"../bench/results/{path.name}"))
