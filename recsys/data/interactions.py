"""The interactions of a recommender as tensors, with the ids and features they came with."""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True, eq=False)
class Interactions:
    """Implicit feedback of users on items, split in three.

    Attributes:
        n_users: number of users; user ids are 0 to n_users - 1.
        n_items: number of items; item ids are 0 to n_items - 1.
        train: pairs to learn from; row 0 users, row 1 items.
        valid: pairs to choose a model with; may have no column.
        test: pairs to report on; may have no column.
        features: modality -> one row per item, in the order of the item ids.
        user_ids: the users' ids in the files, by integer id.
        item_ids: the items' ids in the files, by integer id.
        titles: a readable name for every item, where the data have one.
    """

    n_users: int
    n_items: int
    train: Int64[Tensor, "2 n_train"]
    valid: Int64[Tensor, "2 n_valid"]
    test: Int64[Tensor, "2 n_test"]
    features: dict[str, Float32[Tensor, "n_items dim"]]
    user_ids: list[str]
    item_ids: list[str]
    titles: list[str] | None = None

    @property
    def n_interactions(self) -> int:
        """Number of training pairs."""
        return self.train.shape[1]

    @property
    def feature_dims(self) -> dict[str, int]:
        """Modality -> width of its features."""
        return {name: table.shape[1] for name, table in self.features.items()}

    def positives(self, split: Split) -> Int64[Tensor, "2 n"]:
        """The pairs of one split.

        Raises:
            KeyError: if the split is not train, valid or test.
        """
        return {"train": self.train, "valid": self.valid, "test": self.test}[split]

    def to(self, device: torch.device | str) -> "Interactions":
        """The same data with every tensor on `device`."""
        return replace(
            self,
            train=self.train.to(device),
            valid=self.valid.to(device),
            test=self.test.to(device),
            features={name: table.to(device) for name, table in self.features.items()},
        )

    def without_test(self) -> "Interactions":
        """The same data with an empty test split: what training is allowed to see."""
        return replace(self, test=self.test[:, :0])

    def digest(self) -> str:
        """First 16 hex digits of the sha256 of sizes, pairs and features, on any device alike."""
        total = hashlib.sha256(f"{self.n_users},{self.n_items}".encode())
        for name in ("train", "valid", "test"):
            _add(total, name, self.positives(name))
        for name in sorted(self.features):
            _add(total, name, self.features[name])
        return total.hexdigest()[:16]


def _add(total: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    total.update(f"{name}{tuple(tensor.shape)}".encode())
    total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
