"""Windows: recordings cut to one length, both streams in step, resident on one device."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.findings import Findings, few
from core.data.samples import SPLITS, Samples
from har.data.agreement import Agreement, Scaling, digests
from har.data.cut import Cut, Pieces, cut_recordings
from har.data.readers import read_recordings
from har.data.recordings import IMU, SKELETON, Recordings
from har.data.splits import Names, in_order, split_recordings, subjects_in_several


@dataclass(frozen=True)
class Windows(Samples):
    """Samples of time: `skeleton` (n, 3, time, joints), `imu` (n, channels, time), or both.

    The labels are `label`, the activity, and `subject`, a number into `classes["subject"]`. An id
    is the name of the recording, with `@SECONDS` of the window's start where it gives several.

    Attributes:
        joints: names of the joints.
        edges: pairs of joints that a bone connects.
        channels: names of the IMU's channels with units.
        rate: steps a second; None where recordings are stretched to a number of steps.
        lengths: (n,) steps of each window that are not padding.
        cut: how the recordings were cut.
        scaling: modality -> mean and deviation of the training rows, (3, 1, joints) and
            (channels, 1); empty where nothing is standardised.
        root: number of the joint that is the origin.
        bone: numbers of the two joints whose distance is the unit of length.
        trained: digests of the streams of the training split.
    """

    joints: list[str] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    rate: float | None = None
    lengths: Int64[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0).long())
    cut: Cut = field(default_factory=Cut)
    scaling: Scaling = field(default_factory=dict)
    root: int = 0
    bone: tuple[int, int] = (0, 1)
    trained: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Length of a window."""
        return _steps(self.inputs)

    @property
    def agreement(self) -> Agreement:
        """What other recordings must have in common with these."""
        return Agreement(
            self.joints,
            self.channels,
            self.root,
            self.bone,
            self.classes["label"],
            self.scaling,
            self.trained,
        )

    def columns(self, split: str) -> dict[str, Tensor]:
        """As `Samples.columns`, and `mask` (rows, time), false in the padding, where any is."""
        columns = super().columns(split)
        if bool((self.lengths == self.steps).all()):
            return columns
        lengths = self.lengths.index_select(0, self.splits[split])
        return columns | {"mask": _mask(lengths, self.steps)}

    def to(self, device: torch.device) -> Self:
        """The same data on a device."""
        scaling = {k: (mean.to(device), by.to(device)) for k, (mean, by) in self.scaling.items()}
        return replace(super().to(device), lengths=self.lengths.to(device), scaling=scaling)

    def without_test(self) -> Self:
        """The same data without the rows of the test split."""
        kept = torch.cat([self.splits["train"], self.splits["valid"]]).sort().values
        return replace(super().without_test(), lengths=self.lengths.index_select(0, kept))

    def digest(self) -> str:
        """First 16 hex digits of the sha256 of all that was read."""
        total = sha256(super().digest().encode())
        names = (self.classes, self.joints, self.edges, self.channels, self.rate, self.cut)
        total.update(repr(names).encode())
        total.update(self.lengths.cpu().numpy().tobytes())
        for name, parts in sorted(self.scaling.items()):
            total.update(name.encode())
            for part in parts:
                total.update(part.cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:16]


def load_windows(
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
) -> Windows:
    """Reads recordings, splits them by subject, and cuts them.

    Without `seconds` a recording is one window: its streams are cut to the time that they share and
    stretched to `length` steps each, by their Fourier coefficients. With `seconds` the streams go
    onto one clock of `rate` and are cut into windows of that length; what is left at the end and
    fills no window is dropped, and a recording shorter than one window is padded with zeros.
    Skeletons are centred and scaled window by window, by the root and the bone of its first frame.

    Args:
        path: folder or file of the recordings.
        format: see `har.data.readers.read_recordings`.
        modalities: `skeleton`, `imu`, or both.
        split: see `har.data.splits.split_recordings`, as for the five that follow.
        train_subjects: subjects that train.
        valid_subjects: subjects that validate.
        test_subjects: subjects that test.
        fold: which group of subjects tests.
        n_test: subjects in a group.
        length: steps that a recording is stretched to.
        seconds: length of a window; None takes whole recordings.
        overlap: of consecutive windows, as a share of their length, in [0, 1).
        rate: steps a second of windows of `seconds`.
        standardize: give each channel, and each coordinate of each joint, the mean 0 and the
            deviation 1 over the training rows.
        unlabelled_subjects: subjects whose recordings lose their labels, and stay.
        device: where the windows are cut and stay; None takes the GPU where there is one.
        like: the `windows.json` of a run: its joints and channels are taken, by name, its numbers
            of the activities, and its means and deviations.

    Raises:
        DataError: the reader, the split or the cut refuses the data; they lack a joint or a channel
            of the run, or test on what it was trained on.
    """
    cut = Cut(tuple(modalities), length, seconds, overlap, rate)
    data = read_recordings(path, format, modalities)
    run = None if like is None else Agreement.read(Path(like))
    if run is not None:
        data = run.relabelled(run.arranged(data, path))
    splits = split_recordings(
        data, split, train_subjects, valid_subjects, test_subjects, fold, n_test
    )
    if run is not None:
        run.refuse_trained(data, splits, path)
    _warn_of_shared_subjects(path, data, splits)
    scaling = None if run is None else run.scaling
    windows = windows_of(data, splits, cut, standardize, device, scaling=scaling)
    return without_labels(windows, unlabelled_subjects)


