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

    Before the first and behind the last there are `margin` columns of nothing, so that a window is
    one piece of memory wherever it lies.

    Attributes:
        values: (rows, total) of one height.
        starts: (n,) where each begins.
        lengths: (n,) columns of each.
        margin: columns of the widest window.
    """

    values: Shaped[Tensor, "rows total"]
    starts: Int64[Tensor, " n"]
    lengths: Int64[Tensor, " n"]
    margin: int

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], dtype: torch.dtype, margin: int) -> "Lines":
        """Lines of arrays (rows, columns), one or more."""
        parts = [torch.tensor(array, dtype=dtype) for array in arrays]
        return cls._beside(parts, margin)

    @classmethod
    def _beside(cls, parts: Sequence[Tensor], margin: int) -> "Lines":
        lengths = torch.tensor([part.shape[1] for part in parts], device=parts[0].device)
        nothing = parts[0].new_zeros(len(parts[0]), margin)
        values = torch.cat([nothing, *parts, nothing], 1)
        return cls(values, margin + lengths.cumsum(0) - lengths, lengths, margin)

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
        """Columns `first` to `first + width` of some items; `fill` beyond their ends.

        Args:
            items: which.
            first: where the windows begin, by no more than the margin beyond an end.
            width: of the windows, at most the margin.
            fill: what is seen beyond the ends.
        """
        place = torch.arange(width, device=first.device)
        beyond = (place < -first[:, None]) | (place >= (self.lengths[items] - first)[:, None])
        last = self.values.shape[1] - width
        start = (self.starts[items] + first).clamp(0, last)
        cut = self.values.unfold(1, width, 1)[:, start].transpose(0, 1)
        return cut.masked_fill(beyond[:, None], fill)

    def one(self, item: int) -> Shaped[Tensor, "rows columns"]:
        """All columns of one item."""
        start = int(self.starts[item])
        return self.values[:, start : start + int(self.lengths[item])]

    def only(self, items: Int64[Tensor, " kept"]) -> "Lines":
        """Some of the items, at least one, renumbered."""
        return self._beside([self.one(item) for item in items.tolist()], self.margin)

    def identity(self) -> bytes:
        """Changes where a value does."""
        return (
            self.values.cpu().contiguous().numpy().tobytes() + f"{self.lengths.tolist()}".encode()
        )

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("values", "starts", "lengths")}
        return replace(self, **moved)
