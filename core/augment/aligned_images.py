"""One change for all sensors: the same crop, flip and turn of images that lie on one grid."""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from core.augment.draws import Draws


class AlignedViews:
    """A square crop, a flip and a turn by quarters; every row of the batch draws its own.

    Without a crop pixels only change places. A crop is interpolated bilinearly, a mask by its
    nearest pixel.

    Args:
        crop: smallest and largest side of the crop in pixels, drawn uniformly among whole numbers;
            None takes the whole image.
        size: side of the views in pixels; None is that of the images.
        flip: whether half of the views are mirrored.
        turn: whether views are turned by 0, 90, 180 or 270 degrees.
    """

    def __init__(
        self,
        crop: tuple[int, int] | None = None,
        size: int | None = None,
        flip: bool = True,
        turn: bool = True,
    ) -> None:
        self.crop, self.size, self.flip, self.turn = crop, size, flip, turn

    def __call__(
        self, images: dict[str, Shaped[Tensor, "batch *channels height width"]], draws: Draws
    ) -> dict[str, Shaped[Tensor, "batch *channels view_height view_width"]]:
        """One view of every row: float images (batch, channels, ...), masks (batch, ...)."""
        some = next(iter(images.values()))
        quarter, mirrored = self._turns(draws)
        if self.crop is None and self.size is None and some.shape[-1] == some.shape[-2]:
            rows, columns = _places(some.shape[-1], quarter, mirrored, some.device)
            return {name: _taken(values, rows, columns) for name, values in images.items()}
        theta = self._affine(quarter, mirrored, draws, some.shape[-2], some.shape[-1])
        return {name: self._sampled(values, theta) for name, values in images.items()}

    def _turns(self, draws: Draws) -> tuple[Tensor, Tensor]:
        quarter = draws.uniform(0, 4).floor().long() if self.turn else draws.uniform(0, 1).long()
        mirrored = draws.happens(0.5 if self.flip else 0.0)
        return quarter, mirrored

    def _affine(
        self, quarter: Tensor, mirrored: Tensor, draws: Draws, height: int, width: int
    ) -> Float[Tensor, "batch 2 3"]:
        low, high = self.crop or (min(height, width),) * 2
        side = draws.uniform(low, high + 1).floor().clamp(max=min(height, width))
        # Whole pixels from the edge, so that a crop of the views' own size is not interpolated.
        corner = draws.uniform(0, 1, 2)
        left = (corner[:, 0] * (width - side + 1)).floor()
        top = (corner[:, 1] * (height - side + 1)).floor()
        angle = quarter * (torch.pi / 2)
        cos, sin = angle.cos(), angle.sin()
        flip = 1 - 2 * mirrored.float()
        share_x, share_y = side / width, side / height
        theta = torch.stack(
            [
                torch.stack([share_x * cos * flip, -share_x * sin], 1),
                torch.stack([share_y * sin * flip, share_y * cos], 1),
            ],
            1,
        )
        middle = torch.stack([(2 * left + side) / width - 1, (2 * top + side) / height - 1], 1)
        return torch.cat([theta, middle[:, :, None]], 2)

    def _sampled(self, values: Tensor, theta: Tensor) -> Tensor:
        images = values if values.ndim == 4 else values[:, None]
        is_mask = not values.is_floating_point()
        height, width = images.shape[-2:]
        side = self.size or min(height, width)
        grid = affine_grid(theta, [len(images), images.shape[1], side, side], align_corners=False)
        how: dict[str, Any] = {"padding_mode": "border", "align_corners": False}
        how["mode"] = "nearest" if is_mask else "bilinear"
        views = grid_sample(images.float() if is_mask else images, grid, **how)
        return views.view(len(views), *values.shape[1:-2], side, side).to(values.dtype)


def _places(
    side: int, quarter: Tensor, mirrored: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row and column of the image that each pixel of a view is taken from, (batch, side, side)."""
    row, column = torch.meshgrid(
        torch.arange(side, device=device), torch.arange(side, device=device), indexing="ij"
    )
    back_row, back_column = side - 1 - row, side - 1 - column
    turned_rows = torch.stack([row, column, back_row, back_column])
    turned_columns = torch.stack([column, back_row, back_column, row])
    rows, columns = turned_rows[quarter], turned_columns[quarter]
    flipped = mirrored[:, None, None]
    return torch.where(flipped, rows.flip(2), rows), torch.where(flipped, columns.flip(2), columns)


def _taken(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    flat = (rows * values.shape[-1] + columns).flatten(1)
    images = values.flatten(2) if values.ndim == 4 else values.flatten(1)[:, None]
    taken = images.gather(2, flat[:, None].expand(-1, images.shape[1], -1))
    return taken.view(values.shape)
