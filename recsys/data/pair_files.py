"""Files of (query, item) pairs as blocks: Parquet by rows, WebDataset shards by samples."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from core.data.checks import DataError
from recsys.data.entity_tables import damaged
from recsys.data.tables import PARQUET_ERRORS

BLOCK_ROWS = 2**16
_NAMES = ("query_id", "item_id")
_OPTIONAL = ("timestamp", "split")


@dataclass(frozen=True)
class PairBlock:
    """Some consecutive pairs of a file.

    Attributes:
        path: the file.
        place: where in the file, for messages.
        read: gives the pairs as `query_id`, `item_id` and what there is of `timestamp`, `split`.
    """

    path: Path
    place: str
    read: Callable[[], pl.DataFrame]


def find_pair_files(folder: Path) -> tuple[list[Path], bool]:
    """The files with the pairs, and whether they are to be streamed.

    `pairs.parquet` is read as a whole; the `*.parquet` and `*.tar` of a folder `pairs` are read
    piece by piece, however large.

    Raises:
        DataError: there is neither, or both.
    """
    single, shards = folder / "pairs.parquet", folder / "pairs"
    files = sorted([*shards.glob("*.parquet"), *shards.glob("*.tar")])
    if single.is_file() == bool(files):
        raise DataError(
            "both pairs.parquet and files in pairs/" if files else "no pairs",
            path=folder,
            expected="pairs.parquet, or a folder pairs with *.parquet or *.tar (WebDataset)",
            fix="keep one of them" if files else "check the path",
        )
    return ([single], False) if not files else (files, True)


def pair_blocks(file: Path) -> Iterator[PairBlock]:
    """The blocks of a file, of about BLOCK_ROWS pairs.

    Raises:
        DataError: the file is truncated or damaged, or a column is missing.
    """
    yield from _shard_blocks(file) if file.suffix == ".tar" else _parquet_blocks(file)


def _parquet_blocks(file: Path) -> Iterator[PairBlock]:
    try:
        scan = pl.scan_parquet(file)
        columns = scan.collect_schema().names()
        rows = scan.select(pl.len()).collect().item()
    except (OSError, *PARQUET_ERRORS) as error:
        raise damaged(file, error) from None
    _refuse_missing(columns, file)
    used = [name for name in (*_NAMES, *_OPTIONAL) if name in columns]

    def reader(start: int) -> Callable[[], pl.DataFrame]:
        def read() -> pl.DataFrame:
            try:
                # Only the row groups that the slice touches are decoded.
                return pl.scan_parquet(file).select(used).slice(start, BLOCK_ROWS).collect()
            except (OSError, *PARQUET_ERRORS) as error:
                raise damaged(file, error) from None

        return read

    for start in range(0, rows, BLOCK_ROWS):
        yield PairBlock(file, f"row {start}", reader(start))


def _shard_blocks(file: Path) -> Iterator[PairBlock]:
    """Runs of samples; a sample's `.json` holds one pair, or a list for each column."""
    start = n_pairs = 0
    try:
        with tarfile.open(file, "r:") as shard:
            end = 0
            for member in shard:
                if n_pairs >= BLOCK_ROWS:
                    yield PairBlock(file, f"byte {start}", _shard_reader(file, start, end))
                    start, n_pairs = end, 0
                end = member.offset_data + -(-member.size // 512) * 512
                if member.name.endswith(".json"):
                    content = shard.extractfile(member)
                    n_pairs += len(_pairs_of(content.read(), file, member.name)) if content else 0
        if file.stat().st_size < end + 512:
            raise tarfile.ReadError("its end is missing")
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"truncated or damaged ({error})",
            path=file,
            expected="a complete tar file, uncompressed",
            fix="copy or write it again",
        ) from None
    if n_pairs:
        yield PairBlock(file, f"byte {start}", _shard_reader(file, start, end))


def _shard_reader(file: Path, start: int, end: int) -> Callable[[], pl.DataFrame]:
    def read() -> pl.DataFrame:
        with file.open("rb") as whole:
            whole.seek(start)
            part = whole.read(end - start)
        frames = []
        # A run of members is a tar file of its own.
        with tarfile.open(fileobj=io.BytesIO(part), mode="r:") as members:
            for member in members:
                if member.name.endswith(".json"):
                    content = members.extractfile(member)
                    assert content is not None
                    frames.append(_pairs_of(content.read(), file, member.name))
        return pl.concat(frames, how="vertical_relaxed")

    return read


def _pairs_of(content: bytes, file: Path, member: str) -> pl.DataFrame:
    try:
        sample = json.loads(content)
        frame = pl.DataFrame(
            {name: sample[name] for name in (*_NAMES, *_OPTIONAL) if name in sample}
        )
    except (ValueError, TypeError, *PARQUET_ERRORS) as error:
        raise DataError(
            f"{member} is no pair ({str(error).splitlines()[0]})",
            path=file,
            expected='JSON such as {"query_id": 3, "item_id": 8}, or equally long lists',
        ) from None
    _refuse_missing(frame.columns, file, f"{member}: ")
    return frame


def _refuse_missing(columns: list[str], file: Path, where: str = "") -> None:
    for name in _NAMES:
        if name not in columns:
            raise DataError(
                f"{where}no column {name}; there are: {', '.join(columns) or 'none'}",
                path=file,
                expected="query_id and item_id, and timestamp or split where they are needed",
            )
