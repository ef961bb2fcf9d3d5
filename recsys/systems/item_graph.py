"""SIGER: Semantic Item Graph Enhancement for Multimodal Recommendation (arXiv 2508.06154, 2025).

Graphs of similar items made from raw features know nothing of who took what, and carry the noise of
the features. Three remedies: collaborative similarity is added to each modality's graph; the
modalities are contrasted with themselves under noise that is proportional to each embedding's
modulus; and behaviour is aligned with every modality, then with their fusion.

The abstract fixes these three parts. What it leaves open follows the conventions of the same
group's MGCN and FREEDOM: cosines clipped at 0, the ID embeddings gated by the features, users as
the average of their items, attention over the modalities, Adam with a slowly falling rate.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.distributed import global_mean
from core.encoders.graph import propagate, weighted_sums
from core.encoders.neighbours import NeighbourGraph, cosine_co_occurrence, nearest_by_cosine
from core.losses import bpr, distinct, embedding_penalty, info_nce
from core.losses.precision import full_precision
from core.losses.rows import Rows, unit
from recsys.data.interactions import Interactions
from recsys.systems.recommender import Recommender

Graph = tuple[Int64[Tensor, "n_items k"], Float[Tensor, "n_items k"]]
Nodes = tuple[Float[Tensor, "n_users dim"], Float[Tensor, "n_items dim"]]


class ItemGraph(Recommender):
    """Behaviour on the graph of interactions plus semantics on enhanced graphs of items.

    Args:
        n_users: number of users.
        n_items: number of items.
        n_interactions: number of training pairs.
        feature_dims: modality -> width of the items' features; at least one.
        dim: width d of the embeddings.
        n_layers: L_ui, layers of the behaviour view.
        n_item_layers: L_m, layers on the item graphs, at least 1.
        k: neighbours of an item by its features, itself included.
        k_collaborative: neighbours of an item by its users.
        lambda_c: weight of collaborative similarity in the item graphs; 0 leaves it out.
        eps: radius of the perturbation.
        modulus_guided: the radius is a share of the embedding's norm; otherwise it is eps for all,
            as in SimGCL.
        temperature: τ of all contrastive terms.
        perturbation_weight: l_p, weight of the contrast of perturbed views.
        alignment_weight: l_a, weight of both alignments.
        reg_weight: l_r, weight of half the squared norms of a triple's embeddings.
        detach_anchor: no gradient to behaviour where it is the anchor.

    Raises:
        DataError: the data have no features, or there is no layer on the item graphs.
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
        k_collaborative: int = 10,
        lambda_c: float = 0.5,
        eps: float = 0.1,
        modulus_guided: bool = True,
        temperature: float = 0.2,
        perturbation_weight: float = 0.01,
        alignment_weight: float = 0.01,
        reg_weight: float = 1e-4,
        detach_anchor: bool = False,
    ) -> None:
        super().__init__(n_users, n_items, n_interactions)
        if not feature_dims:
            raise DataError(
                "item_graph needs item features and the data have none",
                expected="image_feat.npy or text_feat.npy beside the interactions",
            )
        if n_item_layers < 1:
            raise DataError(f"system.n_item_layers={n_item_layers}", expected="a number from 1")
        self.n_layers, self.n_item_layers = n_layers, n_item_layers
        self.k, self.k_collaborative, self.lambda_c = k, k_collaborative, lambda_c
        self.eps, self.modulus_guided, self.temperature = eps, modulus_guided, temperature
        self.perturbation_weight, self.alignment_weight = perturbation_weight, alignment_weight
        self.reg_weight, self.detach_anchor = reg_weight, detach_anchor

        self.user_embedding = nn.Embedding(n_users, dim)
        self.item_embedding = nn.Embedding(n_items, dim)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)
        self.features = nn.ModuleDict(
            {m: nn.Embedding(n_items, w) for m, w in feature_dims.items()}
        )
        self.purifier = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(width, dim), nn.Linear(dim, dim), nn.Sigmoid())
                for m, width in feature_dims.items()
            }
        )
        self.attention = nn.Sequential(
            nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False)
        )
        n_neighbours = k + (k_collaborative if lambda_c else 0)
        for modality in feature_dims:
            ids = torch.zeros(n_items, n_neighbours, dtype=torch.int64)
            self.register_buffer(f"{modality}_neighbours", ids)
            self.register_buffer(f"{modality}_weights", torch.zeros(n_items, n_neighbours))
        self._item_graphs: dict[str, NeighbourGraph] = {}

    def prepare(self, data: Interactions) -> None:
        """Copies training pairs and features, and builds the enhanced graph of each modality."""
        super().prepare(data)
        self._item_graphs = {}
        collaborative = None
        if self.lambda_c:
            collaborative = collaborative_graph(
                data.train, data.n_users, data.n_items, self.k_collaborative
            )
        for modality, table in self.features.items():
            table.weight.data.copy_(data.features[modality])
            semantic = semantic_graph(data.features[modality], self.k)
            ids, weights = enhanced_graph(semantic, collaborative, self.lambda_c)
            self.get_buffer(f"{modality}_neighbours").copy_(ids)
            self.get_buffer(f"{modality}_weights").copy_(weights)

    def load_state_dict(self, *args: object, **kwargs: object) -> object:
        """Loads weights, and forgets the graphs of the old ones."""
        self._item_graphs = {}
        return super().load_state_dict(*args, **kwargs)

    @property
    def kinds(self) -> list[str]:
        """Users, items and the modalities."""
        return ["user", "item", *self.features]

    def item_graph(self, modality: str) -> NeighbourGraph:
        """The enhanced graph of a modality on the system's device, built at its first use."""
        ids = self.get_buffer(f"{modality}_neighbours")
        graph = self._item_graphs.get(modality)
        if graph is None or graph.ids.device != ids.device:
            graph = NeighbourGraph(ids, self.get_buffer(f"{modality}_weights"))
            self._item_graphs[modality] = graph
        return graph

    def behaviour(self) -> Nodes:
        """b: the ID embeddings of all nodes on the graph of interactions."""
        ids = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        nodes = propagate(self.adjacency(), ids, self.n_layers)
        return nodes[: self.n_users], nodes[self.n_users :]

    def semantics(self, n_views: int = 0) -> list[dict[str, Nodes]]:
        """The h of all nodes by modality: clean, followed by `n_views` perturbed views.

        A view is perturbed after each layer: those on the item graph, and the one to the users.
        """
        items = []
        for modality, table in self.features.items():
            graph, purifier = self.item_graph(modality), self.purifier[modality]
            # The first product is the same for all; only what comes after it is perturbed.
            first = graph @ (self.item_embedding.weight * purifier(table.weight))
            for view in range(1 + n_views):
                h = self._perturbed(first) if view else first
                for _ in range(self.n_item_layers - 1):
                    h = self._perturbed(graph @ h) if view else graph @ h
                items.append(h)
        # One product for everything, for it is bound by reading the graph.
        wide = users_of_items(self.adjacency(), torch.cat(items, 1), self.n_users)
        users = list(wide.chunk(len(items), 1))
        sides: list[dict[str, Nodes]] = []
        for view in range(1 + n_views):
            at = {m: place * (1 + n_views) + view for place, m in enumerate(self.features)}
            sides.append(
                {
                    m: (self._perturbed(users[i]) if view else users[i], items[i])
                    for m, i in at.items()
                }
            )
        return sides

    def _perturbed(self, embeddings: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        noise = torch.rand_like(embeddings)
        return perturb(embeddings, noise, self.eps, self.modulus_guided)

    def fuse(self, semantics: list[Float[Tensor, "n dim"]]) -> Float[Tensor, "n dim"]:
        """f: the modalities of each node, weighed by attention."""
        h = torch.stack(semantics, 1)
        return (self.attention(h).softmax(1) * h).sum(1)

    def objective(self, batch: dict[str, Int64[Tensor, " batch"]]) -> dict[str, Tensor]:
        """BPR of b + f, the contrast of perturbed views, both alignments, and the penalty."""
        behaviour = self.behaviour()
        clean, *views = self.semantics(2 if self.perturbation_weight else 0)

        def rows(kind: int, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
            h = [nodes[kind].index_select(0, ids) for nodes in clean.values()]
            return behaviour[kind].index_select(0, ids), h

        def final(kind: int, ids: Tensor) -> Tensor:
            b, h = rows(kind, ids)
            return b + self.fuse(h)

        user, item, negative = (
            final(0, batch["user"]),
            final(1, batch["item"]),
            final(1, batch["negative"]),
        )
        ranking = bpr((user * item).sum(1), (user * negative).sum(1))
        penalty = 0.5 * embedding_penalty(user, item, negative)

        perturbation = anchor = alignment = ranking.new_zeros(())
        for kind, (name, n) in enumerate((("user", self.n_users), ("item", self.n_items))):
            ids, valid = distinct(batch[name], n)
            if self.alignment_weight:
                b, h = rows(kind, ids)
                anchors = b.detach() if self.detach_anchor else b
                anchor = anchor + anchor_info_nce(anchors, h, self.temperature, valid)
                alignment = alignment + self._contrast(self.fuse(h), b, valid)
            if self.perturbation_weight:
                for modality in self.features:
                    one, other = (v[modality][kind].index_select(0, ids) for v in views)
                    perturbation = perturbation + self._contrast(one, other, valid)
        loss = ranking + self.perturbation_weight * perturbation
        loss = loss + self.alignment_weight * (anchor + alignment) + self.reg_weight * penalty
        return {
            "loss": loss,
            "bpr": ranking,
            "perturbation": perturbation,
            "anchor": anchor,
            "alignment": alignment,
            "penalty": penalty,
        }

    def _contrast(self, a: Tensor, b: Tensor, valid: Tensor | None) -> Tensor:
        return info_nce(a, b, self.temperature, valid=valid, symmetric=False)

    def tables(self) -> dict[str, Float[Tensor, "n dim"]]:
        """The b + f of all users and items, without perturbation."""
        (clean,) = self.semantics()
        users, items = (
            b + self.fuse([nodes[kind] for nodes in clean.values()])
            for kind, b in enumerate(self.behaviour())
        )
        return {"user": users, "item": items}

    def modality_table(self, modality: str) -> Float[Tensor, "n_items dim"]:
        """h_m of all items."""
        return self.semantics()[0][modality][1]


def semantic_graph(features: Float[Tensor, "n_items width"], k: int) -> Graph:
    """S: the k items of most similar features, itself included; cosines, clipped at 0.

    Raises:
        DataError: there are fewer than k items.
    """
    cosines, ids = nearest_by_cosine(features, k)
    # Items without an image of their own share one: among more than k equals an item comes first.
    itself = torch.arange(len(ids), device=ids.device)
    ids[:, -1] = torch.where((ids == itself[:, None]).any(1), ids[:, -1], itself)
    return ids, cosines.clamp(min=0)


def collaborative_graph(train: Int64[Tensor, "2 n"], n_users: int, n_items: int, k: int) -> Graph:
    """C: the k items whose training users are most alike, by the cosine of the sets of users.

    An item is no neighbour of itself, and ties go to the smaller id. Where there are fewer than k,
    an item is named as its own neighbour with weight 0.
    """
    cosines, ids, _ = cosine_co_occurrence(train[1], train[0], n_items, n_users, k)
    itself = torch.arange(n_items, device=ids.device)[:, None]
    return torch.where(ids < 0, itself, ids), cosines


def enhanced_graph(semantic: Graph, collaborative: Graph | None, lambda_c: float) -> Graph:
    """G = D^-1/2 (S + lambda_c C) D^-1/2, directed, with the sums of rows in D.

    An item that both parts name has two columns, which add up. Empty rows weigh 0.
    """
    ids, weights = semantic
    if collaborative is not None:
        ids = torch.cat([ids, collaborative[0]], 1)
        weights = torch.cat([weights, lambda_c * collaborative[1].to(weights)], 1)
    degree = weights.sum(1)
    root = torch.where(degree > 0, degree.rsqrt(), 0)
    return ids, root[:, None] * weights * root[ids]


def perturb(
    embeddings: Float[Tensor, "n dim"],
    noise: Float[Tensor, "n dim"],
    eps: float,
    modulus_guided: bool = True,
) -> Float[Tensor, "n dim"]:
    """Returns e + eps ||e|| sign(e) * u/||u||: the same angle for small and large embeddings.

    Args:
        embeddings: e; a row of zeros stays as it is.
        noise: u, uniform on [0, 1).
        eps: the radius, as a share of ||e||.
        modulus_guided: with the factor ||e||; without it small embeddings drown.
    """
    radius = eps * embeddings.norm(dim=1, keepdim=True) if modulus_guided else eps
    return embeddings + radius * embeddings.sign() * normalize(noise, dim=1)


@full_precision
def anchor_info_nce(
    anchors: Float[Tensor, "n dim"],
    views: list[Float[Tensor, "n dim"]],
    temperature: float,
    valid: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of -log Σ_m e^{cos(b_i, h_mi)/τ} / Σ_m Σ_j e^{cos(b_i, h_mj)/τ}.

    All views of a node are its positives, and the views of all nodes its candidates. The logarithm
    is outside of the sum over views: this is no mean of InfoNCE losses, but for one view.

    Args:
        anchors: b, rows of this rank.
        views: h_m, row by row of the same nodes.
        temperature: divisor τ.
        valid: False for rows that are neither anchors nor candidates.
    """
    rows = Rows.of(anchors, "full", valid)
    anchors = unit(rows.keep_valid(anchors), True) / temperature
    excluded = rows.excluded()
    positives, sums = [], []
    for view in views:
        candidates = unit(rows.keep_valid(view), True)
        positives.append((anchors * candidates).sum(1))
        scores = anchors @ rows.everywhere(candidates).T
        if excluded is not None:
            scores = scores.masked_fill(excluded, -torch.inf)
        sums.append(scores.logsumexp(1))
    loss = torch.stack(sums).logsumexp(0) - torch.stack(positives).logsumexp(0)
    return global_mean(loss, valid)


def users_of_items(
    adjacency: Float[Tensor, "nodes nodes"], items: Float[Tensor, "n_items dim"], n_users: int
) -> Float[Tensor, "n_users dim"]:
    """The user rows of the normalised graph of interactions, times the items.

    `adjacency` is that of `normalized_adjacency` and gets no gradient.
    """
    wide = items.to(torch.promote_types(items.dtype, torch.float32))
    product: Tensor = _UsersOfItems.apply(adjacency, wide, n_users)
    return product


class _UsersOfItems(torch.autograd.Function):
    """The block of the users' rows; the block of the items' rows is its transpose."""

    @staticmethod
    def forward(ctx: FunctionCtx, adjacency: Tensor, items: Tensor, n_users: int) -> Tensor:
        ctx.adjacency, ctx.n_users = adjacency, n_users
        values, half = adjacency.values(), adjacency.values().numel() // 2
        starts, columns = adjacency.crow_indices()[:n_users], adjacency.col_indices()[:half]
        with torch.autocast(items.device.type, enabled=False):
            return weighted_sums(starts, columns - n_users, values[:half], items)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor, None]:
        adjacency, n_users = ctx.adjacency, ctx.n_users
        values, half = adjacency.values(), adjacency.values().numel() // 2
        starts, columns = adjacency.crow_indices()[n_users:-1], adjacency.col_indices()[half:]
        with torch.autocast(grad.device.type, enabled=False):
            return None, weighted_sums(starts - half, columns, values[half:], grad), None
