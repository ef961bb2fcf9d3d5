"""MCL: later stages learn the features that earlier ones suppressed (ECCV 2024, arXiv 2402.11816).

Stage 0 is ordinary contrastive learning. Before each further stage the whole training set is
clustered by the stage before, and a new encoder is trained with negatives that agree with their
anchor on all clusters so far: what told the clusters apart no longer lowers the loss. The
representation is that of all stages side by side.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.data.cluster_sampler import OneLabelOrder, compose_labels, merge_small_labels
from core.data.stored_rows import Column
from core.distributed import all_gather, broadcast_object
from core.encoders.build import build_encoder
from core.encoders.mlp import ProjectionHead
from core.losses import nt_xent
from core.systems.joint_embedding import JointEmbedding
from core.trainers.system import Batch, System

_ROWS = 4096  # that are embedded at a time


class MultistageCL(JointEmbedding):
    """SimCLR in stages; the epochs of a run are shared equally among them.

    `n_clusters=1` trains independent models on ordinary batches: the ensemble that the paper's
    claim must beat. `n_stages=1` is one model trained on all epochs.

    The authors' code re-reads the clusters of the current stage at every place of the label, so
    that it forgets those before; here the label has them all, as the paper says. They fine-tune
    CLIP; this is the method for views of samples. An encoder with batch norm sees batches of one
    label: its running statistics are theirs.

    Args:
        shapes: modality -> shape of one sample.
        n_train: number of training samples, each of which has clusters.
        encoder: of every stage, see `core.encoders.build`.
        hidden_dim: width inside the head; None is a linear head.
        dim: width of the projections.
        batch_norm: in the head, where it has a hidden layer.
        temperature: a divisor of the cosines.
        n_stages: encoders, one after the other.
        n_clusters: K of k-means, at every stage.
        start: of a later stage: weights of its own, those of the stage before, or of the first.
        merge_small: labels with fewer rows than a batch join others that differ in the latest
            clusters only, rather than being left out.
        normalize_stages: the representations of the stages have unit length before they stand side
            by side; else a stage of large norms weighs more.
    """

    stage: Tensor
    clusters: Tensor
    centroids: Tensor
    kept: Tensor

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_train: int,
        encoder: dict[str, Any] | None = None,
        hidden_dim: int | None = 128,
        dim: int = 64,
        batch_norm: bool = False,
        temperature: float = 0.2,
        n_stages: int = 3,
        n_clusters: int = 10,
        start: Literal["scratch", "previous", "first"] = "scratch",
        merge_small: bool = False,
        normalize_stages: bool = False,
    ) -> None:
        super().__init__(shapes, 2, encoder, hidden_dim or dim, dim, batch_norm)
        if n_stages < 1 or n_clusters < 1 or start not in ("scratch", "previous", "first"):
            raise DataError(
                f"system.n_stages={n_stages}, n_clusters={n_clusters}, start={start}",
                expected="numbers from 1, and scratch, previous or first",
            )
        width: int = self.encoder.dim  # type: ignore[assignment]
        if hidden_dim is None:
            self.head = nn.Linear(width, dim)  # type: ignore[assignment]
        self.temperature, self.n_stages, self.n_clusters = temperature, n_stages, n_clusters
        self.start, self.merge_small, self.normalize_stages = start, merge_small, normalize_stages
        # `encoder` and `head` are trained in every stage, so that DDP finds the same weights in
        # all. Slot t keeps what stage t + 1 starts from, and then what stage t has become.
        self.slots = nn.ModuleList()
        for _ in range(n_stages - 1):
            head = (
                nn.Linear(width, dim)
                if hidden_dim is None
                else ProjectionHead(width, hidden_dim, dim, batch_norm)
            )
            own = build_encoder(encoder, shapes[self.modality])
            self.slots.append(nn.ModuleList([own, head]).requires_grad_(False))
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        self.register_buffer("clusters", torch.zeros(n_stages - 1, n_train, dtype=torch.int64))
        self.register_buffer("centroids", torch.zeros(n_stages - 1, n_clusters, width))
        self.register_buffer("kept", torch.ones(()))

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """NT-Xent within a batch of one label; `kept` is the share of rows such batches are of."""
        first, second = self.views(batch)
        loss = nt_xent(first, second, temperature=self.temperature)
        return {"loss": loss, "stage": self.stage.float(), "kept": self.kept.clone()}

    # -- stages ------------------------------------------------------------------------------------

    def batch_order(
        self, columns: dict[str, Column], batch_size: int, seed: int, rank: int, world_size: int
    ) -> OneLabelOrder:
        """Batches of one label each; asked for the labels of an epoch, the stage moves on."""
        rows = columns[self.modality]

        def labels(epoch: int) -> Int64[Tensor, " n_train"]:
            # Not in a hook of the trainer: it calls none at the start of some resumed epochs.
            stage = epoch * self.n_stages // int(self.trainer.max_epochs or 1)
            while int(self.stage) < stage:
                self.next_stage(rows)
                self.trainer.optimizers[0].state.clear()  # moments of the finished stage
            found = self._labels_of_batches(batch_size)
            counts = found.unique(return_counts=True)[1]
            self.kept.fill_(counts[counts >= batch_size].sum() / len(found))
            return found

        return OneLabelOrder(len(rows), batch_size, seed, labels, rank, world_size)

    def _labels_of_batches(self, batch_size: int) -> Int64[Tensor, " n_train"]:
        n_done = int(self.stage)
        label = compose_labels(self.clusters[:n_done], self.n_clusters)
        if self.merge_small:
            return merge_small_labels(label, n_done, self.n_clusters, batch_size)
        return label

    @torch.no_grad()
    def next_stage(self, rows: Column) -> None:
        """Clusters all training rows by the current stage, keeps it, and begins the next."""
        stage = int(self.stage)
        features = self._features_of_all(rows)
        centroids = broadcast_object(_kmeans(features.cpu(), self.n_clusters, seed=stage))
        self.centroids[stage] = centroids.to(features.device)
        self.clusters[stage] = _nearest(features, self.centroids[stage])
        current, slot = nn.ModuleList([self.encoder, self.head]), self.slots[stage]
        begin = {
            "scratch": slot,
            "previous": current,
            "first": self.slots[0] if stage else current,
        }[self.start]
        finished, fresh = (
            {name: weight.clone() for name, weight in module.state_dict().items()}
            for module in (current, begin)
        )
        slot.load_state_dict(finished)
        current.load_state_dict(fresh)
        self.stage += 1

    def _features_of_all(self, rows: Column) -> Float[Tensor, "n_train dim"]:
        """Unit representations of the current stage, each process having embedded its share."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        world, rank, n = self.trainer.world_size, self.trainer.global_rank, len(rows)
        share = torch.arange(n * rank // world, n * (rank + 1) // world, device=rows.device)
        parts = [
            self.encoder(_as_float(rows.index_select(0, some))).float()
            for some in share.split(_ROWS)
        ]
        for module, mode in modes.items():
            module.training = mode
        return all_gather(normalize(torch.cat(parts), dim=1))

    # -- representations ---------------------------------------------------------------------------

    def stages(self, batch: Batch) -> list[Float[Tensor, "batch dim"]]:
        """The raw representations of all stages that have begun, the first first."""
        x, stage = batch[self.modality], int(self.stage)
        done = [slot[0] for slot in list(self.slots)[:stage]]  # type: ignore[index]
        return [encoder(x).float() for encoder in (*done, self.encoder)]

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dims"]]:
        """All stages side by side, of unit length."""
        return {self.modality: integrate(self.stages(batch), self.normalize_stages)}

    def part(self, stages: Sequence[int]) -> System:
        """The same model with the representations of some stages only, to be evaluated."""
        return _Part(self, stages)

    @torch.no_grad()
    def pseudo_labels(self, batch: Batch) -> Int64[Tensor, " batch"]:
        """The composed cluster labels of new data."""
        features = self.stages(batch)[:-1]
        nearest = [
            _nearest(normalize(of_stage, dim=1), centroids)
            for of_stage, centroids in zip(features, self.centroids, strict=False)
        ]
        none = self.clusters.new_zeros(0, len(batch[self.modality]))
        return compose_labels(torch.stack(nearest) if nearest else none, self.n_clusters)


def integrate(
    stages: Sequence[Float[Tensor, "*rows dim"]], normalize_stages: bool = False
) -> Float[Tensor, "*rows dims"]:
    """Representations of all stages side by side, of unit length as a whole."""
    parts = [normalize(x, dim=-1) for x in stages] if normalize_stages else list(stages)
    return normalize(torch.cat(parts, dim=-1), dim=-1)


class _Part(System):
    """Some stages of a model."""

    def __init__(self, whole: MultistageCL, stages: Sequence[int]) -> None:
        super().__init__()
        self.whole, self.chosen, self.shapes = whole, list(stages), whole.shapes

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        stages = self.whole.stages(batch)
        chosen = [stages[number] for number in self.chosen]
        return {self.whole.modality: integrate(chosen, self.whole.normalize_stages)}


def _as_float(rows: Tensor) -> Tensor:
    return rows.float() / 255 if rows.dtype == torch.uint8 else rows


def _kmeans(features: Float[Tensor, "n dim"], n_clusters: int, seed: int) -> Tensor:
    """Centroids by the authors' settings of scikit-learn's k-means in batches."""
    from sklearn.cluster import MiniBatchKMeans

    if len(features) < n_clusters:
        raise DataError(
            f"system.n_clusters={n_clusters}", expected=f"up to the {len(features)} training rows"
        )
    settings = {"batch_size": 10**6, "max_iter": 100, "tol": 1e-5, "n_init": 3}
    fitted = MiniBatchKMeans(n_clusters, random_state=seed, **settings).fit(features.numpy())
    return torch.from_numpy(fitted.cluster_centers_).to(features.dtype)


def _nearest(features: Float[Tensor, "n dim"], centroids: Tensor) -> Int64[Tensor, " n"]:
    parts = [torch.cdist(some, centroids).argmin(1) for some in features.split(_ROWS)]
    return torch.cat(parts)
