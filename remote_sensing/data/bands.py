"""Names and units of the bands of Sentinel-1 and Sentinel-2.

Reflectance is 0 to 1 and a little above (clouds, snow); backscatter is in dB.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from core.data.checks import DataError

OPTICAL, RADAR = "optical", "radar"
SENSORS = (OPTICAL, RADAR)
# In the order in which they are printed everywhere: B8A between B08 and B09.
ORDER = {
    OPTICAL: (
        *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A"),
        *("B09", "B10", "B11", "B12"),
    ),
    RADAR: ("VV", "VH", "HH", "HV"),
}
UNITS = {OPTICAL: ("dn", "reflectance"), RADAR: ("db", "power", "amplitude")}
# Pixel in metres, as the satellite takes it.
NATIVE = dict.fromkeys(("B02", "B03", "B04", "B08"), 10) | dict.fromkeys(("B01", "B09", "B10"), 60)
NATIVE |= dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 20)
_DN_OF_ONE = 10_000.0


def canonical_band(name: str, sensor: str) -> str:
    """`B1`, `b01` -> `B01`; `vv` -> `VV`.

    Raises:
        DataError: the sensor has no such band.
    """
    found = name.strip().upper()
    number = re.fullmatch(r"B(\d{1,2})", found)
    found = f"B{int(number[1]):02d}" if number else "B8A" if found == "B08A" else found
    if found not in ORDER[sensor]:
        raise DataError(f"band {name!r}", expected=f"of {sensor}: {', '.join(ORDER[sensor])}")
    return found


def check_unit(sensor: str, unit: str) -> None:
    """Refuses a unit that the sensor does not come in."""
    if unit not in UNITS[sensor]:
        raise DataError(f"data.{sensor}_unit={unit}", expected=f"one of {', '.join(UNITS[sensor])}")


def to_physical(
    values: Shaped[Tensor, "..."], sensor: str, unit: str, dn_offset: float = 0.0
) -> Float[Tensor, "..."]:
    """Stored values to reflectance, or to backscatter in dB, as float32.

    Args:
        values: as in the file.
        sensor: `optical` or `radar`.
        unit: `dn` (reflectance = (DN + dn_offset) / 10000) or `reflectance`; `db`, `power`
            (dB = 10 log10 of it) or `amplitude` (20 log10).
        dn_offset: -1000 for products of processing baseline 04.00 and later (25 January 2022 on),
            0 for earlier ones and for harmonised copies.

    Returns:
        NaN where power or amplitude is not above 0, which means no data.
    """
    check_unit(sensor, unit)
    found = values.float()
    if unit == "dn":
        return (found + dn_offset) / _DN_OF_ONE
    if unit in ("power", "amplitude"):
        factor = 10 if unit == "power" else 20
        return factor * found.where(found > 0, torch.nan).log10()
    return found


def sorted_bands(names: Sequence[str], sensor: str) -> list[str]:
    """Canonical names in the printed order."""
    return sorted((canonical_band(name, sensor) for name in names), key=ORDER[sensor].index)
