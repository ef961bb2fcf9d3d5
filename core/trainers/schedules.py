"""Learning-rate schedules: a multiplier of the optimizer's rate for every step."""

import math

from torch.optim import Optimizer
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
