"""Projections of a series on an orthonormal basis and on an overcomplete frame.

They are other views of the same numbers, with nothing drawn: Fourier coefficients, and the
scalogram, the modulus of a continuous wavelet transform with a complex Morlet wavelet (Gabor
frame). The transform follows the recipe of PyWavelets' `cwt` for `cmor1-1`: the integral of the
wavelet on a grid, stretched to each scale, convolved with the series and differentiated.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from core.data.checks import DataError
from core.losses.precision import full_precision

_POINTS, _REACH = 4096, 8.0  # of the grid on which the wavelet is integrated, [-8, 8]


@full_precision
def fourier(
    series: Float[Tensor, "batch channels time"],
) -> Float[Tensor, "batch two_channels bins"]:
    """Amplitudes of all channels, then their phases, of the orthonormal Fourier transform.

    Args:
        series: (B, C, T).

    Returns:
        (B, 2C, T // 2 + 1), the phases in (-pi, pi]; those of bins without amplitude are noise.
    """
    bins = torch.fft.rfft(series, norm="ortho")
    # Where the imaginary part is -0.0 the arc tangent of a negative number would be -pi.
    return torch.cat([bins.abs(), torch.atan2(bins.imag + 0.0, bins.real)], 1)


def geometric_scales(count: int, largest: float) -> list[float]:
    """Scales from 1 to `largest`, each the same multiple of the one before.

    At scale 1 the wavelet swings once in a step of the series, which is beyond what the sampling
    can hold; it is part of the frame all the same.
    """
    return [float(scale) for scale in np.geomspace(1, largest, count)]


def morlet_spectra(time: int, scales: Sequence[float]) -> Complex[Tensor, "scales frequencies"]:
    """What `scalogram` multiplies the spectrum of a series of `time` steps with.

    Of every scale's kernel only the 2T - 1 taps can meet two steps of a series, so the transform
    costs the same at every scale, however long its wavelet.

    Args:
        time: steps of the series, T.
        scales: steps that stand for one swing of the wavelet.

    Returns:
        (scales, N) complex128, N the next even number from 2T - 1 on.

    Raises:
        DataError: no scales, or one that is not positive.
    """
    if not scales or min(scales) <= 0:
        raise DataError(f"scales {list(scales)} of the wavelet", expected="positive numbers")
    grid = np.linspace(-_REACH, _REACH, _POINTS)
    step = grid[1] - grid[0]
    wavelet = np.exp(2j * math.pi * grid - grid**2) / math.sqrt(math.pi)
    integral = np.cumsum(wavelet) * step
    lags = np.arange(1 - time, time)
    kernels = np.zeros((len(scales), 2 * time), np.complex128)
    for kernel, scale in zip(kernels, scales, strict=True):
        places = (np.arange(2 * _REACH * scale + 1) / (scale * step)).astype(np.int64)
        stretched = integral[places[places < _POINTS]][::-1]
        # The derivative of the convolution is the convolution with the derivative.
        taps = -math.sqrt(scale) * np.diff(stretched, prepend=0, append=0)
        # The full convolution without its ends is len(stretched) - 2 steps too long.
        wanted = lags + (len(stretched) - 2) // 2 + 1
        met = (wanted >= 0) & (wanted < len(taps))
        kernel[lags[met]] = taps[wanted[met]]  # a negative lag counts from the end
    return torch.from_numpy(np.fft.fft(kernels))


@full_precision
def scalogram(
    series: Float[Tensor, "batch channels time"],
    spectra: Complex[Tensor, "scales frequencies"],
) -> Float[Tensor, "batch channels scales time"]:
    """Modulus of the wavelet transform, not normalised; beyond its ends the series is 0.

    Args:
        series: (B, C, T).
        spectra: `morlet_spectra(T, scales)`, on the device of the series, in the precision to
            compute in.

    Returns:
        (B, C, scales, T).
    """
    length = spectra.shape[-1]
    swings = torch.fft.fft(series.to(spectra.real.dtype), length)
    moved = torch.fft.ifft(swings[:, :, None] * spectra)
    modulus: Tensor = moved[..., : series.shape[-1]].abs()
    return modulus
