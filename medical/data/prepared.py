"""Volumes after the deterministic transforms: resident on the device, or in the cache on disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Prepared:
    """One case in RAS at the asked-for spacing, cropped to what is not black, padded to the size.

    Attributes:
        voxels: intensities, 255 the upper end of the window.
        whole: the same as a cube: slices taken evenly along the last axis, resized by areas.
        affine: voxel of `voxels` -> mm in RAS+.
        labels: class of every voxel, 0 the background, where there is a segmentation.
    """

    voxels: UInt8[Tensor, "x y z"]
    whole: UInt8[Tensor, "size size size"]
    affine: Float64[Tensor, "4 4"]
    labels: UInt8[Tensor, "x y z"] | None = None


class Store(Protocol):
    """Where prepared volumes are; rows are numbers of cases.

    Attributes:
        labelled: whether each case has a segmentation.
    """

    labelled: list[bool]

    def __len__(self) -> int:
        """Number of cases."""
        ...

    def whole(self, rows: Int64[Tensor, " batch"]) -> UInt8[Tensor, "batch size size size"]:
        """Whole volumes as cubes."""
        ...

    def crops(
        self,
        rows: Int64[Tensor, " batch"],
        places: Float[Tensor, "batch 3"],
        labels: bool = False,
    ) -> UInt8[Tensor, "batch size size size"]:
        """Cubes of the volumes, or of their labels, at places in [0, 1) of where they fit."""
        ...

    def prepared(self, row: int) -> Prepared:
        """All of one case."""
        ...

    def select(self, rows: list[int]) -> Self:
        """Some of the cases."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        ...


@dataclass(frozen=True)
class ResidentVolumes:
    """Volumes of different shapes behind one another in one tensor: a batch of crops is a gather.

    Attributes:
        flat: all voxels, the last axis of a volume fastest.
        flat_labels: their classes; without any segmentation, an empty tensor; 0 for volumes that
            have none.
        starts: where each volume begins in `flat`.
        shapes: of each volume.
        wholes: all whole cubes.
        affines: of each volume, on the CPU.
        labelled: whether a volume has a segmentation.
    """

    flat: UInt8[Tensor, " voxels"]
    flat_labels: UInt8[Tensor, " voxels"]
    starts: Int64[Tensor, " n"]
    shapes: Int64[Tensor, "n 3"]
    wholes: UInt8[Tensor, "n size size size"]
    affines: Float64[Tensor, "n 4 4"]
    labelled: list[bool]

    @classmethod
    def of(cls, cases: Sequence[Prepared]) -> "ResidentVolumes":
        """Packs cases, on the device where they are."""
        shapes = torch.tensor([list(case.voxels.shape) for case in cases]).reshape(-1, 3)
        sizes = shapes.prod(1)
        labelled = [case.labels is not None for case in cases]
        device = cases[0].voxels.device
        labels = [
            torch.zeros_like(case.voxels) if case.labels is None else case.labels for case in cases
        ]
        return cls(
            torch.cat([case.voxels.flatten() for case in cases]),
            torch.cat(
                [each.flatten() for each in labels] if any(labelled) else [labels[0][:0, 0, 0]]
            ),
            (sizes.cumsum(0) - sizes).to(device),
            shapes.to(device),
            torch.stack([case.whole for case in cases]),
            torch.stack([case.affine.cpu() for case in cases]),
            labelled,
        )

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.labelled)

    def whole(self, rows: Int64[Tensor, " batch"]) -> UInt8[Tensor, "batch size size size"]:
        """Whole volumes as cubes."""
        return self.wholes.index_select(0, rows)

    def crops(
        self,
        rows: Int64[Tensor, " batch"],
        places: Float[Tensor, "batch 3"],
        labels: bool = False,
    ) -> UInt8[Tensor, "batch size size size"]:
        """Cubes of the volumes, or of their labels, at places in [0, 1) of where they fit."""
        size = self.wholes.shape[-1]
        shapes = self.shapes.index_select(0, rows)
        corners = corners_of(places, shapes, size)
        steps = torch.arange(size, device=self.flat.device)
        slices = (corners[:, 0, None] + steps) * (shapes[:, 1] * shapes[:, 2])[:, None]
        lines = (corners[:, 1, None] + steps) * shapes[:, 2, None]
        first = (self.starts[rows] + corners[:, 2])[:, None, None]
        values = self.flat_labels if labels else self.flat
        # A line of voxels is contiguous: one index for each, not for each voxel.
        return values.unfold(0, size, 1)[first + slices[:, :, None] + lines[:, None]]

    def prepared(self, row: int) -> Prepared:
        """All of one case, as views."""
        shape = self.shapes[row].tolist()
        part = slice(int(self.starts[row]), int(self.starts[row]) + shape[0] * shape[1] * shape[2])
        labels = self.flat_labels[part].view(shape) if self.labelled[row] else None
        return Prepared(self.flat[part].view(shape), self.wholes[row], self.affines[row], labels)

    def select(self, rows: list[int]) -> "ResidentVolumes":
        """Some of the cases."""
        return ResidentVolumes.of([self.prepared(row) for row in rows])

    def to(self, device: torch.device) -> "ResidentVolumes":
        """The same on a device; affines stay on the CPU."""
        names = ("flat", "flat_labels", "starts", "shapes", "wholes")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True)
