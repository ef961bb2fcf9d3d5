"""BM3: Bootstrap Latent Representations for Multi-modal Recommendation (WWW 2023, 2207.05969).

No negative samples: a predictor looks from one view of a user-item pair to a target view that is
perturbed by dropout and gets no gradient. Follows the authors' code where it differs from the
paper's text: the penalty takes norms, not squared norms, divided by the number of items.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from core.distributed import global_mean
from core.encoders.graph import propagate
from core.losses.precision import full_precision
from recsys.data.interactions import Interactions
from recsys.systems.recommender import Recommender

Keep = dict[str, Bool[Tensor, "batch dim"]]


class BM3(Recommender):
    """ID embeddings on the graph and projected item features, aligned without negatives.

    Args:
        n_users: number of users.
        n_items: number of items.
        n_interactions: number of training pairs.
        feature_dims: modality -> width of the items' features; without any, or with cl_weight 0,
            only the interactions are learned from.
        dim: width d of the embeddings.
        n_layers: propagation layers L.
        dropout: p of the target views.
        reg_weight: weight of the penalty.
        cl_weight: weight of the inter- and intra-modality terms.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_interactions: int,
        feature_dims: dict[str, int],
        dim: int = 64,
        n_layers: int = 1,
        dropout: float = 0.5,
        reg_weight: float = 0.1,
        cl_weight: float = 2.0,
    ) -> None:
        super().__init__(n_users, n_items, n_interactions)
        self.dim, self.n_layers, self.dropout = dim, n_layers, dropout
        self.reg_weight, self.cl_weight = reg_weight, cl_weight
        self.user_embedding = nn.Embedding(n_users, dim)
        self.item_embedding = nn.Embedding(n_items, dim)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)
        used = feature_dims if cl_weight else {}
        # The raw features are trained too; without that the results are others.
        self.features = nn.ModuleDict({m: nn.Embedding(n_items, w) for m, w in used.items()})
        self.project = nn.ModuleDict({m: nn.Linear(w, dim) for m, w in used.items()})
        self.predictor = nn.Linear(dim, dim)
        for layer in (*self.project.values(), self.predictor):
            nn.init.xavier_normal_(layer.weight)

    def prepare(self, data: Interactions) -> None:
        """Copies the training pairs, and the features as the start of their tables."""
        super().prepare(data)
        for modality, table in self.features.items():
            table.weight.data.copy_(data.features[modality])

    @property
    def kinds(self) -> list[str]:
        """Users, items and the modalities that are learned from."""
        return ["user", "item", *self.features]

    def online(self) -> tuple[Float[Tensor, "n_users dim"], Float[Tensor, "n_items dim"]]:
        """h_u and h_i of all nodes: the layers' mean; items add their ID embedding once more."""
        ids = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        nodes = propagate(self.adjacency(), ids, self.n_layers)
        return nodes[: self.n_users], nodes[self.n_users :] + self.item_embedding.weight

    def objective(self, batch: dict[str, Int64[Tensor, " batch"]]) -> dict[str, Tensor]:
        """The loss of a batch of positive pairs, with fresh dropout masks."""
        keep = {}
        for kind, n in (("user", self.n_users), ("item", self.n_items)):
            rows, place = _distinct(batch[kind], n)
            for view in (kind,) if kind == "user" else (kind, *self.features):
                # A node that is twice in the batch has one target, so one mask.
                mask = torch.rand(len(rows), self.dim, device=rows.device) >= self.dropout
                keep[view] = mask.index_select(0, place)
        return self.loss(batch["user"], batch["item"], keep)

    def loss(
        self, users: Int64[Tensor, " batch"], items: Int64[Tensor, " batch"], keep: Keep
    ) -> dict[str, Tensor]:
        """All terms, given which entries of the targets `user`, `item` and modalities are kept."""
        all_users, all_items = self.online()
        user, item = all_users.index_select(0, users), all_items.index_select(0, items)
        user_target = self._target(user, keep["user"])
        item_target = self._target(item, keep["item"])

        reconstruction = _distance(self.predictor(user), item_target) + _distance(
            self.predictor(item), user_target
        )
        inter = intra = reconstruction.new_zeros(())
        rows, place = _distinct(items, self.n_items)
        for modality, table in self.features.items():
            # Only the batch's items are projected: the terms ask for no others.
            projected = self.project[modality](table(rows)).index_select(0, place)
            predicted = self.predictor(projected)
            inter = inter + _distance(predicted, item_target)
            intra = intra + _distance(predicted, self._target(projected, keep[modality]))
        penalty = (all_users.norm() + all_items.norm()) / self.n_items
        loss = reconstruction + self.reg_weight * penalty + self.cl_weight * (inter + intra)
        return {
            "loss": loss,
            "reconstruction": reconstruction,
            "inter_modality": inter,
            "intra_modality": intra,
            "penalty": penalty,
        }

    def _target(self, view: Tensor, keep: Bool[Tensor, "batch dim"]) -> Tensor:
        return view.detach() * keep / (1 - self.dropout)

    def tables(self) -> dict[str, Float[Tensor, "n dim"]]:
        """f(h) of all users and items: their dot products rank."""
        users, items = self.online()
        return {"user": self.predictor(users), "item": self.predictor(items)}

    def modality_table(self, modality: str) -> Float[Tensor, "n_items dim"]:
        """f(e_m) of all items."""
        return self.predictor(self.project[modality](self.features[modality].weight))


@full_precision
def _distance(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Tensor:
    """1 - the mean cosine over the rows of all processes."""
    return 1 - global_mean(cosine_similarity(a, b, dim=1, eps=1e-8))


def _distinct(
    ids: Int64[Tensor, " batch"], n: int
) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, " batch"]]:
    """Rows that hold every id of the batch, and for each id the one row that stands for it.

    On the CPU the rows are the distinct ids. An accelerator would have to be waited for to count
    them, so there the rows are the batch, and equal ids share one of their rows.
    """
    if ids.device.type == "cpu":
        return torch.unique(ids, return_inverse=True)
    rows = torch.arange(len(ids), device=ids.device)
    return ids, rows.new_empty(n).scatter_(0, ids, rows).index_select(0, ids)
