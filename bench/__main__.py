"""``python -m bench``: measure, print the tables, write the json; ``--plot`` draws it.

Its subcommands do other things:

    compare old.json new.json   finds what became slower between two records
    sizes                       measures every size next to its floor
    paper                       makes docs/paper.md, the numerical studies of the paper
    layers                      measures the whitening layers
    applications                trains networks with them
    frechet                     measures the Frechet distance, and whitening and colouring
    peers                       runs the tests of other packages with our functions in place of theirs
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from bench import cases, compare, plot, report, run

RESULTS = run.ROOT / "bench" / "results"


def _case(text: str) -> tuple[int, int]:
    batch, n = text.lower().split("x")
    return int(batch), int(n)


def _list(text: str) -> list[str]:
    return text.split(",")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="three cases, in under a minute")
    add("--only", type=_case, action="append", metavar="BxN", help="this case; may be repeated")
    add("--methods", type=_list, default=list(cases.METHODS), help="comma-separated")
    add("--peers", type=_list, default=cases.available_peers(), help="comma-separated; module:function for your own")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seconds", type=float, help="per measurement, in at least three rounds (0.4; 0.1 with --quick)")
    add("--limit", type=float, default=120, help="seconds after which a worker is killed")
    add("--output", type=Path, help="json file (default for a whole run: bench/results/<machine>.json)")
    add("--plot", type=Path, nargs="?", const=True, metavar="PNG", help="draw the figure (default: next to the json)")
    add("--from", dest="source", type=Path, metavar="JSON", help="print and plot this file; measure nothing")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if options.source:
        record, output = json.loads(options.source.read_text()), options.source
    else:
        record = _measure(options)
        output = options.output
        if not (output or options.quick or options.only):
            output = RESULTS / f"{run.machine_kind(record)}.json"
        if output:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(record, indent=1) + "\n")
    print(report.tables(record))
    if options.plot:
        beside = (output or Path("bench.json")).with_suffix(".png")
        plot.draw(record, beside if options.plot is True else options.plot)


def _measure(options: argparse.Namespace) -> dict:
    chosen = options.only or (cases.QUICK if options.quick else cases.CASES)
    seconds = options.seconds or (0.1 if options.quick else 0.4)
    common = {"dtype": options.dtype, "threads": options.threads, "seconds": seconds}
    memory = not options.quick and not options.only
    workers = run.count_workers(chosen, options.methods, options.peers, memory)
    record = run.about(common)
    with tqdm(total=workers, unit="worker", file=sys.stderr) as bar:
        record |= run.run(chosen, options.methods, options.peers, common, options.limit, memory, bar)
    record["summary"] = report.summarise(record)
    return record


if __name__ == "__main__":
    if sys.argv[1:2] == ["paper"]:
        from bench import paper

        paper.main(sys.argv[2:])
    elif sys.argv[1:2] == ["applications"]:
        from bench import applications

        applications.main(sys.argv[2:])
    elif sys.argv[1:2] == ["sizes"]:
        from bench import sizes

        sizes.main(sys.argv[2:])
    elif sys.argv[1:2] == ["layers"]:
        from bench import layers

        layers.main(sys.argv[2:])
    elif sys.argv[1:2] == ["frechet"]:
        from bench import frechet

        frechet.main(sys.argv[2:])
    elif sys.argv[1:2] == ["compare"]:
        sys.exit(compare.main(sys.argv[2:]))
    elif sys.argv[1:2] == ["peers"]:
        from bench.peer_suites import main as suites

        sys.exit(suites.main(sys.argv[2:]))
    else:
        main()
