"""The learning rates of the infinite schedule on their reference case."""

from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

from core.trainers import schedules

Arrays = dict[str, np.ndarray]
SHAPES = {"cosine": "cosine", "inverse_sqrt": "inverse_sqrt", "constant": "linear"}


def _optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=rate)


def _rates(schedule: LambdaLR, steps: int) -> np.ndarray:
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return np.array(rates)


def schedule(inputs: Arrays, params: dict[str, Any]) -> Arrays:
    """First and later tasks with each cool-down, and the repeated cosine."""
    steps, peak = inputs["steps"], params["peak_lr"]
    total = params["epochs"] * params["iters_per_epoch"]
    out = {}
    for task in (0, 1):
        for name, shape in SHAPES.items():
            rates = schedules.infinite(
                _optimizer(peak),
                total,
                first_task=task == 0,
                warmup=params["warmup_ratio"],
                cooldown_end=params["cooldown_end_ratio"],
                constant_end=params["constant_end_ratio"],
                constant=params["constant_lr"] / peak,
                final=params["min_lr"] / peak,
                cooldown=shape,
                timescale=params["timescale"],
            )
            out[f"out_task{task}_{name}"] = _rates(rates, total)[steps]
    warmup = params["cosine_warmup_epochs"] / params["epochs"]
    cosine = schedules.cosine(_optimizer(peak), total, warmup, params["min_lr"] / peak)
    # The reference wastes its first step on the rate 0; from there on its rise is one step late.
    rates = _rates(cosine, total)
    rise = round(warmup * total)
    out["out_cosine"] = np.concatenate([[0.0], rates[: rise - 1], rates[rise:]])[steps]
    return out
