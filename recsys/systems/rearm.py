"""REARM: Refining Contrastive Learning and Homography Relations (ACM MM 2025, 2508.13745).

Users and items first average over neighbours of their own kind (homography: common interactions
and alike contents), items let image and text attend to each other, then all nodes propagate over
the interactions (heterography). A loss keeps image and text of a node alike, another keeps what is
their own apart, and a meta network shapes what both say to the node's ID.

Follows the authors' code: the meta maps get no gradient, so that they stay random; LayerNorm and
PReLU are shared by all places; the similarity graphs hold the node itself and are neither
symmetric nor of row sum 1. What differs: negatives and popularity leave held-out pairs alone
(`official_negatives` is the authors' way); of equal counts the smaller id comes first,
and repeats are drawn with one fixed seed, so that the data alone decide the graphs.
"""

from dataclasses import replace
from time import perf_counter

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize

from core import distributed
from core.data.cache import cached
from core.data.checks import DataError
from core.encoders.cosines import Cosines, bag_members
from core.encoders.graph import propagate
from core.encoders.neighbours import NeighbourGraph, co_occurrence
from core.encoders.scalar_attention import ScalarAttention
from core.losses import bpr, distinct, info_nce, orthogonality
from recsys.data.interactions import Interactions
from recsys.systems.recommender import Recommender

MODALITIES = ("image", "text")
_GRAPHS = "rearm graphs 1"  # a change of what is computed below changes the number
_REPEATS_SEED = 0

Graph = tuple[Int64[Tensor, "n k"], Float[Tensor, "n k"]]


