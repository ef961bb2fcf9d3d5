"""Views of images of a few pixels, such as the 8 x 8 digits of scikit-learn."""

import torch
from jaxtyping import Float
from torch import Tensor

from core.augment.draws import Draws


class SmallImageViews:
    """A shift, a gain, an erased square and noise; every row has its own.

    Args:
        shift: largest shift in pixels, either way, by whole pixels; what comes in is 0.
        gain: range of the factor.
        erase: side of the erased square in pixels.
        erase_p: how often there is one.
        noise: standard deviation of the noise, in units of the pixels.
    """

    def __init__(
        self,
        shift: int = 1,
        gain: tuple[float, float] = (0.6, 1.4),
        erase: int = 3,
        erase_p: float = 0.5,
        noise: float = 0.15,
    ) -> None:
        self.shift, self.gain, self.erase = shift, gain, erase
        self.erase_p, self.noise = erase_p, noise

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], draws: Draws
    ) -> Float[Tensor, "batch channels height width"]:
        """One view of every image."""
        _, _, height, width = images.shape
        shift = draws.uniform(-self.shift, self.shift + 1, 2).floor().long()
        rows, inside_y = _moved(height, shift[:, :1])
        columns, inside_x = _moved(width, shift[:, 1:])
        batch = torch.arange(len(images), device=images.device)[:, None, None]
        moved = images.movedim(1, -1)[batch, rows[:, :, None], columns[:, None]].movedim(-1, 1)
        inside = inside_y[:, :, None] & inside_x[:, None]
        gain = draws.uniform(*self.gain)[:, None, None, None]
        corner = draws.uniform(0, 1, 2)
        erased = _covered(height, self.erase, corner[:, :1])[:, :, None]
        erased = erased & _covered(width, self.erase, corner[:, 1:])[:, None]
        erased = erased & draws.happens(self.erase_p)[:, None, None]
        kept = (inside & ~erased)[:, None]
        return moved * gain * kept + self.noise * draws.normal(*images.shape[1:])


def _moved(size: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    source = torch.arange(size, device=shift.device) - shift
    return source.clamp(0, size - 1), (source >= 0) & (source < size)


def _covered(size: int, length: int, place: Tensor) -> Tensor:
    start = (place * (size - length + 1)).floor()
    pixel = torch.arange(size, device=place.device)
    return (pixel >= start) & (pixel < start + length)
