"""Views of sound, batched on the device: waves (B, samples), magnitudes (B, frames, bins).

Every row of the batch draws its own change; `p` is how often it is changed at all.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from core.augment.draws import Draws
from core.augment.series import changed


class Polarity:
    """The wave turned upside down.

    Args:
        p: how often.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(
        self, waves: Float[Tensor, "batch samples"], draws: Draws
    ) -> Float[Tensor, "batch samples"]:
        """One view of every wave."""
        return waves * torch.where(draws.happens(self.p, 1), -1.0, 1.0)


class Loudness:
    """A gain, evenly drawn in decibels.

    Args:
        low: dB.
        high: dB.
        p: how often.
    """

    def __init__(self, low: float = -12.0, high: float = 0.0, p: float = 0.5) -> None:
        self.low, self.high, self.p = low, high, p

    def __call__(
        self, waves: Float[Tensor, "batch samples"], draws: Draws
    ) -> Float[Tensor, "batch samples"]:
        """One view of every wave."""
        rows, gain = draws.happens(self.p, 1), 10 ** (draws.uniform(self.low, self.high, 1) / 20)
        return waves * torch.where(rows, gain, 1.0)


class NoiseAtSNR:
    """White noise of so many decibels below the wave.

    Args:
        low: dB, the loudest noise.
        high: dB.
        p: how often.
    """

    def __init__(self, low: float = 5.0, high: float = 40.0, p: float = 0.4) -> None:
        self.low, self.high, self.p = low, high, p

    def __call__(
        self, waves: Float[Tensor, "batch samples"], draws: Draws
    ) -> Float[Tensor, "batch samples"]:
        """One view of every wave."""
        rows = draws.happens(self.p, 1)
        below = 10 ** (-draws.uniform(self.low, self.high, 1) / 20)
        level = torch.linalg.vector_norm(waves, dim=1, keepdim=True) * waves.shape[1] ** -0.5
        level = torch.where(rows, level * below, 0.0)
        return torch.addcmul(waves, level, draws.normal(waves.shape[1]))


class TimeMask:
    """A stretch of silence.

    Args:
        low: least share of the wave.
        high: largest share.
        p: how often.
    """

    def __init__(self, low: float = 0.01, high: float = 0.2, p: float = 0.5) -> None:
        self.low, self.high, self.p = low, high, p

    def __call__(
        self, waves: Float[Tensor, "batch samples"], draws: Draws
    ) -> Float[Tensor, "batch samples"]:
        """One view of every wave."""
        rows, share = draws.happens(self.p, 1), draws.uniform(self.low, self.high, 1)
        start = draws.uniform(0, 1, 1) * (1 - share)
        place = torch.arange(waves.shape[1], device=waves.device) / waves.shape[1]
        silent = (place >= start) & (place < start + share) & rows
        return waves.masked_fill(silent, 0)


class Reverberation:
    """A room: white noise that decays, as an impulse response, added to the wave itself.

    Args:
        low: seconds until it has fallen by 60 dB.
        high: seconds.
        rate: samples a second.
        level: loudness of the room as a share of the wave's.
        p: how often.
    """

    def __init__(
        self,
        low: float = 0.2,
        high: float = 1.0,
        rate: int = 22_050,
        level: float = 0.5,
        p: float = 0.5,
    ) -> None:
        self.low, self.high, self.rate, self.level, self.p = low, high, rate, level, p

    def __call__(
        self, waves: Float[Tensor, "batch samples"], draws: Draws
    ) -> Float[Tensor, "batch samples"]:
        """One view of every wave."""
        if self.p == 0:
            return waves
        rows, seconds = draws.happens(self.p), draws.uniform(self.low, self.high, 1)
        n = int(self.high * self.rate)
        time = torch.arange(n, device=waves.device) / self.rate
        response = draws.normal(n) * torch.exp(-math.log(1000) * time / seconds)
        size = waves.shape[1] + n
        spectrum = torch.fft.rfft(waves, size) * torch.fft.rfft(response, size)
        late = torch.fft.irfft(spectrum, size)[:, : waves.shape[1]]
        power = [x.square().mean(1, keepdim=True).clamp_min(1e-20) for x in (waves, late)]
        return changed(rows, waves + self.level * late * (power[0] / power[1]).sqrt(), waves)


