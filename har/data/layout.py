"""A team's own recordings: one file each, beside a table of subjects and a declaration."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from core.data.checks import DataError
from core.data.findings import Findings, few
from har.data.clocks import stream_of_times
from har.data.declaration import EXAMPLE, Declaration, read_declaration
from har.data.recordings import IMU, SKELETON, Recording, Recordings, Stream
from har.data.splits import in_order

STREAMS, SUBJECTS, FOLDER = "streams.yaml", "subjects.csv", "recordings"
_SPLITS = ("train", "valid", "test")
_FILE = "recordings/NAME.npz or recordings/NAME.parquet"

Rows = dict[str, dict[str, str]]


def read_layout(
    path: str | Path,
    modalities: Sequence[str] = (SKELETON, IMU),
    findings: Findings | None = None,
) -> Recordings:
    """Reads recordings that a team laid out itself.

    ::

        streams.yaml                what the values are
        subjects.csv                recording,subject,label[,split]
        recordings/walk_01.npz      or .parquet; one a recording, of any length
        recordings/...

    `streams.yaml` declares joints, channels, units and rates; values become metres, g and deg/s::

        skeleton:
          rate: 30                      # frames a second
          unit: m                       # m, cm or mm
          joints: [hip, spine, head, left_hand, right_hand]
          edges: [[hip, spine], [spine, head], [spine, left_hand], [spine, right_hand]]
          root: hip                     # becomes the origin
          bone: [hip, spine]            # becomes the unit of length
        imu:
          time: time                    # a column of seconds; or rate: 100
          channels: {acc_x: m/s2, acc_y: m/s2, acc_z: m/s2,
                     gyro_x: rad/s, gyro_y: rad/s, gyro_z: rad/s}
        activities: [walk, sit]         # their order; left out: by name

    Acceleration includes gravity. In a .npz, `skeleton` is (time, joints, 3) and `imu` (time,
    channels); `skeleton_start` and `imu_start` are the seconds of the first sample, 0 where absent;
    an array of times has the declared name. In a .parquet, `head_x`, `head_y`, `head_z` are
    columns, and so are the channels and times. Where a sensor has a column of times, a row in which
    all its columns are empty is none of its samples, so that both sensors may be rows of one log,
    and the times are checked for gaps and jitter. Without, every row up to its last is a sample.
    Columns that are not declared are not read.

    `label` names the activity and is empty where it is unknown; `split` is train, valid or test.

    Args:
        path: the folder.
        modalities: what to read.
        findings: collects problems where it is not strict.

    Raises:
        DataError: the declaration, the table or a recording cannot be used.
    """
    path, findings = Path(path), findings or Findings()
    declared = read_declaration(path / STREAMS)
    missing = [name for name in modalities if name not in declared.clocks]
    if missing:
        raise DataError(f"declares no {missing[0]}", path=path / STREAMS, expected=EXAMPLE)
    rows = _subjects(path / SUBJECTS, findings)
    files: dict[str, Path] = {}
    for file in sorted((path / FOLDER).glob("*")):
        if file.suffix in (".npz", ".parquet") and files.setdefault(file.stem, file) != file:
            findings.problem(DataError(f"{files[file.stem].name} is there as well", path=file))
    for name in sorted(set(rows) - set(files)):
        findings.problem(DataError(f"{name} has no file", path=path / SUBJECTS, expected=_FILE))
    unlisted = sorted(set(files) - set(rows))
    if unlisted:
        findings.warn(f"{path / SUBJECTS} has no row for {few(unlisted)}: left out")
    classes = _activities(declared, rows, path, findings)
    recordings = []
    for name in sorted(set(rows) & set(files), key=in_order):
        with findings.going_on():
            streams = _read(files[name], declared, modalities, findings)
            recordings.append(_recording(name, rows[name], classes, streams))
    if not recordings:
        raise DataError("no recording can be read", path=path, expected=_FILE)
    return _recordings(recordings, classes, declared)


def read_layout_file(file: str | Path, modalities: Sequence[str] = (SKELETON, IMU)) -> Recordings:
    """Reads one recording; `subjects.csv` need not know it.

    Args:
        file: a .npz or .parquet file, in the folder of a `streams.yaml` or in one below.
        modalities: what to read.

    Raises:
        DataError: no declaration is found, or the recording cannot be used.
    """
    file, findings = Path(file), Findings()
    folders = (file.parent, file.parent.parent)
    home = next((folder for folder in folders if (folder / STREAMS).is_file()), None)
    if home is None:
        raise DataError(
            f"no {STREAMS} says what is in it", path=file, expected=f"it in {file.parent}"
        )
    declared = read_declaration(home / STREAMS)
    rows = _subjects(home / SUBJECTS, findings) if (home / SUBJECTS).is_file() else {}
    classes = _activities(declared, rows, home, findings)
    row = rows.get(file.stem, {"subject": "", "label": "", "split": ""})
    streams = _read(file, declared, modalities, findings)
    return _recordings([_recording(file.stem, row, classes, streams)], classes, declared)


def _recordings(
    recordings: list[Recording], classes: list[str], declared: Declaration
) -> Recordings:
    return Recordings(
        recordings,
        classes,
        declared.joints,
        declared.edges,
        declared.channels,
        declared.root,
        declared.bone,
    )


def _recording(
    name: str, row: dict[str, str], classes: list[str], streams: dict[str, Stream]
) -> Recording:
    label = classes.index(row["label"]) if row["label"] else -1
    return Recording(name, row["subject"], label, streams, row["split"] or None)


def _subjects(file: Path, findings: Findings) -> Rows:
    expected = "columns recording, subject, label and, where wanted, split"
    try:
        table = pl.read_csv(file, infer_schema=False)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot be read ({reason[:200]})", path=file, expected=expected) from error
    missing = [name for name in ("recording", "subject", "label") if name not in table.columns]
    if missing:
        raise DataError(f"no column {missing[0]}", path=file, expected=expected)
    rows: Rows = {}
    for line, row in enumerate(table.iter_rows(named=True), 2):
        name = (row["recording"] or "").strip()
        said = {k: (row.get(k) or "").strip() for k in ("subject", "label", "split")}
        if name in rows:
            findings.problem(DataError(f"{name} a second time", path=file, line=line))
        elif not name or not said["subject"]:
            findings.problem(DataError("a row without recording or subject", path=file, line=line))
        elif said["split"] not in ("", *_SPLITS):
            findings.problem(
                DataError(
                    f"split {said['split']!r}", path=file, line=line, expected=", ".join(_SPLITS)
                )
            )
        else:
            rows[name] = said
    return rows


def _activities(declared: Declaration, rows: Rows, path: Path, findings: Findings) -> list[str]:
    used = sorted({row["label"] for row in rows.values()} - {""}, key=in_order)
    if declared.activities is None:
        return used
    unknown = [name for name in used if name not in declared.activities]
    for name in unknown:
        of = next(recording for recording, row in rows.items() if row["label"] == name)
        findings.problem(
            DataError(
                f"{of} is labelled {name!r}, no activity of {STREAMS}",
                path=path / SUBJECTS,
                expected=", ".join(declared.activities),
            )
        )
    return declared.activities + unknown


def _read(
    file: Path, declared: Declaration, modalities: Sequence[str], findings: Findings
) -> dict[str, Stream]:
    for name in modalities:
        if name not in declared.clocks:
            raise DataError(f"no {name} is declared", path=file, expected=EXAMPLE)
    arrays = _npz(file, declared) if file.suffix == ".npz" else _parquet(file, declared, modalities)
    streams = {}
    for name in modalities:
        clock, where = declared.clocks[name], f"{file}: {name}"
        if name not in arrays:
            raise DataError(f"no {name}", path=file, expected=", ".join(modalities))
        values = _converted(file, name, arrays[name], declared)
        if clock.time is not None:
            times = arrays.get(f"{name} times")
            if times is None:
                raise DataError(f"no {clock.time!r}, the times of {name}", path=file)
            streams[name] = stream_of_times(values, times, clock.rate, where, findings)
        elif clock.rate is not None:
            start = arrays.get(f"{name}_start", np.zeros(()))
            if start.size != 1 or start.dtype.kind not in "fiu" or not np.isfinite(start).all():
                raise DataError(f"{name}_start is {start!r}", path=file, expected="seconds")
            streams[name] = Stream(values, clock.rate, float(start.item()))
    return streams


def _converted(
    file: Path, name: str, values: np.ndarray, declared: Declaration
) -> Float[np.ndarray, "time ..."]:
    skeleton = name == SKELETON
    own = (len(declared.joints), 3) if skeleton else (len(declared.columns),)
    if values.shape[1:] != own or values.dtype.kind not in "fiu" or len(values) < 2:
        raise DataError(
            f"{name} is {values.dtype} of shape {list(values.shape)}",
            path=file,
            expected=f"numbers, [time, {', '.join(map(str, own))}]",
        )
    bad = ~np.isfinite(values.astype(np.float64))
    if bad.any():
        first = np.argwhere(bad)[0]
        of = (declared.joints if skeleton else declared.columns)[first[1]]
        raise DataError(
            f"{name} holds NaN or infinity at {int(bad.sum())} places, first in {of} at sample "
            f"{first[0]}",
            path=file,
        )
    factor = np.asarray(declared.metres if skeleton else declared.factors)
    converted: np.ndarray = (values * factor).astype(np.float32)
    return converted


def _npz(file: Path, declared: Declaration) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except Exception as error:
        raise _unreadable(file, error) from error
    for name, clock in declared.clocks.items():
        if clock.time in arrays:
            arrays[f"{name} times"] = arrays[clock.time]
    return arrays


def _parquet(file: Path, declared: Declaration, modalities: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        table = pl.read_parquet(file)
    except Exception as error:
        raise _unreadable(file, error) from error
    arrays = {}
    for name in modalities:
        columns = declared.columns
        if name == SKELETON:
            columns = [f"{joint}_{axis}" for joint in declared.joints for axis in "xyz"]
        time = declared.clocks[name].time
        missing = [c for c in [*columns, *([time] if time else [])] if c not in table.columns]
        if missing:
            raise DataError(
                f"no column {few(missing)}", path=file, expected=f"the columns of {STREAMS}"
            )
        nested = [c for c in [*columns, *([time] if time else [])] if table[c].dtype.is_nested()]
        if nested:
            raise DataError(f"{few(nested)} holds lists", path=file, expected="a number a row")
        there = table.select(pl.any_horizontal(pl.col(columns).is_not_null())).to_series()
        own = table.filter(there)
        lost = 0 if time else int((~there[: (there.arg_true().max() or 0)]).sum())
        if lost:
            raise DataError(
                f"{name} is empty in {lost} rows before its last, and nothing says when the others "
                "were taken",
                path=file,
                expected=f"a sample in every row, or {name}.time in {STREAMS}, a column of seconds",
            )
        values = own.select(columns).cast(pl.Float64, strict=False).to_numpy()
        in_space = (len(own), len(columns) // 3, 3)
        arrays[name] = values.reshape(in_space) if name == SKELETON else values
        if time:
            times = own[time].cast(pl.Float64, strict=False)
            arrays[f"{name} times"] = times.to_numpy()
    return arrays


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"cannot be read ({reason[:200]})", path=file, expected=_FILE)
