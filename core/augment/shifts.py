"""Images moved by whole pixels; every row of the batch has its own shift."""

import torch
from jaxtyping import Float
from torch import Tensor

from core.augment.draws import Draws


class RandomRoll:
    """A shift either way in both directions; what leaves on one side comes in on the other.

    Args:
        pixels: the largest shift.
    """

    def __init__(self, pixels: int = 1) -> None:
        self.pixels = pixels

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], draws: Draws
    ) -> Float[Tensor, "batch channels height width"]:
        """One view of every image."""
        height, width = images.shape[-2:]
        shift = draws.uniform(-self.pixels, self.pixels + 1, 2).floor().long()
        rows = (torch.arange(height, device=images.device) - shift[:, :1]) % height
        columns = (torch.arange(width, device=images.device) - shift[:, 1:]) % width
        return _gathered(images, rows, columns)


class PaddedCrop:
    """The crop of an image with a black margin, and a mirror half the time, as for CIFAR.

    Args:
        padding: width of the margin in pixels.
        flip_p: how often the image is mirrored, left to right.
    """

    def __init__(self, padding: int = 4, flip_p: float = 0.5) -> None:
        self.padding, self.flip_p = padding, flip_p

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], draws: Draws
    ) -> Float[Tensor, "batch channels height width"]:
        """One view of every image."""
        height, width = images.shape[-2:]
        corner = draws.uniform(0, 2 * self.padding + 1, 2).floor().long()
        across = torch.arange(width, device=images.device)
        mirrored = draws.happens(self.flip_p)[:, None]
        columns = torch.where(mirrored, across.flip(0), across) + corner[:, 1:]
        rows = torch.arange(height, device=images.device) + corner[:, :1]
        padded = torch.nn.functional.pad(images, [self.padding] * 4)
        return _gathered(padded, rows, columns)


def _gathered(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return images.movedim(1, -1)[batch, rows[:, :, None], columns[:, None]].movedim(-1, 1)
