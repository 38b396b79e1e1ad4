"""One run: a network trained from a seed, and its accuracy with three kinds of statistics."""

import copy
import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsqrtm.nn
from bench.applications.data import Data


def accuracy(model: nn.Module, data: Data) -> float:
    with torch.no_grad():
        scores = torch.cat([model(x) for x in data.test_images.split(500)])
    return (scores.argmax(1) == data.test_labels).float().mean().item()


def train(model: nn.Module, data: Data, epochs: int, rate: float, batch: int, seed: int, adam: bool = False) -> dict:
    """SGD with momentum, or AdamW, with a cosine schedule; losses of every step and the seconds they took."""
    generator = torch.Generator().manual_seed(seed)
    parameters = list(model.parameters())
    optimiser: torch.optim.Optimizer
    if adam:
        optimiser = torch.optim.AdamW(parameters, rate, weight_decay=0.05)
    else:
        optimiser = torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=5e-4)
    steps = epochs * (len(data.images) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    losses: list[float] = []
    start = time.perf_counter()
    for _ in range(epochs):
        for chosen in torch.randperm(len(data.images), generator=generator).split(batch):
            if len(chosen) < batch:
                continue
            optimiser.zero_grad()
            loss = F.cross_entropy(model(data.images[chosen]), data.labels[chosen])
            loss.backward()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                return {"losses": losses, "diverged": True, "seconds": time.perf_counter() - start}
            optimiser.step()
            schedule.step()
    return {"losses": losses, "diverged": False, "seconds": time.perf_counter() - start}


def evaluate(model: nn.Module, data: Data, batch: int) -> dict[str, float]:
    """Accuracy with the running statistics of training, and with those of the training images at the final weights."""
    result = {"running": accuracy(model.eval(), data)}
    if any(getattr(m, "running_mean", None) is not None for m in model.modules()):
        batches: tuple[Tensor, ...] = data.images.split(batch)
        population = fastsqrtm.nn.calibrate(copy.deepcopy(model), batches[: len(data.images) // batch], progress=False)
        result["population"] = accuracy(population.eval(), data)
    else:
        result["population"] = result["running"]
    return result


def run(model: nn.Module, data: Data, settings: dict[str, Any], seed: int) -> dict:
    record = train(model, data, settings["epochs"], settings["rate"], settings["batch"], seed, settings["adam"])
    if record["diverged"]:
        return {**record, "running": None, "population": None}
    tail = record["losses"][-20:]
    return {**record, **evaluate(model, data, settings["batch"]), "final_loss": sum(tail) / len(tail)}
