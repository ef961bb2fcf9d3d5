"""A teacher whose weights are a moving average of the student's."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn


class EMATeacher(nn.Module):
    """A copy of the student without gradients that follows it (BYOL, DINO, I-JEPA).

    It is part of the module it is assigned to: it moves, is saved and switches between training and
    evaluation with it.

    Args:
        student: copied as it is; not kept.

    Attributes:
        module: the copy.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - those of the student
        """What the copy makes of these arguments, without gradient."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """Weights become momentum x own + (1 - momentum) x the student's; buffers are copied.

        Call it after the optimizer's step.

        Args:
            student: the module that was copied, trained since.
            momentum: in [0, 1], see `cosine_momentum`.
        """
        own: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(student.parameters())
        torch._foreach_lerp_(own, theirs, 1 - momentum)
        for buffer, value in zip(self.module.buffers(), student.buffers(), strict=True):
            buffer.copy_(value)


def cosine_momentum(step: int, total_steps: int, start: float = 0.996, end: float = 1.0) -> float:
    """Momentum that rises from `start` to `end` by half a cosine (BYOL, Grill et al. 2020, 3.2).

    Args:
        step: from 0; `end` is reached at `total_steps` and kept.
        total_steps: optimizer steps of the whole training.
        start: at step 0.
        end: at the last step.
    """
    progress = min(1.0, step / total_steps)
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2
