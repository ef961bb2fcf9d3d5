"""Where images lie, encoded, in a folder of classes or in WebDataset shards."""

import gzip
import os
import shutil
import tarfile
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as transforms

from core.data.cache import cache_folder
from core.data.checks import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid"} | {
    "test": "test"
}


@dataclass(frozen=True)
class EncodedImage:
    """An image as it lies in the files.

    Attributes:
        name: what it is called.
        place: file, and member of a shard.
        file: that holds it.
        offset: first byte in the file.
        size: bytes.
        label: its class, if any.
        split: its split, if the files say one.
        content: the bytes, where they have been read already.
    """

    name: str
    place: str
    file: Path
    offset: int
    size: int
    label: str | None
    split: str | None
    content: bytes | None = None

    def decoded(self, size: int | None) -> UInt8[Tensor, "3 height width"]:
        """The pixels; where a size is given, the shorter side has it and the middle is kept.

        Raises:
            DataError: the file is gone, or what is there is no image.
        """
        try:
            content = self._read() if self.content is None else self.content
            raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            pixels: Tensor = decode_image(raw, ImageReadMode.RGB)
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"cannot be decoded ({str(error).splitlines()[0][:120]})",
                path=self.place,
                expected=f"an image as its name says: {', '.join(SUFFIXES)}",
                fix="write it again or leave it out",
            ) from None
        if size is not None:
            pixels = transforms.resize(pixels, [size], antialias=True)
            pixels = transforms.center_crop(pixels, [size, size])
        return pixels

    def _read(self) -> bytes:
        # Opened for every image: a file that processes share has one position for all of them.
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def is_split(folder: Path) -> bool:
    """Whether a folder is named like a split."""
    return folder.is_dir() and folder.name.lower() in SPLIT_NAMES


def shards_in(root: Path) -> list[Path]:
    """The .tar, .tar.gz and .tgz files of a folder."""
    return sorted([*root.glob("*.tar"), *root.glob("*.tar.gz"), *root.glob("*.tgz")])


def in_folders(root: Path) -> Iterator[EncodedImage]:
    """The images of a folder of classes, or of splits with classes."""
    splits = {f: SPLIT_NAMES[f.name.lower()] for f in root.iterdir() if is_split(f)}
    for folder in sorted(splits) or [root]:
        classes = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
        for place in classes or [folder]:
            for file in sorted(place.rglob("*")):
                if file.suffix.lower() in SUFFIXES:
                    name, size = str(file.relative_to(root)), file.stat().st_size
                    label = place.name if classes else None
                    yield EncodedImage(name, str(file), file, 0, size, label, splits.get(folder))


def in_shards(shards: list[Path], with_content: bool) -> Iterator[EncodedImage]:
    """The images of shards, in their order.

    Args:
        shards: files whose name begins with their split.
        with_content: read each image in passing; otherwise only where it lies, for which a
            compressed shard is unpacked into the cache folder first.

    Raises:
        DataError: a shard is cut off or damaged, or a sample has no image.
    """
    for shard in shards:
        prefix = shard.name.split(".")[0].split("-")[0].split("_")[0].lower()
        file = shard if with_content or shard.suffix == ".tar" else _unpacked(shard)
        # A sample is a run of members with one key, in any order of its parts.
        key, parts = "", dict[str, _Member]()
        for member in _members(shard, file, with_content):
            own_key, _, part = member.name.partition(".")
            if own_key != key and parts:
                yield _sample(shard, file, key, parts, prefix)
                parts = {}
            key = own_key
            parts[f".{part.lower()}"] = member
        if parts:
            yield _sample(shard, file, key, parts, prefix)


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int
    content: bytes | None


def _members(shard: Path, file: Path, with_content: bool) -> Iterator[_Member]:
    try:
        with tarfile.open(file, "r:" if file.suffix == ".tar" else "r:gz") as archive:
            end = 0
            for member in archive:
                end = member.offset_data + -(-member.size // 512) * 512
                if not member.isfile():
                    continue
                content = None
                if with_content or member.name.lower().endswith(".cls"):
                    stream = archive.extractfile(member)
                    content = stream.read() if stream else None
                yield _Member(member.name, member.offset_data, member.size, content)
            # A cut between two members ends the iteration as an intact archive does.
            if archive.fileobj is None or not _has_end(archive, end):
                raise tarfile.ReadError("its end is missing")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise _damaged(shard, error) from None


def _damaged(shard: Path, error: Exception) -> DataError:
    return DataError(
        f"truncated or damaged ({error})",
        path=shard,
        expected="a complete .tar or .tar.gz",
        fix="copy or write it again",
    )


def _has_end(archive: tarfile.TarFile, end: int) -> bool:
    assert archive.fileobj is not None
    archive.fileobj.seek(end)
    return bool(archive.fileobj.read(512) == bytes(512))


def _sample(
    shard: Path, file: Path, key: str, parts: dict[str, _Member], prefix: str
) -> EncodedImage:
    images = [suffix for suffix in SUFFIXES if suffix in parts]
    if len(images) != 1:
        raise DataError(
            f"sample {key!r} holds {', '.join(sorted(parts))}",
            path=shard,
            expected=f"one image ({', '.join(SUFFIXES)}) and its .cls",
        )
    label = None
    if ".cls" in parts:
        label = (parts[".cls"].content or b"").decode(errors="replace").strip()
    image, split = parts[images[0]], SPLIT_NAMES.get(prefix)
    place = f"{shard}: {key}{images[0]}"
    return EncodedImage(
        key, place, file, image.offset, image.size, label, split, content=image.content
    )


def _unpacked(shard: Path) -> Path:
    """A plain copy of a compressed shard, made once: only there can an image be read by itself."""
    stat = shard.stat()
    key = f"{shard.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    path = cache_folder() / "shards" / f"{sha256(key.encode()).hexdigest()[:32]}.tar"
    if path.exists():
        return path
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(shard) as packed, temporary.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 2**20)
        os.replace(temporary, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(shard, error) from None
    except OSError as error:
        raise DataError(
            f"cannot be unpacked into {path.parent} ({error})",
            path=shard,
            fix="make room there, set CONSILIENCE_CACHE to another folder, or gunzip the shards",
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path
