"""Self-supervised Learning for Large-scale Item Recommendations (CIKM 2021, 2007.12865).

Two towers over categorical features, trained on pairs with an in-batch softmax whose sampling bias
is corrected (Yi et al. 2019), and on items alone: two views of an item, in which complementary
sets of features are hidden, must find each other. There is no official code. Where the paper is
silent: bias of mutual information from finite samples is taken out by a shuffled estimate, features
that tell every item from all others take no part in it and are hidden in one view by chance, a
feature without value has the mask's embedding, and views have dropout on their concatenated
embeddings beside that on the values of bags. The embeddings' initial scale was chosen among several
on the generated demo data. Otherwise than in Yi et al. the streaming estimate is
divided among the columns that an item has in the batch.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.data.checks import DataError
from core.distributed import all_gather, all_reduce_max
from core.encoders.sharded_embedding import (
    ShardedEmbedding,
    own_optimizer_state,
    whole_optimizer_state,
)
from core.evaluation.mutual_information import corrected_mutual_information
from core.losses import StreamingFrequency, in_batch_softmax, info_nce, spread_out
from core.trainers import System
from recsys.data.entities import EntityPairs

Codes = Int[Tensor, "batch columns"]
Features = dict[str, tuple[int | None, int]]
Regularizer = Literal["correlated_mask", "random_mask", "feature_dropout", "spread_out"]


class LargeScaleSSL(System):
    """Query tower, item tower, and a contrastive task on the items' features.

    Args:
        query_features: name -> (number of codes, None where it is open; columns), in the order of
            the columns of a query's codes; -1 is no value.
        item_features: likewise of an item. A feature of both shares its embeddings.
        n_items: number of items.
        feature_dim: width of a feature's embedding.
        hidden: widths of the hidden layers of a tower.
        dim: width d of the towers' outputs, which are of unit length.
        temperature: τ of the main task.
        ssl_temperature: τ_s of the regularizer.
        alpha: weight of the regularizer; 0 does without.
        regularizer: `correlated_mask` hides a random feature and those that say most about it in
            one view, the others in the other; `random_mask` a random half; `feature_dropout` hides
            none and leaves the difference to dropout; `spread_out` has no views: items are to be
            orthogonal.
        n_correlated: features hidden with the random one; None is half of the features.
        value_dropout: rate at which values of bags are dropped in the views.
        dropout: rate of dropout on the concatenated embeddings in the views.
        sampling: how the probability of an item to be in a batch is known: `streaming` estimates
            it while training, `counts` takes its share of the training pairs.
        frequency_rate: a of the streaming estimate.
        hash_buckets: rows of the table of a feature with more codes, or with an open vocabulary.
        mask_accidental_hits: whether equal items of a batch are left out as negatives.
        shard_above: tables with more rows are spread over the processes; None keeps all whole.
        sparse_gradients: of the tables; the optimizer must know them (optimizer=adagrad).

    Raises:
        DataError: an open vocabulary without buckets, or one feature to split between two views.
    """

    def __init__(
        self,
        query_features: Features,
        item_features: Features,
        n_items: int,
        feature_dim: int = 64,
        hidden: tuple[int, ...] = (1024,),
        dim: int = 128,
        temperature: float = 0.1,
        ssl_temperature: float = 0.1,
        alpha: float = 0.3,
        regularizer: Regularizer = "correlated_mask",
        n_correlated: int | None = None,
        value_dropout: float = 0.1,
        dropout: float = 0.1,
        sampling: Literal["streaming", "counts"] = "streaming",
        frequency_rate: float = 0.01,
        hash_buckets: int | None = None,
        mask_accidental_hits: bool = False,
        shard_above: int | None = None,
        sparse_gradients: bool = False,
    ) -> None:
        super().__init__()
        if alpha and regularizer.endswith("mask") and len(item_features) < 2:
            raise DataError(
                f"system.regularizer={regularizer} with {len(item_features)} item feature",
                expected="two features or more: each view hides some and shows the others",
                fix="system.regularizer=feature_dropout, or system.alpha=0",
            )
        self.query_features, self.item_features = dict(query_features), dict(item_features)
        self.n_items, self.temperature, self.ssl_temperature = n_items, temperature, ssl_temperature
        self.alpha, self.regularizer, self.n_correlated = alpha, regularizer, n_correlated
        self.value_dropout, self.dropout, self.sampling = value_dropout, dropout, sampling
        self.mask_accidental_hits = mask_accidental_hits

        sizes = {
            name: size for name, (size, _) in (self.query_features | self.item_features).items()
        }
        self.names = list(sizes)
        self.tables = nn.ModuleList()
        for name, size in sizes.items():
            rows = _table_rows(name, size, hash_buckets) + 1  # the last is the mask
            is_large = shard_above is not None and rows > shard_above
            table = ShardedEmbedding if is_large else _whole_table
            self.tables.append(table(rows, feature_dim, sparse=sparse_gradients))
            nn.init.uniform_(self.tables[-1].weight, -0.05, 0.05)  # chosen on the demo
        self.query_tower = _layers(len(self.query_features) * feature_dim, hidden, dim)
        self.item_tower = _layers(len(self.item_features) * feature_dim, hidden, dim)

        k = len(self.item_features)
        self.is_id: Tensor
        self.information: Tensor
        self.masks: Tensor
        self.log_share: Tensor
        self.register_buffer("is_id", torch.zeros(k, dtype=torch.bool))
        self.register_buffer("information", torch.zeros(k, k))
        self.register_buffer("masks", torch.zeros(k, k, dtype=torch.bool))
        if sampling == "counts":
            self.register_buffer("log_share", torch.zeros(n_items))
        else:
            self.frequency = StreamingFrequency(2 * n_items, frequency_rate)

    @property
    def needs_uniform_items(self) -> bool:
        """Whether a batch must bring `uniform_item`, items drawn alike from the whole corpus."""
        return self.alpha != 0

    def prepare(self, data: EntityPairs) -> None:
        """Learns which item features say much about each other, and how often items are paired."""
        columns = torch.split(data.items.codes, [w for _, w in self.item_features.values()], 1)
        generator = torch.Generator().manual_seed(0)
        codes = torch.stack([_one_value(column, generator) for column in columns], 1)
        distinct = [len(column.unique()) == self.n_items for column in codes.unbind(1)]
        self.is_id.copy_(torch.tensor(distinct))
        self.information.copy_(corrected_mutual_information(codes, generator))
        k = int((~self.is_id).sum())
        n = k // 2 if self.n_correlated is None else self.n_correlated
        ranked = self.information.masked_fill(self.is_id, -torch.inf)
        # At least one feature is left to be seen.
        self.masks.copy_(correlated_masks(ranked, min(n, max(k - 2, 0))))
        if self.sampling == "counts":
            share = data.item_counts.clamp(min=0.5) / data.item_counts.sum()
            self.log_share.copy_(share.log())

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The softmax over the batch's items, plus alpha times the regularizer on uniform items.

        `batch` has `query` and `item` (codes), `item_id`, and `uniform_item` (codes).
        """
        ids = batch["item_id"]
        main = in_batch_softmax(
            self.embed_queries(batch["query"]),
            self.embed_items(batch["item"]),
            self.log_expected_columns(ids),
            self.temperature,
            normalize=False,
            ids=ids if self.mask_accidental_hits else None,
        )
        if not self.needs_uniform_items:
            return {"loss": main, "main": main}
        regularizer = self.regularize(batch["uniform_item"])
        return {"loss": main + self.alpha * regularizer, "main": main, "regularizer": regularizer}

    def log_expected_columns(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """How many columns of a batch an item is expected to have, up to a factor; its logarithm.

        The streaming estimate is of an item to be in a batch at all, however often. Where popular
        items are in every batch many times, each of their columns must count that much less.
        """
        if self.sampling == "counts":
            return self.log_share[ids]
        columns = torch.zeros(self.n_items, dtype=torch.int32, device=ids.device)
        everyone = all_gather(ids)
        columns.scatter_add_(0, everyone, torch.ones_like(everyone, dtype=torch.int32))
        return self.frequency(ids).log() + columns[ids].log()

    def regularize(self, items: Codes) -> Float[Tensor, ""]:
        """The contrast of two views of each item, or their spread."""
        if self.regularizer == "spread_out":
            return spread_out(self.embed_items(items), normalize=False)
        hidden: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.regularizer != "feature_dropout":
            mask = self.draw_mask()
            hidden = mask, ~mask
        first, second = (self.embed_items(items, h, augment=True) for h in hidden)
        return info_nce(first, second, self.ssl_temperature, normalize=False, symmetric=False)

    def draw_mask(self) -> Bool[Tensor, " k"]:
        """Which item features the first view of this batch hides; the second hides the others.

        The same on every process.
        """
        k = len(self.item_features)
        # The largest draw of several processes is still as likely to be at any feature.
        chance, heads, tails = all_reduce_max(torch.rand(3, k, device=self.is_id.device))
        if self.regularizer == "correlated_mask":
            seed = chance.masked_fill(self.is_id, -1).argmax()
            mask = self.masks.index_select(0, seed[None])[0]
        else:
            place = chance.masked_fill(self.is_id, 2).argsort().argsort()
            mask = place < (~self.is_id).sum() // 2
        # What tells an item from all others would make finding its other view trivial.
        return torch.where(self.is_id, heads < tails, mask)

    def embed_queries(self, codes: Codes) -> Float[Tensor, "batch dim"]:
        """q(.) of unit length."""
        return F.normalize(self.query_tower(self._pool(codes, self.query_features)), dim=1)

    def embed_items(
        self, codes: Codes, hidden: Bool[Tensor, " k"] | None = None, augment: bool = False
    ) -> Float[Tensor, "batch dim"]:
        """x(.) of unit length, with the `hidden` features masked and dropout where augmented."""
        pooled = self._pool(codes, self.item_features, hidden, self.value_dropout * augment)
        return F.normalize(self.item_tower(F.dropout(pooled, self.dropout * augment)), dim=1)

    def embed(self, batch: dict[str, Codes]) -> dict[str, Float[Tensor, "batch dim"]]:
        """Unit vectors of the codes given as `query` and `item`; their dot product ranks."""
        towers = {"query": self.embed_queries, "item": self.embed_items}
        return {kind: towers[kind](codes).float() for kind, codes in batch.items()}

    def _pool(
        self,
        codes: Codes,
        features: Features,
        hidden: Bool[Tensor, " k"] | None = None,
        value_dropout: float = 0.0,
    ) -> Float[Tensor, "batch k*feature_dim"]:
        """The features' embeddings side by side: the mean over a bag, the mask's where hidden."""
        pooled = []
        columns = torch.split(codes, [width for _, width in features.values()], 1)
        for number, (name, values) in enumerate(zip(features, columns, strict=True)):
            table = self.tables[self.names.index(name)]
            there = values >= 0
            if value_dropout and values.shape[1] > 1:
                there = there & (torch.rand(values.shape, device=values.device) >= value_dropout)
            masked = ~there.any(1, keepdim=True)
            if hidden is not None:
                masked = masked | hidden[number]
            # A masked feature is a bag of the mask alone.
            alone = torch.arange(values.shape[1], device=values.device) == 0
            mask_row = table.num_embeddings - 1
            used = torch.where(masked, alone, there)
            rows = torch.where(
                there & ~masked, _slots(values, mask_row, features[name][0]), mask_row
            )
            weights = used / used.sum(1, keepdim=True)
            pooled.append(table(rows, per_sample_weights=weights.to(table.weight.dtype)))
        return torch.cat(pooled, 1)

    def configure_model(self) -> None:
        """Spreads the large tables, once there is a process group."""
        for table in self.tables:
            if isinstance(table, ShardedEmbedding):
                table.shard()
        sharded = [n for n, t in enumerate(self.tables) if getattr(t, "is_sharded", False)]
        if sharded and self.trainer.gradient_clip_val:
            raise DataError(
                "the norm of a gradient that is spread over processes is not known to each",
                fix="leave trainer.gradient_clip=null, or system.shard_above=null",
            )
        self._ddp_params_and_buffers_to_ignore = [f"tables.{n}.weight" for n in sharded]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Writes the optimizer's state of whole tables, as the weights are."""
        for saved in checkpoint["optimizer_states"]:
            saved["state"] = whole_optimizer_state(self._sharded(), saved["state"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes this process's part of the optimizer's state."""
        for saved in checkpoint["optimizer_states"]:
            saved["state"] = own_optimizer_state(self._sharded(), saved["state"])

    def _sharded(self) -> list[ShardedEmbedding | None]:
        """The sharded table of each parameter, in the optimizer's order."""
        tables = {t.weight: t for t in self.tables if getattr(t, "is_sharded", False)}
        return [tables.get(p) for group in self.parameter_groups() for p in group["params"]]


def correlated_masks(information: Float[Tensor, "k k"], n: int) -> Bool[Tensor, "k k"]:
    """Row s: the feature s and the n others that share most information with it; ties by number."""
    own = torch.eye(len(information), dtype=torch.bool, device=information.device)
    ranked = information.masked_fill(own, torch.inf).argsort(dim=1, descending=True, stable=True)
    chosen = ranked[:, : n + 1]
    return torch.zeros_like(own).scatter_(1, chosen, True)


def _layers(width: int, hidden: Sequence[int], dim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, dim))


def _whole_table(rows: int, dim: int, sparse: bool) -> nn.EmbeddingBag:
    return nn.EmbeddingBag(rows, dim, mode="sum", sparse=sparse)


def _table_rows(name: str, size: int | None, hash_buckets: int | None) -> int:
    if size is None and hash_buckets is None:
        raise DataError(
            f"the vocabulary of feature {name} is open",
            expected="a number of rows that its codes are hashed to",
            fix="give system.hash_buckets=100000, or the size of its vocabulary in vocab.json",
        )
    return min(n for n in (size, hash_buckets) if n is not None)


def _slots(values: Codes, rows: int, size: int | None) -> Codes:
    """The row of each code: its own, or a hashed one where there are fewer rows than codes."""
    if size is not None and size <= rows:
        return values
    wide = values.long()
    mixed = (wide ^ (wide >> 32)) * 2654435761 % 2**32
    return (mixed ^ (mixed >> 16)) % rows


def _one_value(values: Codes, generator: torch.Generator) -> Int[Tensor, " batch"]:
    """One value of each bag, drawn alike; -1 from an empty one."""
    counts = (values >= 0).sum(1)
    chance = torch.rand(len(values), generator=generator).to(values.device)
    drawn = (chance * counts).long().clamp(max=values.shape[1] - 1)
    return values.gather(1, drawn[:, None])[:, 0]
