"""Images moved, turned, enlarged and bent in one resampling, batched on the device."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from core.augment.draws import Draws


class Warp:
    """Shift, scale, rotation and elastic bending, composed and sampled once, bilinearly.

    What a row draws happens about the middle of the image; where nothing is known, `fill` is seen.
    The view may be smaller than the image, so that a shift brings in what lies beside it.

    Args:
        size: height and width of the view; None is that of the image.
        shift: largest shift across and down, in pixels.
        scale: range of the enlargement.
        degrees: largest rotation, either way.
        elastic: pairs of the distance between the knots of a smooth random field and the standard
            deviation of the displacement, both in pixels; each happens by itself.
        p: how often a row is shifted across, shifted down, scaled, turned, and bent by each field.
        fill: grey value beyond the image.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        shift: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
        degrees: float = 0.0,
        elastic: Sequence[tuple[int, float]] = (),
        p: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0),
        fill: float = 1.0,
    ) -> None:
        self.size, self.shift, self.scale, self.degrees = size, shift, scale, degrees
        self.elastic, self.p, self.fill = elastic, p, fill

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], draws: Draws
    ) -> Float[Tensor, "batch channels view_height view_width"]:
        """One view of every image."""
        height, width = images.shape[-2:]
        view = self.size or (height, width)
        across = draws.uniform(-1, 1) * self.shift[0] * draws.happens(self.p[0])
        down = draws.uniform(-1, 1) * self.shift[1] * draws.happens(self.p[1])
        scale = torch.where(draws.happens(self.p[2]), draws.uniform(*self.scale), 1.0)
        angle = draws.uniform(-1, 1) * math.radians(self.degrees) * draws.happens(self.p[3])
        y, x = (torch.arange(n, device=images.device) - (n - 1) / 2 for n in view)
        cos, sin = (
            of(angle)[:, None, None] / scale[:, None, None] for of in (torch.cos, torch.sin)
        )
        place = torch.stack(
            [
                cos * x + sin * y[:, None] - across[:, None, None],
                cos * y[:, None] - sin * x - down[:, None, None],
            ],
            -1,
        )
        for distance, deviation in self.elastic:
            bent = smooth_field(draws, 2, view, distance) * deviation
            bent = bent * draws.happens(self.p[4])[:, None, None, None]
            place = place + bent.permute(0, 2, 3, 1)
        grid = place * 2 / place.new_tensor([width, height])
        sampled = grid_sample(
            images - self.fill, grid.to(images.dtype), padding_mode="zeros", align_corners=False
        )
        return sampled + self.fill


def smooth_field(
    draws: Draws, channels: int, size: tuple[int, int], distance: int
) -> Float[Tensor, "rows channels height width"]:
    """Random fields of variance about 1, smooth over `distance` pixels."""
    knots = [math.ceil(n / distance) + 3 for n in size]
    coarse = draws.normal(channels, *knots)
    down, across = (
        _between_knots(of, distance, coarse.device)[distance : distance + n]
        for of, n in zip(knots, size, strict=True)
    )
    return down @ coarse @ across.T


def _between_knots(
    knots: int, distance: int, device: torch.device
) -> Float[Tensor, "places knots"]:
    """Weights of the knots at every place between them, by which bicubic values are a product."""
    each = torch.eye(knots, device=device)[None, :, :, None]
    size = (knots * distance, 1)
    return interpolate(each, size, mode="bicubic", align_corners=False)[0, :, :, 0].T


class PerlinNoise:
    """Smooth stains: gradient noise (Perlin 1985), added.

    Args:
        cell: pixels between the random gradients.
        strength: largest factor of the noise, which lies within about ±0.7; each row draws its own.
        p: how often.
    """

    def __init__(self, cell: int = 16, strength: float = 0.3, p: float = 1.0) -> None:
        self.cell, self.strength, self.p = cell, strength, p

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], draws: Draws
    ) -> Float[Tensor, "batch channels height width"]:
        """One view of every image; values are kept within [0, 1]."""
        height, width = images.shape[-2:]
        noise = perlin(draws, (height, width), self.cell)
        factor = draws.uniform(0, self.strength) * draws.happens(self.p)
        changed = factor[:, None, None, None] > 0
        return torch.where(
            changed, (images + factor[:, None, None, None] * noise[:, None]).clamp(0, 1), images
        )


def perlin(draws: Draws, size: tuple[int, int], cell: int) -> Float[Tensor, "rows height width"]:
    """Gradient noise: at every corner of a cell a unit vector, its products smoothly mixed."""
    height, width = size
    corners = (math.ceil(height / cell) + 1, math.ceil(width / cell) + 1)
    angle = draws.uniform(0, 2 * math.pi, *corners)
    device = angle.device
    y, x = (torch.arange(n, device=device) / cell for n in size)
    row, column = y.long(), x.long()
    dy, dx = (y - row)[:, None], (x - column)[None]
    rising = [(t * t * t * (t * (t * 6 - 15) + 10)) for t in (dy, dx)]
    total = torch.zeros(len(angle), height, width, device=device)
    for below in (0, 1):
        for right in (0, 1):
            at = angle[:, (row + below)[:, None], (column + right)[None]]
            product = at.cos() * (dx - right) + at.sin() * (dy - below)
            total += (
                product
                * (rising[0] if below else 1 - rising[0])
                * (rising[1] if right else 1 - rising[1])
            )
    return total
