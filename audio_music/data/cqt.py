"""The constant-Q transform of MERT's musical teacher, by one FFT of the wave and its octaves."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex128, Float, Float64
from torch import Tensor, nn

from core.data.checks import DataError

# Of the spectrum of a kernel, what is kept on each side of its peak, in units of 1 / its length:
# beyond, the side lobes of a Hann window are below 4e-7 of the peak.
_REACH = 100


class _Group(NamedTuple):
    """Some neighbouring bins whose kernels are in the same part of the spectrum.

    Attributes:
        rows: the rows of the folded spectrum, hop in all; the last ones are negative frequencies.
        weights: (frames, rows, bins) complex64, the spectra of the kernels.
    """

    rows: Tensor
    weights: Tensor


class CQT(nn.Module):
    """Magnitudes of a constant-Q transform on the grid of the labels, in float32.

    Bin b has the frequency f_b = fmin 2^(b/B), Q = 1 / (2^(1/B) - 1), and the kernel of length
    l_b = ceil(Q rate / f_b): a periodic Hann window times exp(i 2π f_b m / rate), divided by its L1
    norm, from sample ceil(F/2 - l_b/2) - (l_b mod 2) of a window of F, the power of two from the
    longest l_b on. The wave is padded with F/2 zeros on each side, frame t begins its window at
    sample t x hop, and its value is |inner product| sqrt(l_b). These are nnAudio's numbers, which
    the authors' code trains on, and librosa's scale. No gradient flows through it.

    Instead of inner products with windows of F samples, the whole wave is transformed once: the
    spectrum of a kernel is narrow, and to keep every hop-th sample of a convolution is to fold its
    spectrum, so a bin costs as many products as its kernel has frequencies. What is left out of
    the kernels is below 4e-7 of their peaks.

    Args:
        rate: of the wave, in Hz.
        hop: samples from one frame to the next.
        fmin: frequency of the first bin, in Hz.
        n_bins: number of bins.
        bins_per_octave: B.

    Raises:
        DataError: a bin lies above half the rate.
    """

    def __init__(
        self,
        rate: int = 24000,
        hop: int = 320,
        fmin: float = 32.7,
        n_bins: int = 336,
        bins_per_octave: int = 48,
    ) -> None:
        super().__init__()
        self.rate, self.hop, self.n_bins, self.bins_per_octave = rate, hop, n_bins, bins_per_octave
        self.frequencies = fmin * 2 ** (np.arange(n_bins) / bins_per_octave)
        if self.frequencies[-1] >= rate / 2:
            raise DataError(
                f"{n_bins} bins reach {self.frequencies[-1]:.0f} Hz at {rate} samples a second",
                expected=f"less than {rate / 2:.0f} Hz",
                fix="take fewer bins",
            )
        quality = 1 / (2 ** (1 / bins_per_octave) - 1)
        self.lengths = np.ceil(quality * rate / self.frequencies).astype(np.int64)
        self.window = 1 << math.ceil(math.log2(self.lengths.max()))
        self._plans: dict[tuple[int, torch.device], list[_Group]] = {}

    def n_frames(self, samples: int) -> int:
        """Frames of a wave: the first is centred on sample 0, the others every hop on."""
        return samples // self.hop + 1

    @torch.no_grad()
    def forward(self, wave: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames bins"]:
        """(B, samples // hop + 1, n_bins) magnitudes of mono waves."""
        frames = self.n_frames(wave.shape[1])
        # Zeros as long as half a window keep what wraps around from meeting the wave.
        period = _smooth(frames + math.ceil(self.window / 2 / self.hop))
        plan = self._plan(period, wave.device)
        with torch.autocast(wave.device.type, enabled=False):
            spectrum = torch.fft.fft(wave.float(), n=period * self.hop)
            # (frames, batch, rows): row p holds the frequencies that fold onto those of row 0.
            rows = spectrum.unflatten(1, (self.hop, period)).permute(2, 0, 1)
            parts = [torch.bmm(rows.index_select(2, g.rows), g.weights) for g in plan]
            folded = torch.cat(parts, 2).permute(1, 2, 0)
            return torch.fft.ifft(folded)[:, :, :frames].abs().transpose(1, 2).contiguous()

    def _plan(self, period: int, device: torch.device) -> list[_Group]:
        """Kernels for waves of `period` hops, by the octave."""
        key = (period, device)
        if key not in self._plans:
            groups = np.array_split(
                np.arange(self.n_bins), math.ceil(self.n_bins / self.bins_per_octave)
            )
            self._plans[key] = [self._group(bins, period, device) for bins in groups]
        return self._plans[key]

    def _group(self, bins: np.ndarray, period: int, device: torch.device) -> _Group:
        size = period * self.hop
        reach = _REACH * self.rate / self.lengths[bins]
        row = self.rate / self.hop  # Hz of a row of the folded spectrum
        first = math.floor(((self.frequencies[bins] - reach) / row).min())
        stop = math.floor(((self.frequencies[bins] + reach) / row).max()) + 1
        first, stop = (first, stop) if stop - first <= self.hop else (0, self.hop)
        omega = 2 * np.pi * np.arange(first * period, stop * period) / size
        weights = np.stack([self._spectrum(number, omega) for number in bins]) * period / size
        folded = weights.reshape(len(bins), stop - first, period).transpose(2, 1, 0)
        rows = torch.arange(first, stop, device=device) % self.hop
        return _Group(rows, torch.from_numpy(folded.astype(np.complex64)).to(device))

    def _spectrum(
        self, number: int, omega: Float64[np.ndarray, " size"]
    ) -> Complex128[np.ndarray, " size"]:
        """Of the conjugated kernel, shifted to its place in the window, times sqrt(l_b)."""
        length = int(self.lengths[number])
        start = math.ceil(self.window / 2 - length / 2) - length % 2
        theta = 2 * np.pi * self.frequencies[number] / self.rate - omega
        step = 2 * np.pi / length
        hann = 0.5 * _dirichlet(theta, length)
        hann = hann - 0.25 * (_dirichlet(theta + step, length) + _dirichlet(theta - step, length))
        shift = np.exp(1j * omega * (start - self.window // 2))
        # The L1 norm of a periodic Hann window is half its length.
        return shift * hann.conj() / (length / 2) * math.sqrt(length)


def _dirichlet(theta: Float64[np.ndarray, " size"], n: int) -> Complex128[np.ndarray, " size"]:
    """Σ exp(i θ m) over m = 0 ... n - 1."""
    half = theta / 2
    sine = np.sin(half)
    flat = np.abs(sine) < 1e-12
    ratio = np.where(flat, n, np.sin(n * half) / np.where(flat, 1, sine))
    return ratio * np.exp(1j * half * (n - 1))


def _smooth(n: int) -> int:
    """The least number from n on whose prime factors are 2, 3 and 5, for which FFTs are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
