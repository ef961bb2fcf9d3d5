import math

import numpy as np
import pytest
import torch

from audio_music.data.cqt import CQT
from core.data.checks import DataError


def direct(
    wave: np.ndarray, rate: int, hop: int, fmin: float, n_bins: int, per_octave: int
) -> np.ndarray:
    """The formula as it is written, in float64."""
    quality = 1 / (2 ** (1 / per_octave) - 1)
    frequencies = fmin * 2 ** (np.arange(n_bins) / per_octave)
    lengths = np.ceil(quality * rate / frequencies).astype(int)
    window = 1 << math.ceil(math.log2(lengths.max()))
    padded = np.pad(wave.astype(np.float64), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    out = np.zeros((len(frames), n_bins))
    for b, (frequency, length) in enumerate(zip(frequencies, lengths, strict=True)):
        m = np.arange(length)
        kernel = (0.5 - 0.5 * np.cos(2 * np.pi * m / length)).astype(complex)
        kernel *= np.exp(2j * np.pi * frequency * m / rate)
        kernel /= np.abs(kernel).sum()
        start = math.ceil(window / 2 - length / 2) - length % 2
        out[:, b] = np.abs(frames[:, start : start + length] @ kernel) * math.sqrt(length)
    return out


def _waves(rate: int, samples: int) -> np.ndarray:
    rng, time = np.random.default_rng(0), np.arange(samples) / rate
    tones = 0.5 * np.sin(2 * np.pi * 261.6 * time) + 0.3 * np.sin(2 * np.pi * 1500 * time)
    return np.stack([0.1 * rng.standard_normal(samples), tones])


@pytest.mark.parametrize(
    "setting", [(24000, 320, 32.7, 336, 48), (24000, 320, 65.4, 48, 12), (16000, 320, 32.7, 84, 12)]
)
def test_it_is_the_formula(setting: tuple[int, int, float, int, int]) -> None:
    rate, hop = setting[:2]
    waves = _waves(rate, 10 * hop + 123)
    found = CQT(*setting)(torch.from_numpy(waves).float()).numpy()
    expected = np.stack([direct(wave, *setting) for wave in waves])
    assert found.shape == expected.shape == (2, 11, setting[3])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * other.max())


def test_what_other_waves_are_in_the_batch_makes_no_difference() -> None:
    waves = torch.from_numpy(_waves(24000, 24000)).float()
    cqt = CQT()
    torch.testing.assert_close(cqt(waves)[1:], cqt(waves[1:]))


def test_a_tone_is_loudest_in_its_bin_and_an_impulse_in_its_frame() -> None:
    cqt = CQT()
    time = torch.arange(24000) / 24000
    tone = torch.sin(2 * torch.pi * 440 * time)[None]
    bin_of_a = round(48 * math.log2(440 / 32.7))
    assert int(cqt(tone)[0, 30].argmax()) == bin_of_a
    impulse = torch.zeros(1, 24000)
    impulse[0, 40 * 320] = 1
    assert int(cqt(impulse)[0, :, -1].argmax()) == 40


def test_autocast_leaves_it_in_float32() -> None:
    wave = torch.from_numpy(_waves(24000, 4800)).float()
    cqt = CQT()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cqt(wave), CQT()(wave))


def test_bins_above_half_the_rate() -> None:
    with pytest.raises(DataError, match="take fewer bins"):
        CQT(rate=8000, hop=100, n_bins=400)
