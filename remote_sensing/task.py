"""Chips of several sensors: how systems learn from, are probed on, embed and search them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from core.augment.draws import Draws
from core.data.checks import DataError
from core.evaluation.average_precision import mean_average_precision
from core.evaluation.clustering import kmeans_metrics
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.evaluation.knn import knn_predict
from core.evaluation.linear_probe import PENALTIES as LABEL_PENALTIES
from core.evaluation.linear_probe import LinearProbe
from core.evaluation.rank import rankme
from core.tasks.samples import SampleTask
from core.trainers.system import Batch, System
from remote_sensing.data.bands import SENSORS
from remote_sensing.data.chips import Chips
from remote_sensing.data.statistics import FILE, save_statistics
from remote_sensing.features import JOINT, embed_chips, with_joint
from remote_sensing.heads import fine_tuned_scores, nonlinear_scores
from remote_sensing.probes import PENALTIES, RidgeProbe
from remote_sensing.segmentation import segmentation

SameForAll = Callable[[dict[str, Tensor], Draws], dict[str, Tensor]]
_KNOWN = ("map", "linear_accuracy", "knn_accuracy", "kmeans_accuracy", "miou", "rankme")
_SHOWN = 4  # chips whose reconstruction is drawn
# Validation must not choose the penalty it is then judged by.
_VALIDATION_RIDGE, _VALIDATION_PENALTY = 0.1, 1e-3


class ChipProbing(SampleTask):
    """What frozen features of chips tell of their land cover.

    `map` is the macro mAP of a ridge probe that says which classes cover more than `presence` of a
    chip; `linear_accuracy`, `knn_accuracy` and `kmeans_accuracy` are of the class that covers
    most; `miou` is of a linear probe on the tokens of patches, enlarged to pixels, of a system
    that has such tokens (`System.tokens`). All are of the joint features (`joint` where the system
    fuses, else all sensors side by side); those of one sensor are called `map/radar` and so on.
    `map/larger` is of the larger chips, by the same probe. Probes are fitted to the training chips
    that have a map, and choose their penalty on validation; on the validation split itself, and
    where no validation chip has a map, it is fixed. `rankme` is of the joint features of the split.

    On the test split `nonlinear_map` is that of a perceptron with a hidden layer on frozen
    features, and `fine_tuned_map`, where it is asked for, of a linear head on the joint features
    with which a copy of the system is trained, by the same labels: see `remote_sensing.heads`.

    Training sees `augment` of every batch: one change for all sensors and the mask of valid pixels.

    Args:
        augment: sensor -> images to the same, changed alike; None changes nothing.
        monitor: the metric that chooses checkpoints and configurations.
        presence: share of a chip above which a class is one of its labels.
        k: neighbours that vote.
        nonlinear: whether tests include the non-linear probe.
        fine_tune: whether they include fine-tuning.

    Raises:
        DataError: the monitor is unknown, or the presence is no share.
    """

    def __init__(
        self,
        augment: SameForAll | None = None,
        monitor: str = "map",
        presence: float = 0.1,
        k: int = 20,
        nonlinear: bool = True,
        fine_tune: bool = False,
    ) -> None:
        super().__init__(None, monitor)
        self.aligned, self.presence, self.k = augment, presence, k
        self.nonlinear, self.fine_tune = nonlinear, fine_tune
        if monitor.partition("/")[0] not in _KNOWN or monitor == "map/larger":
            raise DataError(
                f"task.monitor={monitor}",
                expected=f"one of {', '.join(_KNOWN)}, or of one sensor: map/radar",
            )
        if not 0 <= presence < 1:
            raise DataError(f"task.presence={presence}", expected="a share from 0 on, below 1")

    def _prepare(self, system: System, data: Chips) -> Callable[[Batch, Draws], Batch]:
        n_views, draw = getattr(system, "n_views", 0), getattr(system, "draw", None)
        first, augment = next(iter(data.inputs)), self.aligned
        if n_views and augment is None:
            raise DataError(
                f"{type(system).__name__} learns from augmented views",
                fix="say what makes them, e.g. "
                "task.augment._target_=core.augment.aligned_images.AlignedViews",
            )

        def prepare(batch: Batch, draws: Draws) -> Batch:
            batch = data.normalised(batch)
            if augment is not None:
                images = {name: batch[name] for name in (*data.inputs, "valid") if name in batch}
                if n_views:
                    views = [augment(images, draws) for _ in range(n_views)]
                    for name in data.inputs:
                        batch[f"views/{name}"] = torch.stack([view[name] for view in views])
                    batch["views"] = batch[f"views/{first}"]
                else:
                    batch |= augment(images, draws)
            return batch | draw(batch, draws) if draw is not None else batch

        return prepare

    def evaluate(self, system: System, data: Chips, split: str) -> Evaluation:
        """Metrics of a split; the test units are its chips.

        Raises:
            DataError: the split is empty, or has nothing that the monitor needs.
        """
        if not self.has_split(data, split):
            raise DataError(f"the {split} split is empty")
        rows = _labelled(data, split)
        names = ("train", "valid", "test") if split == "test" else ("train", "valid")
        known = {name: _labelled(data, name) for name in names}
        metrics: dict[str, float] = {}
        per_unit: dict[str, np.ndarray] = {}
        table: list[dict[str, Any]] = []
        if len(rows) and len(known["train"]):
            features = {
                name: with_joint(embed_chips(system, data, own)) for name, own in known.items()
            }
            table = self._labels_of_chips(features, known, system, data, split, metrics, per_unit)
            if split == "test":
                self._trained_heads(features, known, system, data, metrics, per_unit)
            self._classes_of_chips(features, known, data, split, metrics, per_unit)
            if split == "test" or self.monitor.startswith("miou"):
                self._classes_of_pixels(system, known, data, split, metrics, per_unit)
        if split == "test" or self.monitor == "rankme":
            own = with_joint(embed_chips(system, data, data.splits[split]))
            metrics["rankme"] = float(rankme(own[JOINT]))
        if self.monitor not in metrics:
            raise DataError(
                f"task.monitor={self.monitor}: cannot be measured on the {split} split of these "
                "data",
                expected=f"one of {', '.join(metrics) or 'rankme'}",
                fix="add land-cover maps of training and validation chips, or train without labels"
                " by task.monitor=rankme",
            )
        ids = np.array([data.ids[row] for row in rows.tolist()])
        return Evaluation(metrics, "chip", ids, per_unit, table)

    def _labels_of_chips(
        self,
        features: dict[str, dict[str, Tensor]],
        known: dict[str, Tensor],
        system: System,
        data: Chips,
        split: str,
        metrics: dict[str, float],
        per_unit: dict[str, np.ndarray],
    ) -> list[dict[str, Any]]:
        """MAP of each sensor and of all; returns the average precision of every class."""
        assert data.targets is not None
        present = {name: data.targets[rows] > self.presence for name, rows in known.items()}
        has_judges = split == "test" and len(known["valid"]) > 0
        penalties = PENALTIES if has_judges else (_VALIDATION_RIDGE,)
        wider: dict[str, Tensor] = {}
        if split == "test" and data.larger is not None and data.larger.targets is not None:
            labelled = _labelled(data.larger, "test")
            wider = with_joint(embed_chips(system, data.larger, labelled))
            wider_present = data.larger.targets[labelled] > self.presence
        names, table = data.classes["label"], []
        for sensor in features["train"]:
            of = {name: own[sensor] for name, own in features.items()}
            probe = RidgeProbe.fit(
                of["train"], present["train"], of["valid"], present["valid"], penalties
            )
            name = "map" if sensor == JOINT else f"map/{sensor}"
            scores = probe.scores(of[split])
            metrics[name], per_unit[name], each = mean_average_precision(scores, present[split])
            table.append({"features": sensor} | dict(zip(names, each.tolist(), strict=True)))
            if wider:
                ending = "" if sensor == JOINT else f"/{sensor}"
                scores = probe.scores(wider[sensor])
                metrics[f"map/larger{ending}"] = mean_average_precision(scores, wider_present)[0]
        return table if len(names) <= 12 else []

    def _trained_heads(
        self,
        features: dict[str, dict[str, Tensor]],
        known: dict[str, Tensor],
        system: System,
        data: Chips,
        metrics: dict[str, float],
        per_unit: dict[str, np.ndarray],
    ) -> None:
        """MAP of the non-linear probe of each sensor and of all, and of fine-tuning with all."""
        assert data.targets is not None
        present = {name: data.targets[rows] > self.presence for name, rows in known.items()}
        judges = "valid" if len(known["valid"]) else "train"
        scores: dict[str, Tensor] = {}
        if self.nonlinear:
            for sensor in features["train"]:
                of = {name: own[sensor] for name, own in features.items()}
                name = "nonlinear_map" + ("" if sensor == JOINT else f"/{sensor}")
                taught = (of["train"], present["train"])
                scores[name] = nonlinear_scores(taught, (of[judges], present[judges]), of["test"])
        if self.fine_tune:
            scores["fine_tuned_map"] = fine_tuned_scores(
                system,
                data,
                (known["train"], present["train"]),
                (known[judges], present[judges]),
                known["test"],
            )
        for name, of_test in scores.items():
            metrics[name], per_unit[name], _ = mean_average_precision(of_test, present["test"])

    def _classes_of_chips(
        self,
        features: dict[str, dict[str, Tensor]],
        known: dict[str, Tensor],
        data: Chips,
        split: str,
        metrics: dict[str, float],
        per_unit: dict[str, np.ndarray],
    ) -> None:
        """Accuracies of the class that covers most, where training has two of them."""
        n_classes = data.n_classes["label"]
        labels = {name: data.labels["label"][rows] for name, rows in known.items()}
        if len(labels["train"].unique()) < 2:
            return
        has_judges = split == "test" and len(known["valid"]) > 0
        penalties = LABEL_PENALTIES if has_judges else (_VALIDATION_PENALTY,)
        for sensor in features["train"]:
            ending = "" if sensor == JOINT else f"/{sensor}"
            of = {name: own[sensor] for name, own in features.items()}
            votes = knn_predict(of["train"], labels["train"], of[split], n_classes, self.k)
            guesses = {"knn_accuracy": votes.argmax(1)}
            if split == "test" or self.monitor == f"linear_accuracy{ending}":
                judges = "valid" if len(labels["valid"]) else "train"
                probe = LinearProbe.fit(
                    of["train"], labels["train"], of[judges], labels[judges], penalties
                )
                guesses["linear_accuracy"] = probe.predict(of[split])
            for name, guess in guesses.items():
                hits = (guess == labels[split]).float()
                metrics[f"{name}{ending}"] = float(hits.mean())
                per_unit[f"{name}{ending}"] = hits.cpu().numpy()
            if len(labels[split]) >= n_classes:
                found = kmeans_metrics(normalize(of[split], dim=1), labels[split], n_classes)
                metrics[f"kmeans_accuracy{ending}"] = found["accuracy"]

    def _classes_of_pixels(
        self,
        system: System,
        known: dict[str, Tensor],
        data: Chips,
        split: str,
        metrics: dict[str, float],
        per_unit: dict[str, np.ndarray],
    ) -> None:
        """MIoU of a linear probe on the tokens of each sensor and of all."""
        if data.cover is None or not hasattr(system, "tokens"):
            return
        for sensor, found in segmentation(system, data, known["train"], known[split]).items():
            name = "miou" if sensor == JOINT else f"miou/{sensor}"
            metrics[name], per_unit[name] = found.metrics["miou"], found.per_unit["miou"]

    def embed(self, system: System, data: Chips) -> pl.DataFrame:
        """One row a chip and kind: `kind`, `id`, `embedding`, and where the chip lies.

        `geometry` is its outline as WKB, in longitude and latitude; `scene` is what it was cut
        from; `crs` and `affine` are those of its pixels.
        """
        from remote_sensing.data.geometry import outlines

        frames = []
        vectors = embed_chips(system, data)
        where = {
            "geometry": outlines(data),
            "scene": data.places.scenes,
            "crs": data.places.crs,
            "affine": data.places.affine.cpu().tolist(),
        }
        for kind, values in vectors.items():
            rows = {"kind": [kind] * len(data.ids), "id": data.ids}
            frames.append(pl.DataFrame(rows | {"embedding": values.cpu().tolist()} | where))
        return pl.concat(frames).cast({"embedding": pl.List(pl.Float32)})

    def embed_into(self, system: System, data: Chips, folder: Path) -> list[dict[str, Any]]:
        """Writes `KIND/SCENE.tif`, in which a pixel is a chip and a band a dimension.

        Raises:
            DataError: chips overlap, or do not lie side by side.
        """
        from remote_sensing.data.embedding_rasters import write_embedding_rasters

        height, width = next(iter(data.shapes.values()))[1:]
        files = write_embedding_rasters(self.embed(system, data), folder, height, width)
        return [{"file": str(file.relative_to(folder))} for file in files]

    def parquet_metadata(self, table: pl.DataFrame) -> dict[str, str]:
        """What makes a Parquet file of `embed` GeoParquet."""
        from remote_sensing.data.geometry import bounds_of, geoparquet_metadata

        return geoparquet_metadata(bounds_of(table["geometry"].to_list()))

    def search(
        self,
        system: System,
        data: Chips,
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """The chips nearest to `radar:ID` as the other sensor sees them, or the other way round.

        Across sensors by the projections, of a system that has them for both (`System.project`);
        the query's own chip is among the candidates. Of a system of one space for each sensor, the
        chips nearest to the query in that of its own, itself left out.

        Raises:
            DataError: the query names no chip that is there.
        """
        spaces = search_spaces(system, data)
        kind, _, name = query.partition(":")
        if kind not in spaces or not name:
            raise DataError(f"query={query}", expected=" or ".join(f"{k}:ID" for k in spaces))
        if name not in data.ids:
            raise DataError(
                f"query={query}: no such id in the data",
                expected=f"one of {len(data.ids)} ids such as {', '.join(data.ids[:3])}",
            )
        own, across = data.ids.index(name), hasattr(system, "project") and len(spaces) > 1
        target = next(k for k in spaces if k != kind) if across else kind
        vector, wanted = spaces[kind][own : own + 1], min(k + 1, len(data.ids))
        if index is None:
            scores, rows = (spaces[target] @ vector[0]).topk(wanted)
            found = list(zip(rows.tolist(), scores.tolist(), strict=True))
        else:
            near, numbers = index.search(target, vector.cpu().numpy(), wanted)
            found = list(zip(numbers[0].tolist(), near[0].tolist(), strict=True))
        left_out = (-1,) if across else (own, -1)
        found = [(row, score) for row, score in found if row not in left_out]
        return [
            {"rank": rank, target: data.ids[row], "cosine": score} | self._labels(data, row)
            for rank, (row, score) in enumerate(found[:k], 1)
        ]

    def index_spaces(self, system: System, data: Chips) -> dict[str, tuple[Tensor, Tensor]]:
        """Sensor -> its unit vectors, and those that will be the queries."""
        spaces = search_spaces(system, data)
        across = hasattr(system, "project") and len(spaces) > 1
        names = list(spaces)
        asked = list(reversed(names)) if across else names
        return {name: (spaces[name], spaces[q]) for name, q in zip(names, asked, strict=True)}

    def draw_search(self, data: Chips, query: str, rows: list[dict[str, Any]], file: Path) -> None:
        """Writes a gallery: the query, what was found, and both sensors of each."""
        from remote_sensing.data.gallery import draw_gallery

        kind, _, name = query.partition(":")
        target = next(sensor for sensor in data.inputs if sensor in rows[0])
        found = [(data.ids.index(row[target]), row["cosine"]) for row in rows]
        draw_gallery(data, (kind, data.ids.index(name)), target, found, file)

    def draw(self, system: System, data: Chips, split: str, folder: Path) -> list[Path]:
        """Draws what a system reconstructs of some chips of a split that have both sensors."""
        if not getattr(system, "masked", False) or len(data.inputs) < len(SENSORS):
            return []
        from remote_sensing.data.reconstructions import draw_reconstructions

        file = folder / f"reconstruction_{split}.png"
        draw_reconstructions(system, data, data.splits[split][:_SHOWN], f"{split} chips", file)
        return [file]

    def keep_reading(self, data: Chips, run_dir: Path) -> None:
        """Writes the statistics that the system was trained with."""
        save_statistics(run_dir / FILE, data.statistics, "of a run")

    def reading(self, run_dir: Path) -> dict[str, str]:
        """The statistics of the run, which also say its bands."""
        file = run_dir / FILE
        return {"statistics": str(file)} if file.is_file() else {}


def search_spaces(system: System, data: Chips) -> dict[str, Float[Tensor, "n dim"]]:
    """Sensor -> unit vectors by which it is searched."""
    vectors = embed_chips(system, data, projected=hasattr(system, "project"))
    return {name: normalize(of, dim=1) for name, of in vectors.items()}


def _labelled(data: Chips, split: str) -> Int64[Tensor, " rows"]:
    rows = data.splits[split]
    if data.targets is None:
        return rows[:0]
    return rows[~data.targets[rows, 0].isnan()]
