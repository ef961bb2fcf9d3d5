"""Which recordings there are, as files of the field say: one `Entry` a recording.

`fairseq`: train.tsv, valid.tsv, test.tsv; the first line is a folder, the others are
`path<TAB>samples`. `jsonl`: train.jsonl and so on, or one file whose lines have `split`; a line
has `audio_path`, may have `sample_rate` and `num_samples`, and every other key is a label, as in
MARBLE. `maestro`: a .csv with `audio_filename`, `split` and `canonical_composer`. `shards`: tar
files of KEY.wav (.flac, .ogg, .mp3) with KEY.json or KEY.cls. `fsdd`: DIGIT_SPEAKER_TAKE.wav.
`folder`: audio anywhere below; folders train, valid and test are splits, the folder of a file is
its `label`.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audio_music.data.audio_files import SUFFIXES, Source, sound_files_below
from audio_music.data.code_files import read_codes
from audio_music.data.patterns import compiled
from core.data.checks import DataError
from core.data.tar_members import tar_members

FORMATS = ("fairseq", "jsonl", "maestro", "shards", "fsdd", "folder")
_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid"} | {
    "dev": "valid",
    "test": "test",
}
_FSDD = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)")
# Keys of a JSON line that are no labels: what is said of the file.
_OF_THE_FILE = {"audio_path", "sample_rate", "num_samples", "split", "id", "ori_uid"} | {
    "duration",
    "channels",
    "bit_depth",
    "bits_per_sample",
    "encoding",
}
_GROUPS = ("group", "artist", "speaker", "album")


@dataclass(frozen=True)
class Entry:
    """A recording as a manifest names it.

    Attributes:
        name: unique.
        source: its bytes.
        place: file, or file and line, that names it.
        said: `rate` and `frames`, where the manifest says them.
        split: train, valid or test, where said.
        group: of recordings that must not be in two splits: artist, speaker, piece.
        labels: name -> what is said; None where nothing is.
        codes: (time, codebooks) of an acoustic teacher, where they were computed before.
    """

    name: str
    source: Source
    place: str
    said: dict[str, int] = field(default_factory=dict)
    split: str | None = None
    group: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    codes: np.ndarray | None = None


def find_entries(
    path: str | Path, format: str = "auto", pattern: str | None = None, codes: str | None = None
) -> list[Entry]:
    """All recordings of a folder or of a manifest, in the order of the files.

    Args:
        path: the folder, or a .tsv, .jsonl or .csv file.
        format: one of `FORMATS`, or `auto`, which goes by what lies there.
        pattern: regular expression for the names of files without suffix; its named groups are
            labels, and one called `group` is the group.
        codes: name of code files beside fairseq's manifests, see `audio_music.data.code_files`.

    Raises:
        DataError: nothing is there, a manifest cannot be read, or two recordings have one name.
    """
    root = Path(path)
    if not root.exists():
        raise DataError("no such file or folder", path=root, expected=", ".join(FORMATS))
    if format == "auto":
        format = _format_of(root)
    if format not in FORMATS:
        raise DataError(f"data.format={format}", expected=f"auto, {', '.join(FORMATS)}")
    if codes is not None and format != "fairseq":
        raise DataError(f"data.codes={codes} beside {format}", expected="manifests of fairseq")
    find = {"jsonl": _jsonl, "maestro": _maestro, "shards": _shards}
    if format == "fairseq":
        entries = list(_fairseq(root, codes))
    elif format in find:
        entries = list(find[format](root))
    else:
        entries = list(_in_folder(root, format, pattern))
    if not entries:
        raise DataError("names no recording", path=root, expected=", ".join(SUFFIXES))
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise DataError(f"{entry.name} stands at several places", path=entry.place)
        seen.add(entry.name)
    return entries


def _format_of(root: Path) -> str:
    if root.is_file():
        kinds = {".tsv": "fairseq", ".jsonl": "jsonl", ".csv": "maestro", ".tar": "shards"}
        if root.suffix not in kinds:
            raise DataError("no manifest", path=root, expected=", ".join(kinds))
        return kinds[root.suffix]
    for pattern, format in (("*.jsonl", "jsonl"), ("*.tsv", "fairseq"), ("*.tar", "shards")):
        if any(root.glob(pattern)):
            return format
    if any("audio_filename" in _first_line(file) for file in root.glob("*.csv")):
        return "maestro"
    names = [file.stem for file in root.iterdir() if file.suffix == ".wav"]
    return "fsdd" if names and all(_FSDD.fullmatch(name) for name in names) else "folder"


def _first_line(file: Path) -> str:
    with file.open(errors="replace") as lines:
        return lines.readline()


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")  # a mark of the byte order is no part of the first name
    except UnicodeDecodeError as error:
        raise DataError(
            f"cannot be read as text (byte {error.start})",
            path=file,
            expected="UTF-8",
            fix="save it as UTF-8",
        ) from None


def _files(root: Path, suffix: str) -> list[Path]:
    return [root] if root.is_file() else sorted(root.glob(f"*{suffix}"))


def _split_of(file: Path) -> str | None:
    """`train.tsv` and `GTZAN.train.jsonl` say it."""
    parts = re.split(r"[^a-z]+", file.name.removesuffix(file.suffix).lower())
    return next((_SPLITS[part] for part in parts if part in _SPLITS), None)


def _fairseq(root: Path, codes: str | None) -> Iterator[Entry]:
    for file in _files(root, ".tsv"):
        lines = _text(file).splitlines()
        coded = None if codes is None else read_codes(file, codes, len(lines) - 1)
        folder = Path(lines[0].strip()) if lines else Path()
        if not lines or "\t" in lines[0]:
            raise DataError("no folder", path=file, line=1, expected="the folder of all paths")
        folder = folder if folder.is_absolute() else file.parent / folder
        for number, line in enumerate(lines[1:], start=2):
            name, _, samples = line.partition("\t")
            if not samples.strip().isdecimal():
                raise DataError(
                    f"{line[:80]!r}", path=file, line=number, expected="path<TAB>samples"
                )
            said = {"frames": int(samples)}
            source = Source(folder / name)
            place, split = f"{file}:{number}", _split_of(file)
            own = None if coded is None else coded[number - 2]
            yield Entry(name, source, place, said, split, codes=own)


def _jsonl(root: Path) -> Iterator[Entry]:
    for file in _files(root, ".jsonl"):
        for number, line in enumerate(_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
                audio = content["audio_path"]
                path = file.parent / audio
            except (json.JSONDecodeError, KeyError, TypeError):
                raise DataError(
                    f"{line[:80]!r}",
                    path=file,
                    line=number,
                    expected='{"audio_path": FILE, ...} on each line',
                ) from None
            # Paths are from the manifest's folder, or, as MARBLE writes them, from where it runs.
            if not path.exists() and Path(audio).exists():
                path = Path(audio)
            yield _of_json(content, audio, Source(path), f"{file}:{number}", _split_of(file))


def _of_json(
    content: dict[str, Any], name: str, source: Source, place: str, split: str | None
) -> Entry:
    # NaN is what tables write where nothing is known.
    content = {key: value for key, value in content.items() if value == value}
    said = {
        ours: int(content[key])
        for ours, key in (("rate", "sample_rate"), ("frames", "num_samples"))
        if isinstance(content.get(key), int | float)
    }
    own = content.get("split")
    if own is not None and own not in _SPLITS:
        raise DataError(f"split {own!r}", path=place, expected=", ".join(_SPLITS))
    group = _group_of(content)
    labels = {k: v for k, v in content.items() if k not in _OF_THE_FILE and k != "group"}
    return Entry(name, source, place, said, _SPLITS[own] if own else split, group, labels)


def _group_of(labels: dict[str, Any]) -> str | None:
    known = (labels.get(key) for key in _GROUPS)
    return next((str(value) for value in known if value not in (None, "")), None)


def _maestro(root: Path) -> Iterator[Entry]:
    for file in _files(root, ".csv"):
        reader = csv.DictReader(io.StringIO(_text(file), newline=""))
        missing = {"audio_filename", "split"} - set(reader.fieldnames or ())
        if missing:
            raise DataError(
                f"no column {', '.join(sorted(missing))}",
                path=file,
                expected="audio_filename, split, and canonical_composer, canonical_title",
            )
        for number, row in enumerate(reader, start=2):
            name, split = row["audio_filename"], row["split"]
            if split not in _SPLITS:
                raise DataError(f"split {split!r}", path=file, line=number, expected="a split")
            labels = {"composer": row.get("canonical_composer") or None}
            source = Source(file.parent / name)
            place = f"{file}:{number}"
            group = row.get("canonical_title") or None
            yield Entry(name, source, place, {}, _SPLITS[split], group, labels)


def _shards(root: Path) -> Iterator[Entry]:
    for shard in _files(root, ".tar"):
        sound: dict[str, Source] = {}
        about: dict[str, dict[str, Any]] = {}
        for member in tar_members(shard):
            folder, slash, file = member.name.removeprefix("./").rpartition("/")
            stem, _, suffix = file.partition(".")
            key, suffix = f"{folder}{slash}{stem}", suffix.lower()
            if f".{suffix}" in SUFFIXES:
                sound[key] = Source(shard, member.offset, member.size, member.name)
            elif suffix in ("json", "cls"):
                text = _content(shard, member.offset, member.size)
                about[key] = _about(text, suffix, f"{shard}: {member.name}")
        for key, source in sound.items():
            yield _of_json(about.get(key, {}), key, source, source.place, _split_of(shard))


def _content(shard: Path, offset: int, size: int) -> str:
    with shard.open("rb") as file:
        file.seek(offset)
        return file.read(size).decode(errors="replace")


def _about(text: str, suffix: str, place: str) -> dict[str, Any]:
    if suffix == "cls":
        return {"label": text.strip()}
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise DataError("no JSON object", path=place, expected='{"label": ..., ...}')
    return content


def _in_folder(root: Path, format: str, pattern: str | None) -> Iterator[Entry]:
    rule = _FSDD if format == "fsdd" else compiled("data.pattern", pattern) if pattern else None
    for file in sound_files_below(root):
        name = str(file.relative_to(root))
        first, *rest = file.relative_to(root).parts
        split = _SPLITS.get(first.lower()) if rest else None
        found = rule.fullmatch(file.stem) if rule else None
        if rule and not found:
            raise DataError(
                f"{file.stem} is not as the pattern says", path=file, expected=rule.pattern
            )
        labels: dict[str, Any] = found.groupdict() if found else {}
        group = None if format == "fsdd" else _group_of(labels)
        labels.pop("group", None)
        if format == "fsdd":
            take = int(labels.pop("take"))
            # The official split, and a part of its training takes to choose by.
            split = "test" if take < 5 else "valid" if take < 10 else "train"
        else:
            folder = file.parent.name
            if file.parent != root and folder.lower() not in _SPLITS:
                labels = {"label": folder} | labels
        yield Entry(name, Source(file), str(file), {}, split, group, labels)
