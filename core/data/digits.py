"""The 8 x 8 digits of scikit-learn as demo data: real images that every installation has."""

from pathlib import Path

import numpy as np


def write_digits(path: str | Path, seed: int = 0, tail: float = 1.0) -> None:
    """Writes `digits.npz`: 1000 training, 200 validation and 597 test images.

    Args:
        path: the folder.
        seed: of the split.
        tail: how many training images digit 9 keeps, as a share of digit 0's; digits between keep
            geometrically fewer, as in long-tailed CIFAR, at least 6 each.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order].reshape(-1, 1, 8, 8).astype(np.float32) / 16, labels[order]
    split = np.repeat([0, 1, 2], [1000, 200, len(images) - 1200])
    kept = split > 0
    for digit in range(10):
        rows = np.flatnonzero((split == 0) & (labels == digit))
        kept[rows[: max(6, round(len(rows) * tail ** (digit / 9)))]] = True
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "digits.npz",
        image=images[kept],
        label=labels[kept].astype(np.int64),
        split=split[kept],
        id=order[kept],
    )
