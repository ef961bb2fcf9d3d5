"""Series: satellite time series and images of several sensors, with what is to be predicted."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from core.data.checks import DataError
from core.data.samples import SPLITS, Samples
from remote_sensing.data.series_files import SeriesFile, read_series

Kind = Literal["classes", "labels", "values"]
Scaling = dict[str, tuple[Float64[np.ndarray, " features"], Float64[np.ndarray, " features"]]]


@dataclass(frozen=True)
class Series(Samples):
    """Samples of sensors: series (n, channels, time), images (n, bands, height, width), vectors.

    All are standardised: 0 is the mean of a feature, and a value that is missing.

    Attributes:
        kind: what is predicted: one of the classes of `labels["label"]`, several labels of
            `targets` that are on or off, or one value.
        targets: (n, labels) 0 or 1, or (n, 1) values in their own unit; None where classes are
            predicted.
        target_names: of the labels or of the value.
        scaling: modality -> mean and deviation of its features, as they lie in the file.
    """

    kind: Kind = "classes"
    targets: Float[Tensor, "n outputs"] | None = None
    target_names: list[str] = field(default_factory=list)
    scaling: Scaling = field(default_factory=dict)

    @property
    def n_outputs(self) -> int:
        """Classes, labels, or 1."""
        return self.n_classes["label"] if self.targets is None else self.targets.shape[1]

    def columns(self, split: str) -> dict[str, Tensor]:
        """As `Samples.columns`, and `target` (rows, outputs) of labels and values."""
        columns = super().columns(split)
        if self.targets is None:
            return columns
        return columns | {"target": self.targets.index_select(0, self.splits[split])}

    def to(self, device: torch.device) -> Self:
        """The same data on a device."""
        targets = None if self.targets is None else self.targets.to(device)
        return replace(super().to(device), targets=targets)

    def without_test(self) -> Self:
        """The same data without the rows of the test split."""
        kept = torch.cat([self.splits["train"], self.splits["valid"]]).sort().values
        targets = None if self.targets is None else self.targets.index_select(0, kept)
        return replace(super().without_test(), targets=targets)

    def digest(self) -> str:
        """First 16 hex digits of the sha256 of all that was read."""
        total = sha256(super().digest().encode())
        total.update(repr((self.kind, self.target_names, self.classes)).encode())
        if self.targets is not None:
            total.update(self.targets.cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:16]


def load_series(
    path: str | Path,
    modalities: Sequence[str] | None = None,
    target: Literal["auto", "classes", "labels", "values"] = "auto",
    threshold: float = 0.07,
    split: Literal["files", "folds"] = "files",
    fold: int = 0,
    n_folds: int = 10,
    valid_share: float = 0.1,
    seed: int = 0,
    scaling: str | None = None,
) -> Series:
    """Reads, splits and standardises the series of a `.nc` or `.npz` file.

    A feature loses its mean and is divided by its deviation over samples and time: those of
    `stats/` beside the file, else of the training rows. Then what is missing (NaN) becomes 0.

    Args:
        path: the file, or a folder with one; see `remote_sensing.data.series_files`.
        modalities: variables, or several joined by `_` whose features stand side by side; None:
            the file's `view_names`, else each variable. (time, features) is a series, (height,
            width, bands) an image, (time, height, width, bands) a series of all pixels' bands.
        target: what `target` in the file is: `classes`, whole numbers from 0, negative where
            unknown; `labels`, a column each; `values`, one number a sample. `auto` goes by the
            columns and by whether the file keeps it as whole numbers.
        threshold: a label is on where its number, such as a share of the area, is larger.
        split: `files`: by the file's `split`, else by its `train_mask`; `folds`: one of `n_folds`
            parts of the rows of `train_mask` tests, and the other rows are left out.
        fold: which part tests.
        n_folds: number of parts.
        valid_share: of the training rows that validate, where the file names none. 0: the test
            rows validate, as published; what is chosen on them is then measured on them.
        seed: of the parts and of the validation rows.
        scaling: file of means and deviations to take in place of all these, as a run keeps, which
            also names the classes or labels: the file must have the same.

    Raises:
        DataError: the reader refuses the file, or the arguments do not fit it.
    """
    read = read_series(path)
    names = list(modalities) if modalities is not None else read.view_names or list(read.variables)
    splits = _splits(read, split, fold, n_folds, valid_share, seed)
    kept = np.unique(np.concatenate(list(splits.values())))
    given = _given_scaling(Path(scaling), names) if scaling else {}
    inputs, used = {}, {}
    for name in names:
        values = read.modality(name)
        _refuse_infinite(read, name, values)
        used[name] = given.get(name) or _scaling(read, name, values, splits["train"])
        if len(used[name][0]) != values.shape[-1]:
            raise DataError(
                f"{name} has {values.shape[-1]} features",
                path=read.path,
                expected=f"the {len(used[name][0])} that {scaling} is of",
            )
        inputs[name] = _standardised(values[kept], *used[name])
    kind = _kind(read, target)
    label, targets = _targets(read, kind, threshold)
    if scaling and kind != "values":
        _refuse_other_names(read, Path(scaling))
    rows = {name: torch.from_numpy(np.searchsorted(kept, of)) for name, of in splits.items()}
    return Series(
        inputs=inputs,
        labels={} if label is None else {"label": label[kept]},
        splits=rows,
        ids=[read.ids[row] for row in kept.tolist()],
        classes={} if label is None else _class_names(read, label),
        kind=kind,
        targets=None if targets is None else targets[kept],
        target_names=_target_names(read, targets),
        scaling=used,
    )


def _splits(
    read: SeriesFile, split: str, fold: int, n_folds: int, valid_share: float, seed: int
) -> dict[str, Int64[np.ndarray, " rows"]]:
    if not 0 <= valid_share < 1:
        raise DataError(f"data.valid_share={valid_share}", expected="a share from 0, below 1")
    rng = np.random.default_rng(seed)
    if split == "folds":
        train, test = _folds(read, fold, n_folds, rng)
        valid = np.empty(0, np.int64)
    elif split == "files" and read.split is not None:
        names = np.array(read.split)
        train, valid, test = (np.flatnonzero(names == of) for of in SPLITS)
    elif split == "files" and read.train_mask is not None:
        train, test = np.flatnonzero(read.train_mask), np.flatnonzero(~read.train_mask)
        valid = np.empty(0, np.int64)
    elif split == "files":
        raise DataError(
            "neither split nor train_mask", path=read.path, fix="data.split=folds makes folds"
        )
    else:
        raise DataError(f"data.split={split}", expected="files or folds")
    if not len(valid) and valid_share:
        order = rng.permutation(train)
        n_valid = round(valid_share * len(train))
        train, valid = np.sort(order[n_valid:]), np.sort(order[:n_valid])
    elif not len(valid):
        valid = test
    if not len(train):
        raise DataError("the training split is empty", path=read.path)
    return {"train": train, "valid": valid, "test": test}


def _folds(
    read: SeriesFile, fold: int, n_folds: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(read.ids))
    rows = rows if read.train_mask is None else rows[read.train_mask]
    if not 2 <= n_folds <= len(rows) or not 0 <= fold < n_folds:
        raise DataError(
            f"data.fold={fold} of data.n_folds={n_folds}",
            expected=f"2 to {len(rows)} folds, numbered from 0",
        )
    parts = np.array_split(rng.permutation(rows), n_folds)
    train = np.concatenate([part for number, part in enumerate(parts) if number != fold])
    return np.sort(train), np.sort(parts[fold])


def _refuse_infinite(read: SeriesFile, name: str, values: np.ndarray) -> None:
    broken = np.isinf(values).reshape(len(values), -1).any(1)
    if broken.any():
        first = read.ids[int(broken.argmax())]
        raise DataError(
            f"{name}: infinite values in {int(broken.sum())} samples, the first is {first}",
            path=read.path,
            expected="numbers, or NaN where nothing was seen",
        )


def _given_scaling(file: Path, names: Sequence[str]) -> Scaling:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: (arrays[f"{name}.mean"], arrays[f"{name}.std"]) for name in names}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"no means and deviations of {', '.join(names)} ({error})",
            path=file,
            expected="what a training run keeps",
        ) from error


def write_scaling(scaling: Scaling, file: Path, target_names: Sequence[str] = ()) -> None:
    """Writes means and deviations and what is predicted, for `load_series` of further files."""
    arrays = {f"{name}.mean": mean for name, (mean, _) in scaling.items()}
    arrays |= {f"{name}.std": std for name, (_, std) in scaling.items()}
    np.savez(file, **arrays, target_names=np.array(target_names, str))


def _refuse_other_names(read: SeriesFile, file: Path) -> None:
    """Refuses a file whose classes or labels have other names than those of a run."""
    with np.load(file, allow_pickle=False) as arrays:
        names = arrays["target_names"].tolist() if "target_names" in arrays else []
    has_names = names != [str(number) for number in range(len(names))]
    if has_names and read.target_names and names != read.target_names:
        raise DataError(
            f"the target is of {', '.join(read.target_names)}",
            path=read.path,
            expected=f"{', '.join(names)}, in this order, as in the training",
            fix="number and name them as there",
        )


def _scaling(
    read: SeriesFile, name: str, values: np.ndarray, train: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    parts, stored = read.parts(name), read.statistics
    if all(part in stored for part in parts):
        mean, std = (np.concatenate([stored[part][i] for part in parts]) for i in (0, 1))
    else:
        mean, std = moments(values[train])
    # A feature that nobody saw, or that never changes, stays what it is.
    return np.nan_to_num(mean), np.where(std > 0, std, 1.0)


def moments(values: Shaped[np.ndarray, "n ..."]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of every feature, the last axis, over all that was seen."""
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    seen = ~np.isnan(flat)
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, flat, 0).sum(0) / count
    spread = (np.where(seen, flat - mean, 0) ** 2).sum(0) / count
    return mean, np.sqrt(spread)


