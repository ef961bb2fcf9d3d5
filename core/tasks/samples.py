"""What all tasks on `Samples` share: batches, embeddings with ids, search."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from core.augment.draws import Draws
from core.data.checks import DataError
from core.data.order import EpochOrder
from core.data.samples import Samples
from core.data.stored_rows import column_loader
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.trainers.system import Batch, System
from core.trainers.task import Loader

Augment = Callable[[Tensor, Draws], Tensor]
_ROWS = 1024  # that are embedded at a time


class SampleTask(ABC):
    """Trains on, embeds and searches samples of one or more modalities; subclasses evaluate.

    A batch holds every modality as float32 (B, ...), images in [0, 1]; the labels; `index`, the
    row's number in the training split; and, for a system with `n_views`, `views`
    (n_views, B, ...): augmented copies of its first modality. With an augmentation for each
    modality the copies of each are in `views/NAME` as well. A system with `n_local_views` gets
    those of `local_augment`, which may be smaller, as `local_views`. A system may also compose the
    batches itself (`System.batch_order(columns, batch_size, seed, rank, world_size)`, an
    `EpochOrder`) and add what it draws for their rows (`System.draw(batch, draws)`).

    Args:
        augment: makes one view of a batch of the first modality, or modality -> what makes one of
            that modality; needed by systems of views.
        monitor: the metric that chooses checkpoints and configurations.
        local_augment: makes one local view of a batch of the first modality (multi-crop).

    Attributes:
        drop_last: whether training leaves out a shorter last batch.
    """

    drop_last = False

    def __init__(
        self,
        augment: Augment | dict[str, Augment] | None = None,
        monitor: str = "accuracy",
        local_augment: Augment | None = None,
    ) -> None:
        self.augment, self.monitor, self.local_augment = augment, monitor, local_augment

    def system_arguments(self, data: Samples) -> dict[str, Any]:
        """The sizes that a system is built with."""
        return {
            "shapes": data.shapes,
            "n_train": len(data.splits["train"]),
            "n_classes": data.n_classes,
        }

    def train_loader(
        self,
        system: System,
        data: Samples,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Loader:
        """Batches of the training split, on the device of the data.

        Raises:
            DataError: the system learns from views and no augmentation makes them.
        """
        columns = data.columns("train")
        prepare = self._prepare(system, data)
        place = (batch_size, seed, rank, world_size)
        compose: Callable[..., EpochOrder] | None = getattr(system, "batch_order", None)
        order = compose(columns, *place) if compose else None
        return column_loader(columns, *place, prepare, self.drop_last, order)

    def _prepare(self, system: System, data: Samples) -> Callable[[Batch, Draws], Batch]:
        n_views, draw = getattr(system, "n_views", 0), getattr(system, "draw", None)
        augments = self._augments(system, data) if n_views else {}
        first, each = next(iter(data.inputs)), isinstance(self.augment, dict)
        n_local, local = getattr(system, "n_local_views", 0), self.local_augment
        if n_local and local is None:
            raise DataError(
                f"{type(system).__name__} learns from local views too",
                fix="say what makes them, e.g. task.local_augment={_target_: "
                "core.augment.images.SimCLRViews, scale: [0.05, 0.14], size: 16}",
            )

        def prepare(batch: Batch, draws: Draws) -> Batch:
            batch = as_float(batch, data)
            if draw is not None:
                batch = batch | draw(batch, draws)
            made: Batch = {}
            for name, augment in augments.items():
                each_view = [augment(batch[name], draws) for _ in range(n_views)]
                views = torch.stack(each_view) if n_views > 1 else each_view[0][None]
                made |= {"views": views} if name == first else {}
                made |= {f"views/{name}": views} if each else {}
            if n_local and local is not None:
                made["local_views"] = torch.stack(
                    [local(batch[first], draws) for _ in range(n_local)]
                )
            return batch | made

        return prepare

    def _augments(self, system: System, data: Samples) -> dict[str, Augment]:
        """Modality -> what makes its views, for those that are augmented."""
        first = next(iter(data.inputs))
        if isinstance(self.augment, dict):
            missing = [name for name in data.inputs if name not in self.augment]
            if not missing:
                return {name: self.augment[name] for name in data.inputs}
            first = missing[0]
        elif self.augment is not None:
            return {first: self.augment}
        raise DataError(
            f"{type(system).__name__} learns from augmented views of {first}",
            fix="say what makes them, e.g. task.augment._target_=core.augment.images."
            "SimCLRViews; data=digits_demo, images and shards bring theirs",
        )

    def has_split(self, data: Samples, split: str) -> bool:
        """Whether the split has any rows."""
        return len(data.splits[split]) > 0

    @abstractmethod
    def evaluate(self, system: System, data: Samples, split: str) -> Evaluation:
        """The task's protocol on `"valid"` or `"test"`."""

    def vectors(self, system: System, data: Samples) -> dict[str, Float[Tensor, "n dim"]]:
        """Modality -> what is written and searched of all samples."""
        return embed_all(system, data)

    def embed(self, system: System, data: Samples) -> pl.DataFrame:
        """One row a sample and modality: `kind`, `id` as in the files, `embedding`."""
        frames = []
        for kind, vectors in self.vectors(system, data).items():
            schema = {"kind": pl.String, "id": pl.String}
            frames.append(
                pl.DataFrame(
                    {"kind": [kind] * len(data.ids), "id": data.ids}
                    | {"embedding": vectors.cpu().numpy()},
                    schema=schema | {"embedding": pl.Array(pl.Float32, vectors.shape[1])},
                ).with_columns(pl.col("embedding").arr.to_list())
            )
        return pl.concat(frames)

    def search(
        self,
        system: System,
        data: Samples,
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """The samples of largest cosine to `MODALITY:ID`, itself left out.

        Raises:
            DataError: the query names no sample that is there.
        """
        vectors = self.vectors(system, data)
        kind, _, name = query.partition(":")
        if kind not in vectors or not name:
            raise DataError(f"query={query}", expected=" or ".join(f"{k}:ID" for k in vectors))
        if name not in data.ids:
            raise DataError(
                f"query={query}: no such id in the data",
                expected=f"one of {len(data.ids)} ids such as {', '.join(data.ids[:3])}",
            )
        own = data.ids.index(name)
        unit = normalize(vectors[kind], dim=1)
        if index is None:
            cosines = unit @ unit[own]
            scores, rows = cosines.topk(min(k + 1, len(cosines)))
            found = list(zip(rows.tolist(), scores.tolist(), strict=True))
        else:
            near, numbers = index.search(kind, unit[own : own + 1].cpu().numpy(), k + 1)
            found = list(zip(numbers[0].tolist(), near[0].tolist(), strict=True))
        # An approximate index gives -1 where it found fewer.
        found = [(row, score) for row, score in found if row not in (own, -1)][:k]
        return [
            {"rank": rank, "id": data.ids[row], "cosine": score} | self._labels(data, row)
            for rank, (row, score) in enumerate(found, 1)
        ]

    def _labels(self, data: Samples, row: int) -> dict[str, str]:
        named = {}
        for name, values in data.labels.items():
            value, names = int(values[row]), data.classes.get(name)
            named[name] = names[value] if names and value >= 0 else str(value)
        return named

    def index_spaces(self, system: System, data: Samples) -> dict[str, tuple[Tensor, Tensor]]:
        """Modality -> unit vectors, which are also the queries."""
        units = {k: normalize(v, dim=1) for k, v in self.vectors(system, data).items()}
        return {kind: (vectors, vectors) for kind, vectors in units.items()}

    def keep_reading(self, data: Samples, run_dir: Path) -> None:  # noqa: B027
        """Nothing: every reading of the files gives the same rows."""

    def reading(self, run_dir: Path) -> dict[str, str]:
        """No argument of the reader follows from the run."""
        return {}


def as_float(
    batch: dict[str, Shaped[Tensor, "batch ..."]], data: Samples
) -> dict[str, Shaped[Tensor, "batch ..."]]:
    """Images of a batch from uint8 to float32 in [0, 1]; the rest as it is."""
    images = [name for name in data.inputs if batch[name].dtype == torch.uint8]
    return batch | {name: batch[name].float() / 255 for name in images}


@torch.no_grad()
def embed_all(
    system: System, data: Samples, rows: Tensor | None = None, projected: bool = False
) -> dict[str, Float[Tensor, "n dim"]]:
    """`System.embed` of all samples, or of some rows, on the device of the data.

    `projected` asks for `System.project` instead, where the system has it.

    Raises:
        DataError: the system was trained on samples of other shapes.
    """
    shapes = getattr(system, "shapes", data.shapes)
    if shapes != data.shapes:
        raise DataError(f"samples of {data.shapes}", expected=f"those of the training, {shapes}")
    device = next(iter(data.inputs.values())).device
    rows = torch.arange(len(data.ids), device=device) if rows is None else rows
    encode = getattr(system, "project", system.embed) if projected else system.embed
    parts: dict[str, list[Tensor]] = {}
    for some in rows.split(_ROWS):
        batch = {name: values.index_select(0, some) for name, values in data.inputs.items()}
        for name, vectors in encode(as_float(batch, data)).items():
            parts.setdefault(name, []).append(vectors)
    return {name: torch.cat(vectors) for name, vectors in parts.items()}


def joint_embedding(vectors: dict[str, Tensor]) -> Float[Tensor, "n dim"]:
    """The joint embedding where a system fuses, else all modalities side by side."""
    return vectors["joint"] if "joint" in vectors else torch.cat(list(vectors.values()), 1)
