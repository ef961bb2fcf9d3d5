"""What is wrong with recordings, file by file."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from audio_music.data.read_recordings import load_recordings
from audio_music.data.recordings import Clip, Recordings, Window
from core.data.checks import CheckReport, DataError
from core.data.findings import Findings, few
from core.data.samples import SPLITS

_LOUD = 0.999  # of full scale
_RUN = 3  # samples in a row at full scale are clipping, one may be a peak
_CLIPPED = 0.001  # share of such samples from which a file is unusable
_SILENT = 1e-4  # of full scale: -80 dB
_LATE = 0.05  # seconds that a time may lie beyond the end


class _Heard(NamedTuple):
    """What decoding a whole file found."""

    problem: DataError | None
    clipped: float
    peak: float
    digest: bytes


def check_recordings(
    path: str | Path,
    **settings: Any,  # noqa: ANN401 - those of `load_recordings`
) -> CheckReport:
    """Decodes every recording and looks at its samples, labels and splits.

    Args:
        path: folder or manifest.
        settings: of `audio_music.data.read_recordings.load_recordings`.
    """
    findings = Findings(strict=False)
    try:
        recordings = load_recordings(path, findings=findings, **settings | {"device": "cpu"})
    except DataError as error:
        return CheckReport({"recordings": 0}, [*findings.problems, error], findings.warnings)
    with ThreadPoolExecutor(max(recordings.workers, 1)) as pool:
        heard = list(pool.map(lambda row: _hear(recordings, row), range(len(recordings.clips))))
    _listen(recordings, heard, findings)
    _times(recordings, findings)
    _groups(recordings, findings)
    _rates(recordings, findings)
    return CheckReport(_facts(recordings), findings.problems, findings.warnings)


def _hear(recordings: Recordings, row: int) -> _Heard:
    clip = recordings.clips[row]
    place = clip.source.place
    try:
        wave = recordings.decode(Window(row, 0, clip.frames))
    except DataError as error:
        return _Heard(error, 0.0, 0.0, b"")
    scaled = wave.numpy() / 32768 if wave.dtype == torch.int16 else wave.numpy()
    broken = int((~np.isfinite(scaled)).sum())
    if broken:
        error = DataError(
            f"{broken} of {len(scaled)} samples are NaN or infinite",
            path=place,
            expected="numbers",
            fix="write the file again or leave it out",
        )
        return _Heard(error, 0.0, 0.0, b"")
    loud = np.abs(scaled) >= _LOUD
    runs = np.convolve(loud, np.ones(_RUN), "valid") >= _RUN
    clipped = float(runs.sum()) / len(scaled)
    peak = float(np.abs(scaled).max(initial=0))
    return _Heard(None, clipped, peak, sha256(wave.numpy().tobytes()).digest())


def _listen(recordings: Recordings, heard: Sequence[_Heard], findings: Findings) -> None:
    """Damage, clipping, silence, and the same sound twice."""
    first: dict[bytes, Clip] = {}
    split_of = {int(row): name for name in SPLITS for row in recordings.splits[name]}
    where: dict[bytes, int] = {}
    slightly: list[str] = []
    for row, (clip, found) in enumerate(zip(recordings.clips, heard, strict=True)):
        place = clip.source.place
        if found.problem is not None:
            findings.problem(found.problem)
            continue
        if found.peak < _SILENT:
            findings.problem(
                DataError(
                    f"silent: no sample is above {_SILENT:g} of full scale",
                    path=place,
                    fix="leave it out",
                )
            )
            continue
        if found.clipped > _CLIPPED:
            findings.problem(
                DataError(
                    f"clipped: {100 * found.clipped:.1f} % of its samples stay at full scale",
                    path=place,
                    expected="peaks below full scale",
                    fix="record or export it at a lower level",
                )
            )
        elif found.clipped:
            slightly.append(clip.name)
        if found.digest in first:
            other = first[found.digest]
            said = f"the same samples as {other.name}"
            own, its = split_of.get(row), split_of.get(where[found.digest])
            if own != its:
                findings.problem(
                    DataError(f"{said}, which is in {its}", path=place, fix="keep one of the two")
                )
            else:
                findings.warn(f"{place}: {said}")
        else:
            first[found.digest], where[found.digest] = clip, row
    if slightly:
        findings.warn(f"{len(slightly)} recordings clip for a moment: {few(slightly)}")


def _times(recordings: Recordings, findings: Findings) -> None:
    for name, label in recordings.labels.items():
        for clip, times in zip(recordings.clips, label.times, strict=False):
            if times is None or not len(times):
                continue
            end = clip.frames / clip.rate
            if times[0] < 0 or times[-1] > end + _LATE:
                findings.problem(
                    DataError(
                        f"{name} from {times[0]:.2f} to {times[-1]:.2f} s",
                        path=clip.source.place,
                        expected=f"times within the recording, 0 to {end:.2f} s",
                        fix="is it the label of another file, or of another tempo?",
                    )
                )


def _groups(recordings: Recordings, findings: Findings) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for name in SPLITS:
        for row in recordings.splits[name].tolist():
            splits[recordings.clips[row].group].add(name)
    crossing = [group for group, names in splits.items() if len(names) > 1]
    if crossing:
        findings.warn(f"{len(crossing)} groups are in several splits: {few(crossing)}")
    for name in SPLITS:
        if not len(recordings.splits[name]):
            findings.warn(f"the {name} split is empty")


def _rates(recordings: Recordings, findings: Findings) -> None:
    counts = Counter(clip.rate for clip in recordings.clips)
    if len(counts) > 1:
        said = ", ".join(f"{n} at {rate}" for rate, n in counts.most_common())
        findings.warn(f"recordings of several rates ({said} Hz); data.file_rate=N refuses others")
    low = [rate for rate in counts if rate < recordings.rate]
    if low:
        findings.warn(
            f"recordings at {', '.join(map(str, low))} Hz hold nothing above half of that; the "
            f"model hears {recordings.rate} Hz"
        )


def _facts(recordings: Recordings) -> dict[str, str | int | float]:
    seconds = [clip.frames / clip.rate for clip in recordings.clips]
    facts: dict[str, str | int | float] = {
        "recordings": len(seconds),
        "hours": sum(seconds) / 3600,
        "seconds of each": f"{min(seconds):.2f} to {max(seconds):.2f}",
        "rate": ", ".join(f"{rate} Hz" for rate in recordings.rates),
        "groups": len({clip.group for clip in recordings.clips}),
    }
    facts |= {f"{name} recordings": len(recordings.splits[name]) for name in SPLITS}
    for name, label in recordings.labels.items():
        known = int(label.known.sum())
        of = {"classes": f"{len(label.names)} classes", "tags": f"{len(label.names)} tags"}
        facts[name] = f"{of.get(label.kind, label.kind)}, known of {known}"
    return facts