class Equalizer:
    """Seven bands louder or softer, on magnitudes; between their centres decibels are mixed evenly.

    The centres lie evenly in octaves. A filter before the STFT differs from this by what a window
    smears.

    Args:
        gain: largest change, dB either way.
        lowest: Hz of the first centre.
        highest: Hz of the last centre.
        spacing: Hz from one bin of the magnitudes to the next; the first is at 0 Hz.
        p: how often.
    """

    def __init__(
        self,
        gain: float = 12.0,
        lowest: float = 60.0,
        highest: float = 8000.0,
        spacing: float = 22_050 / 2048,
        p: float = 0.3,
    ) -> None:
        self.gain, self.lowest, self.highest, self.p = gain, lowest, highest, p
        self.spacing = spacing

    def __call__(
        self, magnitudes: Float[Tensor, "batch frames bins"], draws: Draws
    ) -> Float[Tensor, "batch frames bins"]:
        """One view of every spectrogram."""
        rows, decibels = draws.happens(self.p, 1), draws.uniform(-self.gain, self.gain, 7)
        hertz = torch.arange(magnitudes.shape[2], device=magnitudes.device) * self.spacing
        octave = (hertz.clamp_min(1) / self.lowest).log2() / math.log2(self.highest / self.lowest)
        place = (6 * octave).clamp(0, 6)
        before = place.long().clamp(max=5)
        mixed = torch.lerp(decibels[:, before], decibels[:, before + 1], place - before)
        return magnitudes * torch.where(rows, 10 ** (mixed / 20), 1.0)[:, None]


class Stretch:
    """Another tempo at the same pitch, then the middle of what came out.

    The magnitudes that a phase vocoder gives are the linear mixture of those of two frames; its
    phases do not matter where only magnitudes are used further on. A row that is not changed is
    the middle of its spectrogram.

    Args:
        frames: of the view.
        low: slowest tempo.
        high: fastest; the spectrogram needs `frames` times it.
        p: how often.
    """

    def __init__(self, frames: int, low: float = 0.5, high: float = 1.8, p: float = 0.4) -> None:
        self.frames, self.low, self.high, self.p = frames, low, high, p

    def __call__(
        self, magnitudes: Float[Tensor, "batch frames bins"], draws: Draws
    ) -> Float[Tensor, "batch view_frames bins"]:
        """One view of every spectrogram."""
        tempo = torch.where(draws.happens(self.p), draws.uniform(self.low, self.high), 1.0)
        return stretched(magnitudes, tempo, self.frames)


def stretched(
    magnitudes: Float[Tensor, "batch frames bins"], tempo: Float[Tensor, " batch"], frames: int
) -> Float[Tensor, "batch view_frames bins"]:
    """Each row at its tempo, above 1 faster; the middle `frames` of the ⌈frames/tempo⌉ there are.

    Beyond the end it is silent.
    """
    n = magnitudes.shape[1]
    there = torch.ceil(n / tempo.double())
    first = ((there - frames) / 2).floor().clamp_min(0)
    place = (first[:, None] + torch.arange(frames, device=tempo.device)) * tempo.double()[:, None]
    before = place.floor().long()
    share = (place - before)[..., None].to(magnitudes.dtype)
    padded = torch.nn.functional.pad(magnitudes, (0, 0, 0, 2))
    index = before.clamp(max=n)[..., None].expand(-1, -1, magnitudes.shape[2])
    one, other = padded.gather(1, index), padded.gather(1, index + 1)
    return torch.lerp(one, other, share)


class BandMask:
    """A run of bands of a spectrogram (B, bands, frames) set to 0.

    Args:
        share: largest share of the bands; each row draws its own.
        p: how often.
        one_draw: one decision for the whole batch whether its rows are masked.
    """

    def __init__(self, share: float = 0.2, p: float = 0.35, one_draw: bool = False) -> None:
        self.share, self.p, self.one_draw = share, p, one_draw

    def __call__(
        self, spectrograms: Float[Tensor, "batch bands frames"], draws: Draws
    ) -> Float[Tensor, "batch bands frames"]:
        """One view of every spectrogram."""
        n = spectrograms.shape[1]
        rows = draws.happens(self.p)
        if self.one_draw:
            rows = (draws.shared(0, 1) < self.p).expand(len(spectrograms))
        width = draws.uniform(0, self.share, 1) * n
        start = draws.uniform(0, 1, 1) * (n - width)
        band = torch.arange(n, device=spectrograms.device)
        masked = (band >= start.floor()) & (band < (start + width).floor()) & rows[:, None]
        return spectrograms.masked_fill(masked[:, :, None], 0)
