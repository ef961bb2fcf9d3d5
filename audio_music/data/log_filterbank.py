"""The spectrogram of audio-to-score retrieval: 92 logarithmic bands, 20 frames a second.

As `luisfvc/ucasr` computes it with madmom: magnitudes of 2048 samples under a Hann window, summed
by triangles of area 1 that are an octave / 16 apart, and log10(1 + x).
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from core.data.checks import DataError

RATE = 22_050
FRAME = 2048
FPS = 20
HOP = RATE / FPS  # 1102.5 samples: frames begin at the nearest sample
BANDS = 92
LOWEST_RATE = 12_000  # of recordings: bands reach 6 kHz
CENTRED_HOP = 1103  # of the authors' spectrograms for pre-training


def band_edges(
    rate: int = RATE,
    n_fft: int = FRAME,
    bands_per_octave: int = 16,
    lowest: float = 30.0,
    highest: float = 6000.0,
    reference: float = 440.0,
) -> Int[np.ndarray, " edges"]:
    """FFT bins nearest to `reference` · 2^(k / bands_per_octave) within the range, each once.

    The bins are taken to lie rate / (n_fft + 2) apart, as in the authors' call, which counts the
    n_fft / 2 + 1 bins twice; the true distance is rate / n_fft.
    """
    octaves = np.log2(np.array([lowest, highest]) / reference) * bands_per_octave
    steps = np.arange(np.ceil(octaves[0]), np.floor(octaves[1]) + 1)
    wanted = reference * 2 ** (steps / bands_per_octave)
    bins = np.arange(n_fft // 2 + 1) * rate / (n_fft + 2)
    above = np.clip(np.searchsorted(bins, wanted), 1, len(bins) - 1)
    below_is_nearer = wanted - bins[above - 1] < bins[above] - wanted
    return np.unique(above - below_is_nearer)


def log_filterbank(
    rate: int = RATE, n_fft: int = FRAME, **edges: float
) -> Float[np.ndarray, "bins bands"]:
    """A column a band: from 0 at one edge to 1 at the next and back to 0, divided by its sum.

    Args:
        rate: Hz of the audio.
        n_fft: samples of a frame.
        edges: see `band_edges`.
    """
    found = band_edges(rate, n_fft, **edges)  # type: ignore[arg-type]
    bank = np.zeros((n_fft // 2 + 1, len(found) - 2))
    for band, (start, centre, stop) in enumerate(zip(found, found[1:], found[2:], strict=False)):
        if stop - start < 2:
            bank[start, band] = 1
            continue
        bank[start:centre, band] = np.linspace(0, 1, centre - start, endpoint=False)
        bank[centre:stop, band] = np.linspace(1, 0, stop - centre, endpoint=False)
    return bank / bank.sum(0)


class LogFilterbank(nn.Module):
    """Waves to log-filterbank spectrograms, a batch at a time on their device.

    Args:
        frames: where frame i lies. `at_onset`: it begins at sample i · 1102.5, as in the prepared
            files of MSMD, so that a note shows in the frame of its onset. `centred`: its middle is
            at sample i · 1103, as in the authors' pre-training.
    """

    bank: Tensor
    window: Tensor

    def __init__(self, frames: Literal["at_onset", "centred"] = "at_onset") -> None:
        super().__init__()
        self.frames = frames
        bank = torch.from_numpy(log_filterbank()).float()
        # No band needs the bins above the highest one.
        bank = bank[: int(bank.any(1).nonzero().max()) + 1]
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("window", torch.hann_window(FRAME), persistent=False)

    def forward(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch bands frames"]:
        """Mono waves at 22,050 Hz, in [-1, 1], to log10(1 + band)."""
        return compress(self.bands(self.magnitudes(waves)))

    def magnitudes(
        self, waves: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch frames bins"]:
        """|STFT| up to the highest band; the wave is 0 where it has no samples."""
        used = len(self.bank)
        if self.frames == "centred":
            spectrum = torch.stft(
                waves,
                FRAME,
                CENTRED_HOP,
                window=self.window,
                pad_mode="constant",
                return_complex=True,
            )
            return _absolute(spectrum[:, :used]).transpose(1, 2)
        n_frames = max(1, int(np.ceil(waves.shape[1] / HOP)))
        starts = (torch.arange(n_frames, device=waves.device, dtype=torch.float64) * HOP).long()
        padded = torch.nn.functional.pad(waves, (0, FRAME))
        framed = padded.unfold(1, FRAME, 1)[:, starts]
        return _absolute(torch.fft.rfft(framed * self.window)[..., :used])

    def bands(
        self, magnitudes: Float[Tensor, "batch frames bins"]
    ) -> Float[Tensor, "batch bands frames"]:
        """Magnitudes summed by triangles, not yet compressed."""
        return (magnitudes @ self.bank.to(magnitudes.dtype)).transpose(1, 2)


def _absolute(spectrum: Complex[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    # Three times as fast as abs() on a CPU, which guards against overflow.
    return (spectrum.real.square() + spectrum.imag.square()).sqrt()


def compress(bands: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """log10(1 + x)."""
    return torch.log10(1 + bands)


def to_rate(wave: Float[Tensor, "batch samples"], rate: int) -> Float[Tensor, "batch samples"]:
    """Waves at any rate as waves at 22,050 Hz, on their device.

    Raises:
        DataError: the rate is below 12 kHz, so that the highest bands would be empty.
    """
    if rate == RATE:
        return wave
    if rate < LOWEST_RATE:
        raise DataError(f"audio at {rate} Hz", expected="12 kHz or more: bands reach 6 kHz")
    from torchaudio.functional import resample

    return resample(wave, rate, RATE)
