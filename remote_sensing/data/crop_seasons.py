"""Generated seasons of fields and other land, in the fields that CropHarvest is stored with."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from core.data.checks import DataError
from core.data.demo_folder import demo_folder
from remote_sensing.data.series import file_statistics
from remote_sensing.data.series_files import write_fields


class Season(NamedTuple):
    """A type of land: when it greens, for how long, and between which cover of leaves."""

    name: str
    peak: float
    months: float
    low: float
    high: float


TYPES = (
    Season("maize", 7.5, 3.0, 0.05, 0.95),
    Season("winter wheat", 4.5, 3.5, 0.15, 0.9),
    Season("rapeseed", 4.0, 2.8, 0.2, 0.95),
    Season("grassland", 6.0, 6.5, 0.45, 0.8),
    Season("forest", 6.5, 5.5, 0.55, 0.97),
    Season("built or bare", 6.0, 5.0, 0.02, 0.15),
)
_N_CROPS = 3
# Reflectance of bare soil and of full cover in B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12.
_SOIL = np.array([0.07, 0.10, 0.13, 0.16, 0.18, 0.20, 0.22, 0.24, 0.25, 0.32, 0.28])
_LEAF = np.array([0.02, 0.05, 0.03, 0.09, 0.28, 0.37, 0.42, 0.44, 0.43, 0.20, 0.09])
_B4, _B8 = 2, 6
_MONTHS = np.arange(12) + 0.5
_LOOKS = 12  # speckle of a monthly mean


def write_crop_seasons(
    path: str | Path,
    n_samples: int = 1200,
    types: bool = False,
    clouds: float = 0.2,
    unlabelled: float = 0.1,
    format: str = "nc",
    seed: int = 0,
) -> None:
    """Writes `crop_seasons.nc` or `.npz` and its `stats/`: a year in months of each place.

    `S1` (n, 12, 2): VV and VH in dB, with speckle; `S2` (n, 12, 11): reflectance, 0 to 1, and
    `S2VI` (n, 12, 1): NDVI, both NaN in months of clouds; `weather` (n, 12, 2): mean temperature in
    degrees Celsius and precipitation in mm; `DEM` (n, 2): elevation in m and slope in degrees.

    Args:
        path: the folder; an earlier demo in its place is replaced.
        n_samples: places.
        types: predict the type of land; False: whether it is a crop.
        clouds: share of the months without an optical image.
        unlabelled: share of the places outside of `train_mask`, whose target is -1.
        format: `nc` or `npz`.
        seed: of everything.

    Raises:
        DataError: `path` is something other than an empty folder or a demo, or unwritable, or the
            format is none of these.
    """
    if format not in ("nc", "npz"):
        raise DataError(f"demo.format={format}", expected="nc or npz")
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, len(TYPES), n_samples)
    weather = _weather(rng, n_samples)
    cover = _cover(rng, kind)
    optical = _reflectance(rng, cover)
    optical[rng.random(cover.shape) < clouds] = np.nan
    index = (optical[..., _B8] - optical[..., _B4]) / (optical[..., _B8] + optical[..., _B4])
    variables = {
        "S1": _backscatter(rng, cover, weather[..., 1]),
        "S2": optical,
        "S2VI": index[..., None],
        "weather": weather,
        "DEM": np.stack([rng.gamma(2, 100, n_samples), rng.gamma(1.5, 2, n_samples)], -1),
    }
    variables = {name: values.astype(np.float32) for name, values in variables.items()}
    known = rng.random(n_samples) >= unlabelled
    target = kind if types else (kind < _N_CROPS).astype(np.int64)
    fields = variables | {
        "target": np.where(known, target, -1),
        "train_mask": known,
        "identifier": np.array([f"place_{row:05d}" for row in range(n_samples)]),
    }
    names = {
        "view_names": ["S1", "S2_S2VI"],
        "target_names": [of.name for of in TYPES] if types else ["no crop", "crop"],
    }
    file = f"crop_seasons.{format}"
    with demo_folder(
        Path(path), {file, "stats"}, {"generator": "crop_seasons", "seed": seed}
    ) as folder:
        write_fields(folder / file, fields, names)
        (folder / "stats").mkdir()
        for name, values in variables.items():
            write_fields(
                folder / "stats" / f"stats_{name}.{format}",
                file_statistics(values[known]),
                first_axis="feature",
            )


def _weather(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 12 2"]:
    summer = np.cos(2 * np.pi * (_MONTHS - 7) / 12)
    temperature = rng.normal(9, 2, (n, 1)) + 10 * summer + rng.normal(0, 1.5, (n, 12))
    return np.stack([temperature, rng.gamma(4, 15, (n, 12))], -1)


def _cover(rng: np.random.Generator, kind: Int64[np.ndarray, " n"]) -> Float[np.ndarray, "n 12"]:
    """Share of the ground under leaves: one bell a year, early or late, thick or thin."""
    about = np.array([of[1:] for of in TYPES])[kind]
    peak = about[:, :1] + rng.normal(0, 0.6, (len(kind), 1))
    months = about[:, 1:2] * rng.uniform(0.8, 1.2, (len(kind), 1))
    vigour = rng.uniform(0.75, 1.05, (len(kind), 1))
    away = (_MONTHS - peak + 6) % 12 - 6
    bell = np.exp(-0.5 * (2 * away / months) ** 2)
    low, high = about[:, 2:3], about[:, 3:4] * vigour
    return np.clip(low + (high - low) * bell + rng.normal(0, 0.03, bell.shape), 0, 1)


def _reflectance(
    rng: np.random.Generator, cover: Float[np.ndarray, "n 12"]
) -> Float[np.ndarray, "n 12 11"]:
    bright = rng.lognormal(0, 0.15, (len(cover), 1, 1))  # of the soil
    mixed = cover[..., None] * _LEAF + (1 - cover[..., None]) * _SOIL * bright
    haze = rng.gamma(1, 0.01, (*cover.shape, 1)) * np.linspace(1, 0.1, len(_SOIL))
    return np.clip(mixed * rng.lognormal(0, 0.03, mixed.shape) + haze, 0.001, 1)


def _backscatter(
    rng: np.random.Generator, cover: Float[np.ndarray, "n 12"], rain: Float[np.ndarray, "n 12"]
) -> Float[np.ndarray, "n 12 2"]:
    """Wet and rough soil is bright in VV, leaves in VH; dB of power with gamma speckle."""
    rough = rng.normal(0, 1, (len(cover), 1))
    wet = 2 * (rain / (rain + 60))
    vv = -12.5 + rough + wet - 1.5 * cover
    vh = -21 + 0.5 * rough + 0.5 * wet + 6 * cover
    power = 10 ** (np.stack([vv, vh], -1) / 10)
    return 10 * np.log10(power * rng.gamma(_LOOKS, 1 / _LOOKS, power.shape))
