"""Samples of two factors: a handwritten digit, and a pattern that is far easier to tell."""

from pathlib import Path

import numpy as np


def write_two_factors(
    path: str | Path, seed: int = 0, n_codes: int = 8, width: int = 24, norm: float = 3.0
) -> None:
    """Writes `two_factors.npz`: 1000 training digits with every pattern, 200 and 597 with one.

    The modality `factors` (64 + width) holds the 8 x 8 pixels of a digit in [0, 1] and then one of
    `n_codes` random patterns; `label` is the digit, `label_code` the number of the pattern. Digits
    and patterns are independent, so that neither tells anything of the other. Of the copies of a
    training digit one alone has labels, so that a probe sees every digit once.

    Args:
        path: the folder.
        seed: of the split and of the patterns.
        n_codes: patterns.
        width: values of a pattern.
        norm: Euclidean length of a pattern.
    """
    from sklearn.datasets import load_digits

    random = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    order = random.permutation(len(images))
    images, labels = images[order] / 16, labels[order]
    patterns = random.standard_normal((n_codes, width))
    patterns *= norm / np.linalg.norm(patterns, axis=1, keepdims=True)
    n_train, n_held_out = 1000, len(images) - 1000
    rows = np.concatenate([np.repeat(np.arange(n_train), n_codes), np.arange(n_train, len(images))])
    code = np.concatenate(
        [np.tile(np.arange(n_codes), n_train), random.integers(0, n_codes, n_held_out)]
    )
    labelled = np.ones(len(rows), bool)
    labelled[: n_train * n_codes] = code[: n_train * n_codes] == np.repeat(
        random.integers(0, n_codes, n_train), n_codes
    )
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "two_factors.npz",
        factors=np.hstack([images[rows], patterns[code]]).astype(np.float32),
        label=np.where(labelled, labels[rows], -1),
        label_code=np.where(labelled, code, -1),
        split=np.repeat([0, 1, 2], [n_train * n_codes, 200, n_held_out - 200]),
        id=np.char.add(np.char.add(order[rows].astype(str), "-"), code.astype(str)),
    )
