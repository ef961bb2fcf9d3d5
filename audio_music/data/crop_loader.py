"""Training crops of recordings: workers seek and decode, the device does the rest."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from audio_music.data.labels import Label
from audio_music.data.recordings import Recordings, Window
from core.augment.draws import Draws
from core.data.device_loader import DeviceLoader
from core.data.order import EpochOrder

Batch = dict[str, Tensor]


class CropLoader:
    """Batches of random crops of the training recordings, the same from files and from memory.

    An epoch takes as many crops of a recording as fit into it. Which, and where they begin, follows
    from seed and epoch alone: a run goes on exactly inside an epoch, and the processes of a group
    see what one would. Of a resident set crops are gathered on the device; of a larger one worker
    processes decode no more than the crops, one batch ahead (`core.data.device_loader`).

    Args:
        data: the recordings.
        batch_size: crops of a batch over all processes.
        seed: of order, places and draws.
        rank: number of this process.
        world_size: processes that share a batch.
        prepare: (batch, random numbers for its rows) -> batch.
    """

    def __init__(
        self,
        data: Recordings,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        prepare: Callable[[Batch, Draws], Batch] | None = None,
    ) -> None:
        self.data, self.seed, self.prepare = data, seed, prepare
        self.rows = data.crops_of("train")
        train = data.splits["train"]
        self.index = torch.full((len(data.clips),), -1)
        self.index[train] = torch.arange(len(train))
        self.index = self.index.to(data.device)
        self.label = first_classes(data.labels)
        self.crops = _Crops(data, self.rows.tolist())
        self.order = EpochOrder(len(self.rows), batch_size, seed, rank, world_size)
        self.files: DeviceLoader | None = None
        if data.resident is None:
            self.files = DeviceLoader(
                self.crops,
                batch_size,
                data.device,
                seed,
                self._prepared,
                data.workers,
                rank,
                world_size,
            )
            self.order = self.files.order

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left of the current epoch."""
        self.crops.places = crop_places(len(self.rows), self.seed, self.order.epoch)
        if self.files is not None:
            yield from self.files
            return
        rows = self.order.permutation(self.order.generator()).tolist()
        for share in self.order.shares():
            windows = [self.crops.window(crop) for crop in rows[share]]
            if not windows:  # a process without a row of the last batch
                windows = [self.crops.window(rows[0])]
            raw = self.data.raw(windows, self.crops.size)
            raw["row"] = torch.tensor([window.row for window in windows], device=self.data.device)
            if self.data.codes:
                coded = torch.stack([self.data.codes_of(window) for window in windows])
                raw["codes"] = coded.to(self.data.device)
            raw = {name: column[: share.stop - share.start] for name, column in raw.items()}
            yield self._prepared(raw, self.order.draws(share, self.data.device))

    def _prepared(self, raw: Batch, draws: Draws) -> Batch:
        data = self.data
        batch = data.at_rate(raw, data.crop, data.pads)
        batch |= {"codes": raw["codes"]} if "codes" in raw else {}
        batch["index"] = self.index[raw["row"]]
        if self.label is not None and self.label.numbers is not None:
            batch["label"] = self.label.numbers[raw["row"]]
        return self.prepare(batch, draws) if self.prepare else batch

    def state_dict(self) -> dict[str, int]:
        """The place in the training."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a saved place."""
        self.order.load_state_dict(state)


def crop_places(n_crops: int, seed: int, epoch: int) -> Float[np.ndarray, " crops"]:
    """Where each crop of an epoch begins, in [0, 1) of where it can."""
    return np.random.default_rng((seed, epoch)).random(n_crops)


def first_classes(labels: dict[str, Label]) -> Label | None:
    """The label called `label`, if its classes are known, or else the first with classes."""
    named = sorted(labels, key=lambda name: (name != "label", name))
    return next((labels[name] for name in named if labels[name].kind == "classes"), None)


class _Crops(Dataset[Batch]):
    """Crops of an epoch, padded to one length."""

    def __init__(self, data: Recordings, rows: list[int]) -> None:
        self.data, self.rows = data, rows
        self.places = np.zeros(len(rows))
        self.size = max(data.raw_crop(rate) for rate in data.rates)

    def __len__(self) -> int:
        return len(self.rows)

    def window(self, crop: int) -> Window:
        return self.data.random_window(self.rows[crop], float(self.places[crop]))

    def __getitem__(self, crop: int) -> Batch:
        window = self.window(crop)
        wave = torch.zeros(self.size, dtype=self.data.dtype)
        wave[: window.count] = self.data.decode(window)
        rate = self.data.clips[window.row].rate
        coded = {"codes": self.data.codes_of(window)} if self.data.codes else {}
        return {"wave": wave, **coded} | {
            name: torch.tensor(value)
            for name, value in (("count", window.count), ("rate", rate), ("row", window.row))
        }
