"""Pickles of skeletons as PYSKL has them, read without running what is in them."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from core.data.array_pickle import load_arrays
from core.data.checks import DataError
from core.data.findings import Findings, few
from har.data.recordings import IMU, SKELETON, Recording, Recordings, Stream

RATE = 30.0
NTU_JOINTS = (
    "hip_centre spine_mid neck head left_shoulder left_elbow left_wrist left_hand right_shoulder "
    "right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip "
    "right_knee right_ankle right_foot spine_shoulder left_hand_tip left_thumb right_hand_tip "
    "right_thumb"
)
NTU_EDGES = (
    "0-1 1-20 20-2 2-3 20-4 4-5 5-6 6-7 7-21 7-22 20-8 8-9 9-10 10-11 11-23 11-24 0-12 12-13 13-14 "
    "14-15 0-16 16-17 17-18 18-19"
)
COCO_JOINTS = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
    "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
    "right_ankle"
)
COCO_EDGES = "0-1 0-2 1-3 2-4 0-5 0-6 5-6 5-7 7-9 6-8 8-10 5-11 6-12 11-12 11-13 13-15 12-14 14-16"
# Number of joints -> names, bones, root, and the bone that is the unit of length.
_BODIES = {
    25: (NTU_JOINTS, NTU_EDGES, 1, (20, 1)),
    17: (COCO_JOINTS, COCO_EDGES, 11, (5, 11)),
}
_NTU_NAME = re.compile(r"S\d{3}C\d{3}(P\d{3})R\d{3}A\d{3}")
_SPLIT = re.compile(r"(?:(.*)_)?(train|valid|val|test)")
_EXPECTED = (
    "{split: {NAME_train: [...], NAME_val: [...]}, annotations: [{frame_dir, label, keypoint}]}"
)


def read_skeleton_pickle(
    path: str | Path,
    modalities: Sequence[str] = (SKELETON,),
    findings: Findings | None = None,
) -> Recordings:
    """Reads `{split, annotations}` with skeletons of 25 (NTU RGB+D) or 17 joints (COCO).

    An annotation holds `frame_dir`, a name; `label`, counted from 0, None or below where unknown;
    and `keypoint` (persons, time, joints, 3 or 2), of which the first person is read, from the
    first to the last frame in which it was tracked; frames between in which it was not, which are
    0, are interpolated linearly. Skeletons in the plane stay in pixels, which windows scale by a
    bone in any case, and get the third coordinate 0; columns and rows of an image are negated, so
    that +x is the right of a person who faces the camera and +y is up, as in space. The rate is
    taken for 30 Hz, which the file does not say. The subject is `subject` of the annotation, else
    the P of NTU's names, else `unknown`. Of several splits (`xsub_train`, `xview_train`) the first
    is taken; what is called `val` tests where nothing is called `test`, as is the habit with these
    files.

    Args:
        path: the .pkl file, or a folder with one.
        modalities: `("skeleton",)`; there is no IMU.
        findings: collects problems where it is not strict.

    Raises:
        DataError: the file would run code or is no such dictionary, or a skeleton has another
            number of joints, another shape, or NaN.
    """
    file, findings = _file(Path(path)), findings or Findings()
    if IMU in modalities:
        raise DataError("skeleton pickles hold no IMU", path=file, fix="data.modalities=[skeleton]")
    content = _unpickled(file)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError("no dictionary with annotations", path=file, expected=_EXPECTED)
    splits = _splits(file, content.get("split") or {}, findings)
    recordings: list[Recording] = []
    seen: set[str] = set()
    for number, annotation in enumerate(content["annotations"]):
        with findings.going_on():
            recording = _recording(file, number, annotation, splits)
            if recording.name in seen:
                raise DataError(f"{recording.name} a second time", path=file)
            n_joints = recording.streams[SKELETON].values.shape[1]
            if recordings and n_joints != recordings[0].streams[SKELETON].values.shape[1]:
                raise DataError(f"{recording.name} has {n_joints} joints, others not", path=file)
            seen.add(recording.name)
            recordings.append(recording)
    if not recordings:
        raise DataError("no skeleton can be read", path=file, expected=_EXPECTED)
    recordings.sort(key=lambda recording: recording.name)
    joints, edges, root, bone = _BODIES[recordings[0].streams[SKELETON].values.shape[1]]
    pairs = [(int(a), int(b)) for a, b in (edge.split("-") for edge in edges.split())]
    n_classes = max(0, *(recording.label + 1 for recording in recordings))
    classes = [f"A{number:03}" for number in range(1, n_classes + 1)]
    return Recordings(recordings, classes, joints.split(), pairs, root=root, bone=bone)


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted([*path.glob("*.pkl"), *path.glob("*.pickle")])
    if len(found) != 1:
        raise DataError(f"{len(found)} pickles", path=path, expected="one")
    return found[0]


def _unpickled(file: Path) -> object:
    try:
        with file.open("rb") as opened:
            return load_arrays(opened)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cannot be read ({reason[:200]})",
            path=file,
            expected="a pickle of numbers, text, lists, dictionaries and numpy arrays alone",
        ) from error


def _splits(file: Path, said: object, findings: Findings) -> dict[str, str]:
    """frame_dir -> train, valid or test."""
    if not isinstance(said, dict):
        raise DataError(f"split is of {type(said).__name__}", path=file, expected=_EXPECTED)
    parts = {key: match for key in said if (match := _SPLIT.fullmatch(str(key)))}
    families = list(dict.fromkeys(match[1] for match in parts.values()))
    if len(families) > 1:
        others = few([str(family) for family in families[1:]])
        findings.warn(f"{file}: the split {families[0]} is taken, not {others}")
    of: dict[str, str] = {}
    taken = {match[2]: said[key] for key, match in parts.items() if match[1] == families[0]}
    for name, members in taken.items():
        if not isinstance(members, list | tuple | set | np.ndarray):
            raise DataError(f"split {name} is {members!r}", path=file, expected=_EXPECTED)
        split = {"val": "valid"}.get(name, name)
        split = "test" if split == "valid" and "test" not in taken else split
        for member in members:
            if of.setdefault(str(member), split) != split:
                findings.problem(
                    DataError(f"{member} is in {of[str(member)]} and {split}", path=file)
                )
    return of


def _recording(file: Path, number: int, annotation: object, splits: dict[str, str]) -> Recording:
    if not isinstance(annotation, dict) or {"frame_dir", "keypoint"} - set(annotation):
        raise DataError(f"annotation {number} lacks its entries", path=file, expected=_EXPECTED)
    name = str(annotation["frame_dir"])
    ntu = _NTU_NAME.search(name)
    subject = annotation.get("subject", ntu[1] if ntu else "unknown")
    label = annotation.get("label", -1)
    label = -1 if label is None else label
    if not isinstance(label, int | np.integer):
        raise DataError(f"{name}: label {label!r}", path=file, expected="a number from 0")
    values = _tracked(file, name, annotation["keypoint"])
    streams = {SKELETON: Stream(values, RATE)}
    return Recording(name, str(subject), max(int(label), -1), streams, splits.get(name))


def _filled(
    person: Float[np.ndarray, "time joints d"], there: Int[np.ndarray, " tracked"]
) -> Float[np.ndarray, "some joints d"]:
    """From the first to the last of the tracked frames, those between them interpolated."""
    frames = np.arange(there[0], there[-1] + 1)
    if len(frames) == len(there):
        return person[frames]
    flat = person.reshape(len(person), -1).T
    filled = np.stack([np.interp(frames, there, places[there]) for places in flat], 1)
    return filled.reshape(len(frames), *person.shape[1:]).astype(np.float32)


def _tracked(file: Path, name: str, keypoint: object) -> Float[np.ndarray, "time joints 3"]:
    if not isinstance(keypoint, np.ndarray) or keypoint.dtype.kind not in "fiu":
        raise DataError(f"{name}: keypoint is no array of numbers", path=file, expected=_EXPECTED)
    shape = keypoint.shape
    if keypoint.ndim != 4 or not shape[0] or shape[2] not in _BODIES or shape[3] not in (2, 3):
        raise DataError(
            f"{name}: keypoint of shape {list(shape)}",
            path=file,
            expected="(persons, time, joints, 2 or 3) with 25 joints (NTU) or 17 (COCO)",
        )
    person = keypoint[0].astype(np.float32)
    if not np.isfinite(person).all():
        raise DataError(f"{name}: NaN or infinity", path=file)
    there = np.flatnonzero(person.any((1, 2)))
    if len(there) < 2:
        raise DataError(f"{name}: person 0 is tracked in {len(there)} frames", path=file)
    person = _filled(person, there)
    if shape[3] == 2:
        person = 0 - person  # and no negative zeros
    return np.pad(person, ((0, 0), (0, 0), (0, 3 - shape[3])))
