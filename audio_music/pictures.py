"""Pictures of spectra, for the run folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

_RANGE = 60  # dB below the loudest


def draw_reconstruction(
    target: Float[Tensor, "time bins"],
    predicted: Float[Tensor, "time bins"],
    masked: Bool[Tensor, " time"],
    rate: float,
    frequencies: Float[np.ndarray, " bins"],
    file: Path,
) -> None:
    """Writes a PNG: a spectrum, the frames that were hidden, and what was predicted of them.

    Args:
        target: magnitudes.
        predicted: likewise; negative ones are shown as silence.
        masked: which frames were hidden.
        rate: frames a second.
        frequencies: of the bins, in Hz.
        file: to be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    true, said = (x.detach().cpu().numpy() for x in (target, predicted))
    hidden = masked.cpu().numpy()
    loudest = max(true.max(), 1e-9)
    shown = np.where(hidden[:, None], said, true)
    panels = {"constant-Q spectrum": true, "predicted where masked (white bars)": shown}
    figure = Figure(figsize=(9, 5.4), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(2, 1, sharex=True)
    seconds = len(true) / rate
    ticks = np.arange(0, len(frequencies), max(len(frequencies) // 7, 1))
    for axes, (title, magnitudes) in zip(all_axes, panels.items(), strict=True):
        decibels = 20 * np.log10(np.maximum(magnitudes / loudest, 10 ** (-_RANGE / 20)))
        image = axes.imshow(
            decibels.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=-_RANGE,
            vmax=0,
            extent=(0, seconds, -0.5, len(frequencies) - 0.5),
        )
        axes.set_yticks(ticks, [f"{frequencies[tick]:.0f}" for tick in ticks], fontsize=8)
        axes.set_ylabel("Hz", fontsize=9)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    steps = np.flatnonzero(np.diff(np.pad(hidden.astype(int), 1))).reshape(-1, 2) / rate
    for start, stop in steps:
        all_axes[1].axvspan(start, stop, ymin=0.97, color="white", linewidth=0)
    all_axes[1].set_xlabel("seconds", fontsize=9)
    bar = figure.colorbar(image, ax=all_axes, shrink=0.6, aspect=30)
    bar.set_label("dB", fontsize=8)
    bar.outline.set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def draw_clips(
    waves: Sequence[Float[Tensor, " samples"]], titles: Sequence[str], rate: int, file: Path
) -> None:
    """Writes a PNG with the log-mel spectrum of each clip, one below the other.

    Args:
        waves: of any lengths.
        titles: one a clip.
        rate: samples a second.
        file: to be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from torchaudio.transforms import MelSpectrogram

    mel = MelSpectrogram(rate, 2048, hop_length=256, n_mels=128, f_max=min(8000, rate / 2))
    figure = Figure(figsize=(9, 0.4 + 1.25 * len(waves)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    longest = max(len(wave) for wave in waves) / rate
    for axes, wave, title in zip(
        np.atleast_1d(figure.subplots(len(waves), 1, sharex=True)), waves, titles, strict=True
    ):
        decibels = 10 * mel(wave).clamp_min(1e-10).log10().numpy()
        loudest = decibels.max()
        axes.imshow(
            decibels,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=loudest - _RANGE,
            vmax=loudest,
            extent=(0, len(wave) / rate, 0, 128),
        )
        axes.set_xlim(0, longest)
        axes.set_yticks([])
        axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel("seconds", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def write_sequence(waves: Sequence[Float[Tensor, " samples"]], rate: int, file: Path) -> None:
    """Writes a WAV of clips one after the other, with half a second of silence between them."""
    import soundfile

    silence = np.zeros(rate // 2, np.float32)
    parts = [part for wave in waves for part in (wave.numpy(), silence)]
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.concatenate(parts[:-1]), rate, subtype="PCM_16")
