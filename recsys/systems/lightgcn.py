"""LightGCN: neighbourhood averages of ID embeddings (SIGIR 2020, arXiv 2002.02126)."""

from jaxtyping import Float
from torch import Tensor, nn

from core.encoders.graph import propagate
from core.losses import bpr, embedding_penalty
from recsys.systems.recommender import Recommender


class LightGCN(Recommender):
    """Embeddings propagated over the training graph, without weights or nonlinearities.

    The two tables start Xavier-uniform, each by its own size, as the paper says; the authors' later
    code draws them from N(0, 0.1²).

    Args:
        n_users: number of users.
        n_items: number of items.
        n_interactions: number of training pairs.
        dim: width of the embeddings.
        n_layers: propagation layers L.
        reg_weight: weight of half the squared norms of the batch's embeddings before propagation,
            a pair (eq. 15; the authors' code divides by the batch).
    """

    needs_negatives = True

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_interactions: int,
        dim: int = 64,
        n_layers: int = 3,
        reg_weight: float = 1e-4,
    ) -> None:
        super().__init__(n_users, n_items, n_interactions)
        self.n_layers, self.reg_weight = n_layers, reg_weight
        self.embedding = nn.Embedding(n_users + n_items, dim)
        nn.init.xavier_uniform_(self.embedding.weight.data[:n_users])
        nn.init.xavier_uniform_(self.embedding.weight.data[n_users:])

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """BPR of the propagated embeddings, plus the penalty of those before propagation."""
        nodes = propagate(self.adjacency(), self.embedding.weight, self.n_layers)
        rows = batch["user"], batch["item"] + self.n_users, batch["negative"] + self.n_users
        users, positives, negatives = (nodes.index_select(0, row) for row in rows)
        ranking = bpr((users * positives).sum(1), (users * negatives).sum(1))
        penalty = 0.5 * embedding_penalty(*(self.embedding(row) for row in rows))
        return {
            "loss": ranking + self.reg_weight * penalty,
            "bpr": ranking,
            "penalty": penalty,
        }

    def tables(self) -> dict[str, Float[Tensor, "n dim"]]:
        """The propagated embeddings."""
        nodes = propagate(self.adjacency(), self.embedding.weight, self.n_layers)
        return {"user": nodes[: self.n_users], "item": nodes[self.n_users :]}