class REARM(Recommender):
    """Graphs of users and of items, attention between modalities, and what these share.

    The weight of the L2 regularisation is the optimizer's decoupled decay, on every parameter.

    Args:
        n_users: number of users.
        n_items: number of items.
        n_interactions: number of training pairs.
        feature_dims: modality -> width of the items' features; `image` and `text` are needed.
        dim: width d of each part; an embedding has 3 d numbers.
        n_layers: propagation layers L on the interactions.
        rank: r of the meta network's maps d x r and r x d.
        self_dropout: of the weights of each modality's attention to itself, 0 to 1.
        mutual_dropout: of the weights of the attention to the other modality, 0 to 1.
        user_image_weight: w_u, the image's share of the users' similarity; the text has the rest.
        item_image_weight: w_i, of the items' similarity.
        user_co_weight: a_u, the co-occurrence's share of the users' graph; similarity has the rest.
        item_co_weight: a_i, of the items' graph.
        user_neighbours: neighbours of a user in each graph.
        item_neighbours: neighbours of an item in each graph.
        n_user_layers: products with the users' graph.
        n_item_layers: products with the items' graph.
        temperature: of the contrastive term.
        cl_weight: of the contrastive term.
        diff_weight: of the orthogonality term.
        meta_share: False leaves out what the modalities share, for comparison.
        official_negatives: True keeps held-out items from being negatives, as the authors' code
            does: a leak, to compare with their numbers only. Training never sees the test split,
            so that here it leaks the validation items alone.

    Raises:
        DataError: images or texts are missing.
    """

    needs_negatives = True

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_interactions: int,
        feature_dims: dict[str, int],
        dim: int = 64,
        n_layers: int = 4,
        rank: int = 3,
        self_dropout: float = 0.4,
        mutual_dropout: float = 0.6,
        user_image_weight: float = 0.2,
        item_image_weight: float = 0.0,
        user_co_weight: float = 0.4,
        item_co_weight: float = 0.2,
        user_neighbours: int = 40,
        item_neighbours: int = 10,
        n_user_layers: int = 1,
        n_item_layers: int = 1,
        temperature: float = 0.6,
        cl_weight: float = 5e-6,
        diff_weight: float = 5e-5,
        meta_share: bool = True,
        official_negatives: bool = False,
    ) -> None:
        super().__init__(n_users, n_items, n_interactions)
        if missing := [m for m in MODALITIES if m not in feature_dims]:
            raise DataError(
                f"rearm needs {' and '.join(missing)} features and the data have "
                f"{', '.join(feature_dims) or 'none'}",
                expected="image_feat.npy and text_feat.npy beside the interactions",
            )
        self.dim, self.n_layers, self.meta_share = dim, n_layers, meta_share
        self.temperature, self.cl_weight, self.diff_weight = temperature, cl_weight, diff_weight
        self.official_negatives = official_negatives
        self.n_products = {"user": n_user_layers, "item": n_item_layers}
        self.neighbours = {"user": user_neighbours, "item": item_neighbours}
        self.shares = {
            "user": graph_shares(user_co_weight, user_image_weight),
            "item": graph_shares(item_co_weight, item_image_weight),
        }
        self._graphs: dict[str, NeighbourGraph] = {}
        sizes = {"user": n_users, "item": n_items}
        for kind, n in sizes.items():
            width = self.neighbours[kind] * len(self.shares[kind])
            self.register_buffer(f"{kind}_graph_ids", torch.zeros(n, width, dtype=torch.int32))
            self.register_buffer(f"{kind}_graph_weights", torch.zeros(n, width))

        self.ids = nn.ModuleDict({kind: nn.Embedding(n, dim) for kind, n in sizes.items()})
        # Raw features of items and interests of users; both are trained too.
        self.features, self.project = nn.ModuleDict(), nn.ModuleDict()
        for kind, n in sizes.items():
            nn.init.normal_(self.ids[kind].weight, std=0.1)
            for modality in MODALITIES:
                width = feature_dims[modality]
                self.features[f"{kind}_{modality}"] = nn.Embedding(n, width)
                self.project[f"{kind}_{modality}"] = nn.Linear(width, dim)
                nn.init.xavier_normal_(self.project[f"{kind}_{modality}"].weight)
        self.norm, self.activation = nn.LayerNorm(dim), nn.PReLU()
        self.self_attention = nn.ModuleDict({m: ScalarAttention(self_dropout) for m in MODALITIES})
        self.mutual_attention = nn.ModuleDict(
            {m: ScalarAttention(mutual_dropout) for m in MODALITIES}
        )
        if meta_share:
            self.meta = nn.ModuleDict({kind: nn.Linear(2 * dim, dim) for kind in sizes})
            self.meta.requires_grad_(False)
            self.down = nn.ModuleDict({kind: MetaMap(dim, dim, rank) for kind in sizes})
            self.up = nn.ModuleDict({kind: MetaMap(dim, rank, dim) for kind in sizes})

    def parameter_groups(self) -> list[dict[str, list[nn.Parameter]]]:
        """One group: norms, biases and embeddings decay like all others."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def prepare(self, data: Interactions) -> None:
        """Copies pairs and features, and builds the graphs, or reads them from the cache.

        Raises:
            DataError: there are fewer users or items than neighbours are asked for.
        """
        super().prepare(data)
        for kind, n in (("user", self.n_users), ("item", self.n_items)):
            if self.neighbours[kind] > n:
                raise DataError(
                    f"system.{kind}_neighbours={self.neighbours[kind]} and the data have {n} "
                    f"{kind}s",
                    fix=f"set system.{kind}_neighbours to {n} or less",
                )
        for modality in MODALITIES:
            features = data.features[modality]
            self.features[f"item_{modality}"].weight.data.copy_(features)
            interests = interest_features(features, *data.train, self.n_users)
            self.features[f"user_{modality}"].weight.data.copy_(interests)
        seen = replace(data, valid=data.valid[:, :0], test=data.test[:, :0])
        key = f"{_GRAPHS}, {seen.digest()}, {self.neighbours}, {self.shares}"
        start = perf_counter()
        graphs, was_cached = cached("rearm", key, lambda: self._build_graphs(data))
        if not was_cached and distributed.rank() == 0:
            print(f"built the graphs of users and items in {perf_counter() - start:.1f} s")
        for name, tensor in graphs.items():
            self.get_buffer(name).copy_(tensor)
        self._graphs = {}

    def _build_graphs(self, data: Interactions) -> dict[str, Tensor]:
        users, items = data.train
        n_users, n_items = self.n_users, self.n_items
        k_users, k_items = self.neighbours["user"], self.neighbours["item"]
        pairs = {"user": (users, items, n_users, n_items), "item": (items, users, n_items, n_users)}
        parts: dict[str, dict[str, Graph]] = {"user": {}, "item": {}}
        for kind, (rows, columns, n, m) in pairs.items():
            if "co" in self.shares[kind]:
                common = co_occurrence(rows, columns, n, m, self.neighbours[kind])
                popularity = torch.bincount(rows, minlength=n)
                parts[kind]["co"] = co_occurrence_graph(*common, popularity)
        for modality in MODALITIES:
            if modality not in (self.shares["user"] | self.shares["item"]):
                continue
            cosines = Cosines(data.features[modality])
            if modality in self.shares["item"]:
                parts["item"][modality] = similarity_graph(*cosines.nearest(k_items))
            if modality in self.shares["user"]:
                nearest = cosines.nearest_means(users, items, n_users, k_users)
                parts["user"][modality] = similarity_graph(*nearest)
        graphs = {}
        for kind, shares in self.shares.items():
            ids, weights = mixed_graph(parts[kind], shares)
            graphs |= {f"{kind}_graph_ids": ids.int(), f"{kind}_graph_weights": weights}
        return graphs

    def graph(self, kind: str) -> NeighbourGraph:
        """The strengthened graph of users or items on the system's device, made at first use."""
        ids = self.get_buffer(f"{kind}_graph_ids")
        made = self._graphs.get(kind)
        if made is None or made.ids.device != ids.device:
            made = NeighbourGraph(ids, self.get_buffer(f"{kind}_graph_weights"))
            self._graphs[kind] = made
        return made

    def load_state_dict(self, *args: object, **kwargs: object) -> object:
        """Loads weights and graphs, and forgets the products of the old graphs."""
        self._graphs = {}
        return super().load_state_dict(*args, **kwargs)

    def homography(self, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        """id', v' and t', (n, d) each: products with the kind's own graph, the 3 d of length 1."""
        rows = [self.ids[kind].weight]
        for modality in MODALITIES:
            name = f"{kind}_{modality}"
            rows.append(self.project[name](self.features[name].weight))
        nodes = torch.cat(rows, 1)
        for _ in range(self.n_products[kind]):
            nodes = self.graph(kind) @ nodes
        ids, image, text = normalize(nodes, dim=1).split(self.dim, 1)
        return ids, image, text

    def attend(
        self, image: Float[Tensor, "n dim"], text: Float[Tensor, "n dim"], drop: bool
    ) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "n dim"]]:
        """Each modality attends to itself, then each is asked by the other."""
        own = {
            name: self.activation(self.norm(x + self.self_attention[name](x, x, drop)))
            for name, x in (("image", image), ("text", text))
        }
        asked = {
            name: self.activation(
                self.norm(own[name] + self.mutual_attention[name](own[other], own[name], drop))
            )
            for name, other in (("image", "text"), ("text", "image"))
        }
        return asked["image"], asked["text"]

    def heterography(self, drop: bool) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "n 2*dim"]]:
        """E, the ID parts, and F, the images and texts, of users and items, propagated."""
        user_ids, user_image, user_text = self.homography("user")
        item_ids, item_image, item_text = self.homography("item")
        item_image, item_text = self.attend(item_image, item_text, drop)
        users = torch.cat([user_ids, self.activation(user_image), self.activation(user_text)], 1)
        items = torch.cat([item_ids, item_image, item_text], 1)
        nodes = propagate(self.adjacency(), torch.cat([users, items]), self.n_layers)
        return nodes[:, : self.dim], nodes[:, self.dim :]

    def represent(
        self,
        kind: str,
        ids: Float[Tensor, "n dim"],
        contents: Float[Tensor, "n 2*dim"],
        rows: Int64[Tensor, " rows"] | slice,
    ) -> Float[Tensor, "rows 3*dim"]:
        """[PReLU(F_v) + E | PReLU(F_t) + E | PReLU(share) + E] of some rows of one kind's nodes."""
        image, text = contents[rows].split(self.dim, 1)
        own = ids[rows]
        share = torch.zeros_like(own)
        if self.meta_share:
            with torch.no_grad():
                knowledge = self.meta[kind](contents)
            down, up = self.down[kind](knowledge), self.up[kind](knowledge)
            down = (down[rows] + down.mean(0)).softmax(1)
            up = (up[rows] + up.mean(0)).softmax(1)
            share = (own[:, None] @ down @ up).squeeze(1)
        return torch.cat([self.activation(x) + own for x in (image, text, share)], 1)

    def objective(self, batch: dict[str, Int64[Tensor, " batch"]]) -> dict[str, Tensor]:
        """BPR, InfoNCE from image to text, and their orthogonality, with dropout in training."""
        ids, contents = self.heterography(drop=self.training)
        n = self.n_users
        both = torch.cat([batch["item"], batch["negative"]])
        users = self.represent("user", ids[:n], contents[:n], batch["user"])
        positives, negatives = self.represent("item", ids[n:], contents[n:], both).chunk(2)
        ranking = bpr((users * positives).sum(1), (users * negatives).sum(1))
        contrast = self.contrast(contents[:n], batch["user"])
        contrast = contrast + self.contrast(contents[n:], both)
        overlap = orthogonality(*contents[:n][batch["user"]].split(self.dim, 1))
        overlap = overlap + orthogonality(*contents[n:][batch["item"]].split(self.dim, 1))
        return {
            "loss": ranking + self.cl_weight * contrast + self.diff_weight * overlap,
            "bpr": ranking,
            "contrast": contrast,
            "overlap": overlap,
        }

    def contrast(self, contents: Float[Tensor, "n 2*dim"], ids: Int64[Tensor, " rows"]) -> Tensor:
        """InfoNCE from image to text over the distinct nodes of the batch."""
        rows, valid = distinct(ids, len(contents))
        image, text = contents[rows].split(self.dim, 1)
        return info_nce(image, text, self.temperature, valid=valid, symmetric=False)

    def tables(self) -> dict[str, Float[Tensor, "n dim"]]:
        """The representations of all nodes, without dropout: their dot products rank."""
        ids, contents = self.heterography(drop=False)
        n = self.n_users
        return {
            "user": self.represent("user", ids[:n], contents[:n], slice(None)),
            "item": self.represent("item", ids[n:], contents[n:], slice(None)),
        }


