"""FREEDOM: Freezing and Denoising Graph Structures (ACM MM 2023, arXiv 2211.06924).

The graph of similar items is built once from the raw features and stays as it is; the graph of
interactions loses the edges between popular nodes, others in every epoch. Where the paper leaves a
choice, this is the one of the authors' toolbox: the item graph binarises neighbours, is directed,
counts an item as its own neighbour, and weighs each modality; the raw features are trained, by the
modality terms alone; the pruned graph is normalised anew, and ranking uses the whole graph.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.graph import normalized_adjacency, propagate
from core.encoders.neighbours import NeighbourGraph, nearest_by_cosine
from core.losses import bpr
from recsys.data.interactions import Interactions
from recsys.systems.recommender import Recommender


class FREEDOM(Recommender):
    """LightGCN on a pruned graph, plus ID embeddings averaged over similar items.

    Args:
        n_users: number of users.
        n_items: number of items.
        n_interactions: number of training pairs.
        feature_dims: modality -> width of the items' features; at least one.
        dim: width of the embeddings.
        n_layers: layers on the graph of interactions.
        n_item_layers: layers on the graph of items.
        k: neighbours of an item in each modality, itself included.
        image_weight: share of the modality `image` in the item graph; the others share the rest
            equally, and a modality that is alone has all.
        edge_dropout: share of the interactions that are pruned, in [0, 1).
        modality_weight: λ, the weight of the modality terms.

    Raises:
        DataError: the data have no features, or no edge would be left.
    """

    needs_negatives = True

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_interactions: int,
        feature_dims: dict[str, int],
        dim: int = 64,
        n_layers: int = 2,
        n_item_layers: int = 1,
        k: int = 10,
        image_weight: float = 0.1,
        edge_dropout: float = 0.8,
        modality_weight: float = 1e-3,
    ) -> None:
        super().__init__(n_users, n_items, n_interactions)
        if not feature_dims:
            raise DataError(
                "freedom needs item features and the data have none",
                expected="image_feat.npy or text_feat.npy beside the interactions",
            )
        if not 0 <= edge_dropout < 1:
            raise DataError(
                f"system.edge_dropout={edge_dropout}", expected="a share of the edges, in [0, 1)"
            )
        self.n_layers, self.n_item_layers, self.k = n_layers, n_item_layers, k
        self.modality_weight, self.edge_dropout = modality_weight, edge_dropout
        self.shares = _shares(list(feature_dims), image_weight)
        self.user_embedding = nn.Embedding(n_users, dim)
        self.item_embedding = nn.Embedding(n_items, dim)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)
        self.features = nn.ModuleDict(
            {m: nn.Embedding(n_items, w) for m, w in feature_dims.items()}
        )
        # A bias would cancel in the differences that the modality terms are of.
        self.project = nn.ModuleDict(
            {m: nn.Linear(w, dim, bias=False) for m, w in feature_dims.items()}
        )

        self.neighbours: Tensor
        self.neighbour_weights: Tensor
        self.pruning_seed: Tensor
        shape = n_items, len(feature_dims) * k
        self.register_buffer("neighbours", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("neighbour_weights", torch.zeros(shape))
        # With the seed among the weights, a run that goes on prunes as one that was not broken off.
        self.register_buffer("pruning_seed", torch.randint(2**31, ()))
        self._similar: NeighbourGraph | None = None
        self._pruned: tuple[int, Tensor] | None = None

    def prepare(self, data: Interactions) -> None:
        """Copies training pairs and features, and freezes the graph of similar items."""
        super().prepare(data)
        self._similar = self._pruned = None
        for modality, table in self.features.items():
            table.weight.data.copy_(data.features[modality])
        # Every row has k neighbours of weight 1, so D^-1/2 A D^-1/2 weighs each of them 1/k.
        ids = [nearest_by_cosine(data.features[m], self.k)[1] for m in self.features]
        self.neighbours.copy_(torch.cat(ids, 1))
        shares = self.neighbour_weights.new_tensor([self.shares[m] for m in self.features])
        self.neighbour_weights.copy_(shares.repeat_interleave(self.k) / self.k)

    def load_state_dict(self, *args: object, **kwargs: object) -> object:
        """Loads weights, and forgets the graphs of the old ones."""
        self._similar = self._pruned = None
        return super().load_state_dict(*args, **kwargs)

    def similar_items(self) -> NeighbourGraph:
        """The frozen graph of items on the system's device, built at its first use."""
        if self._similar is None or self._similar.ids.device != self.neighbours.device:
            self._similar = NeighbourGraph(self.neighbours, self.neighbour_weights)
        return self._similar

    def pruned_adjacency(self) -> Float[Tensor, "nodes nodes"]:
        """This epoch's graph: edges drawn without replacement by (d_u d_i)^-1/2."""
        epoch, device = self.current_epoch, self.train_pairs.device
        if self._pruned is None or (self._pruned[0], self._pruned[1].device) != (epoch, device):
            users, items = self.train_pairs[:, self.kept_edges(epoch)]
            graph = normalized_adjacency(users, items, self.n_users, self.n_items)
            self._pruned = epoch, graph
        return self._pruned[1]

    def kept_edges(self, epoch: int) -> Int64[Tensor, " kept"]:
        """Which training pairs an epoch keeps."""
        users, items = self.train_pairs.long()
        odds = (torch.bincount(users)[users] * torch.bincount(items)[items]).double().rsqrt()
        # The smallest of exponential clocks of these rates: a draw without replacement. On the
        # host, for the same edges on every device and rank.
        generator = torch.Generator().manual_seed(int(self.pruning_seed) + epoch)
        clocks = torch.empty(len(users), dtype=torch.float64).exponential_(generator=generator)
        n_kept = max(1, int(len(users) * (1 - self.edge_dropout)))
        return (clocks.to(odds.device) / odds).topk(n_kept, largest=False).indices

    def nodes(
        self, adjacency: Float[Tensor, "nodes nodes"]
    ) -> tuple[Float[Tensor, "n_users dim"], Float[Tensor, "n_items dim"]]:
        """Users and items on both graphs."""
        similar = ids = self.item_embedding.weight
        for _ in range(self.n_item_layers):
            similar = self.similar_items() @ similar
        both = torch.cat([self.user_embedding.weight, ids])
        users, items = propagate(adjacency, both, self.n_layers).split([self.n_users, self.n_items])
        return users, items + similar

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """BPR of the embeddings, and of the users with the items' projected features."""
        pruned = self.pruned_adjacency() if self.edge_dropout else self.adjacency()
        all_users, all_items = self.nodes(pruned)
        users = all_users.index_select(0, batch["user"])
        pairs = batch["item"], batch["negative"]
        ranking = bpr(*((users * all_items.index_select(0, ids)).sum(1) for ids in pairs))
        modalities = ranking.new_zeros(())
        for modality, table in self.features.items():
            project = self.project[modality]
            modalities = modalities + bpr(*((users * project(table(ids))).sum(1) for ids in pairs))
        return {
            "loss": ranking + self.modality_weight * modalities,
            "bpr": ranking,
            "modalities": modalities,
        }

    def tables(self) -> dict[str, Float[Tensor, "n dim"]]:
        """The embeddings on the whole graph."""
        users, items = self.nodes(self.adjacency())
        return {"user": users, "item": items}


def _shares(modalities: list[str], image_weight: float) -> dict[str, float]:
    others = [modality for modality in modalities if modality != "image"]
    if not others or "image" not in modalities:
        return {modality: 1 / len(modalities) for modality in modalities}
    return {
        m: image_weight if m == "image" else (1 - image_weight) / len(others) for m in modalities
    }
