"""Prepared pieces of MSMD: a score unrolled into one system, and performances aligned with it.

`<piece>.npz` holds `unrolled_score` (height, width), 0 to 255, and `performances`, a list of
dictionaries: `perf`, a name; `spec` (92, frames), log-filterbank magnitudes at 20 frames a second;
`o2c` (n, 2), the frame of each onset and the pixel column of its notehead.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from audio_music.data.log_filterbank import BANDS, FPS
from core.data.array_pickle import load_arrays
from core.data.checks import DataError
from core.data.findings import Findings

_EXPECTED = "an .npz of MSMD with `unrolled_score` and `performances`"


@dataclass(frozen=True)
class Performance:
    """One rendering of a piece.

    Attributes:
        name: says tempo and sound.
        spectrogram: log10(1 + band), `FPS` frames a second.
        onsets: frame of every onset and the column of its notehead; ordered by frame.
    """

    name: str
    spectrogram: Float32[np.ndarray, "bands frames"]
    onsets: Int64[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Piece:
    """A score and its performances.

    Attributes:
        name: of the file.
        score: one endless system, black on white.
        performances: at least one.
    """

    name: str
    score: UInt8[np.ndarray, "height width"]
    performances: list[Performance]


def write_piece(folder: Path, piece: Piece) -> None:
    """Writes `<piece>.npz` as MSMD's preparation does."""
    performances = np.empty(len(piece.performances), dtype=object)
    for number, one in enumerate(piece.performances):
        performances[number] = {"perf": one.name, "spec": one.spectrogram, "o2c": one.onsets}
    np.savez_compressed(
        folder / f"{piece.name}.npz", unrolled_score=piece.score, performances=performances
    )


def read_piece(file: Path, findings: Findings | None = None) -> Piece:
    """Reads one piece; the performances of the authors are pickled, and no code in them is run.

    Args:
        file: the .npz.
        findings: collects problems of single performances where it is not strict.

    Raises:
        DataError: the file cannot be read, holds something else, or none of its performances can be
            used: the spectrogram has another number of bands, NaN, or is silent; an onset lies
            outside of the recording or the page.
    """
    findings = findings or Findings()
    content = _arrays(file)
    if {"unrolled_score", "performances"} - set(content):
        raise DataError(f"holds {', '.join(content) or 'nothing'}", path=file, expected=_EXPECTED)
    score = _score(file, content["unrolled_score"])
    said = content["performances"]
    listed = list(said.flat) if isinstance(said, np.ndarray) else said
    performances, problems = [], []
    for number, one in enumerate(listed if isinstance(listed, Sequence) else ()):
        try:
            performances.append(_performance(file, number, one, score.shape[1]))
        except DataError as error:
            problems.append(error)
    if not performances:
        nothing = DataError("holds no performance", path=file, expected=_EXPECTED)
        raise problems[0] if problems else nothing
    for problem in problems:
        findings.problem(problem)
    return Piece(file.stem, score, performances)


def _arrays(file: Path) -> dict[str, Any]:
    """The members of an .npz; those of objects are pickles."""
    try:
        found = {}
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    found[name.removesuffix(".npy")] = _array(member)
        return found
    except FileNotFoundError:
        raise DataError("no such file", path=file, expected="a piece of the split") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cannot be read ({reason[:200]})",
            path=file,
            expected="an .npz of numbers, text, lists, dictionaries and numpy arrays alone",
        ) from error


def _array(member: Any) -> Any:  # noqa: ANN401 - a file of a zip, and whatever it holds
    version = np.lib.format.read_magic(member)
    headers = {(1, 0): np.lib.format.read_array_header_1_0}
    read_header = headers.get(version, np.lib.format.read_array_header_2_0)
    shape, is_fortran, dtype = read_header(member)
    if dtype.hasobject:
        return load_arrays(member)
    values = np.frombuffer(member.read(), dtype=dtype)
    return values.reshape(shape[::-1]).T if is_fortran else values.reshape(shape)