def windows_of(
    data: Recordings,
    splits: Sequence[str],
    cut: Cut,
    standardize: bool = False,
    device: str | torch.device | None = None,
    findings: Findings | None = None,
    scaling: Scaling | None = None,
) -> Windows:
    """Cuts recordings that are read and split.

    Args:
        data: the recordings.
        splits: the split of each, `""` for those that are left out.
        cut: how to cut them.
        standardize: see `load_windows`.
        device: see `load_windows`.
        findings: collects problems where it is not strict.
        scaling: means and deviations to standardise by; None or none takes those of the training
            rows.

    Raises:
        DataError: the cut refuses a recording, or nothing is left to train on.
    """
    findings = findings or Findings()
    kept = [(r, s) for r, s in zip(data.recordings, splits, strict=True) if s]
    pieces = cut_recordings(replace(data, recordings=[r for r, _ in kept]), cut, device, findings)
    in_split = [kept[number][1] for number in pieces.recording]
    where = pieces.lengths.device
    rows = {
        s: torch.tensor([row for row, own in enumerate(in_split) if own == s], device=where).long()
        for s in SPLITS
    }
    if not len(rows["train"]):
        raise DataError("the training split is empty")
    if not standardize:
        scaling = {}
    elif scaling:
        scaling = {name: (mean.to(where), by.to(where)) for name, (mean, by) in scaling.items()}
    else:
        scaling = _scaling(pieces, rows["train"])
    subjects = sorted({r.subject for r in data.recordings}, key=in_order)
    of = [kept[number][0] for number in pieces.recording]
    labels = {
        "label": torch.tensor([r.label for r in of], device=where),
        "subject": torch.tensor([subjects.index(r.subject) for r in of], device=where),
    }
    return Windows(
        inputs=scaled(pieces.inputs, scaling, pieces.lengths),
        labels=labels,
        splits=rows,
        ids=pieces.ids,
        classes={"label": list(data.classes), "subject": subjects},
        joints=list(data.joints) if SKELETON in cut.modalities else [],
        edges=list(data.edges) if SKELETON in cut.modalities else [],
        channels=list(data.channels) if IMU in cut.modalities else [],
        rate=None if cut.seconds is None else cut.rate,
        lengths=pieces.lengths,
        cut=cut,
        scaling=scaling,
        root=data.root,
        bone=(data.bone[0], data.bone[1]),
        trained=[digest for r, split in kept if split == "train" for digest in digests(r)],
    )


def without_labels(windows: Windows, subjects: Sequence[str | int]) -> Windows:
    """The same windows, those of some subjects without their activity.

    Raises:
        DataError: there is no such subject.
    """
    names, known = [str(name) for name in subjects], windows.classes["subject"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(f"data.unlabelled_subjects names {few(unknown)}", expected=", ".join(known))
    subject = windows.labels["subject"]
    hidden = torch.isin(subject, subject.new_tensor([known.index(name) for name in names]))
    label = windows.labels["label"].masked_fill(hidden, -1)
    return replace(windows, labels=windows.labels | {"label": label})


def scaled(
    inputs: dict[str, Float[Tensor, "n ..."]], scaling: Scaling, lengths: Int64[Tensor, " n"]
) -> dict[str, Float[Tensor, "n ..."]]:
    """Inputs less the means, over the deviations; padding stays zero."""
    mask = _mask(lengths, _steps(inputs))
    return {
        name: (values - scaling[name][0]) / scaling[name][1] * along_time(mask, name)
        if name in scaling
        else values
        for name, values in inputs.items()
    }


def unscaled(windows: Windows, row: int) -> dict[str, Float[Tensor, "..."]]:
    """The inputs of one window as they were before `scaled`."""
    inputs = {name: values[row] for name, values in windows.inputs.items()}
    for name, (mean, by) in windows.scaling.items():
        inputs[name] = inputs[name] * by + mean
    return inputs


def along_time(mask: Bool[Tensor, "n time"], name: str) -> Bool[Tensor, "n ..."]:
    """A mask of steps in the shape that multiplies windows of a modality."""
    return mask[:, None, :, None] if name == SKELETON else mask[:, None]


def repeated(
    x: Float[Tensor, "n features time ..."], mask: Bool[Tensor, "n time"]
) -> Float[Tensor, "n features time ..."]:
    """Windows that hold, in the place of their padding, what they hold over again.

    Views are made of these, as what reorders or stretches time would move padding in and what was
    measured out of the window.
    """
    steps = torch.arange(x.shape[2], device=x.device) % mask.sum(1, keepdim=True)
    return x.gather(2, steps.view(len(x), 1, -1, *[1] * (x.ndim - 3)).expand_as(x))


def _warn_of_shared_subjects(path: str | Path, data: Recordings, splits: Sequence[str]) -> None:
    several = subjects_in_several(data, splits)
    if several:
        names = few([f"{subject} in {where}" for subject, where in several.items()])
        Findings().warn(f"{path}: subjects in several splits: {names}")


def _scaling(pieces: Pieces, train: Tensor) -> Scaling:
    mask = _mask(pieces.lengths[train], _steps(pieces.inputs))
    scaling = {}
    for name, values in pieces.inputs.items():
        time = 2
        taken, real = values[train].double(), along_time(mask, name).double()
        mean = (taken * real).sum((0, time), keepdim=True) / real.sum()
        spread = ((taken - mean).square() * real).sum((0, time), keepdim=True) / real.sum()
        # A channel that never changes, as a coordinate of the root at times, stays what it is.
        by = torch.where(spread.sqrt() > 1e-6, spread.sqrt(), 1.0)
        scaling[name] = (mean[0].float(), by[0].float())
    return scaling


def _steps(inputs: dict[str, Tensor]) -> int:
    return inputs[SKELETON].shape[2] if SKELETON in inputs else inputs[IMU].shape[2]


def _mask(lengths: Tensor, steps: int) -> Tensor:
    return torch.arange(steps, device=lengths.device) < lengths[:, None]
