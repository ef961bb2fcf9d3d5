import numpy as np
import pytest
import torch

from audio_music.data.log_filterbank import (
    BANDS,
    FPS,
    FRAME,
    HOP,
    RATE,
    LogFilterbank,
    band_edges,
    log_filterbank,
    to_rate,
)
from core.data.checks import DataError


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * rate)) / rate)[None]


def test_there_are_92_bands_of_area_1_that_rise_and_fall():
    bank = log_filterbank()
    assert bank.shape == (FRAME // 2 + 1, BANDS)
    np.testing.assert_allclose(bank.sum(0), 1)
    assert (np.diff(bank.argmax(0)) > 0).all()
    edges = band_edges()
    assert (np.diff(edges) > 0).all()
    bins = edges * RATE / (FRAME + 2)
    assert 30 - 6 < bins[0] < 30 * 2 ** (1 / 16) + 6
    assert 6000 / 2 ** (1 / 16) - 6 < bins[-1] < 6000


def test_a_frame_is_what_a_fourier_transform_by_hand_gives():
    wave = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    found = LogFilterbank()(wave)[0, :, 2].numpy()
    start = int(2 * HOP)
    frame = np.pad(wave[0].double().numpy(), (0, FRAME))[start : start + FRAME]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    turns = np.outer(np.arange(FRAME), np.arange(FRAME // 2 + 1)) / FRAME
    magnitude = np.abs((frame * window) @ np.exp(-2j * np.pi * turns))
    np.testing.assert_allclose(found, np.log10(1 + magnitude @ log_filterbank()), atol=1e-4)


def test_a_tone_is_loudest_in_its_own_band():
    spectrogram = LogFilterbank()
    centres = band_edges()[1:-1] * RATE / FRAME
    for hertz in (110.0, 440.0, 1760.0, 5000.0):
        band = int(spectrogram(tone(hertz))[0, :, 5].argmax())
        assert centres[band] == pytest.approx(hertz, rel=2 ** (1 / 16) - 1, abs=11)


def test_frames_begin_at_onsets_or_are_centred():
    wave = torch.zeros(1, 2 * RATE)
    wave[:, RATE:] = tone(440.0)
    loudness = {}
    for kind in ("at_onset", "centred"):
        spectrogram = LogFilterbank(kind)(wave)[0]
        loudness[kind] = 10 ** spectrogram[spectrogram[:, 30].argmax()] - 1
    assert len(loudness["at_onset"]) == 2 * FPS
    # Frame 20 begins with the tone and is full of it; frame 18 ends before it.
    share = loudness["at_onset"] / loudness["at_onset"][30]
    assert share[20] > 0.99 and share[18] < 1e-3
    # A centred frame of that time is about half full.
    assert 0.35 < loudness["centred"][20] / loudness["centred"][30] < 0.65


def test_other_rates_are_resampled_and_low_ones_refused():
    slow = to_rate(tone(440.0, rate=44_100), 44_100)
    assert slow.shape == (1, RATE)
    torch.testing.assert_close(slow[:, 500:-500], tone(440.0)[:, 500:-500], atol=0.01, rtol=0)
    with pytest.raises(DataError, match="8000 Hz"):
        to_rate(tone(440.0, rate=8000), 8000)
