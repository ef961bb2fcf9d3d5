"""All images of a row change alike."""

import pytest
import torch
from torch import Tensor

from core.augment.aligned_images import AlignedViews
from core.augment.draws import Draws


def _draws(n: int, seed: int = 0) -> Draws:
    return Draws(seed, n, slice(0, n), torch.device("cpu"))


def _images(n: int = 64, side: int = 8) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    one = torch.rand(n, 1, side, side, generator=g)
    return {"optical": torch.cat([one, 2 * one], 1), "radar": 3 * one, "valid": one[:, 0] > 0.5}


@pytest.mark.parametrize(
    "views",
    [AlignedViews(), AlignedViews(crop=(8, 8), size=8), AlignedViews(crop=(4, 4), size=4)],
    ids=["places", "affine", "crop"],
)
def test_sensors_and_mask_stay_aligned(views: AlignedViews) -> None:
    images = _images()
    found = views(images, _draws(64))
    torch.testing.assert_close(found["optical"][:, 1:], 2 * found["optical"][:, :1])
    torch.testing.assert_close(found["radar"], 3 * found["optical"][:, :1])
    certain = (found["optical"][:, 0] - 0.5).abs() > 1e-3
    assert torch.equal((found["optical"][:, 0] > 0.5)[certain], found["valid"][certain])
    assert found["valid"].dtype == torch.bool


def _eight(image: Tensor) -> list[Tensor]:
    turned = [image.rot90(k, (-2, -1)) for k in range(4)]
    return turned + [one.flip(-1) for one in turned]


@pytest.mark.parametrize(
    "views", [AlignedViews(), AlignedViews(crop=(8, 8), size=8)], ids=["places", "affine"]
)
def test_views_are_the_eight_of_a_square(views: AlignedViews) -> None:
    images = {"optical": _images()["optical"][:1].expand(64, -1, -1, -1)}
    found, seen = views(images, _draws(64))["optical"], set()
    candidates = _eight(images["optical"][0])
    for view in found:
        near = [torch.allclose(view, one, atol=1e-4) for one in candidates]
        assert sum(near) == 1
        seen.add(near.index(True))
    assert len(seen) == 8


def test_a_crop_of_the_size_of_the_views_is_a_part_of_the_image() -> None:
    images = {"radar": _images(16)["radar"]}
    found = AlignedViews(crop=(4, 4), size=4, flip=False, turn=False)(images, _draws(16))["radar"]
    for view, image in zip(found, images["radar"], strict=True):
        parts = image.unfold(1, 4, 1).unfold(2, 4, 1)[0]
        distances = (parts - view).abs().amax((2, 3))
        assert distances.min() < 1e-5


def test_crops_are_enlarged_and_differ_in_size() -> None:
    ramp = torch.linspace(0, 1, 64).expand(32, 1, 64, 64)
    views = AlignedViews(crop=(16, 64), size=24, flip=False, turn=False)
    found = views({"optical": ramp}, _draws(32))["optical"]
    assert found.shape == (32, 1, 24, 24)
    spans = found.amax((1, 2, 3)) - found.amin((1, 2, 3))
    assert spans.min() > 0.2
    assert spans.max() > 0.6 > 0.45 > spans.sort().values[5]


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    images = _images()
    for name, values in AlignedViews(flip=False, turn=False)(images, _draws(64)).items():
        assert torch.equal(values, images[name])
