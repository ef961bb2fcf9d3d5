"""Looks through recordings and lists everything that is wrong with them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from core.data.checks import CheckReport, DataError
from core.data.findings import Findings, few
from core.data.samples import SPLITS
from har.data.agreement import Agreement
from har.data.cut import Cut
from har.data.layout import SUBJECTS
from har.data.readers import read_recordings
from har.data.recordings import IMU, SKELETON, Recording, Recordings
from har.data.splits import Names, split_recordings, subjects_in_several
from har.data.units import check_units
from har.data.windows import Windows, windows_of, without_labels

_ODD = 1.1  # one stream against another, or one recording's rate against the others'
_WRONG = 1.8


def check_windows(
    path: str | Path,
    format: str = "auto",
    modalities: Sequence[str] = (SKELETON, IMU),
    split: str = "odd_even",
    train_subjects: Names | None = None,
    valid_subjects: Names | None = None,
    test_subjects: Names | None = None,
    fold: int = 0,
    n_test: int = 1,
    length: int = 50,
    seconds: float | None = None,
    overlap: float = 0.5,
    rate: float = 50.0,
    standardize: bool = False,
    unlabelled_subjects: Sequence[str | int] = (),
    device: str | torch.device | None = None,
    like: str | Path | None = None,
) -> CheckReport:
    """Reads what `load_windows` reads, with the same arguments, and writes nothing.

    Recordings at fault are set aside and reading goes on, so that one call shows all problems; the
    facts are those of the usable part. Beyond what `load_windows` refuses, problems are sensors
    that never change, recordings with the same values, subjects whom a team's table puts into two
    splits, activities that are tested and never trained, streams of one recording that last very
    differently, and values that cannot be of the declared unit.
    """
    findings = Findings(strict=False)
    facts: dict[str, str | int | float] = {}
    data = None
    with findings.going_on():
        data = read_recordings(path, format, modalities, findings)
    run = None
    with findings.going_on():
        run = None if like is None else Agreement.read(Path(like))
        if run is not None and data is not None:
            data = run.relabelled(run.arranged(data, path))
    if data is not None:
        facts |= _facts(data, modalities)
        folder = Path(path)
        _dead_sensors(folder, data, findings)
        _duplicates(folder, data, findings)
        _durations(folder, data, findings)
        check_units(folder, data, findings)
        splits: list[str] = []
        given = (train_subjects, valid_subjects, test_subjects)
        with findings.going_on():
            splits = split_recordings(data, split, *given, fold, n_test)
            if run is not None:
                run.refuse_trained(data, splits, path)
            _shared_subjects(folder, data, splits, findings)
            _activities(folder, data, splits, findings)
        with findings.going_on():
            cut = Cut(tuple(modalities), length, seconds, overlap, rate)
            # Those that cannot be split are cut all the same.
            where = splits or ["train"] * len(data.recordings)
            windows = windows_of(data, where, cut, standardize, device, findings)
            if splits:
                facts |= _facts_of_windows(windows, findings)
            without_labels(windows, unlabelled_subjects)
    return CheckReport(facts, findings.problems, findings.warnings)


def file_of(path: Path, recording: Recording, modality: str) -> Path:
    """The file that a recording's stream is read from, or the data set where it has none."""
    name = recording.name
    places = {
        SKELETON: path / "Skeleton" / f"{name}_skeleton.mat",
        IMU: path / "Inertial" / f"{name}_inertial.mat",
    }
    own = (path / "recordings" / f"{name}{suffix}" for suffix in (".npz", ".parquet"))
    return next((file for file in (places[modality], *own) if file.is_file()), path)


def _facts(data: Recordings, modalities: Sequence[str]) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {
        "recordings": len(data.recordings),
        "subjects": len({recording.subject for recording in data.recordings}),
        "activities": len({recording.label for recording in data.recordings} - {-1}),
        "recordings without label": sum(recording.label < 0 for recording in data.recordings),
    }
    for name in modalities:
        streams = [recording.streams[name] for recording in data.recordings]
        seconds = sorted(stream.seconds for stream in streams)
        rates = np.median([stream.rate for stream in streams])
        facts[name] = (
            f"{list(streams[0].values.shape[1:])} at {rates:.4g} Hz, {seconds[0]:.2f} to "
            f"{seconds[-1]:.2f} s"
        )
    return facts


def _facts_of_windows(windows: Windows, findings: Findings) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {}
    for split in SPLITS:
        rows = windows.splits[split]
        subjects = windows.labels["subject"][rows].unique().tolist()
        names = few([windows.classes["subject"][number] for number in subjects])
        facts[f"{split} windows"] = f"{len(rows)} of subjects {names}" if len(rows) else 0
        if not len(rows):
            findings.warn(f"the {split} split is empty")
    n_padded = int((windows.lengths < windows.steps).sum())
    return facts | {"window": f"{windows.steps} steps", "padded windows": n_padded}