class VolumesOnDisk:
    """Volumes that are prepared when they are first asked for, and read from the cache after that.

    Attributes:
        read: number of a case, as in the files -> the case on the CPU.
        rows: which of them these cases are.
        labelled: whether a volume has a segmentation.
        device: where batches go.
    """

    read: Callable[[int], Prepared]
    rows: list[int]
    labelled: list[bool]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.rows)

    def whole(self, rows: Int64[Tensor, " batch"]) -> UInt8[Tensor, "batch size size size"]:
        """Whole volumes as cubes, read one after the other."""
        cubes = [self.read(self.rows[row]).whole for row in rows.tolist()]
        return torch.stack(cubes).to(self.device)

    def crops(
        self,
        rows: Int64[Tensor, " batch"],
        places: Float[Tensor, "batch 3"],
        labels: bool = False,
    ) -> UInt8[Tensor, "batch size size size"]:
        """Cubes of the volumes, or of their labels, at places in [0, 1) of where they fit."""
        each = zip(rows.tolist(), places.cpu(), strict=True)
        return torch.stack([cube(self.prepared(row), at, labels) for row, at in each]).to(
            self.device
        )

    def prepared(self, row: int) -> Prepared:
        """All of one case, on the CPU."""
        return self.read(self.rows[row])

    def select(self, rows: list[int]) -> "VolumesOnDisk":
        """Some of the cases."""
        kept = [self.rows[row] for row in rows]
        return replace(self, rows=kept, labelled=[self.labelled[row] for row in rows])

    def to(self, device: torch.device) -> "VolumesOnDisk":
        """The same, with batches on a device."""
        return replace(self, device=device)


def corners_of(
    places: Float[Tensor, "batch 3"], shapes: Int64[Tensor, "batch 3"], size: int
) -> Int64[Tensor, "batch 3"]:
    """First voxels of cubes at places in [0, 1): each that fits is as likely as any other."""
    room = shapes - size + 1
    # A product just below 1 may round up to the next voxel, which would not fit.
    return (places * room).long().minimum(room - 1)


def cube(
    case: Prepared, place: Float[Tensor, "3"], labels: bool = False
) -> UInt8[Tensor, "size size size"]:
    """One cube of a case, or of its labels, which are 0 where it has none."""
    size, shape = len(case.whole), torch.tensor(case.voxels.shape)
    x, y, z = corners_of(place[None], shape[None], size)[0].tolist()
    values = case.labels if labels else case.voxels
    if values is None:
        return torch.zeros_like(case.whole)
    return values[x : x + size, y : y + size, z : z + size]
