"""Styles of images, taken as the low frequencies of their Fourier amplitudes, exchanged in a batch.

Scalbert, Vakalopoulou, Couzinie-Devy, ICLR 2024 (arXiv 2303.06088). A view is made in this order:
geometry, so that the spectrum is the crop's; style; colours.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from core.augment.draws import Draws
from core.augment.images import SimCLRViews
from core.data.checks import DataError
from core.distributed import all_gather, all_reduce_sum

Augment = Callable[[Tensor, Draws], Tensor]


class StyledViews:
    """A crop, then a style, then colours.

    Args:
        styles: all images of a view take the style of one (`batch`: batch styles standardisation);
            each takes that of another one (`image`: plain Fourier augmentation, the baseline); or
            None, each keeps its own.
        area: range of the share of the amplitudes that are replaced.
        geometric: makes the crop; None is `RandomCrop()`.
        photometric: changes the colours; None is `ColourJitter()`.
        batchwise_jitter: the colours of all images change by one draw, so that they stay of one
            style; otherwise each image has its own draw.

    Raises:
        DataError: the styles are none of these.
    """

    def __init__(
        self,
        styles: Literal["batch", "image"] | None = "batch",
        area: Sequence[float] = (0.02, 1.0),
        geometric: Augment | None = None,
        photometric: Augment | None = None,
        batchwise_jitter: bool = False,
    ) -> None:
        if styles not in ("batch", "image", None):
            raise DataError(f"task.augment.styles={styles}", expected="batch, image or null")
        self.styles, self.area = styles, area
        self.geometric = geometric or RandomCrop()
        self.photometric = photometric or ColourJitter()
        self.batchwise_jitter = batchwise_jitter

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], draws: Draws
    ) -> Float[Tensor, "batch channels height width"]:
        """One view of every image; pixels in [0, 1], in and out."""
        images = self.geometric(images, draws)
        if self.styles is not None:
            exchange = batch_style if self.styles == "batch" else image_styles
            images = exchange(images, self.area, draws).clamp(0, 1)
        return self.photometric(images, _OneDraw(draws) if self.batchwise_jitter else draws)


def batch_style(
    images: Float[Tensor, "batch channels height width"], area: Sequence[float], draws: Draws
) -> Float[Tensor, "batch channels height width"]:
    """All images with the low frequencies of one; not clipped.

    One reference and one area, drawn from the range, serve the whole batch over all processes.
    """
    number = (draws.shared(0, 1) * draws.n_rows).floor().clamp(max=draws.n_rows - 1)
    share = draws.shared(area[0], area[1])
    rows = torch.arange(draws.own.start, draws.own.stop, device=images.device)
    spectrum = torch.fft.rfft2(images)
    # The reference lies on one process; the others add 0 to its amplitudes.
    chosen = (rows == number).to(spectrum.dtype)
    reference = all_reduce_sum(torch.einsum("b,b...->...", chosen, spectrum).abs())
    return restyled(spectrum, reference, share, images.shape[-1])


def image_styles(
    images: Float[Tensor, "batch channels height width"], area: Sequence[float], draws: Draws
) -> Float[Tensor, "batch channels height width"]:
    """Each image with the low frequencies of another, on any process; not clipped.

    Every image has a reference and an area, drawn from the range, of its own.
    """
    numbers = (draws.uniform(0, 1) * draws.n_rows).long().clamp(max=draws.n_rows - 1)
    share = draws.uniform(area[0], area[1])
    spectrum = torch.fft.rfft2(images)
    everyone = all_gather(spectrum.abs())
    return restyled(spectrum, everyone[numbers], share, images.shape[-1])


class RandomCrop:
    """A square part of the image, brought to its size, and perhaps mirrored.

    Args:
        scale: range of the part's side, as a share of the image's.
        flip_p: how often it is mirrored, left to right.
    """

    def __init__(self, scale: Sequence[float] = (0.5, 1.0), flip_p: float = 0.5) -> None:
        self.scale, self.flip_p = scale, flip_p

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], draws: Draws
    ) -> Float[Tensor, "batch channels height width"]:
        """One crop of every image."""
        side = draws.uniform(self.scale[0], self.scale[1])
        place = draws.uniform(-1, 1, 2) * (1 - side)[:, None]
        mirror = 1 - 2 * draws.happens(self.flip_p).to(side.dtype)
        nothing = torch.zeros_like(side)
        across = torch.stack([side * mirror, nothing, place[:, 0]], 1)
        down = torch.stack([nothing, side, place[:, 1]], 1)
        theta = torch.stack([across, down], 1).to(images.dtype)
        grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
        return torch.nn.functional.grid_sample(
            images, grid, padding_mode="border", align_corners=False
        )


class ColourJitter(SimCLRViews):
    """The colours of SimCLR's views, without the crop; arguments as there."""

    def _cropped(self, images: Tensor, draws: Draws) -> Tensor:
        return images


