"""Chips: aligned squares of optical and radar scenes, in memory or in their files."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Self

import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

from core.data.samples import Samples
from core.data.stored_rows import Column, StoredRows, take
from remote_sensing.data.bands import to_physical
from remote_sensing.data.rasters import Reading

UNKNOWN = 255  # of land cover
_MIDDLE = 128  # of 8 bits: the mean of a band

# sensor -> band -> the reflectance or dB that become 0 and 1
Statistics = dict[str, dict[str, tuple[float, float]]]


@dataclass(frozen=True)
class Places:
    """Where chips lie on the ground.

    Attributes:
        scenes: (n) names of the scenes that they were cut from.
        crs: (n) coordinate reference systems, such as `EPSG:32633`.
        affine: (n, 6) a, b, c, d, e, f of x = a column + b row + c, y = d column + e row + f.
    """

    scenes: list[str] = field(default_factory=list)
    crs: list[str] = field(default_factory=list)
    affine: Float64[Tensor, "n 6"] = field(default_factory=lambda: torch.zeros(0, 6).double())

    def take(self, rows: Tensor) -> Self:
        """Those of some chips."""
        kept = rows.tolist()
        affine = self.affine.index_select(0, rows.to(self.affine.device))
        scenes, crs = ([names[row] for row in kept] for names in (self.scenes, self.crs))
        return replace(self, scenes=scenes, crs=crs, affine=affine)


@dataclass(frozen=True)
class Chips(Samples):
    """`optical` (n, bands, height, width) and `radar` (n, 2, height, width), or one of them.

    A system sees 256 steps from the mean less two deviations of a band to the mean plus two, of
    reflectance or dB, as 0 to 1; pixels without data are 128 / 255. In memory chips are these steps
    as uint8. Of `StoredRows` they are the numbers of the files, of which `normalised` makes the
    same steps on the device. The label `label` is the class that covers most of a chip.

    Attributes:
        bands: sensor -> names of its bands.
        valid: (n, height, width), where all sensors have data; None where they have it everywhere,
            and of stored chips, whose numbers say it.
        statistics: sensor -> band -> the values that became 0 and 255.
        places: where the chips lie.
        targets: (n, classes) shares of a chip that classes cover, NaN where unknown; None without
            any map.
        cover: (n, height, width) classes of pixels, 255 unknown; None without any map.
        reading: units of stored chips.
        larger: test chips of another size, beside those of the test split.
    """

    bands: dict[str, list[str]] = field(default_factory=dict)
    valid: Bool[Tensor, "n height width"] | None = None
    statistics: Statistics = field(default_factory=dict)
    places: Places = field(default_factory=Places)
    targets: Float[Tensor, "n classes"] | None = None
    cover: Column | None = None
    reading: Reading = field(default_factory=Reading)
    larger: "Chips | None" = None

    @property
    def is_stored(self) -> bool:
        """Whether the chips lie in their files."""
        return any(isinstance(of, StoredRows) for of in self.inputs.values())

    def batch(self, rows: Int64[Tensor, " rows"]) -> dict[str, Tensor]:
        """Sensor -> some chips as a system sees them, and `valid` where not all pixels are."""
        found = {name: values.index_select(0, rows) for name, values in self.inputs.items()}
        if self.valid is not None:
            found["valid"] = self.valid.index_select(0, rows)
        return self.normalised(found)

    def covers(
        self, rows: Int64[Tensor, " rows"], batch: dict[str, Tensor]
    ) -> Int64[Tensor, "rows height width"]:
        """Classes of the pixels of some chips, 255 where unknown or without data of a sensor.

        Args:
            rows: which chips.
            batch: these chips.
        """
        assert self.cover is not None
        found = self.cover.index_select(0, rows).long()
        return found.masked_fill(~batch["valid"], UNKNOWN) if "valid" in batch else found

    def normalised(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch of the columns as a system sees it; of stored chips it gets `valid` as well."""
        if not self.is_stored:
            return batch | {name: batch[name].float() / 255 for name in self.inputs}
        units, offset = self.reading.units, self.reading.dn_offset
        values = {}
        for sensor in self.inputs:
            raw = batch[sensor]
            found = to_physical(raw, sensor, units[sensor], offset)
            # Integers are stored as they are only where 0 is no data.
            has_data = found.isfinite() if raw.is_floating_point() else raw.float() != 0
            values[sensor] = found.where(has_data, torch.nan)
        known = [of.isfinite().all(1) for of in values.values()]
        valid = torch.stack(known).all(0)
        steps = {
            sensor: to_steps(of, list(self.statistics[sensor].values())).where(
                valid[:, None], _MIDDLE
            )
            for sensor, of in values.items()
        }
        return batch | {name: of.float() / 255 for name, of in steps.items()} | {"valid": valid}

    def columns(self, split: str) -> dict[str, Column]:
        """As `Samples.columns`, and `valid` and `targets` where there are any."""
        rows = self.splits[split]
        more = {"valid": self.valid, "targets": self.targets}
        return super().columns(split) | {
            name: take(values, rows) for name, values in more.items() if values is not None
        }

    def to(self, device: torch.device) -> Self:
        """The same data on a device."""
        parts = {name: part.to(device) for name, part in self._parts().items()}
        larger = None if self.larger is None else self.larger.to(device)
        return replace(super().to(device), **parts, larger=larger)  # type: ignore[arg-type]

    def without_test(self) -> Self:
        """The same data without the rows of the test split, and without the larger chips."""
        kept = torch.cat([self.splits["train"], self.splits["valid"]]).sort().values
        parts = {name: take(part, kept) for name, part in self._parts().items()}
        places = self.places.take(kept) if self.places.crs else self.places
        changed: dict[str, object] = {**parts, "places": places, "larger": None}
        return replace(super().without_test(), **changed)  # type: ignore[arg-type]

    def digest(self) -> str:
        """First 16 hex digits of the sha256 of all that was read."""
        total = sha256(super().digest().encode())
        total.update(repr((self.bands, self.classes, self.statistics, self.places.crs)).encode())
        for name, part in (self._parts() | {"affine": self.places.affine}).items():
            total.update(f"{name} {list(part.shape)}".encode())
            if isinstance(part, Tensor):  # what is stored follows from the files of the inputs
                total.update(part.cpu().contiguous().numpy().tobytes())
        if self.larger is not None:
            total.update(self.larger.digest().encode())
        return total.hexdigest()[:16]

    def _parts(self) -> dict[str, Column]:
        parts = {"valid": self.valid, "targets": self.targets, "cover": self.cover}
        return {name: part for name, part in parts.items() if part is not None}

    def physical(self, row: int) -> dict[str, Float[Tensor, "bands height width"]]:
        """Sensor -> reflectance or dB of one chip, as far as 256 steps and two deviations reach."""
        seen = self.batch(self.splits["train"].new_tensor([row]))
        found = {}
        for sensor in self.inputs:
            ends = [self.statistics[sensor][band] for band in self.bands[sensor]]
            low, high = torch.tensor(ends, device=seen[sensor].device).T[..., None, None]
            found[sensor] = low + seen[sensor][0] * (high - low)
        return found


def to_steps(
    values: Float[Tensor, "n bands height width"], ends: Sequence[tuple[float, float]]
) -> UInt8[Tensor, "n bands height width"]:
    """Reflectance or dB as 256 steps between the ends of each band; 128 where it is NaN."""
    low, high = torch.tensor(ends, dtype=torch.float32, device=values.device).T[..., None, None]
    scaled = ((values - low) / (high - low)).clamp(0, 1) * 255
    return scaled.round().nan_to_num(_MIDDLE).byte()
