"""Images of a folder of classes or of WebDataset shards: in memory, or decoded in training."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import accumulate, islice
from pathlib import Path

import psutil
import torch
from jaxtyping import UInt8
from torch import Tensor

from core.data.checks import CheckReport, DataError
from core.data.encoded_images import (
    SPLIT_NAMES,
    EncodedImage,
    in_folders,
    in_shards,
    is_split,
    shards_in,
)
from core.data.samples import SPLITS, Samples, split_by_ratio
from core.data.stored_rows import Column, StoredRows
from core.data.table import samples_report

_TOGETHER = 1024  # images that are decoded between two looks at the memory
_LAYOUT = (
    "CLASS/*.jpg, or train/CLASS/*.jpg with valid/ and test/ beside it; or shards train-*.tar, "
    "valid-*.tar, test-*.tar (.tar.gz too) of KEY.jpg and KEY.cls"
)


def load_images(
    path: str | Path,
    size: int | None = None,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    valid_share: float = 0.1,
    seed: int = 0,
    stream: bool | None = None,
    workers: int = 2,
) -> Samples:
    """Images as uint8 (n, 3, height, width) in one modality, `image`.

    Batches are the same whether the images are in memory or decoded when a batch needs them.

    Args:
        path: a folder of classes or of splits with classes, or of WebDataset shards, whose `.cls`
            holds a number or a name. `classes.txt` beside them names the classes, a line each.
        size: height and width: the shorter side is brought to it, the middle is kept. None takes
            the images as they are, which must then be of one size.
        ratios: train, valid and test where the files say no split.
        valid_share: of the training images of each class, where there are splits and no valid.
        seed: of these choices.
        stream: decode in training rather than beforehand; None: where they do not fit into half of
            the free memory. Shards .tar.gz are then unpacked into the cache folder.
        workers: processes that decode in training, where images are streamed.

    Raises:
        DataError: nothing is found, a shard is cut off, an image cannot be decoded or has another
            size, a class has a single member to be divided, a split is empty, or the images do not
            fit into memory and must not be streamed.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError("no such folder", path=root, expected=_LAYOUT)
    shards = shards_in(root)
    images: Column | None = None
    if not stream:
        try:
            images, encoded = _in_memory(root, shards, size)
        except _DoesNotFit as error:
            if stream is False:
                raise
            warnings.warn(f"{root}: {error.found}; they are read in training", stacklevel=2)
    if images is None:
        images, encoded = _stored(root, shards, size, workers)
    if images is None or not encoded:
        raise DataError("no images", path=root, expected=_LAYOUT)
    labels, classes = _labels(root, [image.label for image in encoded])
    splits = _splits(root, encoded, labels, classes, tuple(ratios), valid_share, seed)
    ids = [image.name for image in encoded]
    if len(set(ids)) < len(ids):
        ids = [image.place for image in encoded]
    return Samples(
        {"image": images},
        {} if labels is None else {"label": labels},
        splits,
        ids,
        {"label": classes} if classes else {},
    )


def check_images(
    path: str | Path,
    size: int | None = None,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    valid_share: float = 0.1,
    seed: int = 0,
    stream: bool | None = None,
    workers: int = 2,
) -> CheckReport:
    """What the reader finds, or what is wrong with the files: every image is decoded."""
    try:
        samples = load_images(path, size, ratios, valid_share, seed, stream, workers)
        images = samples.inputs["image"]
        if isinstance(images, StoredRows):
            for rows in torch.arange(len(images)).split(_TOGETHER):
                images.index_select(0, rows)
        return samples_report(samples)
    except DataError as error:
        return CheckReport({}, [error], [])


@dataclass(frozen=True)
class _Decode:
    """Row number -> pixels, for threads and worker processes."""

    images: list[EncodedImage]
    size: int | None
    shape: tuple[int, ...]

    def __call__(self, row: int) -> UInt8[Tensor, "3 height width"]:
        pixels = self.images[row].decoded(self.size)
        if tuple(pixels.shape) != self.shape:
            sizes = " and ".join(f"{h} x {w}" for _, h, w in (self.shape, tuple(pixels.shape)))
            raise DataError(
                f"images of several sizes, such as {sizes}",
                path=self.images[row].place,
                fix="give data.size=N",
            )
        return pixels


class _DoesNotFit(DataError):
    """More images than half of the free memory takes."""


