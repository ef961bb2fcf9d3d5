"""Activity recognition: how systems of skeletons and sensors are evaluated, searched and used."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError
from core.evaluation.classification import classification
from core.evaluation.confusion import Confusion
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.evaluation.linear_probe import PENALTIES, LinearProbe
from core.evaluation.readout import Readout, fit_readout, label_budget, readout_scores
from core.tasks.classification import Classifier, predict_all
from core.tasks.samples import Augment, SampleTask, embed_all
from core.tasks.transformed_classification import OneCopy, PredictsFromOneCopy
from core.trainers.system import Batch, System
from har.data.cut import sliding_windows
from har.data.readers import read_recording
from har.data.recordings import IMU, SKELETON
from har.data.windows import Windows, along_time, repeated, scaled, unscaled
from har.labels import judges, label_budgets, labelled, teachers
from har.retrieval import cross_modal_retrieval, of_units, search_spaces

# Validation must not choose the penalty it is then judged by.
_VALIDATION_PENALTY = 1e-3
_FILE = "windows.json"
_KNOWN = (
    *("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"),
    *("class_retrieval@1", "clip_retrieval@1"),
)


class ActivityRecognition(SampleTask):
    """Accuracy, macro and weighted F1 over all clips, the first two for every subject.

    A system that predicts classes is judged by its predictions. Of any other the features are
    frozen and a classifier learns from the labelled training windows; what it has to choose, it
    chooses on the validation subjects. On the validation split itself it is always a linear probe
    of fixed penalty, so that validation is not judged by its own choice.

    With fewer labels (`accuracy/5_percent`, `accuracy/3_per_class`) a metric is the mean over
    `n_draws` random choices of the labelled windows, the same for every system.

    A system with projections (`System.project`) of skeleton and IMU is also judged by retrieval
    from either to the other, both ways averaged: `class_retrieval@1`, the nearest is of the same
    activity; `clip_retrieval@1`, it is the same clip.

    Args:
        augment: modality -> what makes one view of it, or one for both; None leaves the windows
            as they are.
        monitor: the metric that chooses checkpoints and configurations, and that `compare` decides
            on.
        classifier: `linear`: logistic regression on the standardised features, each modality's
            weighing the same; `mlp`: the published network, a hidden layer for each of several
            modalities, two for a single one (`core.evaluation.readout`); `fine_tuned`: the same,
            and the encoders are trained with it.
        modalities: whose features are read; None: all. One of two shows what an encoder that was
            trained with both is worth where only one sensor is there.
        standardize_features: of the linear classifier; False leaves the features of a modality
            their proportions, as where a linear layer is trained on them.
        label_fractions: further evaluations with these shares of every activity's labels.
        labels_per_class: further evaluations with so many labelled windows of every activity.
        n_draws: random choices of the labelled windows.

    Raises:
        DataError: the monitor or the classifier is unknown, no modality or draw is asked for, or
            labels are none or more than all.
    """

    drop_last = True  # as published: all encoders and projections have batch norm

    def __init__(
        self,
        augment: Augment | dict[str, Augment] | None = None,
        monitor: str = "accuracy",
        classifier: Literal["linear", "mlp", "fine_tuned"] = "linear",
        modalities: Sequence[str] | None = None,
        standardize_features: bool = True,
        label_fractions: Sequence[float] = (),
        labels_per_class: Sequence[int] = (),
        n_draws: int = 5,
    ) -> None:
        if not isinstance(augment, dict):
            augment = dict.fromkeys((SKELETON, IMU), augment or _as_it_is)
        super().__init__(augment, monitor)
        self.classifier, self.modalities, self.n_draws = classifier, modalities, n_draws
        self.standardize_features = standardize_features
        self.budgets = label_budgets(label_fractions, labels_per_class, n_draws)
        name, _, budget = monitor.partition("/")
        if name not in _KNOWN or (budget and budget not in self.budgets):
            raise DataError(
                f"task.monitor={monitor}",
                expected=f"one of {', '.join(_KNOWN)}, or one of the first four with "
                "/5_percent or /3_per_class and the like, as label_fractions and labels_per_class "
                "say",
            )
        if classifier not in ("linear", "mlp", "fine_tuned"):
            raise DataError(f"task.classifier={classifier}", expected="linear, mlp or fine_tuned")
        if modalities is not None and not modalities:
            raise DataError("task.modalities=[]", expected="a modality or more; null takes all")

    def _prepare(self, system: System, data: Windows) -> Callable[[Batch, Draws], Batch]:
        make = super()._prepare(system, data)

        def prepare(batch: Batch, draws: Draws) -> Batch:
            if "mask" not in batch:
                return make(batch, draws)
            first = next(iter(data.inputs))
            whole = {name: repeated(batch[name], batch["mask"]) for name in data.inputs}
            made = make(batch | whole, draws)
            for name in [k for k in made if k.partition("/")[0] == "views"]:
                # Padding is zero, also after jitter.
                made[name] = made[name] * along_time(batch["mask"], name.partition("/")[2] or first)
            return made | {name: batch[name] for name in data.inputs}

        return prepare

    def has_split(self, data: Windows, split: str) -> bool:  # type: ignore[override]
        """Whether the split has any labelled window: others can only be trained on."""
        return len(labelled(data, split)) > 0

    def evaluate(self, system: System, data: Windows, split: str) -> Evaluation:
        """Metrics of a split; the test units are its subjects.

        Raises:
            DataError: the split has no labelled window, or fewer than two training classes.
        """
        rows = labelled(data, split)
        if len(rows) == 0:
            raise DataError(
                f"the {split} split has no labelled window", fix="choose data.split, or subjects"
            )
        judge = self._predicted if isinstance(system, Classifier) else self._read_out
        found = judge(system, data, rows, split)
        if self.monitor not in found.metrics:
            raise DataError(
                f"task.monitor={self.monitor}: not measured of {type(system).__name__} on these "
                "data",
                expected=f"one of {', '.join(found.metrics)}",
            )
        return found

    def _predicted(self, system: System, data: Windows, rows: Tensor, split: str) -> Evaluation:
        if not isinstance(system, PredictsFromOneCopy):
            return self._judged(predict_all(system, data, rows), data, rows)
        single = cast(System, OneCopy(system))
        alone = self._judged(predict_all(single, data, rows), data, rows)
        if split == "valid":
            return alone
        found = self._judged(predict_all(system, data, rows), data, rows)
        found.metrics["single_accuracy"] = alone.metrics["accuracy"]
        return found

    def _read_out(self, system: System, data: Windows, rows: Tensor, split: str) -> Evaluation:
        train = teachers(data)
        features = {name: v.float() for name, v in embed_all(system, data).items()}
        features = self._of_modalities(features)
        found = self._judged(self._scores(system, data, features, train, rows, split), data, rows)
        labels = data.labels["label"]
        for budget, size in self.budgets.items():
            if split == "valid" and not self.monitor.endswith(f"/{budget}"):
                continue
            draws = []
            for seed in range(self.n_draws):
                some = train[label_budget(labels[train], seed=seed, **size)]
                scores = self._scores(system, data, features, some, rows, split)
                draws.append(self._judged(scores, data, rows))
            for name in draws[0].metrics:
                found.metrics[f"{name}/{budget}"] = float(
                    np.mean([draw.metrics[name] for draw in draws])
                )
            for name in draws[0].per_unit:
                found.per_unit[f"{name}/{budget}"] = np.mean(
                    [draw.per_unit[name] for draw in draws], axis=0
                )
        for name, hits in cross_modal_retrieval(system, data, rows).items():
            found.metrics[name] = float(hits.mean())
            subjects = data.labels["subject"][rows].cpu().numpy()
            found.per_unit[name] = of_units(hits.cpu().numpy(), subjects)
        return found

    def _of_modalities(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.modalities is None:
            return {"joint": features["joint"]} if "joint" in features else features
        missing = [name for name in self.modalities if name not in features]
        if missing:
            raise DataError(
                f"task.modalities={list(self.modalities)}",
                expected=f"some of {', '.join(features)}",
            )
        return {name: features[name] for name in self.modalities}

    def _scores(
        self,
        system: System,
        data: Windows,
        features: dict[str, Tensor],
        train: Int64[Tensor, " n"],
        rows: Int64[Tensor, " m"],
        split: str,
    ) -> Float[Tensor, "m classes"]:
        """Class scores of some rows, by the classifier that the training rows teach."""
        if split == "valid" or self.classifier == "linear":
            new = {name: of[rows] for name, of in features.items()}
            return self._linear_scores(data, features, train, new, split)
        return self._mlp_scores(system, data, features, train, rows)

    def _linear_scores(
        self,
        data: Windows,
        features: dict[str, Float[Tensor, "all dim"]],
        train: Int64[Tensor, " n"],
        new: dict[str, Float[Tensor, "m dim"]],
        split: str,
    ) -> Float[Tensor, "m classes"]:
        """Probabilities of one logistic regression on all features.

        The modalities weigh the same, though CSSHAR gives 5632 numbers and the co-occurrence
        network 256.
        """
        labels, judge = data.labels["label"], judges(data, train)
        choose = split == "test" and judge is not train
        penalties = PENALTIES if choose else (_VALIDATION_PENALTY,)
        x = torch.cat([of.float() for of in features.values()], 1)
        probe = LinearProbe.fit(
            x[train],
            labels[train],
            x[judge],
            labels[judge],
            penalties,
            groups=[of.shape[1] for of in features.values()],
            standardize=self.standardize_features,
        )
        scores = probe.scores(torch.cat([new[name].float() for name in features], 1))
        return torch.nn.functional.pad(scores, (0, data.n_classes["label"] - scores.shape[1]))

    def _mlp_scores(
        self,
        system: System,
        data: Windows,
        features: dict[str, Tensor],
        train: Tensor,
        rows: Tensor,
    ) -> Tensor:
        labels, n_classes = data.labels["label"], data.n_classes["label"]
        tuned = self.classifier == "fine_tuned"
        device = labels.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            dims = {name: of.shape[1] for name, of in features.items()}
            readout = Readout(dims, n_classes).to(device)
        encoder = deepcopy(system) if tuned else None

        def encode(some: Tensor) -> dict[str, Tensor]:
            if encoder is None:
                return {name: of[some] for name, of in features.items()}
            batch = {name: values[some] for name, values in data.inputs.items()}
            return self._of_modalities(encoder.embed(batch))

        judge = judges(data, train)
        fit_readout(
            readout, encode, (train, labels[train]), (judge, labels[judge]), encoder=encoder
        )
        return readout_scores(readout, encode, rows)

    def _judged(self, scores: Tensor, data: Windows, rows: Tensor) -> Evaluation:
        """Metrics over all rows and for every subject, with the confusion of classes."""
        labels = data.labels["label"][rows]
        subjects = data.labels["subject"][rows].cpu().numpy()
        overall = classification(scores, labels, subjects, "subject")
        names = data.classes["subject"]
        table, each = [], []
        for subject in np.unique(subjects):
            own = torch.from_numpy(subjects == subject).to(labels.device)
            of = classification(scores[own], labels[own], subjects[subjects == subject]).metrics
            each.append((of["accuracy"], of["macro_f1"]))
            row = {"subject": names[subject], "windows": int(own.sum())}
            table.append(row | {"accuracy": of["accuracy"], "macro_f1": of["macro_f1"]})
        values = [np.mean(each, axis=0)]
        values += [np.std(each, axis=0, ddof=1)] if len(each) > 1 else []
        for name, (accuracy, macro_f1) in zip(("mean", "SD"), values, strict=False):
            row = {"subject": name, "windows": None}
            table.append(row | {"accuracy": float(accuracy), "macro_f1": float(macro_f1)})
        predicted = scores.argmax(1).cpu().numpy()
        return Evaluation(
            overall.metrics,
            "subject",
            np.array([names[number] for number in overall.unit_ids]),
            overall.per_unit,
            table,
            Confusion.of(labels.cpu().numpy(), predicted, data.classes["label"]),
        )

    def search(
        self,
        system: System,
        data: Windows,
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """The windows of the other modality nearest to `skeleton:ID` or `imu:ID`.

        Across modalities by the projections, of a system that has them for both; its own window of
        the other modality is among the candidates. Of any other system, the windows of the same
        modality nearest to the query, itself left out.

        Raises:
            DataError: the query names no window that is there.
        """
        spaces, across = search_spaces(system, data)
        kind, _, name = query.partition(":")
        if kind not in spaces or not name:
            raise DataError(f"query={query}", expected=" or ".join(f"{k}:ID" for k in spaces))
        if name not in data.ids:
            raise DataError(
                f"query={query}: no such id in the data",
                expected=f"one of {len(data.ids)} ids such as {', '.join(data.ids[:3])}",
            )
        own = data.ids.index(name)
        target = next(k for k in spaces if k != kind) if across else kind
        vector, wanted = spaces[kind][own : own + 1], min(k + 1, len(data.ids))
        if index is None:
            scores, rows = (spaces[target] @ vector[0]).topk(wanted)
            found = list(zip(rows.tolist(), scores.tolist(), strict=True))
        else:
            near, numbers = index.search(target, vector.cpu().numpy(), wanted)
            found = list(zip(numbers[0].tolist(), near[0].tolist(), strict=True))
        # An approximate index gives -1 where it found fewer.
        found = [(row, score) for row, score in found if row >= 0 and (across or row != own)]
        return [
            {"rank": rank, target: data.ids[row], "cosine": score} | self._labels(data, row)
            for rank, (row, score) in enumerate(found[:k], 1)
        ]

    def index_spaces(self, system: System, data: Windows) -> dict[str, tuple[Tensor, Tensor]]:
        """Modality -> its unit vectors, and those that will be the queries."""
        spaces, across = search_spaces(system, data)
        names = list(spaces)
        asked = zip(names, reversed(names) if across else names, strict=True)
        return {name: (spaces[name], spaces[other]) for name, other in asked}

    def draw_search(
        self, data: Windows, query: str, rows: list[dict[str, Any]], file: Path
    ) -> None:
        """Writes a picture of the query above what was found: skeletons beside sensor traces.

        Raises:
            DataError: the file is no .png.
        """
        from har.data.pictures import Shown, draw_search

        if file.suffix != ".png":
            raise DataError(f"out={file}", expected="the name of a .png file")
        file.parent.mkdir(parents=True, exist_ok=True)

        def shown(name: str, kinds: Sequence[str], cosine: float | None = None) -> Shown:
            row = data.ids.index(name)
            said, real = self._labels(data, row), int(data.lengths[row])
            values = {k: of[:, :real].cpu().numpy() for k, of in unscaled(data, row).items()}
            return Shown(
                name,
                said["label"] if data.labels["label"][row] >= 0 else "",
                said["subject"],
                values.get(SKELETON) if SKELETON in kinds else None,
                values.get(IMU) if IMU in kinds else None,
                None if data.rate is None else real / data.rate,
                cosine,
            )

        kind, _, name = query.partition(":")
        target = next(k for k in (SKELETON, IMU) if k in rows[0])
        found = [shown(row[target], (SKELETON, IMU), row["cosine"]) for row in rows]
        query_row = shown(name, (kind,))
        unit = "bone lengths"  # skeletons are scaled window by window
        draw_search(query_row, found, file, data.joints, data.edges, data.channels, unit)

    def predict(
        self, system: System, data: Windows, file: str, seconds: float, step: float
    ) -> pl.DataFrame:
        """The activity in every window that slides over a recording.

        A system that does not know the classes gets the linear probe of `evaluate`.

        Args:
            system: trained.
            data: those of its training; they teach the probe and scale the new values.
            file: one recording, see `har.data.readers.read_recording`.
            seconds: length of a window, of a model of whole clips.
            step: seconds from one window to the next.

        Returns:
            `start`, `end` in seconds, `activity`, `probability` of each window.
        """
        recording = data.agreement.arranged(read_recording(file, data.cut.modalities), file)
        labels = data.labels["label"]
        inputs, starts = sliding_windows(recording, data.cut, seconds, step, labels.device)
        lengths = torch.full((len(starts),), data.steps, device=labels.device)
        batch = scaled(inputs, data.scaling, lengths)
        if isinstance(system, Classifier):
            with torch.no_grad():
                probabilities = system.predict(batch).softmax(1)
        else:
            features = self._of_modalities(embed_all(system, data))
            with torch.no_grad():
                new = self._of_modalities(system.embed(batch))
            train = teachers(data)
            probabilities = self._linear_scores(data, features, train, new, "test")
        best, names = probabilities.max(1), data.classes["label"]
        length = seconds if data.cut.seconds is None else data.cut.seconds
        return pl.DataFrame(
            {
                "start": starts,
                "end": [start + length for start in starts],
                "activity": [names[number] for number in best.indices.tolist()],
                "probability": best.values.tolist(),
            }
        )

    def keep_reading(self, data: Windows, run_dir: Path) -> None:  # type: ignore[override]
        """Writes names and scaling of the windows, so that other files are read alike."""
        data.agreement.write(run_dir / _FILE)

    def reading(self, run_dir: Path) -> dict[str, str]:
        """Names what `keep_reading` wrote."""
        return {"like": str(run_dir / _FILE)} if (run_dir / _FILE).is_file() else {}


def _as_it_is(x: Tensor, draws: Draws) -> Tensor:
    return x
