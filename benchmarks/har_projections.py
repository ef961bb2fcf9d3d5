"""Projections of windows, and steps of frame projections, against what is done elsewhere.

    python -m benchmarks.har_projections

`projections`: scalogram and Fourier coefficients of a batch against one window, channel and scale
after the other, by the same recipe in numpy and by PyWavelets where it is installed. `step`:
forward, backward and the optimizer's step against SimCLR with the same encoder of the window.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peer
from core.augment.draws import Draws
from core.augment.projections import fourier, geometric_scales, morlet_spectra, scalogram
from core.augment.series import Gain, Jitter, Permutation
from core.report import print_table
from core.trainers.system import Batch, System
from har.systems.frame_projections import FrameProjections
from har.systems.simclr import SimCLR

CHANNELS, TIME, REPEATS = 6, 50, 5
SERIES = {"_target_": "core.encoders.series_convolutions.SeriesConvNet", "widths": [32, 64, 64]}
SMALL = {
    "encoder": SERIES | {"parts": 1},
    "gabor_encoder": {
        "_target_": "core.encoders.small_convolutions.StridedConvNet",
        "widths": [32, 64, 64],
    },
    "fourier_encoder": SERIES | {"parts": 1},
    "n_scales": 16,
    "largest_scale": 32.0,
    "hidden_dim": 64,
    "dim": 64,
}
RESNET = {"_target_": "core.encoders.resnet1d.ResNet1D"}


def window_by_window(series: np.ndarray, scales: list[float]) -> np.ndarray:
    """(B, C, T) -> (B, C, scales, T): the recipe of PyWavelets, one convolution at a time."""
    grid, step = np.linspace(-8, 8, 4096, retstep=True)
    psi = np.exp(2j * np.pi * grid - grid**2) / np.sqrt(np.pi)
    integral = np.cumsum(psi) * step
    kernels = []
    for scale in scales:
        places = (np.arange(scale * 16 + 1) / (scale * step)).astype(int)
        kernels.append(integral[places[places < 4096]][::-1])
    out = np.empty((*series.shape[:2], len(scales), series.shape[2]), np.float32)
    for window, maps in zip(series, out, strict=True):
        for values, rows in zip(window, maps, strict=True):
            for row, kernel, scale in zip(rows, kernels, scales, strict=True):
                found = -np.sqrt(scale) * np.diff(np.convolve(values, kernel))
                excess = (len(found) - len(values)) / 2
                row[:] = np.abs(found[math.floor(excess) : len(found) - math.ceil(excess)])
    return out


def race_projections(batch: int, n_scales: int, largest: float) -> list[dict[str, object]]:
    """Seconds of one batch by all, and how far each is from ours."""
    scales = geometric_scales(n_scales, largest)
    x = torch.randn(batch, CHANNELS, TIME, generator=torch.Generator().manual_seed(0))
    spectra = morlet_spectra(TIME, scales).to(torch.complex64)
    works: dict[str, Callable[[], object]] = {
        "ours, a batch at a time": lambda: (scalogram(x, spectra), fourier(x)),
        "numpy, a window at a time": lambda: (
            window_by_window(x.numpy(), scales),
            [np.fft.rfft(window, norm="ortho") for window in x.numpy()],
        ),
    }
    pywt = peer("pywt")
    if pywt is not None:
        works["PyWavelets, a window at a time"] = lambda: (
            [np.abs(pywt.cwt(window, scales, "cmor1-1", axis=-1)[0]) for window in x.numpy()],
            [np.fft.rfft(window, norm="ortho") for window in x.numpy()],
        )
    difference = np.abs(scalogram(x, spectra).numpy() - window_by_window(x.numpy(), scales)).max()
    print(f"largest difference of ours from numpy: {difference:.1e}", flush=True)
    times = interleaved(works, REPEATS)
    first = next(iter(times))
    return [
        {
            "windows": batch,
            "scales": n_scales,
            "by": name,
            "ms": median_and_spread([1000 * t for t in own]),
            "times ours": "" if name == first else paired_ratio(own, times[first]),
        }
        for name, own in times.items()
    ]


def step_of(system: System, make: Callable[[], Batch]) -> Callable[[], None]:
    """One training step on a new batch."""
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        system.objective(make())["loss"].backward()
        optimizer.step()

    return step


def race_steps(name: str, batch: int, arguments: dict[str, object]) -> list[dict[str, object]]:
    """Seconds of a step of frame projections, of its projections, and of SimCLR."""
    torch.manual_seed(0)
    x = torch.randn(batch, CHANNELS, TIME)
    shapes = {"imu": [CHANNELS, TIME]}
    ours = FrameProjections(shapes, **arguments)  # type: ignore[arg-type]
    encoder = arguments.get("encoder", RESNET)
    simclr = SimCLR(shapes, encoder, temperature=0.15)  # type: ignore[arg-type]
    number = iter(range(10**9))

    def view(draws: Draws) -> Tensor:
        return Permutation(4)(Jitter(0.1)(Gain(0.3)(x, draws), draws), draws)

    def two_views() -> Batch:
        draws = Draws(next(number), batch, slice(0, batch), x.device)
        return {"imu": x, "views/imu": torch.stack([view(draws), view(draws)])}

    works = {
        "frame projections": step_of(ours, lambda: {"imu": x}),
        "of which projections": lambda: ours.views(x),
        "SimCLR, same encoder": step_of(simclr, two_views),
    }
    interleaved(works, 1)  # warms up
    times = interleaved(works, REPEATS)
    last = list(times)[-1]
    return [
        {
            "networks": name,
            "windows": batch,
            "step": arm,
            "ms": median_and_spread([1000 * t for t in own]),
            "times SimCLR": "" if arm == last else paired_ratio(own, times[last]),
        }
        for arm, own in times.items()
    ]


def race() -> None:
    """Prints both tables."""
    rows = race_projections(128, 16, 32.0) + race_projections(128, 48, 128.0)
    about = f"windows of {CHANNELS} x {TIME}, median (least to most)"
    print_table(rows, f"projections, {about}")
    rows = race_steps("small", 128, SMALL) + race_steps("published", 128, {})
    print_table(rows, f"training steps, {about}")


if __name__ == "__main__":
    race()
