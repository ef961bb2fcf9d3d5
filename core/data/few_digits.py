"""Few labelled digits: 5 or 20 training images a class, of the 8 x 8 digits of scikit-learn."""

from pathlib import Path

import numpy as np

from core.data.checks import DataError


def write_few_digits(path: str | Path, seed: int = 0, per_class: int = 20) -> None:
    """Writes `digits.npz`: the training images, 200 for validation, and the others as test.

    Args:
        path: the folder.
        seed: of the split.
        per_class: training images of each digit.

    Raises:
        DataError: there are no so many.
    """
    from sklearn.datasets import load_digits

    if not 1 <= per_class <= 100:
        raise DataError(f"demo.per_class={per_class}", expected="1 to 100 images of each digit")
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order].reshape(-1, 1, 8, 8).astype(np.float32) / 16, labels[order]
    split = np.full(len(images), 2)
    for digit in range(10):
        split[np.flatnonzero(labels == digit)[:per_class]] = 0
    split[np.flatnonzero(split == 2)[:200]] = 1
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "digits.npz",
        image=images,
        label=labels.astype(np.int64),
        split=split,
        id=order,
    )
