"""Digits in the styles of several domains, one of which training never sees."""

from pathlib import Path

import numpy as np

N_DOMAINS = 4


def write_domains(path: str | Path, seed: int = 0, unseen: int = 3, n_labelled: int = 240) -> None:
    """Writes `domains.npz`: 1000 training, 200 validation and 597 test images, uint8 (3, 24, 24).

    A domain is a colour offset and a cosine of one cycle over the image, whose direction and colour
    are the domain's and whose phase and strength are each image's own. Training and validation
    images are of three domains, one each at random, test images of the fourth. `label` is the
    digit, -1 for most training images; `label_domain` is the domain, -1 for the unseen one.

    Args:
        path: the folder.
        seed: of the domains, the split and the images.
        unseen: the domain of the test split, 0 to 3.
        n_labelled: training images whose digit is told.
    """
    from sklearn.datasets import load_digits

    random = np.random.default_rng(seed)
    digits, labels = load_digits(return_X_y=True)
    order = random.permutation(len(digits))
    digits, labels = digits[order].reshape(-1, 8, 8) / 16, labels[order].astype(np.int64)
    split = np.repeat([0, 1, 2], [1000, 200, len(digits) - 1200])

    offset = random.uniform(0, 0.4, (N_DOMAINS, 3))
    colour = random.uniform(-1, 1, (N_DOMAINS, 3))
    colour /= np.linalg.norm(colour, axis=1, keepdims=True)
    angle = np.pi * np.arange(N_DOMAINS) / N_DOMAINS
    seen = np.delete(np.arange(N_DOMAINS), unseen)
    domain = np.where(split == 2, unseen, random.choice(seen, len(digits)))

    phase = random.uniform(0, 2 * np.pi, (len(digits), 1, 1))
    strength = random.uniform(0.05, 0.25, (len(digits), 1, 1, 1))
    y, x = np.mgrid[:24, :24] / 24
    along = np.cos(angle)[domain, None, None] * x + np.sin(angle)[domain, None, None] * y
    wave = np.cos(2 * np.pi * along + phase)[:, None] * colour[domain, :, None, None]
    images = 0.4 * _enlarged(digits)[:, None] + offset[domain, :, None, None] + strength * wave
    images = (images + random.normal(0, 0.05, images.shape)).clip(0, 1)

    told = labels.copy()
    told[np.flatnonzero(split == 0)[n_labelled:]] = -1
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "domains.npz",
        image=(images * 255).round().astype(np.uint8),
        label=told,
        label_domain=np.where(split == 2, -1, domain),
        split=split,
        id=order,
    )


def _enlarged(digits: np.ndarray) -> np.ndarray:
    """Linearly from 8 x 8 to 20 x 20 pixels, with a margin of 2."""
    place = ((np.arange(20) + 0.5) * 8 / 20 - 0.5).clip(0, 7)
    low = np.minimum(place.astype(int), 6)
    part = place - low
    matrix = np.zeros((20, 8))
    matrix[np.arange(20), low] = 1 - part
    matrix[np.arange(20), low + 1] += part
    return np.pad(matrix @ digits @ matrix.T, ((0, 0), (2, 2), (2, 2)))
