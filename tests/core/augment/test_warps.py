import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from core.augment.compose import Augmentation
from core.augment.draws import Draws
from core.augment.warps import PerlinNoise, Warp, perlin, smooth_field

ALL: dict[str, Augmentation] = {
    "everything": Warp((20, 24), (4, 3), (0.8, 1.2), 20, ((4, 0.5), (8, 2)), (0.5,) * 5),
    "perlin": PerlinNoise(8, 0.5, 0.5),
}


def draws(n: int, own: slice | None = None, seed: int = 0) -> Draws:
    return Draws(seed, n, own or slice(0, n), torch.device("cpu"))


def images(n: int = 6) -> Tensor:
    return torch.rand(n, 1, 30, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ALL)
def test_a_batch_is_its_rows_one_by_one(name: str):
    x = images()
    batch = ALL[name](x, draws(6))
    for row in range(6):
        alone = ALL[name](x[row : row + 1], draws(6, slice(row, row + 1)))
        torch.testing.assert_close(batch[row : row + 1], alone)
    assert not torch.equal(batch, ALL[name](x, draws(6, seed=1)))


def test_nothing_drawn_is_nothing_changed():
    torch.testing.assert_close(Warp()(images(), draws(6)), images())
    # A view of the middle.
    torch.testing.assert_close(Warp((10, 20))(images(), draws(6)), images()[..., 10:20, 10:30])


def test_a_shift_moves_the_picture_and_shows_the_fill():
    x = torch.ones(200, 1, 9, 9)
    x[:, :, 4, 4] = 0
    moved = Warp(shift=(3, 0), fill=1.0)(x, draws(200))
    columns = torch.arange(9.0)
    centre = ((1 - moved)[:, 0, 4] * columns).sum(1)
    assert (centre - 4).abs().max() <= 3 + 1e-4
    assert (centre > 6).any() and (centre < 2).any()
    torch.testing.assert_close((1 - moved).sum((1, 2, 3)), torch.ones(200))


def test_rotation_and_scale_are_torchs():
    x, degrees, scale = images(1), 10.0, 1.3
    warp = Warp(scale=(scale, scale), degrees=degrees)
    out = warp(x, draws(1))
    # The same numbers in the same order: shifts first, then the scale, then the angle.
    again = draws(1)
    for _ in range(2):
        again.uniform(-1, 1)
        again.happens(1)
    again.happens(1)
    again.uniform(scale, scale)
    angle = float(again.uniform(-1, 1)) * math.radians(degrees)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    height, width = x.shape[2:]
    theta = torch.tensor([[[cos, sin * height / width, 0], [-sin * width / height, cos, 0]]])
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    expected = grid_sample(x - 1, grid, align_corners=False) + 1
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_elastic_fields_are_smooth_and_of_unit_variance():
    field = smooth_field(draws(50), 2, (40, 50), 10)
    assert field.shape == (50, 2, 40, 50)
    assert abs(float(field.mean())) < 0.1
    assert 0.5 < float(field.var()) < 1.5
    assert field.diff(dim=3).abs().mean() < 0.2 * field.abs().mean()
    torch.testing.assert_close(Warp(elastic=((8, 0.0),))(images(), draws(6)), images())


def test_perlin_noise_is_zero_at_the_corners_of_its_cells():
    noise = perlin(draws(20), (33, 49), 8)
    assert noise[:, ::8, ::8].abs().max() < 1e-6
    assert 0.4 < noise.abs().max() <= 0.75
    # Beside a corner it rises along the gradient there, evenly.
    torch.testing.assert_close(noise[:, 8, 9], -noise[:, 8, 7], atol=0.02, rtol=0.2)