def _standardised(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Tensor:
    # What is missing is filled after, so that it is the mean and not a value of the sensor.
    filled = np.nan_to_num((values - mean) / std, nan=0.0).astype(np.float32)
    if filled.ndim == 5:
        filled = filled.reshape(*filled.shape[:2], -1)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(filled, -1, 1)))


def _kind(read: SeriesFile, target: str) -> Kind:
    known: tuple[Kind, ...] = ("classes", "labels", "values")
    for kind in known:
        if target == kind:
            return kind
    if target != "auto":
        raise DataError(f"data.target={target}", expected=f"auto, {', '.join(known)}")
    if read.target.ndim > 1 and read.target.shape[1] > 1:
        return "labels"
    return "values" if read.target.dtype.kind == "f" else "classes"


def _targets(
    read: SeriesFile, kind: Kind, threshold: float
) -> tuple[Int64[Tensor, " n"] | None, Float[Tensor, "n outputs"] | None]:
    values = read.target.reshape(len(read.target), -1)
    wrong = None
    if values.dtype.kind not in "fiub" or not np.isfinite(values.astype(np.float64)).all():
        wrong = "holds something else than finite numbers"
    elif kind != "labels" and values.shape[1] > 1:
        wrong = f"has {values.shape[1]} columns, which cannot be {kind}"
    elif kind == "classes" and (values != np.round(values)).any():
        wrong = "is not made of whole numbers, which classes are"
    if wrong:
        raise DataError(f"target {wrong}", path=read.path, fix="choose data.target")
    if kind == "classes":
        return torch.from_numpy(values[:, 0].astype(np.int64)).clamp(min=-1), None
    if kind == "labels":
        values = values > threshold
    return None, torch.from_numpy(values.astype(np.float32))


def _class_names(read: SeriesFile, label: Int64[Tensor, " n"]) -> dict[str, list[str]]:
    """Names of the classes, where the file has one for each."""
    return {"label": read.target_names} if len(read.target_names) > int(label.max()) else {}


def _target_names(read: SeriesFile, targets: Tensor | None) -> list[str]:
    if targets is None:
        return []
    n = targets.shape[1]
    return read.target_names if len(read.target_names) == n else [str(i) for i in range(n)]


def file_statistics(values: Shaped[np.ndarray, "n ..."]) -> dict[str, np.ndarray]:
    """What `stats/` holds of a variable: mean, std, min and max of every feature."""
    mean, std = moments(values)
    flat = values.reshape(-1, values.shape[-1])
    return {"mean": mean, "std": std, "min": np.nanmin(flat, 0), "max": np.nanmax(flat, 0)}
