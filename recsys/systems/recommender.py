"""What the recommenders share: their sizes, the training graph, and how they are asked."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.encoders.graph import normalized_adjacency
from core.trainers import System
from recsys.data.interactions import Interactions


class Recommender(System):
    """A system whose score of a user and an item is the dot product of their embeddings.

    The training pairs travel with the weights, so a checkpoint ranks without the training files.

    Args:
        n_users: number of users.
        n_items: number of items.
        n_interactions: number of training pairs.

    Attributes:
        needs_negatives: whether a batch must bring a sampled `negative` item for every pair.
        official_negatives: whether held-out items are never negatives, as in some authors' code;
            a leak, for comparison with their numbers.
    """

    needs_negatives = False
    official_negatives = False

    def __init__(self, n_users: int, n_items: int, n_interactions: int) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        self.train_pairs: Tensor
        self.register_buffer("train_pairs", torch.zeros(2, n_interactions, dtype=torch.int32))
        self._adjacency: Tensor | None = None

    def prepare(self, data: Interactions) -> None:
        """Copies the training pairs."""
        self.train_pairs.copy_(data.train)
        self._adjacency = None

    def adjacency(self) -> Float[Tensor, "nodes nodes"]:
        """The normalised training graph on the system's device, built at its first use."""
        if self._adjacency is None or self._adjacency.device != self.train_pairs.device:
            users, items = self.train_pairs
            self._adjacency = normalized_adjacency(users, items, self.n_users, self.n_items)
        return self._adjacency

    def load_state_dict(self, *args: object, **kwargs: object) -> object:
        """Loads weights and training pairs, and forgets the graph of the old pairs."""
        self._adjacency = None
        return super().load_state_dict(*args, **kwargs)

    @property
    def kinds(self) -> list[str]:
        """What can be embedded: users, items, and the modalities of items that the method uses."""
        return ["user", "item"]

    def embed(self, batch: dict[str, Int64[Tensor, " n"]]) -> dict[str, Float[Tensor, "n dim"]]:
        """Embeddings of the ids that `batch` gives for each kind.

        The dot product of `user` and `item` ranks; modalities of items lie in the same space.
        """
        tables = self.tables() if {"user", "item"} & set(batch) else {}
        return {
            kind: (tables[kind] if kind in tables else self.modality_table(kind))
            .index_select(0, ids)
            .float()
            for kind, ids in batch.items()
        }

    def tables(self) -> dict[str, Float[Tensor, "n dim"]]:
        """The embeddings of all users (`user`) and of all items (`item`)."""
        raise NotImplementedError(f"{type(self).__name__} does not define its embeddings")

    def modality_table(self, modality: str) -> Float[Tensor, "n_items dim"]:
        """The embeddings of one modality of all items, for methods whose `kinds` name it."""
        raise NotImplementedError(f"{type(self).__name__} does not embed {modality!r}")
