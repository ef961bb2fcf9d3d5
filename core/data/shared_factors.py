"""Modalities of two mixed factors each: classes that share structure from sample to sample."""

from pathlib import Path

import numpy as np


def write_shared_factors(
    path: str | Path,
    n_classes: int = 8,
    dim: int = 24,
    n_train: int = 250,
    n_valid: int = 200,
    n_test: int = 1000,
    noise: float = 1.0,
    seed: int = 0,
) -> None:
    """Writes `shared_factors.npz` with the modalities one, two and three, float32 (n, dim).

    A sample is w of one class and 1 - w of another, w uniform in [0.5, 1]; its label is the class
    with the larger share. Every class has a random direction in every modality, which shows
    max(0, w d + (1 - w) d') and Gaussian noise of its own: what a sample has in common with those
    of its lesser class is in all modalities alike, and not in the label.

    Args:
        path: the folder.
        n_classes: number of classes.
        dim: numbers in a modality.
        n_train: training samples.
        n_valid: validation samples.
        n_test: test samples.
        noise: its standard deviation; that of the directions' entries is 1.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    n = n_train + n_valid + n_test
    label = rng.integers(0, n_classes, n)
    other = (label + rng.integers(1, n_classes, n)) % n_classes
    w = rng.uniform(0.5, 1, (n, 1))
    modalities = {}
    for name in ("one", "two", "three"):
        directions = rng.standard_normal((n_classes, dim))
        clean = np.maximum(0, w * directions[label] + (1 - w) * directions[other])
        modalities[name] = (clean + noise * rng.standard_normal((n, dim))).astype(np.float32)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "shared_factors.npz",
        **modalities,
        label=label,
        split=np.repeat([0, 1, 2], [n_train, n_valid, n_test]),
    )
