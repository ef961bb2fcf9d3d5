import numpy as np
import pytest
import torch
from torch import Tensor

from core.augment.draws import Draws
from core.augment.styles import (
    ChannelJitter,
    ColourJitter,
    RandomCrop,
    StyledViews,
    batch_style,
    image_styles,
    low_frequencies,
    restyled,
)
from core.data.checks import DataError
from core.distributed import rank, world_size
from tests.core.gloo import run_gloo

AREA = (0.05, 0.3)


def draws(n: int, own: slice | None = None, seed: int = 0) -> Draws:
    return Draws(seed, n, own or slice(0, n), torch.device("cpu"))


def images(n: int = 5, height: int = 12, width: int = 12) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, height, width, generator=g, dtype=torch.float64)


def shifted(x: np.ndarray, reference: np.ndarray, area: float) -> np.ndarray:
    """The full spectrum with DC in the middle, one image, written out."""
    spectrum = np.fft.fftshift(np.fft.fft2(x), (-2, -1))
    amplitude, phase = np.abs(spectrum), np.angle(spectrum)
    other = np.abs(np.fft.fftshift(np.fft.fft2(reference), (-2, -1)))
    (height, width) = x.shape[-2:]
    b, c = int(np.sqrt(area) * height / 2), height // 2
    rows = slice(max(0, c - b), c + b + 1)
    b, c = int(np.sqrt(area) * width / 2), width // 2
    columns = slice(max(0, c - b), c + b + 1)
    amplitude[:, rows, columns] = other[:, rows, columns]
    full = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * phase), (-2, -1)))
    assert np.abs(full.imag).max() < 1e-12
    return full.real


@pytest.mark.parametrize(("height", "width"), [(12, 12), (11, 13), (9, 14)])
@pytest.mark.parametrize("area", [0.03, 0.3, 1.0])
def test_half_a_spectrum_does_what_a_whole_one_does(height: int, width: int, area: float) -> None:
    x = images(3, height, width)
    spectrum = torch.fft.rfft2(x)
    found = restyled(spectrum, spectrum[1].abs(), torch.tensor(area).double(), width)
    expected = np.stack([shifted(one, x[1].numpy(), area) for one in x.numpy()])
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


def test_all_images_of_a_view_have_the_low_amplitudes_of_one_and_their_own_phase() -> None:
    x = images()
    view = batch_style(x, AREA, draws(5))
    before, after = torch.fft.rfft2(x), torch.fft.rfft2(view)
    same = (after.abs() - after[:1].abs()).abs().amax((0, 1)) < 1e-9
    # The draws of the batch: the reference, then the area.
    again = draws(5)
    number, area = int(again.shared(0, 1) * 5), again.shared(*AREA)
    assert torch.equal(
        same, low_frequencies(12, area)[:, None] & low_frequencies(12, area)[None, :7]
    )
    assert 1 < same.sum() < same.numel()
    torch.testing.assert_close(view[number], x[number])
    torch.testing.assert_close(after[:, :, ~same], before[:, :, ~same])
    torch.testing.assert_close(after.sgn(), before.sgn())


def test_plain_fourier_augmentation_gives_each_image_another_style() -> None:
    """The control of the method: a reference an image is not the method."""
    x = images(8)
    view = image_styles(x, AREA, draws(8))
    mean = view.mean((2, 3))
    assert torch.cdist(mean, x.mean((2, 3))).amin(1).max() < 1e-9
    assert len(mean.round(decimals=6).unique(dim=0)) > 2
    assert len(batch_style(x, AREA, draws(8)).mean((2, 3)).round(decimals=6).unique(dim=0)) == 1


def test_views_have_styles_of_their_own() -> None:
    source = draws(16)
    means = [batch_style(images(16), AREA, source).mean((2, 3))[0] for _ in range(6)]
    assert len(torch.stack(means).round(decimals=6).unique(dim=0)) > 2


def test_an_even_image_takes_a_style_without_a_phase_of_its_own() -> None:
    x = torch.stack([torch.full((3, 8, 8), 0.5), torch.rand(3, 8, 8)]).double()
    spectrum = torch.fft.rfft2(x)
    view = restyled(spectrum, spectrum[1].abs(), torch.tensor(1.0).double(), 8)
    assert view.isfinite().all()
    torch.testing.assert_close(torch.fft.rfft2(view[0]).abs(), spectrum[1].abs())


def test_one_draw_of_the_colours_keeps_the_style_of_a_view() -> None:
    still = RandomCrop((1.0, 1.0), flip_p=0)
    grey = torch.full((6, 3, 8, 8), 0.5)
    for batchwise, n_colours in ((True, 1), (False, 6)):
        for photometric in (ChannelJitter(), ColourJitter(jitter_p=1.0, grey_p=0.0)):
            view = StyledViews(None, AREA, still, photometric, batchwise)(grey, draws(6))
            assert len(view.flatten(1).round(decimals=5).unique(dim=0)) == n_colours


def test_views_stay_in_range_and_styles_none_keeps_the_image() -> None:
    x = images().float()
    still, plain = RandomCrop((1.0, 1.0), flip_p=0), ChannelJitter(0, 0)
    same = StyledViews(None, AREA, still, plain)(x, draws(5))
    torch.testing.assert_close(same, x, atol=1e-5, rtol=0)
    for styles in ("batch", "image"):
        view = StyledViews(styles, (0.02, 1.0))(x, draws(5))
        assert view.shape == x.shape
        assert view.min() >= 0 and view.max() <= 1
    with pytest.raises(DataError, match="styles=sample"):
        StyledViews("sample")  # type: ignore[arg-type]


def test_crops_are_squares_of_the_image_and_mirrors_are_mirrors() -> None:
    x = images().float()
    mirrored = RandomCrop((1.0, 1.0), flip_p=1.0)(x, draws(5))
    torch.testing.assert_close(mirrored, x.flip(3), atol=1e-5, rtol=0)
    ramp = torch.linspace(0, 1, 64).expand(300, 1, 64, 64)
    views = RandomCrop((0.5, 0.8), flip_p=0)(ramp, draws(300))
    widths = views[:, 0, 0, -1] - views[:, 0, 0, 0]
    assert 0.48 < widths.min() < 0.53
    assert 0.77 < widths.max() < 0.82
    assert ((views >= 0) & (views <= 1)).all()
    assert views[:, 0, 0, 0].min() < 0.02 and views[:, 0, 0, -1].max() > 0.98


def styled_share() -> tuple[Tensor, Tensor]:
    """Five images: two on the first process, three on the second."""
    own = slice(5 * rank() // world_size(), 5 * (rank() + 1) // world_size())
    views = []
    for exchange in (batch_style, image_styles):
        source = draws(5, own)
        views.append(torch.stack([exchange(images()[own], AREA, source) for _ in range(4)]))
    return views[0], views[1]


def test_the_style_travels_between_processes() -> None:
    whole, shares = styled_share(), run_gloo(2, styled_share)
    for kind, expected in enumerate(whole):
        joined = torch.cat([share[kind] for share in shares], 1)
        assert [share[kind].shape[1] for share in shares] == [2, 3]
        torch.testing.assert_close(joined, expected, rtol=0, atol=1e-12)
