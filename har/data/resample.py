"""Clocks and lengths of series: resampling of clips and of long recordings, on any device."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_LOBES = 16  # zero crossings of the sinc on each side
_PASS = 0.92  # the cut-off, as a share of the lower Nyquist frequency
_ROWS = 128  # output samples that one matrix gives


def fourier_resample(x: Float[Tensor, "..."], length: int, dim: int = -1) -> Float[Tensor, "..."]:
    """Stretches or shrinks a series to a number of steps by its Fourier coefficients.

    The same as `scipy.signal.resample`: the series is taken as periodic, higher frequencies are cut
    off, a Nyquist coefficient is halved or doubled.

    Args:
        x: series of any real type and shape.
        length: steps afterwards.
        dim: the dimension that is time.
    """
    n = x.shape[dim]
    if n == length:
        return x
    coefficients = torch.fft.rfft(x, dim=dim)
    shorter = min(n, length)
    kept = coefficients.narrow(dim, 0, shorter // 2 + 1)
    if shorter % 2 == 0:
        factor = torch.ones(shorter // 2 + 1, dtype=x.dtype, device=x.device)
        factor[-1] = 2.0 if length < n else 0.5
        kept = (kept.movedim(dim, -1) * factor).movedim(-1, dim)
    resampled: Tensor = torch.fft.irfft(kept, n=length, dim=dim) * (length / n)
    return resampled


def fourier_resample_all(
    clips: list[Float[Tensor, "time ..."]], length: int
) -> Float[Tensor, "n length ..."]:
    """`fourier_resample` of clips of different lengths along dimension 0, one batch a length."""
    of_length: dict[int, list[int]] = {}
    for row, clip in enumerate(clips):
        of_length.setdefault(len(clip), []).append(row)
    order = torch.tensor([row for rows in of_length.values() for row in rows])
    batches = [torch.stack([clips[row] for row in rows]) for rows in of_length.values()]
    resampled = torch.cat([fourier_resample(batch, length, dim=1) for batch in batches])
    return resampled.index_select(0, order.argsort().to(resampled.device))


def normalise_skeleton(
    skeleton: Float[Tensor, "*batch 3 time joints"],
    root: int = 2,
    bone: tuple[int, int] = (1, 2),
    first: Float[Tensor, "*batch 3 joints"] | None = None,
) -> Float[Tensor, "*batch 3 time joints"]:
    """Moves the root of frame 0 into the origin and makes the bone of frame 0 of length 1.

    Args:
        skeleton: coordinates in any unit; UTD-MHAD's own (20, 3, T) is `permute(1, 2, 0)` of it.
        root: number of the joint that becomes the origin.
        bone: numbers of the two joints whose distance becomes the unit.
        first: the frame to take for frame 0, where `skeleton` is resampled already.
    """
    first = skeleton[..., 0, :] if first is None else first
    size = bone_length(first, bone)[..., None, None, None]
    return (skeleton - first[..., root, None, None]) / size


def bone_length(
    frame: Float[Tensor, "*batch 3 joints"], bone: tuple[int, int]
) -> Float[Tensor, " *batch"]:
    """Distance of two joints."""
    apart: Tensor = frame[..., bone[0]] - frame[..., bone[1]]
    return apart.square().sum(-1).sqrt()


def resample_at(
    x: Float[Tensor, "time ..."],
    rate: float,
    start: float,
    new_rate: float,
    new_start: float,
    steps: int,
) -> Float[Tensor, "steps ..."]:
    """Values of a series at the times of another clock, band-limited to both rates.

    A sinc in a Blackman window is used, not the discrete Fourier transform, so that nothing wraps
    round from one end to the other; beyond its ends the series is continued by point reflection.

    Args:
        x: one or more channels along dimension 0.
        rate: samples a second of `x`.
        start: seconds of its first sample.
        new_rate: samples a second afterwards; what a clock as slow as that cannot hold is removed.
        new_start: seconds of the first sample afterwards, on the clock of `start`, not before it.
        steps: samples afterwards, the last of them not after the last of `x`.
    """
    offset = (new_start - start) * rate
    first = round(offset)
    in_step = new_rate == rate and abs(offset - first) < 1e-6
    if in_step and 0 <= first <= len(x) - steps:
        return x[first : first + steps]
    cutoff = 1.0 if new_rate == rate else _PASS * min(1.0, new_rate / rate)
    half = math.ceil(_LOBES / cutoff)
    extended = _extended(x.reshape(len(x), -1), half + 1)
    parts = []
    for begun in range(0, steps, _ROWS):
        count = torch.arange(begun, min(begun + _ROWS, steps), device=x.device)
        positions = offset + count.double() * (rate / new_rate)
        low = math.floor(offset + begun * rate / new_rate) - half
        high = math.floor(offset + (begun + len(count) - 1) * rate / new_rate) + half + 1
        distance = positions[:, None] - torch.arange(low, high + 1, device=x.device)
        angle = (distance * (math.pi / half)).clamp(-math.pi, math.pi)
        blackman = 0.42 + 0.5 * angle.cos() + 0.08 * (2 * angle).cos()  # 0 at the ends
        weights = torch.sinc(distance * cutoff) * blackman
        weights = (weights / weights.sum(1, keepdim=True)).to(x.dtype)
        parts.append(weights @ extended[low + half + 1 : high + half + 2])
    together = torch.cat(parts) if parts else x.reshape(len(x), -1)[:0]
    return together.reshape(steps, *x.shape[1:])


def _extended(flat: Tensor, more: int) -> Tensor:
    """The series, continued at both ends by point reflection."""
    last = len(flat) - 1
    inwards = torch.arange(1, more + 1, device=flat.device).clamp(max=last)
    before = 2 * flat[0] - flat[inwards.flip(0)]
    return torch.cat([before, flat, 2 * flat[last] - flat[last - inwards]])


def common_clock(
    streams: dict[str, tuple[Float[Tensor, "time ..."], float, float]], rate: float
) -> tuple[dict[str, Float[Tensor, "steps ..."]], float]:
    """Puts streams onto one clock, from the latest start to the earliest end.

    Args:
        streams: name -> values, samples a second, seconds of the first sample.
        rate: samples a second of the common clock.

    Returns:
        name -> values at the same times, and the seconds of the first of these; no steps where the
        streams do not overlap.
    """
    start = max(start for _, _, start in streams.values())
    end = min(start + (len(x) - 1) / own for x, own, start in streams.values())
    # A stream of exactly n seconds has its last sample one period before the end.
    steps = max(0, math.floor((end - start) * rate + 1e-6) + 1)
    return {
        name: resample_at(x, own, begun, rate, start, steps)
        for name, (x, own, begun) in streams.items()
    }, start
