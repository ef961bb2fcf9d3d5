"""A learning rate that falls in two steps."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from core.data.checks import DataError


def milestones(
    optimizer: Optimizer,
    total_steps: int,
    first: float = 0.5,
    second: float = 0.75,
    factor: float = 0.1,
) -> LambdaLR:
    """The optimizer's rate, times `factor` from the first milestone on, and again from the second.

    Args:
        optimizer: its rate is that of the first step.
        total_steps: optimizer steps of the whole training.
        first: a milestone, as a fraction of the steps.
        second: a milestone, likewise.
        factor: above 0.

    Raises:
        DataError: a milestone is no fraction in [0, 1], or the factor is not above 0.
    """
    if not (0 <= first <= second <= 1 and factor > 0):
        raise DataError(
            f"schedule: first={first}, second={second}, factor={factor}",
            expected="0 <= first <= second <= 1, and a factor above 0",
        )
    ends = (first * total_steps, second * total_steps)
    return LambdaLR(optimizer, lambda step: factor ** sum(step >= end for end in ends))
