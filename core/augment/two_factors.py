"""Views of samples made of a small image and a pattern, see `core.data.two_factors`."""

import torch
from jaxtyping import Float
from torch import Tensor

from core.augment.draws import Draws
from core.augment.small_images import SmallImageViews


class TwoFactorViews:
    """The views of small images for the digit, noise for the pattern: both factors stay.

    Args:
        side: of the square image that a sample begins with, in pixels.
        image: makes a view of it.
        noise: standard deviation of the noise on the values after the image.
    """

    def __init__(
        self, side: int = 8, image: SmallImageViews | None = None, noise: float = 0.1
    ) -> None:
        self.side, self.image, self.noise = side, image or SmallImageViews(), noise

    def __call__(
        self, samples: Float[Tensor, "batch values"], draws: Draws
    ) -> Float[Tensor, "batch values"]:
        """One view of every sample."""
        pixels, pattern = samples.tensor_split([self.side**2], dim=1)
        image = self.image(pixels.view(-1, 1, self.side, self.side), draws).flatten(1)
        return torch.cat([image, pattern + self.noise * draws.normal(pattern.shape[1])], dim=1)
