"""Images: a folder of classes, or WebDataset shards, decoded once and kept as uint8."""

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as transforms

from core.data.checks import CheckReport, DataError
from core.data.samples import SPLITS, Samples, split_by_ratio
from core.data.table import samples_report

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
_SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid"} | {
    "test": "test"
}
_LAYOUT = (
    "CLASS/*.jpg, or train/CLASS/*.jpg with valid/ and test/ beside it; or shards train-*.tar, "
    "valid-*.tar, test-*.tar (.tar.gz too) of KEY.jpg and KEY.cls"
)


@dataclass(frozen=True)
class _Encoded:
    """An image as it lies in the files: where, its bytes, its class, its split if any."""

    name: str
    place: str
    content: bytes
    label: str | None
    split: str | None


def load_images(
    path: str | Path,
    size: int | None = None,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    valid_share: float = 0.1,
    seed: int = 0,
) -> Samples:
    """Reads all images as uint8 (n, 3, height, width) in one modality, `image`.

    Args:
        path: a folder of classes or of splits with classes, or of WebDataset shards, whose `.cls`
            holds a number or a name. `classes.txt` beside them names the classes, a line each.
        size: height and width: the shorter side is brought to it, the middle is kept. None takes
            the images as they are, which must then be of one size.
        ratios: train, valid and test where the files say no split.
        valid_share: of the training images of each class, where there are splits and no valid.
        seed: of these choices.

    Raises:
        DataError: nothing is found, a shard is cut off, an image cannot be decoded or has another
            size, a class has a single member to be divided, a split is empty, or the images do not
            fit into memory.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError("no such folder", path=root, expected=_LAYOUT)
    shards = sorted([*root.glob("*.tar"), *root.glob("*.tar.gz"), *root.glob("*.tgz")])
    found = _in_shards(shards) if shards else _in_folders(root)
    images, encoded = _decoded(root, found, size)
    if not encoded:
        raise DataError("no images", path=root, expected=_LAYOUT)
    labels, classes = _labels(root, [image.label for image in encoded])
    splits = _splits(root, encoded, labels, tuple(ratios), valid_share, seed)
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
) -> CheckReport:
    """What the reader finds, or what is wrong with the files."""
    try:
        return samples_report(load_images(path, size, ratios, valid_share, seed))
    except DataError as error:
        return CheckReport({}, [error], [])


def _in_folders(root: Path) -> Iterator[_Encoded]:
    splits = {f: _SPLIT_NAMES[f.name.lower()] for f in root.iterdir() if _is_split(f)}
    for folder in sorted(splits) or [root]:
        classes = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
        for place in classes or [folder]:
            for file in sorted(place.rglob("*")):
                if file.suffix.lower() in SUFFIXES:
                    label = place.name if classes else None
                    name = str(file.relative_to(root))
                    yield _Encoded(name, str(file), file.read_bytes(), label, splits.get(folder))


def _is_split(folder: Path) -> bool:
    return folder.is_dir() and folder.name.lower() in _SPLIT_NAMES


def _in_shards(shards: list[Path]) -> Iterator[_Encoded]:
    for shard in shards:
        prefix = shard.name.split(".")[0].split("-")[0].split("_")[0].lower()
        # A sample is a run of members with one key, in any order of its parts.
        key, parts = "", dict[str, bytes]()
        for member, content in _members(shard):
            own_key, _, part = member.partition(".")
            if own_key != key and parts:
                yield _sample(shard, key, parts, prefix)
                parts = {}
            key = own_key
            parts[f".{part.lower()}"] = content
        if parts:
            yield _sample(shard, key, parts, prefix)


def _members(shard: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(shard, "r:" if shard.suffix == ".tar" else "r:gz") as archive:
            end = 0
            for member in archive:
                end = member.offset_data + -(-member.size // 512) * 512
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name, content.read()
            # A cut between two members ends the iteration as an intact archive does.
            if archive.fileobj is None or not _has_end(archive, end):
                raise tarfile.ReadError("its end is missing")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(
            f"truncated or damaged ({error})",
            path=shard,
            expected="a complete .tar or .tar.gz",
            fix="copy or write it again",
        ) from None


def _has_end(archive: tarfile.TarFile, end: int) -> bool:
    assert archive.fileobj is not None
    archive.fileobj.seek(end)
    return bool(archive.fileobj.read(512) == bytes(512))


def _sample(shard: Path, key: str, parts: dict[str, bytes], prefix: str) -> _Encoded:
    images = [suffix for suffix in SUFFIXES if suffix in parts]
    if len(images) != 1:
        raise DataError(
            f"sample {key!r} holds {', '.join(sorted(parts))}",
            path=shard,
            expected=f"one image ({', '.join(SUFFIXES)}) and its .cls",
        )
    label = parts[".cls"].decode(errors="replace").strip() if ".cls" in parts else None
    split = _SPLIT_NAMES.get(prefix)
    return _Encoded(key, f"{shard}: {key}{images[0]}", parts[images[0]], label, split)


def _decoded(
    root: Path, found: Iterable[_Encoded], size: int | None
) -> tuple[UInt8[Tensor, "n 3 height width"], list[_Encoded]]:
    def decode(image: _Encoded) -> Tensor:
        try:
            raw = torch.frombuffer(bytearray(image.content), dtype=torch.uint8)
            pixels: Tensor = decode_image(raw, ImageReadMode.RGB)
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"cannot be decoded ({str(error).splitlines()[0][:120]})",
                path=image.place,
                expected=f"an image as its name says: {', '.join(SUFFIXES)}",
                fix="write it again or leave it out",
            ) from None
        if size is not None:
            pixels = transforms.resize(pixels, [size], antialias=True)
            pixels = transforms.center_crop(pixels, [size, size])
        return pixels

    room = psutil.virtual_memory().available // 2
    decoded: list[Tensor] = []
    encoded: list[_Encoded] = []
    stream = iter(found)
    with ThreadPoolExecutor() as pool:
        while some := list(islice(stream, 1024)):
            decoded += pool.map(decode, some)
            encoded += [
                _Encoded(image.name, image.place, b"", image.label, image.split) for image in some
            ]
            if sum(image.numel() for image in decoded[-1024:]) / 1024 * len(decoded) > room:
                raise DataError(
                    f"more than {len(decoded)} images do not fit into {room / 2**30:.1f} GiB",
                    path=root,
                    fix="make them smaller, data.size=96, or train on a part of them",
                )
    shapes = {tuple(image.shape) for image in decoded}
    if len(shapes) > 1:
        sizes = ", ".join(f"{h} x {w}" for _, h, w in sorted(shapes)[:3])
        raise DataError(
            f"images of {len(shapes)} sizes, such as {sizes}", path=root, fix="give data.size=N"
        )
    return torch.stack(decoded) if decoded else torch.empty(0, 3, 0, 0, dtype=torch.uint8), encoded


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
    encoded: list[_Encoded],
    labels: Tensor | None,
    ratios: tuple[float, ...],
    valid_share: float,
    seed: int,
) -> dict[str, Tensor]:
    said = [image.split for image in encoded]
    if all(split is None for split in said):
        return split_by_ratio(labels, len(encoded), ratios, seed)
    if any(split is None for split in said):
        odd = next(image.place for image in encoded if image.split is None)
        raise DataError("of no split, while others are of one", path=odd, expected=_LAYOUT)
    rows = {s: torch.tensor([i for i, n in enumerate(said) if n == s]).long() for s in SPLITS}
    folders = {_SPLIT_NAMES[f.name.lower()] for f in root.iterdir() if _is_split(f)}
    empty = [split for split in ("train", *sorted(folders)) if not len(rows[split])]
    if empty:
        raise DataError(f"the {empty[0]} split has no images", path=root, expected=_LAYOUT)
    if not len(rows["valid"]) and valid_share > 0:
        train = rows["train"]
        of_train = None if labels is None else labels[train]
        parts = split_by_ratio(of_train, len(train), (1 - valid_share, valid_share, 0.0), seed)
        rows["train"], rows["valid"] = train[parts["train"]], train[parts["valid"]]
    return rows
