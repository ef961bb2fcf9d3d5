"""Blocks of patches that are hidden from a student, drawn for a whole batch at once."""

from math import log
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError

_TRIES = 10  # of every block
_LEAST_PATCHES = 4  # of a block
_LOG_ASPECT = log(1 / 0.3)


class Masks(NamedTuple):
    """Which patches are hidden, and where they are.

    Attributes:
        hidden: (crops, B, P) True where a patch is masked.
        places: (M,) numbers of the masked patches in `hidden` flattened, ascending, and after them
            others to fill up to M, which depends on shapes alone.
    """

    hidden: Bool[Tensor, "crops batch patches"]
    places: Int64[Tensor, " most_hidden"]


class BlockMasks:
    """Block masking of BEiT as iBOT and DINOv2 use it (arXiv 2106.08254, algorithm 1).

    A share of all crops of a batch is masked. The n masked crops take the n equal parts of the
    range of ratios, in random order, and draw their own ratio within it. A crop's blocks are drawn
    until its number of patches is reached: of ten candidates, each with an area drawn from 4
    patches to what is missing and an aspect drawn log-uniformly, the first that hides something new
    and not too much; without any, the crop stays with fewer. All crops draw together, each at most
    as many blocks as patches could be missing, `P / 4`; a crop that is done draws nothing more.
    Nothing waits for the device: the number of masked patches never leaves it.

    Args:
        share: of the crops that are masked.
        ratios: range of the share of a crop's patches that is hidden.
    """

    def __init__(self, share: float = 0.5, ratios: tuple[float, float] = (0.1, 0.5)) -> None:
        low, high = ratios
        if not (0 <= share <= 1 and 0 <= low <= high < 1):
            raise DataError(
                f"share={share} ratios={list(ratios)}", expected="shares, the ratios ascending"
            )
        self.share, self.ratios = share, (low, high)

    def __call__(self, crops: int, grid: tuple[int, int], draws: Draws) -> Masks:
        """Masks of some crops of every row.

        Args:
            crops: views of a row.
            grid: patches of a crop, down and across.
            draws: of the batch.
        """
        height, width = grid
        patches, low, high = height * width, *self.ratios
        n_masked = int(crops * draws.n_rows * self.share)
        place = draws.places(crops).T
        part = place + draws.uniform(0, 1, crops).T
        ratio = low + (high - low) * part / max(1, n_masked)
        wanted = torch.where(place < n_masked, (patches * ratio).long(), 0).flatten()
        hidden = torch.zeros(len(wanted), height, width, dtype=torch.bool, device=draws.device)
        for _ in range(int(patches * high) // _LEAST_PATCHES + 1):
            hidden = hidden | self._block(hidden, wanted, crops, draws)
        hidden = hidden.flatten(1).unflatten(0, (crops, -1))
        return Masks(hidden, self._places(hidden, n_masked))

    def _block(
        self,
        hidden: Bool[Tensor, "n height width"],
        wanted: Int64[Tensor, " n"],
        crops: int,
        draws: Draws,
    ) -> Bool[Tensor, "n height width"]:
        """One more block for each crop, nothing where none fits."""
        height, width = hidden.shape[1:]
        drawn = draws.uniform(0, 1, crops, _TRIES, 4).transpose(0, 1).flatten(0, 1)
        missing = (wanted - hidden.sum((1, 2)))[:, None]
        area = _LEAST_PATCHES + drawn[..., 0] * (missing - _LEAST_PATCHES)
        aspect = ((2 * drawn[..., 1] - 1) * _LOG_ASPECT).exp()
        tall = (area.clamp(min=0) * aspect).sqrt().round()
        wide = (area.clamp(min=0) / aspect).sqrt().round()
        top = (drawn[..., 2] * (height - tall + 1)).floor()
        left = (drawn[..., 3] * (width - wide + 1)).floor()
        rows = torch.arange(height, device=hidden.device)
        columns = torch.arange(width, device=hidden.device)
        inside_y = (rows >= top[..., None]) & (rows < (top + tall)[..., None])
        inside_x = (columns >= left[..., None]) & (columns < (left + wide)[..., None])
        candidates = inside_y[..., None] & inside_x[..., None, :]
        new = (candidates & ~hidden[:, None]).sum((2, 3))
        fits = (tall < height) & (wide < width) & (new > 0) & (new <= missing)
        first = fits & (fits.cumsum(1) == 1)
        return (candidates & first[..., None, None]).any(1)

    def _places(
        self, hidden: Bool[Tensor, "crops batch patches"], n_masked: int
    ) -> Int64[Tensor, " most_hidden"]:
        """Flat places of the masked patches first, as many as there can be at most."""
        crops, rows, patches = hidden.shape
        low, high = self.ratios
        step = (high - low) / max(1, n_masked)
        # The crops of this process may be those of the highest ratios.
        own = min(crops * rows, n_masked)
        most = sum(int(patches * (high - step * part)) for part in range(own))
        return (~hidden.flatten()).to(torch.uint8).argsort(stable=True)[:most]
