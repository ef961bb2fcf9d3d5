"""Long arrays of different lengths side by side on the device, from which windows are cut."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Lines:
    """Scores, spectrograms or waves, one after the other along the last axis.

    Attributes:
        values: (rows, total) of one height.
        starts: (n,) where each begins.
        lengths: (n,) columns of each.
    """

    values: Shaped[Tensor, "rows total"]
    starts: Int64[Tensor, " n"]
    lengths: Int64[Tensor, " n"]

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], rows: int, dtype: torch.dtype) -> "Lines":
        """Lines of arrays (rows, columns)."""
        lengths = torch.tensor([array.shape[1] for array in arrays], dtype=torch.int64)
        if arrays:
            values = torch.from_numpy(np.concatenate(arrays, axis=1)).to(dtype)
        else:
            values = torch.zeros(rows, 0, dtype=dtype)
        return cls(values, lengths.cumsum(0) - lengths, lengths)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.starts)

    def windows(
        self,
        items: Int64[Tensor, " batch"],
        first: Int64[Tensor, " batch"],
        width: int,
        fill: float,
    ) -> Shaped[Tensor, "batch rows width"]:
        """Columns `first` to `first + width` of some items; `fill` beyond their ends."""
        places = first[:, None] + torch.arange(width, device=first.device)
        inside = (places >= 0) & (places < self.lengths[items, None])
        columns = (self.starts[items, None] + places).clamp(0, max(self.values.shape[1] - 1, 0))
        cut = self.values[:, columns].transpose(0, 1)
        return cut.masked_fill(~inside[:, None], fill)

    def one(self, item: int) -> Shaped[Tensor, "rows columns"]:
        """All columns of one item."""
        start = int(self.starts[item])
        return self.values[:, start : start + int(self.lengths[item])]

    def only(self, items: Int64[Tensor, " kept"]) -> "Lines":
        """Some of the items, renumbered."""
        parts = [self.one(item) for item in items.tolist()]
        values = torch.cat(parts, 1) if parts else self.values[:, :0]
        lengths = self.lengths[items]
        return Lines(values, lengths.cumsum(0) - lengths, lengths)

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("values", "starts", "lengths")}
        return replace(self, **moved)
