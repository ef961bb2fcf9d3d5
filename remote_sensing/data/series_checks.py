"""What `data check` says of files of series."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from core.data.checks import CheckReport, DataError
from remote_sensing.data.series import Series, load_series
from remote_sensing.data.series_files import SeriesFile, read_series

# Above this share of missing values a feature says little.
_MOSTLY_MISSING = 0.5


def check_series(
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
) -> CheckReport:
    """What `load_series` finds with these arguments, or what is wrong with the file."""
    try:
        read = read_series(path)
        series = load_series(
            path,
            modalities,
            target,
            threshold,
            split,
            fold,
            n_folds,
            valid_share,
            seed,
            scaling,
        )
    except DataError as error:
        return CheckReport({}, [error], [])
    facts: dict[str, str | int | float] = {
        f"{name} samples": len(rows) for name, rows in series.splits.items()
    }
    for name, values in series.inputs.items():
        missing = float(np.isnan(read.modality(name)).mean())
        facts[name] = f"{list(values.shape[1:])}, {100 * missing:.1f} % missing"
    facts["predicts"] = f"{series.n_outputs} {series.kind}"
    stored = [name for name in read.variables if name in read.statistics]
    facts["statistics"] = f"stats/ of {', '.join(stored)}" if stored else "of the training rows"
    warnings = _about_targets(series, read)
    for name in series.inputs:
        for part in read.parts(name):
            warnings += _about_variable(part, read.variables[part])
    return CheckReport(facts, [], warnings)


def _about_variable(name: str, values: np.ndarray) -> list[str]:
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    missing = np.isnan(flat).mean(0)
    flat = flat[:, missing < 1]
    warnings = []
    if (missing > _MOSTLY_MISSING).any():
        n = int((missing > _MOSTLY_MISSING).sum())
        warnings.append(f"{name}: {n} of {len(missing)} features are mostly missing")
    n_constant = int((np.nanmax(flat, 0) == np.nanmin(flat, 0)).sum()) if flat.size else 0
    if n_constant:
        warnings.append(f"{name}: {n_constant} of {len(missing)} features never change")
    if name.startswith("S1") and flat.size and np.nanmin(flat) >= 0:
        warnings.append(f"{name}: no value is negative; is it power where dB is meant?")
    # Outside of -1 to 1 an index of two bands was computed from something else than reflectance.
    if name.endswith("VI") and flat.size and np.nanmax(np.abs(flat)) > 1:
        warnings.append(f"{name}: values outside of -1 to 1, where indices such as NDVI lie")
    return warnings


def _about_targets(series: Series, read: SeriesFile) -> list[str]:
    warnings = [
        f"the {name} split is empty" for name, rows in series.splits.items() if not len(rows)
    ]
    if torch.equal(series.splits["valid"], series.splits["test"]):
        warnings.append("the test rows validate: what they choose is then measured on them")
    train = series.splits["train"]
    if series.kind == "classes":
        label = series.labels["label"][train]
        counts = torch.bincount(label[label >= 0], minlength=series.n_outputs)
        missing = (counts == 0).nonzero().flatten().tolist()
        if missing:
            said = ", ".join(map(str, missing[:5]))
            warnings.append(f"no training sample of class {said}")
    elif series.kind == "labels" and series.targets is not None:
        on = series.targets[train].mean(0)
        never = [series.target_names[i] for i in (on == 0).nonzero().flatten().tolist()]
        if never:
            warnings.append(f"no training sample has {', '.join(never[:5])}")
    elif len(np.unique(read.target)) <= 20 and (read.target == np.round(read.target)).all():
        warnings.append("few distinct whole numbers are predicted as a value; data.target=classes?")
    return warnings
