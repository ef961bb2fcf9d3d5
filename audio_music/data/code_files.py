"""Codes of an acoustic teacher that were computed before, in the text files of fairseq."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from core.data.checks import DataError

TOLERANCE = 2  # frames that codes and audio may differ by: codecs round as they like


def read_codes(
    manifest: Path, name: str, n_lines: int
) -> list[Int16[np.ndarray, "time codebooks"]]:
    """The codes of the recordings of a manifest, one array a line.

    Beside `train.tsv` they are `train.NAME_0`, `train.NAME_1` and so on, a file for each codebook,
    or `train.NAME` of one alone; a line has the codes of one recording, separated by spaces.

    Args:
        manifest: the .tsv file.
        name: NAME, e.g. `encodec` or `km`.
        n_lines: recordings of the manifest.

    Raises:
        DataError: there are no such files, a line holds something else than numbers of a code, or
            the files have other numbers of lines or codes.
    """
    stem = manifest.with_suffix("")
    files = [Path(f"{stem}.{name}_0")]
    while files[-1].is_file():
        files.append(Path(f"{stem}.{name}_{len(files)}"))
    files = files[:-1] or [Path(f"{stem}.{name}")]
    if not files[0].is_file():
        raise DataError(
            f"no codes beside it: neither {stem.name}.{name}_0 nor {stem.name}.{name}",
            path=manifest,
            fix="give data.codes=NAME of the files, or leave it out",
        )
    books = [_lines(file, n_lines) for file in files]
    found = []
    for number, each in enumerate(zip(*books, strict=True), start=1):
        sizes = {len(codes) for codes in each}
        if len(sizes) > 1:
            said = ", ".join(map(str, sorted(sizes)))
            raise DataError(
                f"{said} codes of one recording in its codebooks", path=files[0], line=number
            )
        found.append(np.stack(each, 1))
    return found


def _lines(file: Path, n_lines: int) -> list[Int16[np.ndarray, " time"]]:
    lines = file.read_text().splitlines()
    if len(lines) != n_lines:
        raise DataError(
            f"{len(lines)} lines", path=file, expected=f"{n_lines}, one for each of the manifest"
        )
    return [_codes(line, file, number) for number, line in enumerate(lines, start=1)]


def _codes(line: str, file: Path, number: int) -> Int16[np.ndarray, " time"]:
    try:
        codes = np.array(line.split(), dtype=np.int64)
    except ValueError:
        codes = np.array([-1])
    if len(codes) and not 0 <= codes.min() <= codes.max() < 2**15:
        raise DataError(
            f"{line[:60]!r}",
            path=file,
            line=number,
            expected="codes from 0 on, with spaces between",
        )
    return codes.astype(np.int16)


def expected_frames(samples: int, rate: int, label_rate: float) -> int:
    """Codes that a recording should have."""
    return round(samples * label_rate / rate)


def cut_codes(
    codes: Int16[np.ndarray, "time codebooks"], start: int, frames: int
) -> Int16[np.ndarray, "frames codebooks"]:
    """Codes of a crop; -1 where there are none."""
    part = codes[start : start + frames]
    return np.pad(part, ((0, frames - len(part)), (0, 0)), constant_values=-1)


def same_codebooks(codes: Sequence[Int16[np.ndarray, "time codebooks"]], place: str) -> None:
    """Refuses recordings with other numbers of codebooks than the first.

    Raises:
        DataError: there are such.
    """
    found = sorted({of.shape[1] for of in codes})
    if len(found) > 1:
        raise DataError(f"{' and '.join(map(str, found))} codebooks", path=place)