def _score(file: Path, score: object) -> UInt8[np.ndarray, "height width"]:
    if not isinstance(score, np.ndarray) or score.ndim != 2 or score.dtype.kind not in "uif":
        raise DataError("unrolled_score is no grey image", path=file, expected="(height, width)")
    low, high = float(score.min(initial=0)), float(score.max(initial=0))
    if not (low >= 0 and 1 < high <= 255):
        raise DataError(
            f"unrolled_score lies in {low:g} to {high:g}", path=file, expected="grey of 0 to 255"
        )
    return score.astype(np.uint8)


def _performance(file: Path, number: int, one: object, width: int) -> Performance:
    if not isinstance(one, dict) or {"spec", "o2c"} - set(one):
        raise DataError(f"performance {number} lacks `spec` or `o2c`", path=file)
    name = str(one.get("perf", number))
    spectrogram, onsets = np.asarray(one["spec"]), np.asarray(one["o2c"])
    where = f"performance {name}"
    if spectrogram.ndim != 2 or spectrogram.dtype.kind not in "uif":
        raise DataError(
            f"{where}: spec is no spectrogram", path=file, expected=f"({BANDS}, frames)"
        )
    if len(spectrogram) != BANDS:
        raise DataError(
            f"{where}: {len(spectrogram)} bands",
            path=file,
            expected=f"{BANDS}: 16 an octave from 30 to 6000 Hz at 22,050 Hz, frames of 2048",
        )
    if not np.isfinite(spectrogram).all():
        raise DataError(f"{where}: spec holds NaN or infinity", path=file)
    if spectrogram.max(initial=0) <= 0:
        raise DataError(f"{where}: silence", path=file, expected="sound", fix="render it again")
    if onsets.ndim != 2 or onsets.shape[1] != 2 or onsets.dtype.kind not in "uif":
        raise DataError(f"{where}: o2c of shape {list(onsets.shape)}", path=file, expected="(n, 2)")
    if len(onsets) == 0:
        raise DataError(f"{where}: o2c is empty", path=file)
    onsets = onsets.astype(np.int64)
    _inside(file, where, "onset", onsets[:, 0], spectrogram.shape[1], "frames of the recording")
    _inside(file, where, "notehead", onsets[:, 1], width, "columns of the score")
    return Performance(
        name, spectrogram.astype(np.float32), onsets[onsets[:, 0].argsort(kind="stable")]
    )


def _inside(file: Path, where: str, what: str, values: np.ndarray, size: int, unit: str) -> None:
    outside = values[(values < 0) | (values >= size)]
    if len(outside):
        seconds = f" ({outside[0] / FPS:.2f} s)" if what == "onset" else ""
        raise DataError(
            f"{where}: {what} {outside[0]}{seconds} lies outside of the {size} {unit}",
            path=file,
            expected=f"0 to {size - 1}",
            fix="align the performance with this score again",
        )


def read_splits(folder: Path, file: str | None = None) -> tuple[Path, dict[str, list[str]]]:
    """The file that says which pieces train, validate and test, and what it says.

    Args:
        folder: of the pieces.
        file: a YAML file with lists of names; None takes the one `*split*.yaml` of the folder.

    Raises:
        DataError: there is no such file, several, or it has no such lists.
    """
    import yaml

    found = [folder / file] if file else sorted(folder.glob("*split*.y*ml"))
    if len(found) != 1 or not found[0].is_file():
        raise DataError(
            f"{len(found)} files that name the splits",
            path=folder,
            expected="one `*split*.yaml` with lists of pieces: train, valid, test",
            fix="copy MSMD's all_split.yaml there, or name one by data.split=FILE",
        )
    try:
        said = yaml.safe_load(found[0].read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"no YAML: {str(error).splitlines()[0]}", path=found[0]) from error
    named = said if isinstance(said, dict) else {}
    if not all(isinstance(named.get(split), list) for split in ("train", "test")):
        raise DataError("lacks train or test", path=found[0], expected="lists of names")
    splits = {s: [str(name) for name in named.get(s) or []] for s in ("train", "valid", "test")}
    return found[0], splits