def _in_memory(
    root: Path, shards: list[Path], size: int | None
) -> tuple[UInt8[Tensor, "n 3 height width"], list[EncodedImage]]:
    listed = [] if shards else list(in_folders(root))
    found = in_shards(shards, with_content=True) if shards else iter(listed)
    room = psutil.virtual_memory().available // 2
    size_of = {f: f.stat().st_size for f in shards} | {image.file: image.size for image in listed}
    before = dict(zip(size_of, accumulate(size_of.values(), initial=0), strict=False))
    on_disk = sum(size_of.values())
    decoded: list[Tensor] = []
    encoded: list[EncodedImage] = []
    n_bytes = 0
    with ThreadPoolExecutor() as pool:
        while some := list(islice(found, _TOGETHER)):
            decoded += pool.map(lambda image: image.decoded(size), some)
            encoded += [replace(image, content=None) for image in some]
            n_bytes += sum(image.numel() for image in decoded[-len(some) :])
            # What all will take follows from how far in the files the last one lies.
            last, expected = some[-1], n_bytes
            if len(some) == _TOGETHER:
                place = before[last.file] + min(last.offset + last.size, size_of[last.file])
                expected = max(n_bytes, n_bytes * on_disk // place)
            if expected > room:
                raise _DoesNotFit(
                    f"the images take more than {room / 2**30:.1f} GiB, half of the free memory",
                    path=root,
                    fix="make them smaller, data.size=96, or read them in training: "
                    "leave data.stream at null",
                )
    shapes = {tuple(image.shape) for image in decoded}
    if len(shapes) > 1:
        sizes = ", ".join(f"{h} x {w}" for _, h, w in sorted(shapes)[:3])
        raise DataError(
            f"images of {len(shapes)} sizes, such as {sizes}", path=root, fix="give data.size=N"
        )
    return torch.stack(decoded) if decoded else torch.empty(0, 3, 0, 0, dtype=torch.uint8), encoded


def _stored(
    root: Path, shards: list[Path], size: int | None, workers: int
) -> tuple[StoredRows | None, list[EncodedImage]]:
    encoded = list(in_shards(shards, with_content=False) if shards else in_folders(root))
    if not encoded:
        return None, encoded
    shape = tuple(encoded[0].decoded(size).shape)
    told = sha256(f"{size}".encode())
    for image in encoded:
        told.update(f"{image.name} {image.offset} {image.size}\n".encode())
    decode = _Decode(encoded, size, shape)
    column = StoredRows(decode, len(encoded), shape, torch.uint8, told.hexdigest(), workers)
    return column, encoded


def _labels(root: Path, said: list[str | None]) -> tuple[Tensor | None, list[str]]:
    names = root / "classes.txt"
    classes = names.read_text().split("\n") if names.is_file() else []
    classes = [name.strip() for name in classes if name.strip()]
    if all(label is None for label in said):
        return None, []
    as_numbers = all(label is None or label.isdecimal() for label in said)
    if as_numbers:
        numbers = [-1 if label is None else int(label) for label in said]
        if classes and max(numbers) >= len(classes):
            raise DataError(
                f"a label is {max(numbers)}",
                path=names,
                expected=f"0 to {len(classes) - 1}: the file names {len(classes)} classes",
            )
        return torch.tensor(numbers), classes
    classes = classes or sorted({label for label in said if label is not None})
    place = {name: number for number, name in enumerate(classes)}
    unknown = sorted({label for label in said if label is not None} - set(place))
    if unknown:
        raise DataError(
            f"classes without a line: {', '.join(unknown[:5])}",
            path=names,
            expected="every class once, or no such file",
        )
    return torch.tensor([-1 if label is None else place[label] for label in said]), classes


def _splits(
    root: Path,
    encoded: list[EncodedImage],
    labels: Tensor | None,
    classes: list[str],
    ratios: tuple[float, ...],
    valid_share: float,
    seed: int,
) -> dict[str, Tensor]:
    said = [image.split for image in encoded]
    if all(split is None for split in said):
        return split_by_ratio(labels, len(encoded), ratios, seed, classes)
    if any(split is None for split in said):
        odd = next(image.place for image in encoded if image.split is None)
        raise DataError("of no split, while others are of one", path=odd, expected=_LAYOUT)
    rows = {s: torch.tensor([i for i, n in enumerate(said) if n == s]).long() for s in SPLITS}
    folders = {SPLIT_NAMES[f.name.lower()] for f in root.iterdir() if is_split(f)}
    empty = [split for split in ("train", *sorted(folders)) if not len(rows[split])]
    if empty:
        raise DataError(f"the {empty[0]} split has no images", path=root, expected=_LAYOUT)
    if not len(rows["valid"]) and valid_share > 0:
        train = rows["train"]
        of_train = None if labels is None else labels[train]
        shares = (1 - valid_share, valid_share, 0.0)
        parts = split_by_ratio(of_train, len(train), shares, seed, classes)
        rows["train"], rows["valid"] = train[parts["train"]], train[parts["valid"]]
    return rows
