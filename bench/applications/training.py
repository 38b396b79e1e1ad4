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


def train(model: nn.Module, data: Data, settings: dict[str, Any], seed: int) -> dict:
    """SGD with momentum, or AdamW, with a cosine schedule.

    Returns the losses of every step, the processor's seconds, and, if the settings ask for `halfway`, both accuracies
    after half of the epochs, where the learning rate is large.
    """
    epochs, batch, rate = settings["epochs"], settings["batch"], settings["rate"]
    generator = torch.Generator().manual_seed(seed)
    parameters = list(model.parameters())
    optimiser: torch.optim.Optimizer
    if settings["adam"]:
        optimiser = torch.optim.AdamW(parameters, rate, weight_decay=0.05)
    else:
        optimiser = torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=5e-4)
    steps = epochs * (len(data.images) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    losses: list[float] = []
    halfway: dict[str, float] | None = None
    seconds = 0.0
    for epoch in range(epochs):
        start = time.process_time()
        for chosen in torch.randperm(len(data.images), generator=generator).split(batch):
            if len(chosen) < batch:
                continue
            optimiser.zero_grad()
            loss = F.cross_entropy(model(data.images[chosen]), data.labels[chosen])
            loss.backward()
            losses.append(round(loss.item(), 4))
            if not math.isfinite(losses[-1]):
                seconds += time.process_time() - start
                return {"losses": losses, "diverged": True, "seconds": seconds, "halfway": halfway}
            optimiser.step()
            schedule.step()
        seconds += time.process_time() - start
        if settings["halfway"] and epoch + 1 == epochs // 2:
            halfway = evaluate(model, data, batch)
            model.train()
    return {"losses": losses, "diverged": False, "seconds": seconds, "halfway": halfway}


def evaluate(model: nn.Module, data: Data, batch: int) -> dict[str, float]:
    """Accuracy with the running statistics of training, and with those of the training images at these weights."""
    result = {"running": accuracy(model.eval(), data)}
    if any(getattr(m, "running_mean", None) is not None for m in model.modules()):
        batches: tuple[Tensor, ...] = data.images.split(batch)
        population = fastsqrtm.nn.calibrate(copy.deepcopy(model), batches[: len(data.images) // batch], progress=False)
        result["population"] = accuracy(population.eval(), data)
    else:
        result["population"] = result["running"]
    return result


def run(model: nn.Module, data: Data, settings: dict[str, Any], seed: int) -> dict:
    record = train(model, data, settings, seed)
    if record["diverged"]:
        return {**record, "running": None, "population": None}
    tail = record["losses"][-20:]
    return {**record, **evaluate(model, data, settings["batch"]), "final_loss": sum(tail) / len(tail)}
