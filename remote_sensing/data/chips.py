"""Chips: aligned squares of optical and radar scenes, normalised, in memory as a whole."""

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Self

import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from core.data.samples import Samples

# sensor -> band -> the reflectance or dB that become 0 and 1
Statistics = dict[str, dict[str, tuple[float, float]]]


@dataclass(frozen=True)
class Places:
    """Where chips lie on the ground.

    Attributes:
        crs: (n) coordinate reference systems, such as `EPSG:32633`.
        affine: (n, 6) a, b, c, d, e, f of x = a column + b row + c, y = d column + e row + f.
    """

    crs: list[str] = field(default_factory=list)
    affine: Float64[Tensor, "n 6"] = field(default_factory=lambda: torch.zeros(0, 6).double())

    def take(self, rows: Tensor) -> Self:
        """Those of some chips."""
        kept = rows.tolist()
        affine = self.affine.index_select(0, rows.to(self.affine.device))
        return replace(self, crs=[self.crs[row] for row in kept], affine=affine)


@dataclass(frozen=True)
class Chips(Samples):
    """`optical` (n, bands, height, width) and `radar` (n, 2, height, width), or one of them.

    Stored as uint8: 0 is the mean less two deviations of a band, 255 the mean plus two, of
    reflectance or dB; pixels without data are 128. The label `label` is the class that covers most
    of a chip.

    Attributes:
        bands: sensor -> names of its bands.
        valid: (n, height, width), where all sensors have data; None where they have it everywhere.
        statistics: sensor -> band -> the values that became 0 and 255.
        places: where the chips lie.
        targets: (n, classes) shares of a chip that classes cover, NaN where unknown; None without
            any map.
        cover: (n, height, width) classes of pixels, 255 unknown; None without any map.
        larger: test chips of another size, beside those of the test split.
    """

    bands: dict[str, list[str]] = field(default_factory=dict)
    valid: Bool[Tensor, "n height width"] | None = None
    statistics: Statistics = field(default_factory=dict)
    places: Places = field(default_factory=Places)
    targets: Float[Tensor, "n classes"] | None = None
    cover: UInt8[Tensor, "n height width"] | None = None
    larger: "Chips | None" = None

    def columns(self, split: str) -> dict[str, Tensor]:
        """As `Samples.columns`, and `valid` and `targets` where there are any."""
        rows = self.splits[split]
        more = {"valid": self.valid, "targets": self.targets}
        return super().columns(split) | {
            name: values.index_select(0, rows)
            for name, values in more.items()
            if values is not None
        }

    def to(self, device: torch.device) -> Self:
        """The same data on a device."""
        parts = {name: part.to(device) for name, part in self._parts().items()}
        larger = None if self.larger is None else self.larger.to(device)
        return replace(super().to(device), **parts, larger=larger)  # type: ignore[arg-type]

    def without_test(self) -> Self:
        """The same data without the rows of the test split, and without the larger chips."""
        kept = torch.cat([self.splits["train"], self.splits["valid"]]).sort().values
        parts = {name: part.index_select(0, kept) for name, part in self._parts().items()}
        places = self.places.take(kept) if self.places.crs else self.places
        changed: dict[str, object] = {**parts, "places": places, "larger": None}
        return replace(super().without_test(), **changed)  # type: ignore[arg-type]

    def digest(self) -> str:
        """First 16 hex digits of the sha256 of all that was read."""
        total = sha256(super().digest().encode())
        total.update(repr((self.bands, self.classes, self.statistics, self.places.crs)).encode())
        for name, part in (self._parts() | {"affine": self.places.affine}).items():
            total.update(f"{name} {list(part.shape)}".encode())
            total.update(part.cpu().contiguous().numpy().tobytes())
        if self.larger is not None:
            total.update(self.larger.digest().encode())
        return total.hexdigest()[:16]

    def _parts(self) -> dict[str, Tensor]:
        parts = {"valid": self.valid, "targets": self.targets, "cover": self.cover}
        return {name: part for name, part in parts.items() if part is not None}

    def physical(self, row: int) -> dict[str, Float[Tensor, "bands height width"]]:
        """Sensor -> reflectance or dB of one chip, as far as 8 bits and two deviations reach."""
        found = {}
        for sensor, values in self.inputs.items():
            ends = [self.statistics[sensor][band] for band in self.bands[sensor]]
            low, high = torch.tensor(ends, device=values.device).T[..., None, None]
            found[sensor] = low + values[row].float() / 255 * (high - low)
        return found
