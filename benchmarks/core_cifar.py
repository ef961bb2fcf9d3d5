"""What methods learn from CIFAR-10 in a small budget, and whether RankMe tells which is better.

    python -m benchmarks.core_cifar SHARDS --rows 20000 --epochs 3

A narrow ResNet-10 with a strided stem, so that a CPU can do it; the same budget, augmentation and
seed for all. Accuracies are of the test split; the probe chooses its penalty on validation. Runs
that are finished are kept in runs/cifar and not run again.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from scipy.stats import spearmanr

from core.augment.images import SimCLRViews
from core.checkpoints import load_system
from core.data.images import load_images
from core.data.samples import Samples
from core.report import print_table
from core.systems.isogclr import ISogCLR
from core.systems.multiview import MultiView
from core.systems.simclr import SimCLR
from core.tasks.long_tail import LongTailProbing
from core.tasks.probing import Probing
from core.trainers import fit
from core.trainers.schedules import cosine

ENCODER = {
    "_target_": "core.encoders.resnet.SmallImageResNet",
    "depth": 10,
    "width": 16,
    "stem_stride": 2,
}
TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
RATES = (1e-4, 3e-4, 3e-3, 1e-2)  # beside the 1e-3 of all others
SimCLRAt = partial(SimCLR, batch_norm=True)
ARMS = {
    **{f"SimCLR, temperature {t}": (SimCLRAt, {"temperature": t}, 1e-3) for t in TEMPERATURES},
    **{f"SimCLR, rate {lr}": (SimCLRAt, {"temperature": 0.2}, lr) for lr in RATES},
    "MV-DHEL, 2 views": (MultiView, {"n_views": 2, "batch_norm": True}, 1e-3),
    "MV-DHEL, 4 views": (MultiView, {"n_views": 4, "batch_norm": True}, 1e-3),
    "iSogCLR": (ISogCLR, {"batch_norm": True}, 1e-3),
}
TAILED = {
    "long tail: SimCLR": (SimCLRAt, {"temperature": 0.2}, 1e-3),
    "long tail: SogCLR": (
        ISogCLR,
        {"batch_norm": True, "individual": False, "temperature": 0.2},
        1e-3,
    ),
    "long tail: iSogCLR": (ISogCLR, {"batch_norm": True}, 1e-3),
}


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--rows", type=int, default=20_000, help="training images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = load_images(arguments.shards)
    data = replace(data, splits=data.splits | {"train": data.splits["train"][: arguments.rows]})
    folder = Path("runs/cifar") / f"{arguments.rows}-{arguments.epochs}-{arguments.seed}"
    rows = []
    for arms, task in (
        (ARMS, Probing(SimCLRViews())),
        (TAILED, LongTailProbing(SimCLRViews(), tail=0.05)),
    ):
        for name, (method, options, rate) in arms.items():
            run = folder / name.replace(" ", "_").replace(",", "").replace(":", "")
            record = run / "result.json"
            if not record.is_file():
                seed_everything(arguments.seed, verbose=False)
                sizes = task.system_arguments(data)
                system = method(**sizes, encoder=ENCODER, hidden_dim=128, dim=128, **options)
                result = train(system, data, task, run, rate, arguments)
                record.write_text(json.dumps(result))
            result = json.loads(record.read_text())
            rows.append({"arm": name} | result)
            print(name, {k: round(v, 4) for k, v in result.items()}, flush=True)
    names = list(dict.fromkeys(key for row in rows for key in row))
    shown = [
        {key: f"{v:.4g}" if isinstance(v := row.get(key, ""), float) else v for key in names}
        for row in rows
    ]
    print_table(shown, f"CIFAR-10, {arguments.rows} training images, {arguments.epochs} epochs")
    for title, chosen in (
        ("temperatures of SimCLR", rows[: len(TEMPERATURES)]),
        ("all SimCLR runs", [row for row in rows if row["arm"].startswith("SimCLR")]),
        (f"all {len(ARMS)} balanced runs", rows[: len(ARMS)]),
    ):
        ranks = [row["rankme"] for row in chosen]
        accuracy = [row["linear_accuracy"] for row in chosen]
        found = spearmanr(ranks, accuracy)
        best = accuracy[ranks.index(max(ranks))]
        print(
            f"{title}: Spearman of RankMe and linear accuracy {found.statistic:.2f} over "
            f"{len(chosen)}; chosen by RankMe {best:.4f}, best {max(accuracy):.4f}, "
            f"mean {sum(accuracy) / len(accuracy):.4f}"
        )


def train(
    system: SimCLR | MultiView | ISogCLR,
    data: Samples,
    task: Probing,
    run: Path,
    rate: float,
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """One run, and the metrics of its last checkpoint on the test split."""
    fitted = fit(
        system,
        data,
        task,
        run,
        optimizer=partial(torch.optim.AdamW, lr=rate, weight_decay=1e-4),
        schedule=cosine,
        seed=arguments.seed,
        max_epochs=arguments.epochs,
        batch_size_global=256,
        validate_every=arguments.epochs,
        progress=False,
    )
    trained = load_system(run / "checkpoints" / "last.ckpt")[0]
    return task.evaluate(trained, data, "test").metrics | {"seconds": fitted.seconds}


if __name__ == "__main__":
    main()
