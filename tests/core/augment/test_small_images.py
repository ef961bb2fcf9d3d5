import torch

from core.augment.draws import Draws
from core.augment.small_images import SmallImageViews


def draws(n: int) -> Draws:
    return Draws(0, n, slice(0, n), torch.device("cpu"))


def still(**changed: object) -> SmallImageViews:
    nothing = {"shift": 0, "gain": (1.0, 1.0), "erase_p": 0.0, "noise": 0.0}
    return SmallImageViews(**(nothing | changed))  # type: ignore[arg-type]


def test_without_anything_the_view_is_the_image() -> None:
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(still()(images, draws(5)), images)


def test_shifts_are_whole_pixels_either_way_and_fill_with_0() -> None:
    point = torch.zeros(900, 1, 8, 8)
    point[:, :, 3, 4] = 1
    moved = still(shift=1)(point, draws(900)).flatten(1)
    assert (moved.sum(1) == 1).all()
    rows, columns = moved.argmax(1) // 8 - 3, moved.argmax(1) % 8 - 4
    counts = torch.bincount(3 * (rows + 1) + columns + 1, minlength=9)
    assert counts.sum() == 900 and counts.min() > 60
    corner = torch.ones(900, 1, 8, 8)
    ones = still(shift=1)(corner, draws(900)).sum((1, 2, 3))
    assert set(ones.tolist()) == {64.0, 56.0, 49.0}


def test_the_erased_square_has_its_side_and_its_frequency() -> None:
    views = still(erase_p=0.5)(torch.ones(800, 1, 8, 8), draws(800))
    erased = (views == 0).sum((1, 2, 3))
    assert set(erased.tolist()) == {0, 9}
    assert 320 < (erased == 9).sum() < 480


def test_gain_and_noise_have_their_sizes() -> None:
    gains = still(gain=(0.6, 1.4))(torch.ones(500, 1, 8, 8), draws(500)).mean((1, 2, 3))
    assert 0.6 <= gains.min() < 0.65 and 1.35 < gains.max() < 1.4
    noise = still(noise=0.15)(torch.zeros(200, 1, 8, 8), draws(200))
    assert abs(noise.std() - 0.15) < 0.003
