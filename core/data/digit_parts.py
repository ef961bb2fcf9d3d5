"""The 8 x 8 digits of scikit-learn in three noisy parts: modalities that complete each other."""

from pathlib import Path

import numpy as np

_ROWS = {"top": slice(0, 3), "middle": slice(3, 5), "bottom": slice(5, 8)}


def write_digit_parts(
    path: str | Path, n_train: int = 250, noise: float = 0.35, seed: int = 0
) -> None:
    """Writes `digit_parts.npz`: pixel rows 0-2, 3-4 and 5-7 of each digit as flat modalities.

    Args:
        path: the folder.
        n_train: training samples; beside them stand 200 for validation and 597 for the test.
        noise: standard deviation of the Gaussian noise on pixels in [0, 1].
        seed: of the split and of the noise.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    split = np.repeat([0, 1, 2], [n_train, 200, 597])
    order = rng.permutation(len(images))[: len(split)]
    pixels = images[order].reshape(-1, 8, 8) / 16
    pixels += noise * rng.standard_normal(pixels.shape)
    parts = {
        name: pixels[:, rows].reshape(len(pixels), -1).astype(np.float32)
        for name, rows in _ROWS.items()
    }
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "digit_parts.npz",
        **parts,
        label=labels[order].astype(np.int64),
        split=split,
        id=order,
    )
