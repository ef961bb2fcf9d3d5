"""A learning rate that falls in steps."""

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from core.data.checks import DataError


def milestones(
    optimizer: Optimizer,
    total_steps: int,
    at: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
) -> LambdaLR:
    """The optimizer's rate, times `factor` from each milestone on.

    Args:
        optimizer: its rate is that of the first step.
        total_steps: optimizer steps of the whole training.
        at: the milestones as fractions of the steps.
        factor: above 0.

    Raises:
        DataError: a milestone is no fraction in [0, 1], or the factor is not above 0.
    """
    if not all(0 <= share <= 1 for share in at) or factor <= 0:
        raise DataError(
            f"schedule.at={list(at)} schedule.factor={factor}",
            expected="fractions of all steps, in [0, 1], and a factor above 0",
        )
    return LambdaLR(
        optimizer, lambda step: factor ** sum(step >= share * total_steps for share in at)
    )
