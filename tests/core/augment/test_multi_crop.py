import torch
from torch.nn.functional import interpolate

from core.augment.draws import Draws
from core.augment.images import SimCLRViews
from core.augment.multi_crop import MultiCrop


def draws(rows: int = 6, own: slice | None = None) -> Draws:
    return Draws(1, rows, own or slice(0, rows), torch.device("cpu"))


def images(rows: int = 6) -> torch.Tensor:
    return torch.rand(rows, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def test_sizes_and_numbers_of_crops() -> None:
    crops = MultiCrop(large_size=16, small_size=8, n_small=3)(images(), draws())
    assert crops.large.shape == (2, 6, 3, 16, 16)
    assert crops.small.shape == (3, 6, 3, 8, 8)
    assert MultiCrop(16, 8, 0)(images(), draws()).small.shape == (0, 6, 3, 8, 8)
    for views in crops:
        assert views.min() >= 0
        assert views.max() <= 1


def test_crops_do_not_depend_on_the_processes() -> None:
    make = MultiCrop(large_size=16, small_size=8, n_small=2)
    whole, part = make(images(), draws()), make(images()[2:5], draws(own=slice(2, 5)))
    for everyone, own in zip(whole, part, strict=True):
        torch.testing.assert_close(own, everyone[:, 2:5])


def test_small_crops_see_little_of_the_image() -> None:
    across = torch.linspace(0, 1, 40).expand(64, 3, 40, 40)
    make = MultiCrop(20, 10, 1, jitter_p=0, grey_p=0, blur_p=(0, 0, 0), solarise_p=0)
    crops = make(across, draws(64))
    seen = [views.amax((2, 3, 4)) - views.amin((2, 3, 4)) for views in crops]
    # At most .32 of the area, at a width of 4/3 of the height: .65 of the width.
    assert seen[1].max() < 0.68
    assert seen[0].max() > 0.8


def test_the_whole_image_is_resized_bicubically() -> None:
    crop = SimCLRViews(
        scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter_p=0, grey_p=0, size=36, interpolation="bicubic"
    )
    x = images(1)
    found = crop(x, draws(1))
    expected = interpolate(x, (36, 36), mode="bicubic").clamp(0, 1)
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    either = (found, found.flip(3))
    error = min((of[inside] - expected[inside]).abs().max() for of in either)
    assert error < 1e-5


def test_solarisation_inverts_bright_pixels_alone() -> None:
    plain = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "jitter_p": 0, "grey_p": 0}
    x = images()
    before = SimCLRViews(**plain)(x, draws())
    after = SimCLRViews(**plain, solarise_p=1.0)(x, draws())
    torch.testing.assert_close(after, torch.where(before >= 0.5, 1 - before, before))
