"""What values and grids of a scene say of its units, band names and missing pixels."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from core.data.checks import DataError
from remote_sensing.data.bands import NATIVE, RADAR, canonical_band

# Share and number of a band's pixels of one value from which on that value means something.
_REPEATED, _SEVERAL = 0.01, 20
_DARKEST = -0.03  # reflectance that noise and the correction of the atmosphere still reach
_MANY = 0.05
# Backscatter of land and water in dB.
_LOUDEST_MEDIAN, _FAINTEST_MEDIAN = 5.0, -45.0
# Two bands are swapped where exchanging them brings a scene so much nearer to the others.
_NEARER, _FAR = 0.35, 0.3


def dtype_problem(file: Path, dtype: str, sensor: str, unit: str) -> DataError | None:
    """A type of numbers that the unit does not come in."""
    kind = np.dtype(dtype).kind
    if unit == "dn" and dtype not in ("uint16", "int16", "int32", "uint32"):
        return DataError(
            f"values are {dtype}",
            path=file,
            expected="uint16 digital numbers",
            fix=f"if they are reflectance, say data.{sensor}_unit=reflectance; else fetch the "
            "product as it is delivered",
        )
    if unit in ("db", "reflectance") and kind != "f":
        return DataError(
            f"values are {dtype}",
            path=file,
            expected=f"floating point numbers of {'dB' if unit == 'db' else 'reflectance'}",
            fix="whole numbers cut off what follows the point: write the file again as float32",
        )
    return None


def undeclared_nodata(
    file: Path, band: str, raw: Shaped[np.ndarray, "rows columns"], nodata: float | None
) -> DataError | None:
    """A value far from all others, or of too many pixels to be measured, not declared no data."""
    values = raw[np.isfinite(raw)] if raw.dtype.kind == "f" else raw.ravel()
    if nodata is not None:
        values = values[values != nodata]
    if len(values) < 100:
        return None
    found, counts = np.unique(values, return_counts=True)
    common = int(counts.argmax()) if raw.dtype.kind == "f" else None
    ends = [0, len(found) - 1] if len(found) > 1 else []
    for place in [*([] if common is None else [common]), *ends]:
        share = counts[place] / len(values)
        if share < _REPEATED or counts[place] < _SEVERAL:
            continue
        others = np.delete(found, place).astype(np.float64)
        gap = np.abs(others - float(found[place])).min() if len(others) else 0.0
        spread = np.subtract(*np.percentile(others, [75, 25])) if len(others) else 0.0
        if place == common or gap > 5 * spread + 1:
            return DataError(
                f"{band} is {found[place]:g} in {100 * share:.1f} % of the pixels, and the file "
                "does not declare it as no data",
                path=file,
                expected="nodata in the file's metadata",
                fix=f"gdal_edit.py -a_nodata {found[place]:g} {file.name}",
            )
    return None


def value_problems(
    file: Path, band: str, sensor: str, unit: str, values: Float[np.ndarray, " n"], offset: float
) -> Iterator[DataError]:
    """Stored values, without missing ones, that cannot be of the declared unit."""
    if len(values) == 0:
        return
    low, middle, high = np.percentile(values, [1, 50, 99])
    if sensor == RADAR:
        yield from _of_radar(file, band, unit, low, middle, high)
    elif unit == "dn":
        below = float((values + offset < 10_000 * _DARKEST).mean())
        if below > _MANY:
            yield DataError(
                f"{band}: {100 * below:.0f} % of the pixels have a reflectance below {_DARKEST} "
                f"with data.dn_offset={offset:g}",
                path=file,
                expected="reflectance from 0 on",
                fix="say data.dn_offset=0 of products before processing baseline 04.00 and of "
                "harmonised copies",
            )
    elif high > 20:
        yield DataError(
            f"{band} reaches {high:g}",
            path=file,
            expected="reflectance of 0 to about 1",
            fix="if these are digital numbers, say data.optical_unit=dn",
        )


def _of_radar(
    file: Path, band: str, unit: str, low: float, middle: float, high: float
) -> Iterator[DataError]:
    said = f"{band} has values from {low:.3g} to {high:.3g}, half of them below {middle:.3g}"
    if unit == "db" and (low >= 0 or not _FAINTEST_MEDIAN < middle < _LOUDEST_MEDIAN):
        yield DataError(
            said,
            path=file,
            expected="dB, of land about -25 to 0",
            fix="if this is linear power or amplitude, say data.radar_unit=power or amplitude",
        )
    if unit != "db" and low < 0:
        yield DataError(
            said,
            path=file,
            expected=f"{unit}, which is not below 0",
            fix="if these are dB, say data.radar_unit=db",
        )


def swapped_radar(file: Path, names: Sequence[str], means: Sequence[float]) -> DataError | None:
    """Cross-polarised backscatter above the co-polarised, which land and water never have."""
    of = dict(zip(names, means, strict=True))
    for co, cross in (("VV", "VH"), ("HH", "HV")):
        if co in of and cross in of and of[cross] > of[co] + 1:
            return DataError(
                f"{cross} is {of[cross] - of[co]:.1f} dB above {co} in the mean",
                path=file,
                expected=f"{cross} below {co}",
                fix="the two are swapped: correct the names of the bands",
            )
    return None


def swapped_optical(
    names: Sequence[str], scenes: Float[np.ndarray, "n bands"]
) -> Iterator[tuple[int, str, str]]:
    """Scenes whose spectrum becomes that of the others when two bands are exchanged.

    Args:
        names: of the bands.
        scenes: mean reflectance of each scene.
    """
    if len(scenes) < 4:
        return
    shapes = np.log(np.maximum(scenes, 1e-3))
    shapes -= shapes.mean(1, keepdims=True)
    for number, own in enumerate(shapes):
        others = np.delete(shapes, number, 0)
        distance = np.sqrt(((others - own) ** 2).mean(1)).min()
        if distance <= _FAR * np.log(2):
            continue
        best, pair = distance, None
        for a, b in combinations(range(len(names)), 2):
            exchanged = own.copy()
            exchanged[[a, b]] = own[[b, a]]
            after = np.sqrt(((others - exchanged) ** 2).mean(1)).min()
            if after < best:
                best, pair = after, (names[a], names[b])
        if pair is not None and best < _NEARER * distance:
            yield number, *pair


def odd_pixels(pixels: dict[str, float]) -> list[tuple[str, str]]:
    """Bands that have coarser pixels than one that is taken with coarser ones: (fine, coarse)."""
    return [
        (fine, coarse)
        for fine, coarse in combinations(sorted(pixels, key=lambda b: NATIVE.get(b, 0)), 2)
        if fine in NATIVE
        and coarse in NATIVE
        and NATIVE[fine] < NATIVE[coarse]
        and pixels[fine] > 1.01 * pixels[coarse]
    ]


def named_otherwise(
    file: Path, band: str, description: str | None, sensor: str
) -> DataError | None:
    """A band whose description is the name of another."""
    try:
        own = canonical_band(description or band, sensor)
    except DataError:
        return None
    if own == band:
        return None
    return DataError(
        f"calls its band {description}",
        path=file,
        expected=band,
        fix="the files are swapped, or the description is wrong",
    )
