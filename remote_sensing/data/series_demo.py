"""Generated series of two sensors, one weak and one strong, that see the same hidden state."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from core.data.checks import DataError
from core.data.demo_folder import demo_folder
from remote_sensing.data.series import file_statistics
from remote_sensing.data.series_files import write_fields

# Channels, gain of what only this sensor sees, deviation of its noise.
SENSORS = {"weak": (8, 1.2, 0.8), "strong": (10, 0.2, 0.2)}
_STEPS, _STATE, _NUISANCE = 6, 4, 6
_SPREAD = 0.45  # of the state around the centre of its class
_CENTRES = 0.7  # deviation of the centres
_CLASS = 0.4  # deviation of what a class adds to a sensor directly


def write_weak_and_strong(
    path: str | Path,
    n_train: int = 400,
    n_valid: int = 200,
    n_test: int = 4000,
    label_noise: float = 0.35,
    n_classes: int = 5,
    format: str = "nc",
    seed: int = 0,
) -> None:
    """Writes `weak_and_strong.nc` or `.npz` and its `stats/`.

    A sample's state s is its class's centre and noise. A sensor sees tanh((s A + u S + D_y)
    season(t)) and noise, with u of its own: much of it and much noise in `weak` (n, 6, 8), little
    of both in `strong` (n, 6, 10). Of the training and validation labels a share is drawn anew
    from all classes; those of the test are true.

    Args:
        path: the folder; an earlier demo in its place is replaced.
        n_train: training samples.
        n_valid: validation samples.
        n_test: test samples.
        label_noise: share of the labels that are drawn anew.
        n_classes: number of classes.
        format: `nc` or `npz`.
        seed: of everything.

    Raises:
        DataError: `path` is something other than an empty folder or a demo, or unwritable, or the
            format is none of these.
    """
    if format not in ("nc", "npz"):
        raise DataError(f"demo.format={format}", expected="nc or npz")
    rng = np.random.default_rng(seed)
    n = n_train + n_valid + n_test
    label = rng.integers(0, n_classes, n)
    centres = _CENTRES * rng.standard_normal((n_classes, _STATE))
    state = centres[label] + _SPREAD * rng.standard_normal((n, _STATE))
    sensors = {name: _seen(rng, name, state, label, n_classes) for name in SENSORS}
    split = np.repeat(["train", "valid", "test"], [n_train, n_valid, n_test])
    taught = np.flatnonzero(split != "test")
    anew = rng.permutation(taught)[: round(label_noise * len(taught))]
    label[anew] = rng.integers(0, n_classes, len(anew))
    fields = sensors | {
        "target": label,
        "train_mask": split != "test",
        "split": split,
        "identifier": np.array([f"sample_{row:05d}" for row in range(n)]),
    }
    names = {
        "view_names": list(sensors),
        "target_names": [f"class_{number}" for number in range(n_classes)],
    }
    file = f"weak_and_strong.{format}"
    about = {"generator": "weak_and_strong", "seed": seed}
    with demo_folder(Path(path), {file, "stats"}, about) as folder:
        write_fields(folder / file, fields, names)
        (folder / "stats").mkdir()
        for name, values in sensors.items():
            statistics = file_statistics(values[: n_train + n_valid])
            write_fields(
                folder / "stats" / f"stats_{name}.{format}", statistics, first_axis="feature"
            )


def _seen(
    rng: np.random.Generator,
    name: str,
    state: Float[np.ndarray, "n 4"],
    label: Int64[np.ndarray, " n"],
    n_classes: int,
) -> Float[np.ndarray, "n 6 channels"]:
    """What a sensor measures of some states."""
    channels, gain, noise = SENSORS[name]
    from_state = rng.standard_normal((_STATE, channels)) / np.sqrt(_STATE)
    from_own = rng.standard_normal((_NUISANCE, channels)) / np.sqrt(_NUISANCE)
    of_class = _CLASS * rng.standard_normal((n_classes, channels))
    own = gain * rng.standard_normal((len(state), _NUISANCE))
    level = state @ from_state + own @ from_own + of_class[label]
    phase = rng.uniform(0, 2 * np.pi, channels)
    season = 1 + 0.5 * np.sin(2 * np.pi * np.arange(_STEPS)[:, None] / _STEPS + phase)
    clean = np.tanh(level[:, None] * season)
    return (clean + noise * rng.standard_normal(clean.shape)).astype(np.float32)
