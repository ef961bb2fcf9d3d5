"""The rows of the field's table on UTD-MHAD: one sensor and both, with and without labels.

    python -m benchmarks.har_utd_mhad ../shared/data/utd_mhad --seeds 2

Published protocol (arXiv 2205.10071): subjects 1, 3, 5 train, 7 validates, 2, 4, 6, 8 test; whole
clips of 50 steps; co-occurrence network and CSSHAR; Adam at 1e-3, batches of 64, 100 epochs. What
learns without labels is read out by logistic regression and by the published classifier (a hidden
layer for each modality), also with one and three labelled clips of every activity, and, where both
sensors trained it, from either sensor alone. Finished runs are kept in runs/utd_mhad.
"""

import argparse
import json
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything

from core.augment.series import InertialViews
from core.augment.skeletons import SkeletonViews
from core.checkpoints import load_system
from core.report import print_table
from core.trainers import fit
from core.trainers.system import System
from har.data.windows import Windows, load_windows
from har.systems.cmc import CMC
from har.systems.cmc_cmkm import CMCCMKM
from har.systems.har_hard_negatives import HardNegatives
from har.systems.simclr import SimCLR
from har.systems.supervised import Supervised
from har.task import ActivityRecognition

BOTH, SKELETON, IMU = ("skeleton", "imu"), ("skeleton",), ("imu",)
# Name -> modalities, method, its arguments, whether it learns from augmented clips.
ROWS: dict[str, tuple[tuple[str, ...], type[System], dict[str, Any], bool]] = {
    "CMC": (BOTH, CMC, {}, True),
    "hard negatives": (BOTH, HardNegatives, {}, True),
    "skeleton SimCLR": (SKELETON, SimCLR, {}, True),
    "inertial SimCLR": (IMU, SimCLR, {}, True),
    "inertial supervised": (IMU, Supervised, {}, False),
    "skeleton supervised": (SKELETON, Supervised, {}, False),
    "both, supervised": (BOTH, Supervised, {}, False),
    "CMC-CMKM": (BOTH, CMCCMKM, {}, True),
    "CMC, temperature 1": (BOTH, CMC, {"temperature": 1.0}, True),
    "debiased": (BOTH, HardNegatives, {"beta": 0.0}, True),
    "hard negatives, temperature 0.1": (BOTH, HardNegatives, {"temperature": 0.1}, True),
    "inertial supervised, augmented": (IMU, Supervised, {}, True),
    "skeleton supervised, augmented": (SKELETON, Supervised, {}, True),
    "both, supervised, augmented": (BOTH, Supervised, {}, True),
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
AUGMENT = {"skeleton": SkeletonViews(), "imu": InertialViews()}


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    arguments = parser.parse_args()
    runs = Path("runs/utd_mhad") / str(arguments.epochs)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ROWS}
    for seed in range(arguments.seeds):
        for name, (modalities, method, options, augmented) in ROWS.items():
            run = runs / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            record = run / "result.json"
            if not record.is_file():
                data = load_windows(arguments.folder, modalities=modalities)
                found = train(method, options, augmented, data, run, seed, arguments.epochs)
                record.write_text(json.dumps(found))
            results[name].append(json.loads(record.read_text()))
            print(seed, name, {k: round(v, 4) for k, v in results[name][-1].items()}, flush=True)
            show(results)


def train(
    method: type[System],
    options: dict[str, Any],
    augmented: bool,
    data: Windows,
    run: Path,
    seed: int,
    epochs: int,
) -> dict[str, float]:
    """One run and what its last weights, or with labels its best by validation, do on the test."""
    labelled, trained_already = method is Supervised, run / "trained.json"
    if not trained_already.is_file():
        seed_everything(seed, verbose=False)
        task = ActivityRecognition(AUGMENT if augmented else None)
        fitted = fit(
            method(**task.system_arguments(data), **options),
            data,
            task,
            run,
            optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0, fused=True),
            seed=seed,
            max_epochs=epochs,
            batch_size_global=64,
            validate_every=1 if labelled else epochs,
            progress=False,
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


def show(results: dict[str, list[dict[str, float]]]) -> None:
    """Prints means and, of several seeds, standard deviations, in per cent."""
    names = list(dict.fromkeys(k for runs in results.values() for run in runs for k in run))
    rows = []
    for arm, runs in results.items():
        if not runs:
            continue
        row = {"row": arm, "seeds": len(runs), "published": PUBLISHED.get(arm)}
        for name in names:
            values = [run[name] for run in runs if name in run]
            if not values or name == "seconds":
                continue
            said = f"{100 * statistics.mean(values):.1f}"
            said += f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            row[name] = said
        rows.append(row)
    os.makedirs("runs/utd_mhad", exist_ok=True)
    Path("runs/utd_mhad/table.json").write_text(json.dumps(rows, indent=1))
    print_table(rows, "UTD-MHAD, test subjects, %")


if __name__ == "__main__":
    main()
