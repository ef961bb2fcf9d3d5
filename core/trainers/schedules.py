"""Learning-rate schedules: a multiplier of the optimizer's rate for every step."""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from core.data.checks import DataError


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """The optimizer's own rate at every one of the `total_steps`."""
    return LambdaLR(optimizer, lambda step: 1.0)


def cosine(
    optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.0
) -> LambdaLR:
    """Linear warm-up to the optimizer's rate, then half a cosine down (SGDR, arXiv 1608.03983).

    Args:
        optimizer: its rate is the peak.
        total_steps: optimizer steps of the whole training.
        warmup: fraction of the steps spent rising from 0, in [0, 1).
        final: where the cosine ends, one step after the last, as a fraction of the peak.

    Raises:
        DataError: the warm-up is no such fraction.
    """
    if not 0 <= warmup < 1:
        raise DataError(f"schedule.warmup={warmup}", expected="a fraction of all steps, in [0, 1)")
    warmup_steps = round(warmup * total_steps)

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, multiplier)


def linear(
    optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.0
) -> LambdaLR:
    """Linear warm-up to the optimizer's rate, then a straight line down.

    Args:
        optimizer: its rate is the peak.
        total_steps: optimizer steps of the whole training.
        warmup: fraction of the steps spent rising from 0, in [0, 1).
        final: where the line ends, one step after the last, as a fraction of the peak.

    Raises:
        DataError: the warm-up is no such fraction.
    """
    if not 0 <= warmup < 1:
        raise DataError(f"schedule.warmup={warmup}", expected="a fraction of all steps, in [0, 1)")
    warmup_steps = round(warmup * total_steps)

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 1 - (1 - final) * progress

    return LambdaLR(optimizer, multiplier)


def exponential(
    optimizer: Optimizer, total_steps: int, *, epochs: int, factor: float = 0.96, every: float = 50
) -> LambdaLR:
    """The rate x factor^(epoch / every), constant within an epoch.

    Args:
        optimizer: its rate is that of the first epoch.
        total_steps: optimizer steps of the whole training.
        epochs: epochs of the whole training.
        factor: what the rate is multiplied by, above 0.
        every: after so many epochs, little by little.

    Raises:
        DataError: `factor` or `every` is not above 0.
    """
    if factor <= 0 or every <= 0:
        raise DataError(
            f"schedule.factor={factor} schedule.every={every}", expected="numbers above 0"
        )
    steps_per_epoch = max(1, total_steps // epochs)
    return LambdaLR(optimizer, lambda step: factor ** (step // steps_per_epoch / every))


def infinite(
    optimizer: Optimizer,
    total_steps: int,
    *,
    first_task: bool = True,
    warmup: float = 0.05,
    cooldown_end: float = 0.3,
    constant_end: float = 0.8,
    constant: float = 0.25,
    final: float = 0.01,
    cooldown: Literal["cosine", "inverse_sqrt", "linear"] = "cosine",
    timescale: float = 10.0,
) -> LambdaLR:
    """Warm-up, cool-down to a constant rate that may go on for ever, and annealing at the end.

    Singh et al. 2025 (arXiv 2503.02844). The annealed weights are what is evaluated; the next task
    goes on from the weights at the end of the constant phase, and its own schedule
    (`first_task=False`) begins with the constant rate.

    Args:
        optimizer: its rate is the peak.
        total_steps: optimizer steps of this task.
        first_task: with warm-up and cool-down.
        warmup: where the rise from 0 ends, as a fraction of the steps.
        cooldown_end: where the cool-down ends, likewise counted from the start.
        constant_end: where the annealing begins, likewise.
        constant: the constant rate as a fraction of the peak.
        final: where the annealing ends, one step after the last, as a fraction of the peak.
        cooldown: shape of the cool-down.
        timescale: of the inverse square root; larger falls faster at first.

    Raises:
        DataError: the fractions of the steps do not rise from 0 to 1, or a rate is not positive.
    """
    if not 0 <= warmup <= cooldown_end <= constant_end <= 1:
        raise DataError(
            f"schedule: warmup={warmup}, cooldown_end={cooldown_end}, constant_end={constant_end}",
            expected="0 <= warmup <= cooldown_end <= constant_end <= 1, all counted from the start",
        )
    if constant <= 0 or final <= 0:
        raise DataError(
            f"schedule: constant={constant}, final={final}", expected="fractions above 0"
        )
    ends = [int(total_steps * fraction) for fraction in (warmup, cooldown_end, constant_end)]
    warm, cool, flat = ends
    down_to_0_from_1: Callable[[float], float] = {
        "cosine": lambda p: 0.5 * (1 + math.cos(math.pi * p)),
        "inverse_sqrt": lambda p: 1 - _inverse_sqrt(p, timescale) / _inverse_sqrt(1, timescale),
        "linear": lambda p: 1 - p,
    }[cooldown]

    def multiplier(step: int) -> float:
        if step > flat:
            progress = min(1.0, (step - flat) / max(1, total_steps - flat))
            return constant * math.exp(progress * math.log(final / constant))
        if not first_task or step > cool:
            return constant
        if step <= warm:
            return step / warm if warm else 1.0
        return constant + (1 - constant) * down_to_0_from_1((step - warm) / (cool - warm))

    return LambdaLR(optimizer, multiplier)


def repeated(
    optimizer: Optimizer,
    total_steps: int,
    *,
    schedule: Callable[..., LambdaLR],
    n_tasks: int,
    later: dict[str, Any] | None = None,
) -> LambdaLR:
    """One schedule after the other, for a sequence of tasks that share the steps equally.

    The rate follows from the step alone, so a resumed run needs nothing but its number. Repeated
    cosine is `repeated(..., schedule=cosine)`; the infinite schedule over tasks is
    `repeated(..., schedule=infinite, later={"first_task": False})`.

    Args:
        optimizer: its rate is the peak of every task.
        total_steps: optimizer steps of the whole sequence.
        schedule: (optimizer, steps of the task) -> schedule of one task.
        n_tasks: tasks of the sequence; where it does not divide the steps, task t begins at step
            `t * total_steps // n_tasks`.
        later: further keywords of `schedule` from the second task on.

    Raises:
        DataError: there are more tasks than steps, or none.
    """
    if not 1 <= n_tasks <= total_steps:
        raise DataError(
            f"schedule.n_tasks={n_tasks}", expected=f"from 1 to the {total_steps} steps there are"
        )
    starts = [task * total_steps // n_tasks for task in range(n_tasks + 1)]
    multipliers = []
    for task in range(n_tasks):
        # Lightning's optimizer has one schedule; those of the tasks are made on a stand-in.
        stand_in = SGD([torch.zeros((), requires_grad=True)], lr=1.0)
        steps = starts[task + 1] - starts[task]
        part = schedule(stand_in, steps, **(later or {} if task else {}))
        multipliers.append(part.lr_lambdas[0])

    def multiplier(step: int) -> float:
        task = min(bisect_right(starts, step), n_tasks) - 1
        return float(multipliers[task](step - starts[task]))

    return LambdaLR(optimizer, multiplier)


def _inverse_sqrt(progress: float, timescale: float) -> float:
    return 1 / math.sqrt(1 + timescale * progress) - 1
