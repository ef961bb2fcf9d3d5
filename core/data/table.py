"""Tables: samples as arrays in a .npz file, or as columns of a .parquet file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from core.data.checks import CheckReport, DataError
from core.data.samples import SPLITS, Samples, split_by_ratio
from core.data.stored_rows import Column

_EXPECTED = (
    "arrays (parquet: columns) with one entry a sample: `label` or `label_NAME` of whole numbers, "
    "`split` of train, valid, test, `id`; every other is a modality of numbers"
)


def load_table(
    path: str | Path,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    classes: dict[str, list[str]] | None = None,
) -> Samples:
    """Reads samples from a .npz or .parquet file, or from the only one in a folder.

    Args:
        path: the file. `label` and `label_NAME` are labels (a negative one is unknown), `split`
            says train, valid or test (or 0, 1, 2), `id` names the samples, and each other entry is
            a modality: float32 (n, ...), or images as uint8 (n, 3, height, width). In parquet a
            modality is a column of lists of equal length, and the numeric columns that are no lists
            form together the modality `table`.
        ratios: train, valid and test where there is no `split`.
        seed: of that split.
        classes: name of a label -> names of its classes.

    Raises:
        DataError: the file cannot be read, an entry has another number of rows, holds NaN or is not
            made of numbers, or there is nothing to train on.
    """
    file = _file(Path(path))
    columns = _read_npz(file) if file.suffix == ".npz" else _read_parquet(file)
    lengths = {name: len(values) for name, values in columns.items()}
    if not lengths or len(set(lengths.values())) > 1:
        said = ", ".join(f"{name}: {n}" for name, n in lengths.items()) or "nothing"
        raise DataError(f"entries of different lengths ({said})", path=file, expected=_EXPECTED)
    n_rows = next(iter(lengths.values()))
    ids = [str(name) for name in columns.pop("id", np.arange(n_rows))]
    if len(set(ids)) < n_rows:
        raise DataError("an id stands at several rows", path=file)
    split = columns.pop("split", None)
    labels = {
        name: _label(file, name, columns.pop(name))
        for name in sorted(columns)
        if name == "label" or name.startswith("label_")
    }
    inputs: dict[str, Column] = {k: _modality(file, k, values) for k, values in columns.items()}
    if not inputs:
        raise DataError("no modality", path=file, expected=_EXPECTED)
    main = labels.get("label")
    splits = (
        split_by_ratio(main, n_rows, tuple(ratios), seed) if split is None else _splits(file, split)
    )
    if not len(splits["train"]):
        raise DataError("the training split is empty", path=file)
    named = {name.removeprefix("label_"): values for name, values in labels.items()}
    return Samples(inputs, named, splits, ids, dict(classes or {}))


def check_table(
    path: str | Path,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    classes: dict[str, list[str]] | None = None,
) -> CheckReport:
    """What the reader finds, or what is wrong with the file."""
    try:
        return samples_report(load_table(path, ratios, seed, classes))
    except DataError as error:
        return CheckReport({}, [error], [])


def samples_report(samples: Samples) -> CheckReport:
    """Sizes of a data set, and what is usable but unlikely to be meant."""
    facts: dict[str, str | int | float] = {
        f"{split} samples": len(rows) for split, rows in samples.splits.items()
    }
    facts |= {name: f"{list(rows.shape[1:])} {rows.dtype}" for name, rows in samples.inputs.items()}
    facts |= {f"classes of {name}": n for name, n in samples.n_classes.items()}
    warnings = [
        f"the {split} split is empty" for split, rows in samples.splits.items() if not len(rows)
    ]
    for name, values in samples.labels.items():
        train = values[samples.splits["train"]]
        counts = torch.bincount(train[train >= 0], minlength=samples.n_classes[name])
        lonely = (counts == 1).nonzero().flatten().tolist()
        missing = (counts == 0).nonzero().flatten().tolist()
        if lonely:
            warnings.append(f"{name}: one training sample alone in class {_few(lonely)}")
        if missing:
            warnings.append(f"{name}: no training sample of class {_few(missing)}")
    for name, rows in samples.inputs.items():
        if isinstance(rows, Tensor) and rows.is_floating_point():
            spread = rows.flatten(1).amax(0) - rows.flatten(1).amin(0)
            n_constant = int((spread == 0).sum())
            if n_constant:
                warnings.append(f"{name}: {n_constant} of {spread.numel()} values never change")
    return CheckReport(facts, [], warnings)


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def _file(path: Path) -> Path:
    if path.is_file() and path.suffix in (".npz", ".parquet"):
        return path
    found = [f for f in sorted(path.glob("*")) if f.suffix in (".npz", ".parquet")]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} tables" if path.is_dir() else "no such table"
    raise DataError(what, path=path, expected="one .npz or .parquet file, or a folder with one")


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cannot be read ({reason[:200]})", path=file, expected=_EXPECTED
        ) from error


def _read_parquet(file: Path) -> dict[str, np.ndarray]:
    try:
        frame = pl.read_parquet(file)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"cannot be read ({reason[:200]})", path=file, expected=_EXPECTED
        ) from error
    columns: dict[str, np.ndarray] = {}
    flat = []
    for name, dtype in frame.schema.items():
        if isinstance(dtype, pl.List):
            lengths = frame[name].list.len().unique().to_list()
            if len(lengths) != 1 or lengths[0] is None:
                raise DataError(f"column {name!r}: lists of different lengths", path=file)
            columns[name] = frame[name].list.to_array(lengths[0]).to_numpy()
        elif isinstance(dtype, pl.Array) or name in ("id", "split") or name.startswith("label"):
            columns[name] = frame[name].to_numpy()
        elif dtype.is_numeric():
            flat.append(name)
        else:
            raise DataError(f"column {name!r} is of {dtype}", path=file, expected=_EXPECTED)
    if flat:
        columns["table"] = frame.select(flat).to_numpy()
    return columns


def _label(file: Path, name: str, values: np.ndarray) -> Tensor:
    whole = values.dtype.kind in "iu" or (
        values.dtype.kind == "f" and bool((values == values.round()).all())
    )
    if values.ndim != 1 or not whole:
        raise DataError(
            f"{name} is of {values.dtype} {list(values.shape)}",
            path=file,
            expected="one whole number a sample, counted from 0; negative where unknown",
        )
    return torch.from_numpy(values.astype(np.int64)).clamp(min=-1)


def _modality(file: Path, name: str, values: np.ndarray) -> Tensor:
    if values.dtype.kind not in "fiub":
        raise DataError(f"{name} is of {values.dtype}", path=file, expected=_EXPECTED)
    if values.ndim == 1:
        values = values[:, None]
    if values.dtype == np.uint8 and values.ndim == 4:
        return torch.from_numpy(np.ascontiguousarray(values))
    tensor = torch.from_numpy(values.astype(np.float32))
    bad = ~tensor.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        rows = bad.nonzero().flatten().tolist()
        raise DataError(
            f"{name}: NaN or infinite values in {len(rows)} samples, at rows {_few(rows)}",
            path=file,
            fix="fill them in or leave these samples out",
        )
    return tensor


def _splits(file: Path, split: np.ndarray) -> dict[str, Tensor]:
    names = [SPLITS[value] if value in (0, 1, 2) else str(value) for value in split.tolist()]
    unknown = sorted(set(names) - set(SPLITS))
    if unknown:
        raise DataError(
            f"split says {', '.join(unknown[:5])}", path=file, expected="train, valid, test"
        )
    return {s: torch.tensor([i for i, n in enumerate(names) if n == s]).long() for s in SPLITS}
