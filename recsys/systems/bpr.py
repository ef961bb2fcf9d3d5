"""BPR-MF: matrix factorisation with Bayesian personalised ranking (UAI 2009, arXiv 1205.2618)."""

from jaxtyping import Float
from torch import Tensor, nn

from core.losses import bpr, embedding_penalty
from recsys.systems.recommender import Recommender


class BPR(Recommender):
    """Users and items as vectors; an item that was taken scores above one that was not.

    Args:
        n_users: number of users.
        n_items: number of items.
        n_interactions: number of training pairs.
        dim: width of the embeddings.
        reg_weight: weight of half the squared norms of the batch's embeddings, a pair.
    """

    needs_negatives = True

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_interactions: int,
        dim: int = 64,
        reg_weight: float = 1e-4,
    ) -> None:
        super().__init__(n_users, n_items, n_interactions)
        self.reg_weight = reg_weight
        self.user_embedding = nn.Embedding(n_users, dim)
        self.item_embedding = nn.Embedding(n_items, dim)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """BPR of the pairs against their sampled negatives, plus the penalty of their vectors."""
        users = self.user_embedding(batch["user"])
        positives = self.item_embedding(batch["item"])
        negatives = self.item_embedding(batch["negative"])
        ranking = bpr((users * positives).sum(1), (users * negatives).sum(1))
        penalty = 0.5 * embedding_penalty(users, positives, negatives)
        return {
            "loss": ranking + self.reg_weight * penalty,
            "bpr": ranking,
            "penalty": penalty,
        }

    def tables(self) -> dict[str, Float[Tensor, "n dim"]]:
        """The two embedding tables."""
        return {"user": self.user_embedding.weight, "item": self.item_embedding.weight}
