"""A learned temperature."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LogitScale(nn.Module):
    """Learned multiplier of the logits, kept as its logarithm and never above a maximum.

    Radford et al. 2021, section 2.5: 1/0.07 at the start, at most 100. The parameter is a scalar
    and takes no weight decay. Give `1 / scale()` to a loss that wants a temperature.

    Args:
        start: value at the start, > 0.
        maximum: largest value.
    """

    def __init__(self, start: float = 1 / 0.07, maximum: float = 100.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)))
        self.log_maximum = math.log(maximum)

    def forward(self) -> Float[Tensor, ""]:
        """The multiplier, a scalar in (0, maximum]."""
        return self.log_scale.clamp(max=self.log_maximum).exp()
