"""Samples: rows of one or more modalities with their labels and splits."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Self

import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.stored_rows import Column, StoredRows, take

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Samples:
    """A data set on one device.

    Attributes:
        inputs: modality -> (n, ...); images are uint8 (n, 3, height, width), all else float32. What
            does not fit into memory is `StoredRows`, which are decoded as they are selected.
        labels: name -> (n,) int64, -1 where unknown; the first, if any, is called `label`.
        splits: train, valid, test -> rows of that split, ascending.
        ids: (n) names of the rows, as in the files.
        classes: name of a label -> names of its classes, where the files have them.
    """

    inputs: dict[str, Column]
    labels: dict[str, Int64[Tensor, " n"]]
    splits: dict[str, Int64[Tensor, " rows"]]
    ids: list[str]
    classes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Modality -> shape of one sample."""
        return {name: list(rows.shape[1:]) for name, rows in self.inputs.items()}

    @property
    def n_classes(self) -> dict[str, int]:
        """Name of a label -> number of its classes."""
        found = {name: int(values.max()) + 1 for name, values in self.labels.items()}
        return {name: max(n, len(self.classes.get(name, []))) for name, n in found.items()}

    def columns(self, split: str) -> dict[str, Column]:
        """Inputs and labels of a split, and `index`: the row's number within it."""
        rows = self.splits[split]
        columns: dict[str, Column] = {**self.inputs, **self.labels}
        taken = {name: take(column, rows) for name, column in columns.items()}
        return taken | {"index": torch.arange(len(rows), device=rows.device)}

    def to(self, device: torch.device) -> Self:
        """The same data on a device."""
        parts = {
            name: {key: tensor.to(device) for key, tensor in getattr(self, name).items()}
            for name in ("inputs", "labels", "splits")
        }
        return replace(self, **parts)  # type: ignore[arg-type]

    def without_test(self) -> Self:
        """The same data without the rows of the test split."""
        kept = torch.cat([self.splits["train"], self.splits["valid"]]).sort().values
        new_row = torch.full((len(self.ids),), -1, device=kept.device)
        new_row[kept] = torch.arange(len(kept), device=kept.device)
        return replace(
            self,
            inputs={name: take(rows, kept) for name, rows in self.inputs.items()},
            labels={name: rows.index_select(0, kept) for name, rows in self.labels.items()},
            splits={s: new_row[self.splits[s]] for s in ("train", "valid")} | {"test": kept[:0]},
            ids=[self.ids[row] for row in kept.tolist()],
            classes=self._all_classes(),
        )

    def _all_classes(self) -> dict[str, list[str]]:
        # A class whose samples are all in the test split still has its place.
        return {
            name: self.classes.get(name) or [str(number) for number in range(n)]
            for name, n in self.n_classes.items()
        }

    def digest(self) -> str:
        """First 16 hex digits of the sha256 of all that was read; of stored rows, of names."""
        total = sha256()
        for part in (self.inputs, self.labels, self.splits):
            for name, column in sorted(part.items()):
                total.update(f"{name} {list(column.shape)}".encode())
                if isinstance(column, StoredRows):
                    total.update(column.fingerprint.encode())
                content = column.rows if isinstance(column, StoredRows) else column
                total.update(content.cpu().contiguous().numpy().tobytes())
        total.update("\n".join(self.ids).encode())
        return total.hexdigest()[:16]


def split_by_ratio(
    labels: Int64[Tensor, " n"] | None,
    n_rows: int,
    ratios: tuple[float, ...],
    seed: int,
    names: Sequence[str] = (),
) -> dict[str, Int64[Tensor, " rows"]]:
    """Random train, validation and test rows, every class in its own proportion.

    Args:
        labels: classes of the rows, negative where unknown.
        n_rows: how many there are.
        ratios: shares of the three splits.
        seed: of the choice.
        names: of the classes, for messages.

    Raises:
        DataError: the ratios are not three shares of 1, or a class has one member.
    """
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise DataError(f"data.ratios={list(ratios)}", expected="three shares with the sum 1")
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    classes = torch.zeros(n_rows, dtype=torch.int64) if labels is None else labels.cpu()
    parts: dict[str, list[Tensor]] = {split: [] for split in SPLITS}
    values, counts = classes.unique(return_counts=True)
    lonely = values[(counts == 1) & (values >= 0)].tolist()
    if labels is not None and lonely:
        told = f" ({names[lonely[0]]})" if lonely[0] < len(names) else ""
        raise DataError(
            f"class {lonely[0]}{told} has one member, which cannot be in two splits",
            fix="add others, leave it out, or say the splits yourself",
        )
    for value in values:
        rows = order[classes[order] == value]
        ends = [round(len(rows) * share) for share in (ratios[0], ratios[0] + ratios[1])]
        for split, part in zip(SPLITS, rows.tensor_split(ends), strict=True):
            parts[split].append(part)
    return {split: torch.cat(rows).sort().values for split, rows in parts.items()}
