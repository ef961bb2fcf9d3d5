"""The views of SimCLR for photographs (arXiv 2002.05709, appendix A), batched on the device."""

from math import log
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.augment.draws import Draws


class SimCLRViews:
    """Random resized crop, flip, colour jitter, greyscale, blur; every row draws its own.

    Args:
        scale: range of the crop's area, as a share of the image's.
        ratio: range of the crop's width over its height, drawn log-uniformly.
        jitter: strengths of brightness, contrast, saturation (factors in 1 ± strength) and hue
            (shift in ± strength turns).
        jitter_p: how often the colours change.
        grey_p: how often they go.
        blur_p: how often the image is blurred, sigma 0.1 to 2 pixels; 0 for images of 32 pixels.
        size: height and width of the views in pixels; None is that of the images.
        solarise_p: how often pixels above a half are inverted.
        interpolation: of the crop.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        jitter_p: float = 0.8,
        grey_p: float = 0.2,
        blur_p: float = 0.0,
        size: int | None = None,
        solarise_p: float = 0.0,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> None:
        self.scale, self.ratio, self.jitter, self.size = scale, ratio, jitter, size
        self.jitter_p, self.grey_p, self.blur_p = jitter_p, grey_p, blur_p
        self.solarise_p, self.interpolation = solarise_p, interpolation

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"], draws: Draws
    ) -> Float[Tensor, "batch 3 view_height view_width"]:
        """One view of every image; pixels in [0, 1], in and out."""
        views = self._cropped(images, draws)
        views = _where(draws.happens(self.jitter_p), self._jittered(views, draws), views)
        views = _where(draws.happens(self.grey_p), _grey(views).expand_as(views), views)
        if self.blur_p:
            sigma = draws.uniform(0.1, 2.0)
            views = _where(draws.happens(self.blur_p), blurred(views, sigma), views)
        if self.solarise_p:
            inverted = torch.where(views >= 0.5, 1 - views, views)
            views = _where(draws.happens(self.solarise_p), inverted, views)
        return views.clamp(0, 1)  # interpolation overshoots by a rounding error

    def _cropped(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        area = draws.uniform(*self.scale)
        log_ratio = draws.uniform(log(self.ratio[0]), log(self.ratio[1]))
        share_x = (area * log_ratio.exp() * height / width).sqrt().clamp(max=1)
        share_y = (area / log_ratio.exp() * width / height).sqrt().clamp(max=1)
        place = draws.uniform(-1, 1, 2)
        flip = 1 - 2 * draws.happens(0.5).float()
        theta = torch.zeros(len(images), 2, 3, device=images.device)
        theta[:, 0, 0], theta[:, 1, 1] = share_x * flip, share_y
        theta[:, 0, 2], theta[:, 1, 2] = place[:, 0] * (1 - share_x), place[:, 1] * (1 - share_y)
        side = [height, width] if self.size is None else [self.size] * 2
        shape = [len(images), images.shape[1], *side]
        grid = torch.nn.functional.affine_grid(theta, shape, align_corners=False)
        views = torch.nn.functional.grid_sample(
            images, grid, self.interpolation, padding_mode="border", align_corners=False
        )
        # Bicubic interpolation overshoots at edges.
        return views.clamp(0, 1) if self.interpolation == "bicubic" else views

    def _jittered(self, images: Tensor, draws: Draws) -> Tensor:
        factors = [
            draws.uniform(max(0.0, 1 - strength), 1 + strength)[:, None, None, None]
            for strength in self.jitter[:3]
        ]
        turn = draws.uniform(-self.jitter[3], self.jitter[3])
        brightness, contrast, saturation = factors
        images = (images * brightness).clamp(0, 1)
        mean = _grey(images).mean((1, 2, 3), keepdim=True)
        images = (mean + (images - mean) * contrast).clamp(0, 1)
        grey = _grey(images)
        images = (grey + (images - grey) * saturation).clamp(0, 1)
        return _hue_turned(images, turn).clamp(0, 1)


def _where(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], yes, no)


_LUMA = (0.299, 0.587, 0.114)


def _grey(images: Tensor) -> Tensor:
    weights = images.new_tensor(_LUMA)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None]


# RGB -> luma and two chroma axes (NTSC YIQ), in which a turn of the hue is a rotation.
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def _hue_turned(images: Tensor, turn: Tensor) -> Tensor:
    to_yiq = images.new_tensor(_YIQ)
    cos, sin = (2 * torch.pi * turn).cos(), (2 * torch.pi * turn).sin()
    rotation = torch.zeros(len(images), 3, 3, device=images.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1], rotation[:, 1, 2] = cos, -sin
    rotation[:, 2, 1], rotation[:, 2, 2] = sin, cos
    matrix = torch.linalg.inv(to_yiq) @ rotation @ to_yiq
    return torch.einsum("bij,bjhw->bihw", matrix, images)


def blurred(
    images: Float[Tensor, "batch channels height width"], sigma: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Images under a Gaussian of their own width in pixels, cut at a twentieth of the image."""
    radius = max(1, round(0.05 * images.shape[-1]))
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.softmax(-0.5 * (offsets / sigma[:, None]).square(), 1)
    batch, channels, height, width = images.shape
    # A group a row of the batch and channel: each has its own kernel.
    rows = images.reshape(1, batch * channels, height, width)
    per_channel = kernel.repeat_interleave(channels, 0)
    for shape, pad in (((1, -1), (radius, radius, 0, 0)), ((-1, 1), (0, 0, radius, radius))):
        weights = per_channel.reshape(batch * channels, 1, *shape)
        padded = torch.nn.functional.pad(rows, pad, mode="reflect")
        rows = torch.nn.functional.conv2d(padded, weights, groups=batch * channels)
    return rows.reshape(images.shape)
