"""Popularity: every user is shown the items with the most training interactions."""

import torch
from jaxtyping import Float
from torch import Tensor

from recsys.data.interactions import Interactions
from recsys.systems.recommender import Recommender


class Popularity(Recommender):
    """Ranks items by their number of training interactions; it has nothing to train.

    The reference that every recommender has to beat.
    """

    def __init__(self, n_users: int, n_items: int, n_interactions: int) -> None:
        super().__init__(n_users, n_items, n_interactions)
        self.counts: Tensor
        self.register_buffer("counts", torch.zeros(n_items))

    def prepare(self, data: Interactions) -> None:
        """Counts the training interactions of every item."""
        super().prepare(data)
        self.counts.copy_(torch.bincount(data.train[1], minlength=self.n_items))

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A loss of 0: there is nothing to learn."""
        return {"loss": self.counts.new_zeros(())}

    def tables(self) -> dict[str, Float[Tensor, "n 1"]]:
        """1 for every user, the count for every item."""
        return {"user": self.counts.new_ones(self.n_users, 1), "item": self.counts.unsqueeze(1)}
