"""Random numbers for the rows of a batch that do not depend on how many processes share it."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


class Draws:
    """Draws for every row of the global batch, of which a process keeps those of its own rows.

    Args:
        seed: of the batch.
        n_rows: rows of the batch over all processes.
        own: the rows of this process.
        device: where the numbers are drawn.
    """

    def __init__(self, seed: int, n_rows: int, own: slice, device: torch.device) -> None:
        self.n_rows, self.own, self.device = n_rows, own, device
        self.generator = torch.Generator(device).manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "rows ..."]:
        """Uniform in [low, high), one tensor of `shape` a row."""
        drawn = torch.empty((self.n_rows, *shape), device=self.device)
        return drawn.uniform_(low, high, generator=self.generator)[self.own]

    def normal(self, *shape: int) -> Float[Tensor, "rows ..."]:
        """Standard normal, one tensor of `shape` a row."""
        size = (self.n_rows, *shape)
        return torch.randn(size, generator=self.generator, device=self.device)[self.own]

    def happens(self, p: float, *shape: int) -> Bool[Tensor, "rows ..."]:
        """True with probability p."""
        return self.uniform(0, 1, *shape) < p

    def places(self, n: int = 1) -> Int64[Tensor, "rows n"]:
        """Places from 0 in one random order of n entries for each row of the global batch."""
        drawn = torch.rand(self.n_rows * n, generator=self.generator, device=self.device)
        return drawn.argsort().argsort().view(self.n_rows, n)[self.own]

    def shared(self, low: float, high: float) -> Float[Tensor, ""]:
        """One uniform number for all rows of the batch, the same on every process."""
        drawn = torch.rand((), generator=self.generator, device=self.device)
        return low + (high - low) * drawn
