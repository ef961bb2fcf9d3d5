"""One of several processes that train together; started by test_fit_on_processes.py."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.data.checks import DataError
from core.trainers.log import LogCSV
from tests.core.trainers.tiny import Line, Tiny, tiny_data, train

ADAM = partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1)
# The last batch of 21 rows has 5, that of 17 has 1: one process gets none of it.
LINES: dict[str, dict[str, Any]] = {
    f"{rows}-rows": {"system": Line, "data": tiny_data(rows), "optimizer": ADAM}
    for rows in (21, 17)
} | {"accumulated": {"system": Line, "data": tiny_data(32), "optimizer": ADAM, "accumulate": 2}}


class Shown(Line):
    """Shows the inputs of its own process to the monitors."""

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.latest = {"features": batch["x"]}
        return super().objective(batch)


def main(folder: Path) -> None:
    together = {"strategy": "ddp", "devices": 2}
    for name, options in LINES.items():
        train(folder / name, **options, **together)
    train(folder / "unbroken", system=Tiny, max_epochs=4, **together)
    train(folder / "run", system=Tiny, max_epochs=2, **together)
    last = folder / "run" / "checkpoints" / "last.ckpt"
    train(folder / "run", system=Tiny, max_epochs=4, resume=last, chance=99, **together)
    result, _ = train(folder / "alone", system=Tiny, max_epochs=2, devices=2, strategy="ddp")
    print(f"main process: {result.is_main_process}")
    logged = {"loggers": [LogCSV(folder / "shown")], "max_epochs": 1}
    train(folder / "shown", system=Shown, data=tiny_data(400), **logged, **together)
    broken = tiny_data(21)
    broken.x[13] = torch.nan
    for every in (1, 50):
        try:
            train(folder / "broken", system=Line, data=broken, log_every_n_steps=every, **together)
        except DataError as error:
            print(f"logged every {every}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
