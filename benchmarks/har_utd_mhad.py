"""The rows of the field's table on UTD-MHAD: one sensor and both, with and without labels.

    python -m benchmarks.har_utd_mhad ../shared/data/utd_mhad --seeds 2 --rows "CMC" "CMC-CMKM"

Published protocol (arXiv 2205.10071): subjects 1, 3, 5 train, 7 validates, 2, 4, 6, 8 test; whole
clips of 50 steps; co-occurrence network and CSSHAR; Adam at 1e-3, batches of 64, 100 epochs. What
learns without labels is read out by logistic regression and by the published classifier, also with
one and three labelled clips of every activity, and, where both sensors trained it, from either
sensor alone. The published figures are of views on the axes that the authors' code takes, see
`core.augment.series.InertialViews`; rows on the axes that the views are named for stand beside
them. Finished runs are kept in runs/utd_mhad.
"""

import argparse
import json
import statistics
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything

from core.augment.series import InertialViews
from core.augment.skeletons import SkeletonViews
from core.checkpoints import load_system
from core.evaluation.statistics import paired_t_interval
from core.report import print_table
from core.tasks.samples import Augment
from core.trainers import fit
from core.trainers.system import System
from har.data.recordings import IMU, SKELETON
from har.data.windows import load_windows
from har.systems.cmc import CMC
from har.systems.cmc_cmkm import CMCCMKM
from har.systems.har_hard_negatives import HardNegatives
from har.systems.simclr import SimCLR
from har.systems.supervised import Supervised
from har.task import ActivityRecognition

BOTH = (SKELETON, IMU)
NAMED: dict[str, Augment] = {SKELETON: SkeletonViews(), IMU: InertialViews()}
AUTHORS: dict[str, Augment] = {
    SKELETON: SkeletonViews(pivot=0),
    IMU: InertialViews(compat_axes=True),
}
AUTHORS_GUIDES = {
    SKELETON: {"_target_": "core.augment.skeletons.SkeletonViews", "pivot": 0},
    IMU: {"_target_": "core.augment.series.InertialViews", "compat_axes": True},
}
CLIPS = None  # as they are


@dataclass(frozen=True)
class Row:
    """What a row of the table is of."""

    modalities: tuple[str, ...]
    method: type[System]
    views: dict[str, Augment] | None
    options: dict[str, Any] = field(default_factory=dict)


ROWS = {
    "inertial SimCLR": Row((IMU,), SimCLR, AUTHORS),
    "inertial supervised": Row((IMU,), Supervised, CLIPS),
    "skeleton SimCLR": Row((SKELETON,), SimCLR, AUTHORS),
    "skeleton supervised": Row((SKELETON,), Supervised, CLIPS),
    "CMC": Row(BOTH, CMC, AUTHORS),
    "CMC-CMKM": Row(BOTH, CMCCMKM, AUTHORS, {"guide_views": AUTHORS_GUIDES}),
    "both, supervised": Row(BOTH, Supervised, CLIPS),
    "hard negatives": Row(BOTH, HardNegatives, AUTHORS),
    "CMC, temperature 1": Row(BOTH, CMC, AUTHORS, {"temperature": 1.0}),
    "inertial SimCLR, named axes": Row((IMU,), SimCLR, NAMED),
    "skeleton SimCLR, named axes": Row((SKELETON,), SimCLR, NAMED),
    "CMC, named axes": Row(BOTH, CMC, NAMED),
    "CMC-CMKM, named axes": Row(BOTH, CMCCMKM, NAMED),
    "hard negatives, named axes": Row(BOTH, HardNegatives, NAMED),
}
PUBLISHED = {
    "inertial SimCLR": 72.09,
    "inertial supervised": 76.74,
    "skeleton SimCLR": 95.11,
    "skeleton supervised": 94.65,
    "CMC": 96.04,
    "CMC-CMKM": 97.67,
    "both, supervised": 97.21,
}
# What is held against what, over the seeds that both have.
PAIRS = (
    ("CMC-CMKM", "CMC"),
    ("CMC", "skeleton SimCLR"),
    ("CMC", "inertial SimCLR"),
    ("both, supervised", "skeleton supervised"),
    ("both, supervised", "inertial supervised"),
    ("hard negatives", "CMC"),
    ("inertial SimCLR", "inertial SimCLR, named axes"),
)


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--precision", help="of training, e.g. bf16-mixed; float32 on a CPU")
    arguments = parser.parse_args()
    kind = f"{arguments.epochs}-{arguments.precision or 'float32'}"
    runs = Path("runs/utd_mhad") / kind
    for seed in range(arguments.seeds):
        for name in arguments.rows:
            run = runs / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            if not (run / "result.json").is_file():
                fit_arguments = {"max_epochs": arguments.epochs, "precision": arguments.precision}
                found = train(ROWS[name], arguments.folder, run, seed, fit_arguments)
                (run / "result.json").write_text(json.dumps(found))
            found = json.loads((run / "result.json").read_text())
            print(seed, name, {k: round(v, 4) for k, v in found.items()}, flush=True)
    results = {}
    for name in ROWS:
        folder = f"{name.replace(', ', '-').replace(' ', '_')}-[0-9]*"
        files = sorted(runs.glob(f"{folder}/result.json"))
        results[name] = {
            int(file.parent.name.rpartition("-")[2]): json.loads(file.read_text()) for file in files
        }
    show(results)
    show_differences(results)


