import math

import pytest
import torch
from torch import Tensor

from core.augment.compose import Augmentation
from core.augment.draws import Draws
from core.augment.sound import (
    BandMask,
    Equalizer,
    Loudness,
    NoiseAtSNR,
    Polarity,
    Reverberation,
    Stretch,
    TimeMask,
    stretched,
)

RATE = 22_050


def draws(n: int, own: slice | None = None, seed: int = 0) -> Draws:
    return Draws(seed, n, own or slice(0, n), torch.device("cpu"))


def waves(n: int = 8, samples: int = 4000) -> Tensor:
    return torch.randn(n, samples, generator=torch.Generator().manual_seed(0))


def magnitudes(n: int = 8) -> Tensor:
    return torch.rand(n, 40, 65, generator=torch.Generator().manual_seed(1))


ON_WAVES: dict[str, Augmentation] = {
    "polarity": Polarity(),
    "loudness": Loudness(),
    "noise": NoiseAtSNR(),
    "time mask": TimeMask(),
    "reverberation": Reverberation(high=0.1, low=0.05),
}
ON_SPECTRA: dict[str, Augmentation] = {
    "equalizer": Equalizer(p=0.5),
    "stretch": Stretch(20, p=0.5),
    "band mask": BandMask(p=0.5),
    "band mask, one draw": BandMask(p=0.9, one_draw=True),
}


@pytest.mark.parametrize("name", [*ON_WAVES, *ON_SPECTRA])
def test_a_batch_is_its_rows_one_by_one(name: str):
    view, x = (ON_WAVES | ON_SPECTRA)[name], waves() if name in ON_WAVES else magnitudes()
    batch = view(x, draws(8))
    for row in range(8):
        alone = view(x[row : row + 1], draws(8, slice(row, row + 1)))
        torch.testing.assert_close(batch[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    if name in ON_WAVES:  # some rows change, some do not
        same = (batch == x).all(1)
        assert same.any() and not same.all()


def test_polarity_and_loudness_are_factors():
    x = waves(300, 50)
    flipped = Polarity()(x, draws(300))
    assert set((flipped / x).round().unique().tolist()) == {-1.0, 1.0}
    gain = 20 * (Loudness(-12, -6, 1.0)(x, draws(300)) / x).log10()
    torch.testing.assert_close(gain.std(1), torch.zeros(300), atol=1e-3, rtol=0)
    assert gain.min() > -12 - 1e-3 and gain.max() < -6 + 1e-3


def test_noise_is_as_far_below_as_drawn():
    x = torch.randn(40, 20_000) * torch.logspace(-2, 1, 40)[:, None]
    noise = NoiseAtSNR(10, 20, 1.0)(x, draws(40)) - x
    below = 10 * (x.square().mean(1) / noise.square().mean(1)).log10()
    assert below.min() > 9.8 and below.max() < 20.2
    assert below.std() > 1


def test_a_time_mask_is_one_stretch_of_silence():
    x = torch.ones(200, 1000)
    silent = TimeMask(0.01, 0.2, 1.0)(x, draws(200)) == 0
    share = silent.float().mean(1)
    assert share.min() >= 0.009 and share.max() <= 0.201
    edges = silent.float().diff(dim=1).abs().sum(1)
    assert edges.max() <= 2


def test_a_room_lets_the_sound_die_away():
    click = torch.zeros(20, RATE)
    click[:, 100] = 1
    heard = Reverberation(0.5, 0.5, RATE, 0.5, 1.0)(click, draws(20))
    assert heard[:, :100].abs().max() < 1e-5
    early, late = heard[:, 200:2205], heard[:, 200 + 5513 : 2205 + 5513]  # a quarter second later
    fallen = 10 * (early.square().mean() / late.square().mean()).log10()
    assert abs(float(fallen) - 30) < 2  # 60 dB in half a second


def test_the_equalizer_bends_the_spectrum_smoothly():
    x = torch.ones(50, 3, 1025)
    decibels = 20 * Equalizer(12, 60, 8000, RATE / 2048, 1.0)(x, draws(50)).log10()[:, 0]
    assert 11 < decibels.abs().max() <= 12 + 1e-4
    # At the fourth of seven centres stands the fourth number drawn.
    again = draws(50)
    again.happens(1.0)
    gains = again.uniform(-12, 12, 7)
    middle = round(math.sqrt(60 * 8000) / (RATE / 2) * 1024)
    torch.testing.assert_close(decibels[:, middle], gains[:, 3], atol=0.3, rtol=0)
    torch.testing.assert_close(decibels[:, 0], gains[:, 0])
    torch.testing.assert_close(decibels[:, -1], gains[:, 6])


@pytest.mark.parametrize("tempo", [0.5, 0.83, 1.0, 1.37, 1.8])
def test_stretching_is_what_a_phase_vocoder_does_to_magnitudes(tempo: float):
    vocoder = pytest.importorskip("torchaudio.functional").phase_vocoder
    x = torch.randn(3, 65, 40, dtype=torch.complex128)
    advance = torch.linspace(0, math.pi * 16, 65)[:, None].double()
    expected = vocoder(x, tempo, advance).abs()
    frames = 20
    first = (expected.shape[2] - frames) // 2
    expected = expected[:, :, first : first + frames]
    found = stretched(
        x.abs().transpose(1, 2), torch.full((3,), tempo, dtype=torch.double), frames
    ).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_bands_are_masked_in_one_run_and_by_one_decision():
    x = torch.ones(100, 92, 5)
    masked = BandMask(0.2, 1.0)(x, draws(100))[:, :, 0] == 0
    assert masked.float().mean(1).max() <= 0.2
    assert masked.float().diff(dim=1).abs().sum(1).max() <= 2
    decisions = [
        (BandMask(0.5, 0.5, one_draw=True)(x, draws(100, seed=seed)) == 0).flatten(1).any(1)
        for seed in range(20)
    ]
    shares = [float(decision.float().mean()) for decision in decisions]
    assert all(share == 0 or share > 0.9 for share in shares)
    assert 0 in shares and max(shares) > 0.9
