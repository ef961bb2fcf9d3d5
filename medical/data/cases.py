"""Cases: volumes with their reports, patients, splits and, where there are any, segmentations."""

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Self

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError
from core.data.samples import SPLITS
from medical.data.prepared import Store


@dataclass(frozen=True)
class Finding:
    """A lesion that a generated volume is known to hold.

    Attributes:
        kind: e.g. `nodule`.
        site: where it is, e.g. `right upper lobe`.
        size: its diameter in mm.
        centre: its voxel in `Cases.whole`, in [0, size) along every axis.
    """

    kind: str
    site: str
    size: float
    centre: tuple[float, float, float]


@dataclass(frozen=True)
class Cases:
    """A data set of volumes; small ones lie on the device, large ones in a cache on disk.

    Training takes batches from `medical.data.case_loader.case_loader`; what is not a step, such as
    evaluation, takes volumes by their rows from here.

    Volumes are in RAS orientation: the first axis goes to the patient's right, the second to the
    front, the third to the head. Intensities are 0 to 1 from the lower to the upper end of the
    window, held as 8 bits.

    Attributes:
        ids: (n) names of the cases.
        patients: (n) whose each case is; nobody is in two splits.
        splits: train, valid, test -> rows of that split, ascending.
        reports: (n) texts as they are in the files.
        store: the volumes.
        size: side of cubes in voxels.
        classes: names of the classes of segmentations, the first the background; empty without.
        findings: (n) what a generated case is known to hold; None for a real one.
        source: (n) what else each case follows from: its files and how they were prepared.
        workers: processes that read volumes ahead from the cache on disk.
    """

    ids: list[str]
    patients: list[str]
    splits: dict[str, Int64[Tensor, " rows"]]
    reports: list[str]
    store: Store
    size: int
    classes: list[str]
    findings: list[tuple[Finding, ...] | None]
    source: list[str]
    workers: int = 0

    def whole(self, rows: Int64[Tensor, " batch"]) -> Float[Tensor, "batch 1 size size size"]:
        """All of each volume, 0 to 1: `size` slices at even places along the last axis.

        The places are rounded; the slices are then resized by areas. This is `volume_vl` of
        VELVET-Med.
        """
        return self.store.whole(rows)[:, None].float().div_(255)

    def crops(
        self, rows: Int64[Tensor, " batch"], draws: Draws
    ) -> Float[Tensor, "batch 1 size size size"]:
        """A random cube of each volume at its full resolution, 0 to 1.

        This is `volume_vis` of VELVET-Med. Takes three numbers a row from `draws`.
        """
        places = draws.uniform(0, 1, 3)
        return self.store.crops(rows, places)[:, None].float().div_(255)

    def labelled_crops(
        self, rows: Int64[Tensor, " batch"], draws: Draws
    ) -> tuple[Float[Tensor, "batch 1 size size size"], Int64[Tensor, "batch 1 size size size"]]:
        """As `crops`, with the classes of the voxels."""
        places = draws.uniform(0, 1, 3)
        voxels, labels = (self.store.crops(rows, places, of)[:, None] for of in (False, True))
        return voxels.float().div_(255), labels.long()

    def volume(self, row: int) -> Float[Tensor, "1 x y z"]:
        """All of one volume at its full resolution, 0 to 1."""
        return self.store.prepared(row).voxels[None].float().div_(255)

    def segmentation(self, row: int) -> Int64[Tensor, "x y z"] | None:
        """Class of every voxel of `volume(row)`, or None without a segmentation."""
        labels = self.store.prepared(row).labels
        return None if labels is None else labels.long()

    def affine(self, row: int) -> Float64[Tensor, "4 4"]:
        """Voxel of `volume(row)` -> mm in RAS+, on the CPU."""
        return self.store.prepared(row).affine

    def labelled(self, split: str) -> Int64[Tensor, " rows"]:
        """Rows of a split that have a segmentation."""
        rows = self.splits[split]
        keep = [row for row in rows.tolist() if self.store.labelled[row]]
        return torch.tensor(keep, dtype=torch.int64, device=rows.device)

    def to(self, device: torch.device) -> Self:
        """The same data on a device."""
        splits = {name: rows.to(device) for name, rows in self.splits.items()}
        return replace(self, splits=splits, store=self.store.to(device))

    def without_test(self) -> Self:
        """The same data without the cases of the test split."""
        kept = torch.cat([self.splits["train"], self.splits["valid"]]).sort().values
        new_row = torch.full((len(self.ids),), -1, device=kept.device)
        new_row[kept] = torch.arange(len(kept), device=kept.device)
        rows = kept.tolist()
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            patients=[self.patients[row] for row in rows],
            splits={s: new_row[self.splits[s]] for s in ("train", "valid")} | {"test": kept[:0]},
            reports=[self.reports[row] for row in rows],
            store=self.store.select(rows),
            findings=[self.findings[row] for row in rows],
            source=[self.source[row] for row in rows],
        )

    def digest(self) -> str:
        """First 16 hex digits of the sha256 of ids, patients, splits, reports and sources."""
        total = sha256()
        for part in (self.ids, self.patients, self.reports, self.source, self.classes):
            total.update("\0".join([*part, ""]).encode())
        for split in SPLITS:
            total.update(f"{split} {self.splits[split].tolist()}".encode())
        return total.hexdigest()[:16]

    def refuse_other_size(self, size: int) -> None:
        """Refuses to show a system cubes of another size than it was trained on.

        Raises:
            DataError: as said.
        """
        if self.size != size:
            raise DataError(
                f"cubes of {self.size} voxels", expected=f"data.size={size}, as in training"
            )