class ChannelJitter:
    """A gain and an offset for every channel, of images of a few pixels.

    Args:
        gain: the factors are in 1 ± gain.
        offset: what is added is in ± offset.
    """

    def __init__(self, gain: float = 0.4, offset: float = 0.2) -> None:
        self.gain, self.offset = gain, offset

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], draws: Draws
    ) -> Float[Tensor, "batch channels height width"]:
        """The images in other colours; pixels in [0, 1], in and out."""
        channels = images.shape[1]
        gain = draws.uniform(1 - self.gain, 1 + self.gain, channels, 1, 1)
        offset = draws.uniform(-self.offset, self.offset, channels, 1, 1)
        return (images * gain + offset).clamp(0, 1)


def low_frequencies(size: int, area: Float[Tensor, "*batch"]) -> Bool[Tensor, "*batch size"]:
    """Which of `size` frequencies, in the order of `torch.fft.fft`, lie in the replaced box.

    Those from -b to b with b = ⌊√area · size / 2⌋: symmetric, so that the image stays real.
    """
    half_width = (area.sqrt() * (size / 2)).floor()
    frequencies = (torch.fft.fftfreq(size, device=area.device) * size).round().abs()
    inside: Tensor = frequencies <= half_width[..., None]
    return inside


def restyled(
    spectrum: Complex[Tensor, "batch channels height columns"],
    amplitudes: Float[Tensor, "*batch channels height columns"],
    area: Float[Tensor, "*batch"],
    width: int,
) -> Float[Tensor, "batch channels height width"]:
    """The images with other amplitudes at low frequencies and their own phase; not clipped.

    Args:
        spectrum: of the images, by `torch.fft.rfft2`.
        amplitudes: likewise, of the reference: one for all, or one an image.
        area: share of the box of the spectrum, in (0, 1]: one for all, or one an image. At 0 the
            mean colour alone is replaced.
        width: of the images.
    """
    height = spectrum.shape[-2]
    # Half a spectrum holds the columns of frequency 0 to width / 2.
    down, across = low_frequencies(height, area), low_frequencies(width, area)
    box = down[..., :, None] & across[..., None, : width // 2 + 1]
    if box.ndim == 3:
        box = box[:, None]
    own = spectrum.abs()
    scaled = spectrum * torch.where(box & (own > 0), amplitudes / own, 1.0)
    # An amplitude of 0 has the phase 0.
    replaced = torch.where(box & (own == 0), amplitudes.to(spectrum.dtype), scaled)
    out: Tensor = torch.fft.irfft2(replaced, s=(height, width))
    return out


class _OneDraw(Draws):
    """The same numbers for all rows of a batch."""

    def __init__(self, draws: Draws) -> None:
        self.n_rows, self.own, self.device = draws.n_rows, draws.own, draws.device
        self.generator = draws.generator

    def uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "rows ..."]:
        drawn = torch.rand(shape, generator=self.generator, device=self.device)
        return (low + (high - low) * drawn).expand(self.own.stop - self.own.start, *shape)

    def normal(self, *shape: int) -> Float[Tensor, "rows ..."]:
        drawn = torch.randn(shape, generator=self.generator, device=self.device)
        return drawn.expand(self.own.stop - self.own.start, *shape)
