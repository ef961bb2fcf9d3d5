"""Small recordings, and what a tiny system of them is built with."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

RATE = 8000
# A frame every 80 samples, 100 a second at 8 kHz.
TINY = {
    "convolutions": [[8, 10, 5], [8, 8, 8], [8, 2, 2]],
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "hidden": 32,
    "position_kernel": 8,
    "position_groups": 4,
    "teacher": {
        "_target_": "audio_music.systems.code_teachers.KMeansTeacher",
        "codebooks": 2,
        "codes": 8,
        "n_mels": 16,
        "window": 256,
    },
    "code_dim": 8,
    "cqt_fmin": 110.0,
    "cqt_bins": 36,
    "cqt_bins_per_octave": 12,
    "mixture_samples": [50, 120],
}


class Tones:
    """Stands for a data set that teachers learn from."""

    codes = ()

    def training_waves(self, n_clips: int, seed: int = 0) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        time = torch.arange(RATE) / RATE
        for _ in range(3):
            pitch = 110 * 2 ** (torch.rand(8, 1, generator=generator) * 3)
            yield torch.sin(2 * torch.pi * pitch * time) * torch.rand(8, 1, generator=generator)


def tone(seconds: float, pitch: float = 440.0, rate: int = RATE, level: float = 0.4) -> np.ndarray:
    """A sine whose level rises slowly, so that no two moments are alike."""
    time = np.arange(int(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * pitch * time) * (0.5 + 0.5 * time / seconds)).astype("f4")


def write_tones(folder: Path, n: int = 6, seconds: float = 0.5, rate: int = RATE) -> None:
    """`tone_0.wav` and so on, a semitone apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        wave = tone(seconds, 220 * 2 ** (number / 12), rate)
        soundfile.write(folder / f"tone_{number}.wav", wave, rate, subtype="PCM_16")


def _override(key: str, value: object) -> str:
    text = str(value).replace(" ", "").replace("'", "")
    return f"system.{key}={text}"


# What makes the commands train that system on one-second clips at 8 kHz.
COMMAND = " ".join(
    [
        "data.rate=8000 trainer.accelerator=cpu trainer.batch_size_global=14 optimizer.lr=0.002",
        "trainer.log_every_n_steps=1",
        *(_override(key, value) for key, value in TINY.items()),
    ]
)
