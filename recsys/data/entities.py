"""Queries and items with categorical features, and the pairs of them, as tensors."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from core.data.stream import Block

Split = Literal["train", "valid", "test"]
NO_VALUE = -1


@dataclass(frozen=True, eq=False)
class EntityTable:
    """The features of all queries, or of all items.

    Attributes:
        codes: a row an entity; a feature has one column, or as many as its longest bag. NO_VALUE
            fills bags and stands for what is not known.
        features: name -> (number of codes, None where it is open; number of columns), in the order
            of the columns.
        titles: a readable name for each, where the data have one.
    """

    codes: Int[Tensor, "n columns"]
    features: dict[str, tuple[int | None, int]]
    titles: list[str] | None = None

    def __len__(self) -> int:
        """Number of entities."""
        return len(self.codes)


@dataclass(frozen=True, eq=False)
class EntityPairs:
    """Two tables and the positive pairs of a query and an item, split in three.

    Attributes:
        queries: features of the queries; their ids are 0 to len - 1.
        items: features of the items, likewise.
        item_counts: training pairs of each item.
        known: training pairs, row 0 queries, row 1 items: all, or where they are streamed those of
            queries that are evaluated.
        valid: pairs to choose a model with, distinct and not in training; may have no column.
        test: pairs to report on, likewise.
        streamed: the training pairs as blocks of files; None where `known` is all of them.
        pairs_digest: of the training pairs.
    """

    queries: EntityTable
    items: EntityTable
    item_counts: Int64[Tensor, " n_items"]
    known: Int64[Tensor, "2 n"]
    valid: Int64[Tensor, "2 n_valid"]
    test: Int64[Tensor, "2 n_test"]
    streamed: Sequence[Block] | None
    pairs_digest: str

    @property
    def train_blocks(self) -> Sequence[Block]:
        """All training pairs, with the columns `query_id` and `item_id`."""
        if self.streamed is not None:
            return self.streamed
        columns = {"query_id": self.known[0].contiguous(), "item_id": self.known[1].contiguous()}
        return [Block(self.known.shape[1], lambda: columns)]

    def positives(self, split: Split) -> Int64[Tensor, "2 n"]:
        """The held-out pairs of a split.

        Raises:
            KeyError: the split is not valid or test.
        """
        return {"valid": self.valid, "test": self.test}[split]

    def to(self, device: torch.device | str) -> "EntityPairs":
        """The same data on `device`; streamed pairs stay in their files."""
        return replace(
            self,
            queries=replace(self.queries, codes=self.queries.codes.to(device)),
            items=replace(self.items, codes=self.items.codes.to(device)),
            item_counts=self.item_counts.to(device),
            known=self.known.to(device),
            valid=self.valid.to(device),
            test=self.test.to(device),
        )

    def without_test(self) -> "EntityPairs":
        """The same data with an empty test split: what training is allowed to see."""
        return replace(self, test=self.test[:, :0])

    def digest(self) -> str:
        """First 16 hex digits of the sha256 of features and pairs, on any device alike."""
        total = hashlib.sha256(self.pairs_digest.encode())
        for name, table in (("queries", self.queries), ("items", self.items)):
            total.update(f"{name}{table.features}".encode())
            _add(total, table.codes)
        _add(total, self.valid)
        _add(total, self.test)
        return total.hexdigest()[:16]


def _add(total: "hashlib._Hash", tensor: Tensor) -> None:
    total.update(f"{tuple(tensor.shape)}".encode())
    total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