def _dead_sensors(path: Path, data: Recordings, findings: Findings) -> None:
    for recording in data.recordings:
        for name, stream in recording.streams.items():
            still = np.ptp(stream.values, axis=0) == 0
            if name == SKELETON:
                still, names = still.all(1), data.joints  # a coordinate may well be constant
                # Skeletons may be centred on their root already.
                still[data.root] &= bool(stream.values[0, data.root].any())
            else:
                names = data.channels
            dead = [names[number] for number in np.flatnonzero(still)]
            if dead and len(stream.values) > 2:
                problem = DataError(
                    f"{few(dead)} of {name} never changes in {len(stream.values)} samples",
                    path=file_of(path, recording, name),
                    expected="a sensor that is alive",
                    fix="leave the recording out, or the channel",
                )
                findings.problem(problem)


def _duplicates(path: Path, data: Recordings, findings: Findings) -> None:
    of: dict[tuple[str, bytes], Recording] = {}
    for recording in data.recordings:
        for name, stream in recording.streams.items():
            key = (name, sha256(stream.values.tobytes()).digest())
            first = of.setdefault(key, recording)
            if first is not recording:
                problem = DataError(
                    f"the same {name} values as {first.name}",
                    path=file_of(path, recording, name),
                    fix="keep one of the two",
                )
                findings.problem(problem)


def _durations(path: Path, data: Recordings, findings: Findings) -> None:
    odd: dict[str, list[str]] = defaultdict(list)
    usual = {
        name: float(np.median([recording.streams[name].rate for recording in data.recordings]))
        for name in data.recordings[0].streams
    }
    for recording in data.recordings:
        seconds = {name: stream.seconds for name, stream in recording.streams.items()}
        if len(seconds) == 2:
            said = f"skeleton lasts {seconds[SKELETON]:.2f} s, imu {seconds[IMU]:.2f} s"
            factor = _factor(seconds[SKELETON], seconds[IMU])
            what = "streams whose durations differ by more than 10 %"
            _remark(path, recording, SKELETON, said, what, factor, odd, findings)
        for name, stream in recording.streams.items():
            said = f"{name} has {stream.rate:.4g} samples a second, most have {usual[name]:.4g}"
            what = f"{name} at a rate more than 10 % off the usual {usual[name]:.4g} Hz"
            factor = _factor(stream.rate, usual[name])
            _remark(path, recording, name, said, what, factor, odd, findings)
    for what, names in odd.items():
        findings.warn(f"{path}: {len(names)} of {len(data.recordings)} with {what}: {few(names)}")


def _factor(a: float, b: float) -> float:
    return max(a, b) / max(min(a, b), 1e-9)


def _remark(
    path: Path,
    recording: Recording,
    modality: str,
    said: str,
    what: str,
    factor: float,
    odd: dict[str, list[str]],
    findings: Findings,
) -> None:
    if factor > _WRONG:
        problem = DataError(
            said,
            path=file_of(path, recording, modality),
            expected="both streams of a recording over the same time",
            fix="check the rates; leave the recording out where one stream broke off",
        )
        findings.problem(problem)
    elif factor > _ODD:
        odd[what].append(recording.name)


def _shared_subjects(
    path: Path, data: Recordings, splits: Sequence[str], findings: Findings
) -> None:
    table = path / SUBJECTS
    for subject, where in subjects_in_several(data, splits).items():
        if table.is_file():
            findings.problem(
                DataError(
                    f"subject {subject} is in {where}",
                    path=table,
                    expected="everybody in one split",
                    fix="move the subject's recordings, or data.split=odd_even or leave_out",
                )
            )
        else:
            # The benchmarks that skeleton pickles come from may split by camera.
            findings.warn(f"{path}: subject {subject} is in {where}, as the files say")


def _activities(path: Path, data: Recordings, splits: Sequence[str], findings: Findings) -> None:
    counts = {split: Counter[int]() for split in SPLITS}
    for recording, split in zip(data.recordings, splits, strict=True):
        if split:
            counts[split][recording.label] += 1
    absent: dict[str, list[str]] = {where: [] for where in ("the files", *SPLITS)}
    for label, name in enumerate(data.classes):
        own = [split for split in SPLITS if counts[split][label]]
        if not own:
            absent["the files"].append(name)
        elif "train" not in own:
            problem = DataError(
                f"{name} has no sample in train, {counts[own[0]][label]} in {own[0]}",
                path=path,
                fix="move a subject who did it into train, or leave the activity out",
            )
            findings.problem(problem)
        else:
            for split in SPLITS[1:]:
                if counts[split] and split not in own:
                    absent[split].append(name)
    for where, names in absent.items():
        if names:
            findings.warn(f"{path}: no sample of {few(names)} in {where}")
