"""What the online monitors cost: copies in every step and a look every hundred steps.

Steps of SimCLR as in `benchmarks.core_cifar`, in turn with and without the monitors' copy of the
features; the look at the kept rows (nearest neighbours, ridge regression, RankMe) takes part with
its share of a step. Processor time of one thread, which other programs do not lengthen.
"""

import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.core_cifar import ENCODER
from core.augment.draws import Draws
from core.augment.images import SimCLRViews
from core.systems.simclr import SimCLR
from core.trainers.monitors import OnlineMonitors

BATCH, STEPS = 256, 16


def main() -> None:
    """Prints the share of a step that the monitors take."""
    torch.manual_seed(0)
    n_rows = 4096 + BATCH
    images = (255 * torch.rand(n_rows, 3, 32, 32)).byte()
    labels = torch.randint(10, (n_rows,))
    system = SimCLR({"image": [3, 32, 32]}, encoder=ENCODER, batch_norm=True)
    system.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer, augment = torch.optim.AdamW(system.parameters(), lr=1e-3), SimCLRViews()
    monitors = OnlineMonitors()
    trainer: Any = SimpleNamespace(
        is_global_zero=True,
        current_epoch=0,
        max_epochs=1,
        num_training_batches=monitors.every_n_batches,
        loggers=[],
        callback_metrics={},
        global_step=1,
    )

    def step(number: int, watched: bool) -> float:
        start = time.process_time()
        rows = torch.arange(number * BATCH, (number + 1) * BATCH) % n_rows
        draws = Draws(number, BATCH, slice(0, BATCH), torch.device("cpu"))
        clean = images[rows].float() / 255
        batch = {"views": torch.stack([augment(clean, draws) for _ in range(2)])}
        batch |= {"label": labels[rows], "index": rows}
        optimizer.zero_grad()
        system.objective(batch)["loss"].backward()
        optimizer.step()
        if watched:
            monitors.on_train_batch_end(trainer, system, None, batch, number)
        return time.process_time() - start

    step(0, True)
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(1, STEPS + 1):
        # Which of the two comes first changes from pair to pair.
        for watched in ((False, True), (True, False))[number % 2]:
            times[watched].append(step(number, watched))
    plain = statistics.median(times[False])
    ratios = [a / b for a, b in zip(times[True], times[False], strict=True)]
    looks = []
    for _ in range(5):
        # The features of a real step, as many as the monitors keep.
        monitors._kept.clear()
        for number in range(n_rows // BATCH):
            rows = torch.arange(number * BATCH, (number + 1) * BATCH)
            with torch.no_grad():
                system.latest = {"features": system.encoder(images[rows].float() / 255)}
            batch = {"label": labels[rows], "index": rows}
            monitors.on_train_batch_end(trainer, system, None, batch, number)
        start = time.process_time()
        monitors.on_train_epoch_end(trainer, system)
        looks.append(time.process_time() - start)
    look = statistics.median(looks) / monitors.every_n_batches
    print(f"a step takes {1000 * plain:.0f} ms; with the copies, ", end="")
    print(f"{statistics.median(ratios):.3f} times as long", flush=True)
    print(f"a look takes {1000 * statistics.median(looks):.0f} ms once in ", end="")
    print(f"{monitors.every_n_batches} steps: {100 * look / plain:.2f} % of the steps' time")


if __name__ == "__main__":
    main()