class MetaMap(nn.Module):
    """Linear, PReLU, Linear to the numbers of a matrix for each node, at length 1 as a whole.

    Args:
        dim: width of the input.
        rows: of the matrix.
        columns: of the matrix.
    """

    def __init__(self, dim: int, rows: int, columns: int) -> None:
        super().__init__()
        self.shape = rows, columns
        self.hidden, self.activation = nn.Linear(dim, rows * columns), nn.PReLU()
        self.out = nn.Linear(rows * columns, rows * columns)

    def forward(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, "n rows columns"]:
        """One matrix for each row of x."""
        return normalize(self.out(self.activation(self.hidden(x))), dim=1).unflatten(1, self.shape)


def graph_shares(co_weight: float, image_weight: float) -> dict[str, float]:
    """What each part weighs in a strengthened graph G = a C + (1 - a) (w S^v + (1 - w) S^t).

    Parts of weight 0 are left out.
    """
    rest = 1 - co_weight
    shares = {"co": co_weight, "image": rest * image_weight, "text": rest * (1 - image_weight)}
    return {part: share for part, share in shares.items() if share}


def interest_features(
    features: Float[Tensor, "n_items width"],
    users: Int64[Tensor, " n"],
    items: Int64[Tensor, " n"],
    n_users: int,
) -> Float[Tensor, "n_users width"]:
    """The mean of the raw features of each user's training items; 0 without any."""
    members, starts = bag_members(users, items, n_users)
    return embedding_bag(members, features, starts, mode="mean")


