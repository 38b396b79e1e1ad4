"""Runs the workers one after another and gathers their measurements into one record."""

import json
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

import fastsqrtm
from bench.cases import INPUT, MEMORY

ROOT = Path(__file__).resolve().parent.parent


def run_worker(spec: dict, limit: float) -> dict:
    """The measurements of the worker with status "ok"; or status "timed out" or "failed" and a message."""
    command = [sys.executable, "-m", "bench.worker", json.dumps(spec)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:  # subprocess.run has killed it
        return {"status": "timed out", "message": f"killed after {limit:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"status": "failed", "message": lines[-1]}
    return {"status": "ok", **json.loads(done.stdout.splitlines()[-1])}


def run(cases, methods, peers, common: dict, limit: float, memory: bool, bar) -> dict:
    """{"rows": one per (case, method), "memory": one per (method, ours or the paper's)}; `bar` counts the workers."""
    rows, memory_rows = [], []

    def work(title: str, spec: dict) -> dict:
        bar.set_description(title)
        answer = run_worker({**common, **spec}, limit)
        bar.update()
        return answer

    for case in cases:
        answers = {
            peer: work(f"{case[0]} x {case[1]}: {peer or 'ours'}", {"case": case, "peer": peer, "methods": methods})
            for peer in (None, *peers)
        }
        for method in methods:
            # A worker that did not finish has nothing per method, only its status and message.
            part = {
                peer: {"status": a["status"], "cpu_of_others": a.get("cpu_of_others"), **a.get(method, a)}
                for peer, a in answers.items()
            }
            rows.append({"case": case, "method": method, "ours": part.pop(None), "peers": part})
    for method in methods if memory else []:
        for peer in (None, "paper"):
            spec = {"case": MEMORY, "peer": peer, "methods": [method], "memory": True}
            answer = work(f"memory: {method} {peer or ''}", spec)
            memory_rows.append({"case": MEMORY, "method": method, "function": peer or "ours", **answer})
    return {"rows": rows, "memory": memory_rows}


def count_workers(cases, methods, peers, memory: bool) -> int:
    return len(cases) * (1 + len(peers)) + 2 * len(methods) * memory


def git_commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "none"
    except OSError:  # no git
        return "none"


def about(common: dict) -> dict:
    """The place, time, versions and settings of the measurement."""
    plan = fastsqrtm.plan(torch.eye(1))
    return {
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": {"cpu": _cpu_model(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "fastsqrtm": fastsqrtm.__version__,
        "backend": f"native, {plan.cpu.capability}" if plan.cpu else f"pure torch: {plan.reason}",
        "input": INPUT,
        "load_average_before": round(os.getloadavg()[0], 2),
        **common,
    }


def finish(record: dict, command: str, output: Path | None, table: str) -> None:
    """Notes the command in a record, writes it where asked, and prints its table."""
    record["command"] = command
    if output:
        output.write_text(json.dumps(record, indent=1) + "\n")
    print(table)


def machine_kind(record: dict) -> str:
    cpu = re.sub(r"\((R|TM)\)", "", record["machine"]["cpu"], flags=re.IGNORECASE)
    words = re.findall(r"[a-z0-9]+", f"{cpu} {record['torch_isa']} {record['threads']} threads".lower())
    return "-".join(words)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
