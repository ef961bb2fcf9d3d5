"""The views of DINO: two large crops and several small ones, batched on the device."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from core.augment.draws import Draws
from core.augment.images import SimCLRViews


class Crops(NamedTuple):
    """Views of a batch.

    Attributes:
        large: (2, B, 3, large_size, large_size).
        small: (n_small, B, 3, small_size, small_size).
    """

    large: Float[Tensor, "2 batch 3 height width"]
    small: Float[Tensor, "n_small batch 3 small_height small_width"]


class MultiCrop:
    """Multi-crop with the asymmetric augmentation of DINO and DINOv2 (arXiv 2104.14294, 3.1).

    Crops are resized bicubically, without antialiasing: a crop is rarely much larger than its view.
    The first large crop is always blurred, the second rarely, and that one may be solarised.

    Args:
        large_size: height and width of the large crops in pixels.
        small_size: of the small ones.
        n_small: small crops of an image.
        large_scale: range of a large crop's area, as a share of the image's.
        small_scale: of a small crop's.
        jitter: strengths of brightness, contrast, saturation and hue.
        jitter_p: how often the colours change.
        grey_p: how often they go.
        blur_p: how often the first large, the second large and a small crop is blurred.
        solarise_p: how often pixels above a half of the second large crop are inverted.
    """

    def __init__(
        self,
        large_size: int = 224,
        small_size: int = 96,
        n_small: int = 8,
        large_scale: tuple[float, float] = (0.32, 1.0),
        small_scale: tuple[float, float] = (0.05, 0.32),
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1),
        jitter_p: float = 0.8,
        grey_p: float = 0.2,
        blur_p: tuple[float, float, float] = (1.0, 0.1, 0.5),
        solarise_p: float = 0.2,
    ) -> None:
        def views(scale: tuple[float, float], size: int, blur: float, solar: float) -> SimCLRViews:
            return SimCLRViews(
                scale=scale,
                jitter=jitter,
                jitter_p=jitter_p,
                grey_p=grey_p,
                blur_p=blur,
                size=size,
                solarise_p=solar,
                interpolation="bicubic",
            )

        self.n_small = n_small
        first, second, small = blur_p
        self.large = [
            views(large_scale, large_size, first, 0.0),
            views(large_scale, large_size, second, solarise_p),
        ]
        self.small = views(small_scale, small_size, small, 0.0)
        self.small_size = small_size

    def __call__(self, images: Float[Tensor, "batch 3 height width"], draws: Draws) -> Crops:
        """All crops of every image; pixels in [0, 1], in and out."""
        large = torch.stack([view(images, draws) for view in self.large])
        small = [self.small(images, draws) for _ in range(self.n_small)]
        none = images.new_empty(0, len(images), images.shape[1], self.small_size, self.small_size)
        return Crops(large, torch.stack(small) if small else none)
