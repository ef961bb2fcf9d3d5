"""Patches of tissue: how systems learn from, are probed on, embed and search them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from core.augment.draws import Draws
from core.augment.multi_crop import MultiCrop
from core.data.checks import DataError
from core.data.stored_rows import column_loader
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.evaluation.knn import knn_predict
from core.evaluation.rank import rankme
from core.evaluation.simpleshot import SimpleShot, simpleshot_episodes
from core.tasks.samples import SampleTask, as_float
from core.trainers.system import Batch, System
from core.trainers.task import Loader
from medical.data.case_splits import keep_splits, kept_splits
from medical.data.other_images import photographs_and_digits
from medical.data.patches import Patches
from medical.generated_bags import Labelled, compare_bag_heads
from medical.linear_probe import NormProbe
from medical.retrieval import retrieved
from medical.scores import REPORTED, judged_classes, row_of

IMAGE = "image"
_HEADS = ("linear", "knn", "simpleshot")
_PIXELS = 1 << 22  # that are embedded at a time


class PatchProbing(SampleTask):
    """What frozen features of patches tell of their class, as UNI's evaluation has it.

    `knn_*`: k nearest neighbours on features that lose the training mean and have unit length, one
    vote each; `simpleshot_*`: the nearest class mean of the same; `linear_*`: logistic regression
    on features as they are. Each has accuracy, balanced accuracy, weighted F1, quadratic-weighted
    kappa (of classes in order) and AUROC. On the test split also `simpleshot_episodes@K`, the mean
    balanced accuracy of episodes with K labelled patches a class, and its deviation;
    `retrieval@1`, `@3`, `@5` and `majority@5` of test patches that ask training patches; `rankme`.
    Training patches are the gallery and teach; nothing is chosen on validation but the checkpoint.

    Args:
        augment: makes the crops that systems of views learn from.
        monitor: the metric that chooses checkpoints and configurations.
        size: side of the images that are embedded: the shorter side is brought to it, the middle
            is kept. None takes them as they are.
        sizes: further sizes, at which the test is repeated: `knn_balanced_accuracy/96_px`.
        k: neighbours that vote.
        shots: labelled patches a class, of the episodes.
        episodes: how many of each.
        bags: shares of positive patches in generated slides, see `compare_bag_heads`; None: none.
        background: the class that fills these slides.
        images: what is trained on; `photographs_and_digits` puts as many images of no tissue in
            the place of the training patches, to learn what it matters.

    Raises:
        DataError: the monitor is none of these, or there are slides to generate without background.
    """

    def __init__(
        self,
        augment: MultiCrop | None = None,
        monitor: str = "knn_balanced_accuracy",
        size: int | None = None,
        sizes: Sequence[int] = (),
        k: int = 20,
        shots: Sequence[int] = (1, 4, 16),
        episodes: int = 200,
        bags: Sequence[float] | None = None,
        background: str | None = None,
        images: Literal["data", "photographs_and_digits"] = "data",
    ) -> None:
        super().__init__(None, monitor)
        self.crops, self.size, self.sizes, self.k = augment, size, tuple(sizes), k
        self.shots, self.episodes = tuple(shots), episodes
        self.bags, self.background, self.images = bags, background, images
        known = ["rankme", *(f"{head}_{metric}" for head in _HEADS for metric in REPORTED)]
        if monitor not in known:
            raise DataError(f"task.monitor={monitor}", expected=f"one of {', '.join(known)}")
        if bags is not None and background is None:
            raise DataError("slides of no background", fix="task.background=NAME of a class")
        if images not in ("data", "photographs_and_digits"):
            raise DataError(f"task.images={images}", expected="data or photographs_and_digits")

    def train_loader(
        self,
        system: System,
        data: Patches,  # type: ignore[override]
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Loader:
        """Batches of the training split, or of as many other images."""
        if self.images == "data":
            return super().train_loader(system, data, batch_size, seed, rank, world_size)
        n, side = len(data.splits["train"]), data.shapes[IMAGE][-1]
        device = data.splits["train"].device
        columns = {
            IMAGE: photographs_and_digits(n, side).to(device),
            "index": torch.arange(n, device=device),
        }
        prepare = self._prepare(system, data)
        return column_loader(columns, batch_size, seed, rank, world_size, prepare)

    def _prepare(self, system: System, data: Patches) -> Callable[[Batch, Draws], Batch]:  # type: ignore[override]
        draw, crops = getattr(system, "draw", None), self.crops
        if getattr(system, "n_views", 0) and crops is None:
            raise DataError(
                f"{type(system).__name__} learns from crops",
                fix="say what makes them: task.augment._target_=core.augment.multi_crop.MultiCrop",
            )

        def prepare(batch: Batch, draws: Draws) -> Batch:
            batch = as_float(batch, data)
            if crops is not None:
                large, small = crops(batch.pop(IMAGE), draws)
                batch |= {"views": large, "local_views": small}
            return batch | draw(batch, draws) if draw is not None else batch

        return prepare

    def evaluate(self, system: System, data: Patches, split: str) -> Evaluation:  # type: ignore[override]
        """Metrics of a split; the test units are its patients, or patches where nobody is known.

        Raises:
            DataError: the split is empty, or has no labels that the monitor needs.
        """
        if not self.has_split(data, split):
            raise DataError(f"the {split} split is empty")
        metrics: dict[str, float] = {}
        found: dict[str, Evaluation] = {}
        rows = _labelled(data, split)
        if len(rows) and len(_labelled(data, "train")):
            train, own = (self._labelled(system, data, s) for s in ("train", split))
            found = self._heads(train, own, data, rows, split)
            metrics = {
                f"{head}_{metric}": value
                for head, of in found.items()
                for metric, value in of.metrics.items()
            }
            if split == "test":
                metrics |= self._without_training(train, own)
                metrics |= self._at_other_sizes(system, data)
                metrics |= self._of_bags(train, own, data)
        if split == "test" or self.monitor == "rankme":
            metrics["rankme"] = float(rankme(self._features(system, data, data.splits[split])))
        if self.monitor not in metrics:
            raise DataError(
                f"task.monitor={self.monitor}: the {split} split has no labels",
                fix="task.monitor=rankme needs none",
            )
        first = next(iter(found.values()), None)
        if first is None:
            return Evaluation(metrics)
        per_unit = {
            f"{head}_{metric}": values
            for head, of in found.items()
            for metric, values in of.per_unit.items()
        }
        table = [row_of(head, of) for head, of in found.items()]
        return Evaluation(metrics, first.unit, first.unit_ids, per_unit, table)

    def _heads(
        self,
        train: Labelled,
        own: Labelled,
        data: Patches,
        rows: Int64[Tensor, " n"],
        split: str,
    ) -> dict[str, Evaluation]:
        """Head -> what it gets right."""
        n_classes = data.n_classes["label"]
        means = SimpleShot.fit(*train, n_classes)
        wanted = _HEADS if split == "test" else (self.monitor.partition("_")[0],)
        scores: dict[str, Tensor] = {}
        if "linear" in wanted:
            scores["linear"] = NormProbe.fit(*train, n_classes).scores(own.features)
        if "knn" in wanted or "rankme" in wanted:
            keys, queries = means.centred(train.features), means.centred(own.features)
            scores["knn"] = knn_predict(keys, train.labels, queries, n_classes, self.k, None)
        if "simpleshot" in wanted:
            scores["simpleshot"] = -means.squared_distances(own.features)
        unit, names = ("patient", data.patients) if data.patients else ("patch", data.ids)
        ids = [names[row] for row in rows.tolist()]
        return {name: judged_classes(of, own.labels, ids, unit) for name, of in scores.items()}

    def _without_training(self, train: Labelled, own: Labelled) -> dict[str, float]:
        """Episodes and retrieval."""
        metrics: dict[str, float] = {}
        most = int(train.labels.bincount().max())
        for shots in (n for n in self.shots if n <= most):
            found = simpleshot_episodes(*train, *own, shots, self.episodes)
            metrics[f"simpleshot_episodes@{shots}"] = float(found.mean())
            metrics[f"simpleshot_deviation@{shots}"] = float(found.std())
        mean = train.features.mean(0)
        keys, queries = (normalize(of.features - mean, dim=1) for of in (train, own))
        outcome = retrieved(queries, own.labels, keys, train.labels)
        return metrics | {name: float(hits.double().mean()) for name, hits in outcome.items()}

    def _at_other_sizes(self, system: System, data: Patches) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for size in self.sizes:
            train, own = (self._labelled(system, data, s, size) for s in ("train", "test"))
            rows = _labelled(data, "test")
            found = self._heads(train, own, data, rows, "test")
            metrics |= {
                f"{head}_balanced_accuracy/{size}_px": of.metrics["balanced_accuracy"]
                for head, of in found.items()
            }
        return metrics

    def _of_bags(self, train: Labelled, own: Labelled, data: Patches) -> dict[str, float]:
        metrics: dict[str, float] = {}
        names = data.classes.get("label", [])
        for purity in self.bags or ():
            if self.background not in names:
                raise DataError(
                    f"task.background={self.background}", expected=f"one of {', '.join(names)}"
                )
            background = names.index(str(self.background))
            metrics |= compare_bag_heads(train, own, background, purity)
        return metrics

    def _labelled(
        self, system: System, data: Patches, split: str, size: int | None = None
    ) -> Labelled:
        rows = _labelled(data, split)
        features = self._features(system, data, rows, size)
        return Labelled(features, data.labels["label"][rows])

    def _features(
        self, system: System, data: Patches, rows: Int64[Tensor, " n"], size: int | None = None
    ) -> Float[Tensor, "n dim"]:
        return embed_images(system, data, rows, size or self.size)

    def vectors(self, system: System, data: Patches) -> dict[str, Float[Tensor, "n dim"]]:  # type: ignore[override]
        """The features of all patches."""
        rows = torch.arange(len(data.ids), device=data.splits["train"].device)
        return {IMAGE: self._features(system, data, rows)}

    def search(
        self,
        system: System,
        data: Patches,  # type: ignore[override]
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """The patches of largest cosine to `image:ID`, or to an image file, `file:PATH`."""
        kind, _, name = query.partition(":")
        if kind != "file":
            return super().search(system, data, query, k, index)
        from core.data.encoded_images import EncodedImage

        file = Path(name)
        size = data.shapes[IMAGE][-1]
        bytes_of = file.stat().st_size if file.is_file() else 0
        pixels = EncodedImage(name, name, file, 0, bytes_of, None, None).decoded(size)
        asked = as_float({IMAGE: pixels[None].to(data.splits["train"].device)}, data)[IMAGE]
        with torch.no_grad():
            vector = normalize(system.embed({IMAGE: resized(asked, self.size)})[IMAGE], dim=1)
        if index is None:
            unit = normalize(self.vectors(system, data)[IMAGE], dim=1)
            cosines, rows = (unit @ vector[0]).topk(min(k, len(unit)))
            found = list(zip(rows.tolist(), cosines.tolist(), strict=True))
        else:
            near, numbers = index.search(IMAGE, vector.cpu().numpy(), k)
            found = list(zip(numbers[0].tolist(), near[0].tolist(), strict=True))
        return [
            {"rank": rank, "id": data.ids[row], "cosine": cosine} | self._labels(data, row)
            for rank, (row, cosine) in enumerate(((r, c) for r, c in found if r >= 0), 1)
        ]

    def keep_reading(self, data: Patches, run_dir: Path) -> None:  # type: ignore[override]
        """Writes who is in which split; where nobody is known, which patch."""
        keep_splits(run_dir, data.patients or data.ids, data.splits)

    def reading(self, run_dir: Path) -> dict[str, str]:
        """The splits, so that nobody who was trained on is ever tested on."""
        return kept_splits(run_dir)

    def draw_search(
        self, data: Patches, query: str, rows: list[dict[str, Any]], file: Path
    ) -> None:
        """Writes a gallery: the query, and the patches that were found."""
        from medical.data.patch_gallery import draw_gallery

        draw_gallery(data, query, rows, file)


@torch.no_grad()
def embed_images(
    system: System, data: Patches, rows: Int64[Tensor, " n"], size: int | None = None
) -> Float[Tensor, "n dim"]:
    """`System.embed` of some patches, at their own size or another."""
    side = size or max(data.shapes[IMAGE][-2:])
    at_a_time = max(1, _PIXELS // side**2)
    parts = []
    for some in rows.split(at_a_time):
        images = as_float({IMAGE: data.inputs[IMAGE].index_select(0, some)}, data)[IMAGE]
        parts.append(system.embed({IMAGE: resized(images, size)})[IMAGE].float())
    return torch.cat(parts)


def resized(
    images: Float[Tensor, "batch 3 height width"], size: int | None
) -> Float[Tensor, "batch 3 size size"]:
    """The shorter side brought to a size, bilinearly with antialiasing, and the middle kept."""
    if size is None:
        return images
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    shape = (max(size, round(height * scale)), max(size, round(width * scale)))
    if shape != (height, width):
        images = interpolate(images, shape, mode="bilinear", antialias=True, align_corners=False)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return images[..., top : top + size, left : left + size]


def _labelled(data: Patches, split: str) -> Int64[Tensor, " n"]:
    rows = data.splits[split]
    label = data.labels.get("label")
    return rows[:0] if label is None else rows[label[rows] >= 0]
