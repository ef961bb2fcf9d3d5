"""Images of no tissue at all, to learn from instead: photographs and digits of scikit-learn."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

_LEAST = 24  # pixels of a photograph's crop


def photographs_and_digits(n: int, size: int, seed: int = 0) -> UInt8[Tensor, "n 3 size size"]:
    """Random crops of two photographs for the first half, enlarged handwritten digits for the rest.

    Args:
        n: how many.
        size: height and width in pixels.
        seed: of the crops and of which digits are taken.
    """
    from sklearn.datasets import load_digits, load_sample_images

    rng = np.random.default_rng(seed)
    photographs = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    images = []
    for number in range((n + 1) // 2):
        photograph = photographs[number % len(photographs)]
        height, width = photograph.shape[1:]
        side = int(rng.integers(min(_LEAST, size), min(height, width) + 1))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        images.append(
            transforms.resized_crop(photograph, top, left, side, side, [size, size], antialias=True)
        )
    digits = torch.from_numpy(load_digits().images / 16 * 255).to(torch.uint8)
    for number in rng.integers(0, len(digits), n - len(images)):
        digit = transforms.resize(digits[number][None], [size, size], antialias=True)
        images.append(digit.expand(3, -1, -1))
    return torch.stack(images)
