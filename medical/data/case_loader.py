"""Batches of cases: the same from volumes on the device as from those in the cache on disk."""

from torch import Tensor

from core.augment.draws import Draws
from core.data.resident import Prepare, ResidentLoader
from core.trainers.task import Loader
from medical.data.cases import Cases

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
) -> Loader:
    """Shuffled batches of a split, on the device of the data.

    A batch holds `row`, the cases' rows in `data` (not within the split); `volume`, whole volumes,
    and `crop`, a random cube of each, float32 (B, 1, size, size, size), 0 to 1. Volumes in the
    cache on disk are read by `data.workers` processes ahead of the training.

    Args:
        data: the cases.
        split: train, valid or test.
        batch_size: rows of a batch over all processes.
        seed: of the order and of all random numbers.
        rank: number of this process.
        world_size: processes that share a batch.
        prepare: (batch, random numbers for its rows) -> batch, e.g. with tokens and views.
        drop_last: see `core.data.order.EpochOrder`.
    """

    def complete(batch: Batch, draws: Draws) -> Batch:
        rows = batch["row"]
        batch |= {"volume": data.whole(rows), "crop": data.crops(rows, draws)}
        return prepare(batch, draws) if prepare else batch

    return ResidentLoader(
        {"row": data.splits[split]},
        batch_size,
        seed,
        rank,
        world_size,
        prepare=complete,
        drop_last=drop_last,
    )