def co_occurrence_graph(
    counts: Int64[Tensor, "n k"],
    ids: Int64[Tensor, "n k"],
    found: Int64[Tensor, " n"],
    popularity: Int64[Tensor, " n"],
) -> Graph:
    """The neighbours with most in common, weights softmax(counts).

    Lists of fewer than k neighbours are filled with random repeats of their own. A node without
    any has the k most popular ones, weights softmax(count / sum of these counts).
    """
    n, k = ids.shape
    generator = torch.Generator().manual_seed(_REPEATS_SEED)
    uniform = torch.rand(n, k, generator=generator, dtype=torch.float64).to(ids.device)
    repeat = (uniform * found[:, None]).long()
    place = torch.arange(k, device=ids.device)
    place = torch.where(place < found[:, None], place, repeat)
    counts, ids = counts.gather(1, place).float(), ids.gather(1, place)

    popular_counts, popular = popularity.float().sort(descending=True, stable=True)
    popular_counts, popular = popular_counts[:k], popular[:k]
    alone = (found == 0)[:, None]
    ids = torch.where(alone, popular, ids)
    counts = torch.where(alone, popular_counts / popular_counts.sum(), counts)
    return ids, counts.softmax(1)


def similarity_graph(cosines: Float[Tensor, "n k"], ids: Int64[Tensor, "n k"]) -> Graph:
    """Cosines over the number of neighbours, the degree of all rows and, by decree, columns."""
    return ids, cosines / (ids.shape[1] + 1e-7)


def mixed_graph(parts: dict[str, Graph], shares: dict[str, float]) -> Graph:
    """The weighted sum of the graphs that `shares` names, as one with their neighbours in a row."""
    ids = torch.cat([parts[name][0] for name in shares], 1)
    weights = torch.cat([share * parts[name][1] for name, share in shares.items()], 1)
    return ids, weights
