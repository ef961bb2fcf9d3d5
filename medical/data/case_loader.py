"""Batches of cases: the same from volumes on the device as from those in the cache on disk."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from core.augment.draws import Draws
from core.data.device_loader import DeviceLoader
from core.data.resident import Prepare, ResidentLoader
from core.trainers.task import Loader
from medical.data.cases import Cases
from medical.data.prepared import VolumesOnDisk, cube

Batch = dict[str, Tensor]


def case_loader(
    data: Cases,
    split: str,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    prepare: Prepare | None = None,
    drop_last: bool = False,
    labels: bool = False,
) -> Loader:
    """Shuffled batches of a split, on the device of the data.

    A batch holds `row`, the cases' rows in `data` (not within the split); `volume`, whole volumes,
    and `crop`, a random cube of each, float32 (B, 1, size, size, size), 0 to 1. Volumes in the
    cache on disk are read by `data.workers` processes ahead of the training. With `labels`, in
    place of `volume`, the cube's classes as `label`, int64, of the cases that have a segmentation.

    Args:
        data: the cases.
        split: train, valid or test.
        batch_size: rows of a batch over all processes.
        seed: of the order and of all random numbers.
        rank: number of this process.
        world_size: processes that share a batch.
        prepare: (batch, random numbers for its rows) -> batch, e.g. with tokens and views.
        drop_last: see `core.data.order.EpochOrder`.
        labels: see above.
    """
    rows = data.labelled(split) if labels else data.splits[split]
    options = {"rank": rank, "world_size": world_size}
    if isinstance(data.store, VolumesOnDisk):
        return DeviceLoader(
            _FromDisk(data.store, rows.tolist(), labels),
            batch_size,
            data.store.device,
            seed,
            _as_numbers(prepare),
            data.workers,
            drop_last=drop_last,
            draw=_places,
            **options,
        )

    def complete(batch: Batch, draws: Draws) -> Batch:
        rows = batch["row"]
        if labels:
            batch["crop"], batch["label"] = data.labelled_crops(rows, draws)
        else:
            batch |= {"volume": data.whole(rows), "crop": data.crops(rows, draws)}
        return prepare(batch, draws) if prepare else batch

    return ResidentLoader(
        {"row": rows}, batch_size, seed, prepare=complete, drop_last=drop_last, **options
    )


class _FromDisk(Dataset[Batch]):
    """Cubes of cases, in bytes as they lie in the cache."""

    def __init__(self, store: VolumesOnDisk, rows: list[int], labels: bool) -> None:
        self.store, self.rows, self.labels = store, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, asked: tuple[int, Tensor]) -> Batch:
        row, place = self.rows[asked[0]], asked[1]
        case = self.store.prepared(row)
        batch = {"row": torch.tensor(row), "crop": cube(case, place)}
        if self.labels:
            return batch | {"label": cube(case, place, labels=True)}
        return batch | {"volume": case.whole}


def _places(draws: Draws) -> Tensor:
    return draws.uniform(0, 1, 3)


def _as_numbers(prepare: Prepare | None) -> Prepare:
    def complete(batch: Batch, draws: Draws) -> Batch:
        for name in batch.keys() & {"volume", "crop"}:
            batch[name] = batch[name][:, None].float().div_(255)
        if "label" in batch:
            batch["label"] = batch["label"][:, None].long()
        return prepare(batch, draws) if prepare else batch

    return complete
