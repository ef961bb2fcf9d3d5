import math

import numpy as np
import pytest
import torch
from torch import Tensor

from core.augment.projections import fourier, geometric_scales, morlet_spectra, scalogram
from core.data.checks import DataError


def series(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_the_recipe(window: np.ndarray, scales: list[float]) -> np.ndarray:
    """(C, T) -> (C, scales, T), one channel and scale after the other, as PyWavelets does it."""
    grid, step = np.linspace(-8, 8, 4096, retstep=True)
    psi = np.exp(2j * np.pi * grid) * np.exp(-(grid**2)) / np.sqrt(np.pi)
    integral = np.cumsum(psi) * step
    out = np.empty((len(window), len(scales), window.shape[1]))
    for i, scale in enumerate(scales):
        places = np.floor(np.arange(scale * 16 + 1) / (scale * step)).astype(int)
        kernel = integral[places[places < 4096]][::-1]
        for channel, values in enumerate(window):
            coefficients = -np.sqrt(scale) * np.diff(np.convolve(values, kernel))
            excess = (len(coefficients) - len(values)) / 2
            last = len(coefficients) - math.ceil(excess)
            out[channel, i] = np.abs(coefficients[math.floor(excess) : last])
    return out


@pytest.mark.parametrize("time", [1, 2, 37, 50])
def test_the_scalogram_is_that_of_the_recipe(time: int) -> None:
    x, scales = series(3, 2, time), [1.0, 1.7, 2.5, 16.0, 90.0, 128.0]
    found = scalogram(x, morlet_spectra(time, scales))
    expected = np.stack([by_the_recipe(window.numpy(), scales) for window in x])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_sine_is_brightest_at_the_scale_of_its_period() -> None:
    scales = geometric_scales(40, 64)
    steps = torch.arange(400.0, dtype=torch.float64)
    periods = torch.tensor([5.0, 12.0, 30.0], dtype=torch.float64)
    waves = torch.sin(2 * math.pi * steps / periods[:, None])[:, None]
    found = scalogram(waves, morlet_spectra(400, scales))[:, 0, :, 200].argmax(1)
    for period, place in zip(periods.tolist(), found.tolist(), strict=True):
        # The factor sqrt(scale) moves the peak up a little; scales are 11 % apart.
        assert abs(math.log(scales[place] / period)) < 0.15


def test_the_scalogram_moves_with_the_series_and_keeps_its_channels() -> None:
    # An even number of steps moved keeps everything inside the window.
    x = torch.zeros(2, 3, 60, dtype=torch.float64)
    x[:, :, 20:30] = series(2, 3, 10)
    spectra = morlet_spectra(60, [1.0, 2.0])
    found, later = scalogram(x, spectra), scalogram(x.roll(7, -1), spectra)
    assert found.shape == (2, 3, 2, 60)
    torch.testing.assert_close(later[..., 7:], found[..., :-7])
    swapped = scalogram(x[:, [2, 0, 1]], spectra)
    torch.testing.assert_close(swapped, found[:, [2, 0, 1]])
    assert not torch.allclose(found[:, 0], found[:, 1])


def test_scales_are_geometric_from_1() -> None:
    scales = geometric_scales(16, 32)
    assert (len(scales), scales[0]) == (16, 1.0)
    assert scales[-1] == pytest.approx(32)
    np.testing.assert_allclose(np.diff(np.log(scales)), math.log(32) / 15)


@pytest.mark.parametrize("time", [9, 10])
def test_fourier_coefficients_keep_the_energy_and_give_the_series_back(time: int) -> None:
    x = series(2, 3, time)
    amplitude, phase = fourier(x).chunk(2, 1)
    assert amplitude.shape == (2, 3, time // 2 + 1)
    twice = torch.full((time // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1
    if time % 2 == 0:
        twice[-1] = 1
    torch.testing.assert_close((twice * amplitude**2).sum(-1), (x**2).sum(-1))
    again = torch.fft.irfft(torch.polar(amplitude, phase), time, norm="ortho")
    torch.testing.assert_close(again, x)


def test_a_negative_mean_has_the_phase_pi_whatever_the_sign_of_zero() -> None:
    x = series(64, 2, 10)
    x = x - x.mean(-1, keepdim=True) - 1
    for values in (x, x.float(), x[:1]):
        phase = fourier(values).chunk(2, 1)[1][..., 0]
        assert torch.allclose(phase, torch.full_like(phase, math.pi))


def test_projections_are_not_rounded_by_autocast() -> None:
    x = series(2, 3, 20).float()
    spectra = morlet_spectra(20, [1.0, 4.0]).to(torch.complex64)
    with torch.autocast("cpu", torch.bfloat16):
        views = [scalogram(x, spectra), fourier(x)]
    for found, expected in zip(views, [scalogram(x, spectra), fourier(x)], strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
    half = scalogram(x.to(torch.bfloat16), spectra)
    assert half.dtype == torch.float32


def test_refuses_scales_that_are_none() -> None:
    for scales in ([], [1.0, 0.0]):
        with pytest.raises(DataError, match=r"scales .*\n.*positive"):
            morlet_spectra(10, scales)
