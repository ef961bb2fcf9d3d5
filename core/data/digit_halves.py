"""The 8 x 8 digits of scikit-learn in two halves: pairs such as an image and its text."""

from pathlib import Path

import numpy as np

from core.data.digits import write_digits


def write_digit_halves(path: str | Path, seed: int = 0, tail: float = 1.0) -> None:
    """Writes `digits.npz` with `upper` and `lower`, the halves of each image, (n, 1, 4, 8).

    Args:
        path: the folder.
        seed: of the split.
        tail: see `core.data.digits.write_digits`.
    """
    write_digits(path, seed, tail)
    file = Path(path) / "digits.npz"
    with np.load(file) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    upper, lower = np.split(columns.pop("image"), 2, axis=2)
    np.savez_compressed(file, upper=upper, lower=lower, **columns)