def train(
    row: Row, folder: Path, run: Path, seed: int, fit_arguments: dict[str, Any]
) -> dict[str, float]:
    """One run and what its last weights, or with labels its best by validation, do on the test."""
    data = load_windows(folder, modalities=row.modalities)
    labelled, trained_already = row.method is Supervised, run / "trained.json"
    if not trained_already.is_file():
        seed_everything(seed, verbose=False)
        task = ActivityRecognition(row.views)
        fitted = fit(
            row.method.of(task.system_arguments(data), **row.options),
            data,
            task,
            run,
            optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0, fused=True),
            seed=seed,
            batch_size_global=64,
            validate_every=1 if labelled else fit_arguments["max_epochs"],
            progress=False,
            **fit_arguments,
        )
        done = {"checkpoint": str(fitted.checkpoint), "seconds": fitted.seconds}
        trained_already.write_text(json.dumps(done))
    done = json.loads(trained_already.read_text())
    trained = load_system(done["checkpoint"])[0]
    linear = ActivityRecognition(labels_per_class=[] if labelled else [1, 3])
    found = linear.evaluate(trained, data, "test")
    kept = {k: v for k, v in found.metrics.items() if not k.startswith("balanced")}
    kept["sd over subjects"] = found.table[-1]["accuracy"]
    if not labelled:
        readout = ActivityRecognition(classifier="mlp")
        kept["accuracy, mlp"] = readout.evaluate(trained, data, "test").metrics["accuracy"]
        if len(data.inputs) > 1:
            for name in data.inputs:
                alone = ActivityRecognition(modalities=[name])
                metrics = alone.evaluate(trained, data, "test").metrics
                kept[f"{name} alone"] = metrics["accuracy"]
    return kept | {"seconds": done["seconds"]}


def show(results: dict[str, dict[int, dict[str, float]]]) -> None:
    """Prints means and, of several seeds, standard deviations, in per cent."""
    runs_of = {arm: list(runs.values()) for arm, runs in results.items() if runs}
    names = list(dict.fromkeys(k for runs in runs_of.values() for run in runs for k in run))
    rows = []
    for arm, runs in runs_of.items():
        row = {"row": arm, "seeds": len(runs), "published": PUBLISHED.get(arm)}
        for name in names:
            values = [run[name] for run in runs if name in run]
            if not values or name == "seconds":
                continue
            said = f"{100 * statistics.mean(values):.1f}"
            said += f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            row[name] = said
        rows.append(row)
    Path("runs/utd_mhad/table.json").write_text(json.dumps(rows, indent=1))
    print_table(rows, "UTD-MHAD, test subjects, %")


def show_differences(results: dict[str, dict[int, dict[str, float]]]) -> None:
    """Prints paired differences with 95 % intervals over seeds, in points of accuracy."""
    rows = []
    for ours, theirs in PAIRS:
        for metric in ("accuracy", "accuracy, mlp"):
            seeds = sorted(set(results[ours]) & set(results[theirs]))
            pairs = [(results[ours][seed], results[theirs][seed]) for seed in seeds]
            found = [100 * (a[metric] - b[metric]) for a, b in pairs if metric in a and metric in b]
            if len(found) > 1:
                interval = paired_t_interval(found)
                said = f"{interval.mean:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"
                rows.append({"row": f"{ours} - {theirs}", "by": metric, "difference": said})
    if rows:
        print_table(rows, "differences, 95 % intervals over seeds")


if __name__ == "__main__":
    main()
