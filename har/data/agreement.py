"""What data must have in common with those that a system was trained on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data.checks import DataError
from core.data.findings import few
from har.data.recordings import IMU, SKELETON, Recording, Recordings, Stream

Scaling = dict[str, tuple[Float[Tensor, "..."], Float[Tensor, "..."]]]


@dataclass(frozen=True)
class Agreement:
    """Names, and what else the numbers of a window mean.

    Attributes:
        joints: names, in the order of the skeleton; empty without skeletons.
        channels: names with units, in the order of the IMU; empty without one.
        root: number of the joint that is the origin.
        bone: numbers of the two joints whose distance is the unit of length.
        activities: names, in the order of the labels.
        scaling: modality -> mean and deviation of the training windows, as of `Windows`.
        trained: digests of the streams that were trained on, as of `digests`.
    """

    joints: list[str]
    channels: list[str]
    root: int
    bone: tuple[int, int]
    activities: list[str]
    scaling: Scaling
    trained: list[str] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Writes JSON."""
        scaling = {k: [part.cpu().tolist() for part in parts] for k, parts in self.scaling.items()}
        file.write_text(json.dumps(vars(self) | {"scaling": scaling}, indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> "Agreement":
        """Reads what `write` wrote.

        Raises:
            DataError: the file is not there or is something else.
        """
        try:
            said = json.loads(file.read_text())
            scaling = {
                name: (torch.tensor(mean), torch.tensor(by))
                for name, (mean, by) in said["scaling"].items()
            }
            said |= {"bone": (said["bone"][0], said["bone"][1]), "scaling": scaling}
            return cls(**said)
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise DataError(
                "cannot be read", path=file, expected="what training has written", fix="train anew"
            ) from error

    def arranged(self, data: Recordings, path: str | Path) -> Recordings:
        """Recordings with these joints and channels in this order, and this root and bone.

        Args:
            data: recordings that have them by name, and perhaps others.
            path: where they were read, for messages.

        Raises:
            DataError: a joint or a channel is missing.
        """
        joints = _places(path, SKELETON, "joints", data.joints, self.joints)
        channels = _places(path, IMU, "channels", data.channels, self.channels)
        places = {SKELETON: joints, IMU: channels}
        there = {old: new for new, old in enumerate(joints)}
        edges = [(there[a], there[b]) for a, b in data.edges if a in there and b in there]
        return replace(
            data,
            recordings=[_arranged(recording, places) for recording in data.recordings],
            joints=self.joints or data.joints,
            edges=edges if self.joints else data.edges,
            channels=self.channels or data.channels,
            root=self.root if self.joints else data.root,
            bone=self.bone if self.joints else data.bone,
        )

    def relabelled(self, data: Recordings) -> Recordings:
        """Recordings whose labels count these activities, and after them those that are new."""
        used = [data.classes[n] for n in sorted({r.label for r in data.recordings} - {-1})]
        classes = self.activities + [name for name in used if name not in self.activities]
        number = {data.classes.index(name): classes.index(name) for name in used} | {-1: -1}
        recordings = [replace(r, label=number[r.label]) for r in data.recordings]
        return replace(data, recordings=recordings, classes=classes)

    def refuse_trained(self, data: Recordings, splits: Sequence[str], path: str | Path) -> None:
        """Sees to it that nothing is tested on what was trained on.

        Raises:
            DataError: a recording of the test split was trained on, under whatever name.
        """
        known = set(self.trained)
        tested = (r for r, split in zip(data.recordings, splits, strict=True) if split == "test")
        names = [r.name for r in tested if known & set(digests(r))]
        if names:
            raise DataError(
                f"{few(names)} of the test split were trained on",
                path=path,
                fix="split the data as in training, or test on others",
            )


def digests(recording: Recording) -> list[str]:
    """First 16 hex digits of the sha256 of each stream's values."""
    streams = recording.streams.values()
    return [sha256(np.ascontiguousarray(s.values)).hexdigest()[:16] for s in streams]


def _places(
    path: str | Path, modality: str, what: str, own: Sequence[str], wanted: Sequence[str]
) -> list[int]:
    if not wanted:  # the run did not have this modality, and will say so
        return list(range(len(own)))
    missing = [name for name in wanted if name not in own]
    if missing:
        raise DataError(
            f"{modality} without the {what} {few(missing)}; it has {', '.join(own) or 'none'}",
            path=path,
            expected=f"the {what} of the training, {', '.join(wanted)}",
            fix=f"call them alike, in their units; {what} may come in another order",
        )
    return [own.index(name) for name in wanted]


def _arranged(recording: Recording, places: dict[str, list[int]]) -> Recording:
    streams = {
        name: stream
        if places[name] == list(range(stream.values.shape[1]))
        else Stream(np.ascontiguousarray(stream.values[:, places[name]]), stream.rate, stream.start)
        for name, stream in recording.streams.items()
    }
    return replace(recording, streams=streams)
