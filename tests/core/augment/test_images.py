import colorsys

import pytest
import torch

from core.augment.draws import Draws
from core.augment.images import SimCLRViews, _hue_turned, blurred


def draws(n: int, seed: int = 0) -> Draws:
    return Draws(seed, n, slice(0, n), torch.device("cpu"))


def photos(n: int = 64, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def still(**changed: object) -> SimCLRViews:
    nothing = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "jitter_p": 0.0, "grey_p": 0.0}
    return SimCLRViews(**(nothing | changed))  # type: ignore[arg-type]


def test_pixels_stay_in_their_range() -> None:
    views = SimCLRViews(blur_p=0.5)(photos(), draws(64))
    assert views.shape == (64, 3, 16, 16)
    assert views.min() >= 0 and views.max() <= 1


def test_without_crop_and_colour_only_the_flip_is_left() -> None:
    images = photos()
    views = still()(images, draws(64))
    is_same = (views - images).abs().amax((1, 2, 3)) < 1e-5
    is_flipped = (views - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert (is_same | is_flipped).all()
    assert 16 < is_flipped.sum() < 48


def test_a_crop_is_a_part_of_its_own_image_of_the_area_asked_for() -> None:
    ramp = torch.linspace(0, 1, 64).expand(200, 3, 64, 64) + 0
    views = still(scale=(0.25, 0.25))(ramp, draws(200))
    width = views.amax((1, 2, 3)) - views.amin((1, 2, 3))
    torch.testing.assert_close(width, torch.full_like(width, 0.5), atol=0.02, rtol=0)
    assert views.amin((1, 2, 3)).std() > 0.1  # at many places


def test_a_crop_at_the_ratio_is_wider_than_high() -> None:
    both = torch.zeros(100, 3, 64, 64)
    both[:, 0], both[:, 1] = torch.linspace(0, 1, 64), torch.linspace(0, 1, 64)[:, None]
    views = still(scale=(0.25, 0.25), ratio=(2.0, 2.0))(both, draws(100))
    width = views[:, 0].amax((1, 2)) - views[:, 0].amin((1, 2))
    height = views[:, 1].amax((1, 2)) - views[:, 1].amin((1, 2))
    assert (width / height).mean() == pytest.approx(2, abs=0.1)


def test_grey_images_have_three_equal_channels() -> None:
    views = still(grey_p=1.0)(photos(), draws(64))
    torch.testing.assert_close(views[:, 0], views[:, 1])
    torch.testing.assert_close(views[:, 1], views[:, 2])


def test_brightness_alone_scales_the_image() -> None:
    images = 0.4 * photos()
    views = still(jitter=(0.5, 0.0, 0.0, 0.0), jitter_p=1.0)(images, draws(64))
    ratio = views.mean((1, 2, 3)) / images.mean((1, 2, 3))
    assert 0.5 <= ratio.min() < 0.7 and 1.3 < ratio.max() <= 1.5 + 1e-3


def test_a_turn_of_the_hue_keeps_luma_and_turns_the_colour() -> None:
    images = 0.3 + 0.1 * photos(8)
    whole = _hue_turned(images, torch.ones(8))
    torch.testing.assert_close(whole, images, atol=1e-5, rtol=0)
    third = _hue_turned(images, torch.full((8,), 1 / 3))
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(
        torch.einsum("bchw,c->bhw", third, luma),
        torch.einsum("bchw,c->bhw", images, luma),
        atol=1e-5,
        rtol=0,
    )
    before = colorsys.rgb_to_hsv(*[0.5, 0.3, 0.3])[0]
    turned = _hue_turned(torch.tensor([0.5, 0.3, 0.3]).reshape(1, 3, 1, 1), torch.tensor([1 / 3]))
    after = colorsys.rgb_to_hsv(*turned.flatten().tolist())[0]
    # The turn is in YIQ, so that of HSV is only near.
    assert min((after - before) % 1, (before - after) % 1) == pytest.approx(1 / 3, abs=0.06)


def test_blur_keeps_what_is_even_and_spreads_a_point_by_its_sigma() -> None:
    even = torch.full((2, 3, 40, 40), 0.7)
    torch.testing.assert_close(blurred(even, torch.tensor([0.5, 2.0])), even)
    point = torch.zeros(2, 3, 61, 61)
    point[:, :, 30, 30] = 1
    spread = blurred(point, torch.tensor([0.3, 1.0]))
    torch.testing.assert_close(spread.sum((2, 3)), torch.ones(2, 3))
    offsets = torch.arange(61) - 30.0
    deviation = (spread[:, 0].sum(1) * offsets.square()).sum(1).sqrt()
    assert deviation[1] == pytest.approx(1.0, abs=0.05)
    assert deviation[0] < 0.3
