"""The digits of scikit-learn as images in WebDataset shards."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate
from torchvision.io import encode_png


def write_digit_shards(path: str | Path, seed: int = 0, size: int = 32) -> None:
    """Writes train-000000.tar (1000 images), valid-000000.tar (200), test-000000.tar (597).

    Args:
        path: the folder; gets `classes.txt` too.
        seed: of the split.
        size: height and width that the 8 x 8 digits are brought to.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(pixels))
    small = torch.from_numpy(pixels[order].reshape(-1, 1, 8, 8)).float() / 16
    large = interpolate(small, size, mode="bicubic", antialias=True).clamp(0, 1)
    images = (255 * large).round().byte().expand(-1, 3, -1, -1)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    start = 0
    for split, n_rows in (("train", 1000), ("valid", 200), ("test", len(images) - 1200)):
        with tarfile.open(folder / f"{split}-000000.tar", "w") as shard:
            for row in range(start, start + n_rows):
                png = bytes(encode_png(images[row].contiguous()).numpy())
                label = str(labels[order[row]]).encode()
                for suffix, content in (("png", png), ("cls", label)):
                    member = tarfile.TarInfo(f"digit{order[row]:04d}.{suffix}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
        start += n_rows
