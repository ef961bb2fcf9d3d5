"""Segmentation of volumes: how systems learn it from cubes and are judged on whole volumes."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.trainers.system import Batch
from core.trainers.task import Loader
from medical.data.case_loader import case_loader
from medical.data.case_splits import keep_splits, kept_splits
from medical.data.cases import Cases
from medical.data.volume_pictures import Overlay, draw_overlays
from medical.systems.swin_unetr import SwinUNETR

_OVERLAP, _CUBES = 0.25, 4
_TOLERANCE = 2.0  # mm, of the surface Dice
_SHOWN = 4  # cases in a picture
_MEASURES = ("dice", "hd95", "surface_dice")


class VolumeSegmentation:
    """Dice, surface Dice and the 95th percentile of the Hausdorff distance, at the data's spacing.

    A volume is predicted by sliding cubes that overlap by a quarter. A class counts in the cases
    whose reference has it; where a prediction then lacks it, Dice and surface Dice are 0 and the
    distance is the diagonal of the volume. A metric is the mean over classes without the
    background, of means over cases; `dice/liver` and so on are those of one class. `hd95` is in mm;
    `surface_dice` is the share of both surfaces within 2 mm of each other.

    Args:
        monitor: the metric that chooses checkpoints and configurations: dice or surface_dice.
        n_labelled: how many training cases may be learnt from, the first in a random order that is
            the same for every system and number; None: all with a segmentation.
        label_seed: of that order.

    Raises:
        DataError: the monitor is not known, or no case is to be learnt from.
    """

    def __init__(
        self, monitor: str = "dice", n_labelled: int | None = None, label_seed: int = 0
    ) -> None:
        if monitor not in ("dice", "surface_dice"):
            raise DataError(f"task.monitor={monitor}", expected="dice or surface_dice")
        if n_labelled is not None and n_labelled < 1:
            raise DataError(f"task.n_labelled={n_labelled}", expected="one case or more")
        self.monitor, self.n_labelled, self.label_seed = monitor, n_labelled, label_seed

    def system_arguments(self, data: Cases) -> dict[str, Any]:
        """The number of classes and the side of the cubes.

        Raises:
            DataError: neither names nor segmentations say how many classes there are.
        """
        return {"n_classes": _n_classes(data), "size": data.size}

    def train_loader(
        self,
        system: SwinUNETR,
        data: Cases,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Loader:
        """Batches of cubes with the classes of their voxels.

        Raises:
            DataError: no training case has a segmentation.
        """
        rows = data.labelled("train")
        if len(rows) == 0:
            raise DataError(
                "no training case has a segmentation",
                fix="name them in the column label of the table, or in dataset.json",
            )
        if self.n_labelled is not None:
            order = torch.randperm(
                len(rows), generator=torch.Generator().manual_seed(self.label_seed)
            )
            rows = rows[order[: self.n_labelled].to(rows.device)].sort().values
        chosen = replace(data, splits=data.splits | {"train": rows})

        def prepare(batch: Batch, draws: Draws) -> Batch:
            return batch | system.draw(batch, draws) | {"index": batch["row"]}

        return case_loader(
            chosen, "train", batch_size, seed, rank, world_size, prepare, labels=True
        )

    def has_split(self, data: Cases, split: str) -> bool:
        """Whether a case of the split has a segmentation."""
        return len(data.labelled(split)) > 0

    def evaluate(self, system: SwinUNETR, data: Cases, split: str) -> Evaluation:
        """The metrics of a split; its test units are the cases.

        Raises:
            DataError: no case of the split has a segmentation, or all are background, or classes
                are not those of the system.
        """
        rows = data.labelled(split).tolist()
        if not rows:
            raise DataError(f"no case of the {split} split has a segmentation")
        names = _class_names(system, data)
        each = []
        for row in rows:
            truth = _reference(data, row, names)
            predicted = segment(system, data.volume(row))
            each.append(measure(predicted, truth, len(names), spacing_of(data, row)))
        values = {name: np.stack([of[name] for of in each]) for name in _MEASURES}
        if np.isnan(values["dice"]).all():
            raise DataError(f"the segmentations of the {split} split are all background")
        metrics: dict[str, float] = {}
        per_unit: dict[str, np.ndarray] = {}
        table = [{"class": name} for name in names[1:]]
        for measure_name, of_cases in values.items():
            present = ~np.isnan(of_cases).all(0)
            of_classes = np.nanmean(of_cases[:, present], axis=0)
            metrics[measure_name] = float(of_classes.mean())
            per_unit[measure_name] = _linearised(of_cases[:, present], of_classes)
            for number, value in zip(np.flatnonzero(present), of_classes, strict=True):
                metrics[f"{measure_name}/{names[number + 1]}"] = float(value)
                table[number][measure_name] = float(value)
        for number, row_of_class in enumerate(table):
            row_of_class["cases"] = int((~np.isnan(values["dice"][:, number])).sum())
        ids = np.array([data.ids[row] for row in rows])
        return Evaluation(metrics, "case", ids, per_unit, table)

    def draw(self, system: SwinUNETR, data: Cases, split: str, folder: Path) -> list[Path]:
        """Draws predictions over slices of some cases, with the outlines of the reference."""
        rows = data.labelled(split).tolist()[:_SHOWN]
        names = _class_names(system, data)
        shown = []
        for row in rows:
            volume, truth = data.volume(row), _reference(data, row, names)
            predicted = segment(system, volume)
            spacing = spacing_of(data, row)
            dice = measure(predicted, truth, len(names), spacing)["dice"]
            shown.append(
                Overlay(
                    f"{data.ids[row]}: Dice {np.nanmean(dice):.2f}, filled as predicted",
                    volume[0].cpu().numpy(),
                    spacing,
                    _telling_voxel(truth),
                    labels=predicted.cpu().numpy(),
                    truth=truth.cpu().numpy(),
                )
            )
        if not shown:
            return []
        file = folder / f"segmentation_{split}.png"
        draw_overlays(shown, file, names)
        return [file]

    def embed(self, system: SwinUNETR, data: Cases) -> pl.DataFrame:
        """One row a volume: `kind`, `id`, `embedding`, the mean of the encoder's last map."""
        device = data.splits["train"].device
        rows = torch.arange(len(data.ids), device=device)
        parts = [
            system.embed({"volume": data.whole(some)})["volume"] for some in rows.split(_CUBES)
        ]
        vectors = torch.cat(parts).cpu().tolist()
        table = {"kind": ["volume"] * len(data.ids), "id": data.ids, "embedding": vectors}
        return pl.DataFrame(table).cast({"embedding": pl.List(pl.Float32)})

    def search(
        self,
        system: SwinUNETR,
        data: Cases,
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """Nothing can be searched for.

        Raises:
            DataError: always.
        """
        raise DataError(
            "a network of segmentation has no space to search in",
            fix="search with the checkpoint of velvet_med that it starts from",
        )

    def index_spaces(self, system: SwinUNETR, data: Cases) -> dict[str, tuple[Tensor, Tensor]]:
        """None, as for `search`."""
        self.search(system, data, "", 1)
        return {}

    def keep_reading(self, data: Cases, run_dir: Path) -> None:
        """Writes who is in which split."""
        keep_splits(run_dir, data.patients, data.splits)

    def reading(self, run_dir: Path) -> dict[str, str]:
        """The splits, so that nobody who was trained on is ever tested on."""
        return kept_splits(run_dir)


@torch.no_grad()
def segment(system: SwinUNETR, volume: Float[Tensor, "1 x y z"]) -> Int64[Tensor, "x y z"]:
    """Classes of a whole volume, from overlapping cubes whose scores are averaged."""
    from monai.inferers import sliding_window_inference

    size = (system.size,) * 3
    scores = sliding_window_inference(volume[None], size, _CUBES, system.scores, overlap=_OVERLAP)
    classes: Int64[Tensor, "x y z"] = scores[0].argmax(0)
    return classes


def measure(
    predicted: Int64[Tensor, "x y z"],
    truth: Int64[Tensor, "x y z"],
    n_classes: int,
    spacing: tuple[float, float, float],
) -> dict[str, Float[np.ndarray, " classes"]]:
    """Measures of each class but the background, NaN where the reference lacks the class."""
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    masks = [
        torch.nn.functional.one_hot(labels, n_classes).permute(3, 0, 1, 2)[None].cpu()
        for labels in (predicted, truth)
    ]
    options = {"include_background": False, "spacing": spacing}
    with warnings.catch_warnings():
        # Of classes that are not there, which are treated below.
        warnings.filterwarnings("ignore", module=r"monai\.")
        found = {
            "dice": compute_dice(*masks, include_background=False, ignore_empty=True),
            "hd95": compute_hausdorff_distance(*masks, percentile=95, **options),
            "surface_dice": compute_surface_dice(*masks, [_TOLERANCE] * (n_classes - 1), **options),
        }
    diagonal = float(np.linalg.norm(np.array(truth.shape) * np.array(spacing)))
    absent = (masks[1].sum((2, 3, 4))[0, 1:] == 0).numpy()
    lost = (masks[0].sum((2, 3, 4))[0, 1:] == 0).numpy() & ~absent
    values = {name: of[0].numpy().astype(np.float64) for name, of in found.items()}
    for name, of in values.items():
        of[lost] = diagonal if name == "hd95" else 0.0
        of[absent] = np.nan
    return values


def spacing_of(data: Cases, row: int) -> tuple[float, float, float]:
    """Sides of a voxel of `data.volume(row)` in mm."""
    x, y, z = data.affine(row)[:3, :3].norm(dim=0).tolist()
    return x, y, z


def _n_classes(data: Cases) -> int:
    if data.classes:
        return len(data.classes)
    rows = torch.cat([data.labelled("train"), data.labelled("valid")]).tolist()
    if not rows:
        raise DataError(
            "no case for training or validation has a segmentation",
            fix="name them in the column label of the table, or in dataset.json",
        )
    found = [data.segmentation(row) for row in rows]
    return max(int(labels.max()) for labels in found if labels is not None) + 1


def _class_names(system: SwinUNETR, data: Cases) -> list[str]:
    names = data.classes or [str(number) for number in range(system.n_classes)]
    if len(names) != system.n_classes:
        raise DataError(
            f"{len(names)} classes in the data: {', '.join(names)}",
            expected=f"{system.n_classes}, as in training",
        )
    return names


def _reference(data: Cases, row: int, names: list[str]) -> Int64[Tensor, "x y z"]:
    truth = data.segmentation(row)
    assert truth is not None
    if int(truth.max()) >= len(names):
        raise DataError(
            f"class {int(truth.max())} in the segmentation of {data.ids[row]}",
            expected=f"0 to {len(names) - 1}, as in training",
            fix="name all classes in labels.json or dataset.json before training",
        )
    return truth


def _linearised(
    of_cases: Float[np.ndarray, "cases classes"], of_classes: Float[np.ndarray, " classes"]
) -> Float[np.ndarray, " cases"]:
    """Values of the cases whose mean is the metric, though classes are in different cases.

    To bootstrap that mean is to bootstrap the mean over classes, to first order.
    """
    n_cases = len(of_cases)
    counts = (~np.isnan(of_cases)).sum(0)
    moves = np.nan_to_num((of_cases - of_classes) / counts)
    return of_classes.mean() + n_cases * moves.mean(1)


def _telling_voxel(truth: Int64[Tensor, "x y z"]) -> tuple[int, int, int]:
    """A voxel of the last class that is there, near its middle."""
    places = (truth == truth.max()).nonzero().double()
    nearest = (places - places.mean(0)).square().sum(1).argmin()
    x, y, z = places[nearest].long().tolist()
    return x, y, z
