"""Contrastive steps of CMC: batched views of resident windows against a sample at a time.

    python -m benchmarks.har_steps [DIR of UTD-MHAD]

861 clips, generated in UTD-MHAD's files where no folder is given, all of them training rows, in
batches of 64. Both sides have the same encoders, loss and optimizer; they differ in who makes the
batches. With a GPU, its synchronisations with the host are counted.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from torch import Tensor

from benchmarks.har_samples import from_files, from_memory, sample_loader, write_arrays
from benchmarks.race import median_and_spread, paired_ratio, peak_mib, seconds
from core.augment.series import InertialViews
from core.augment.skeletons import SkeletonViews
from core.report import print_table
from core.trainers.system import Batch
from har.data.demo import write_demo
from har.data.recordings import IMU, SKELETON
from har.data.windows import Windows, load_windows
from har.systems.cmc import CMC
from har.task import ActivityRecognition

BATCH, REPEATS = 64, 3
MISSING = ("a8_s1_t4", "a23_s6_t4", "a27_s8_t4")  # in UTD-MHAD
ENCODERS = {
    "small": {"_target_": "core.encoders.series_convolutions.SeriesConvNet"},
    "published": None,
}
OURS, WORKERS = "resident, a batch at a time", "a sample at a time, 2 workers"
ON_GPU = torch.cuda.is_available()

Batches = Callable[[], Iterator[Batch]]


def demo(folder: Path) -> Path:
    """A stand-in for UTD-MHAD, of as many clips."""
    write_demo(folder)
    for name in MISSING:
        (folder / "Skeleton" / f"{name}_skeleton.mat").unlink()
        (folder / "Inertial" / f"{name}_inertial.mat").unlink()
    return folder


def batches_of(data: Windows, folder: Path, task: ActivityRecognition) -> dict[str, Batches]:
    """Name of a loader -> an epoch of its batches, on the device of the data."""
    system = CMC.of(task.system_arguments(data), encoder=ENCODERS["small"])
    resident = task.train_loader(system, data, BATCH, seed=0)
    device = data.inputs[IMU].device

    def of_samples(workers: int, in_memory: bool) -> Batches:
        clips = from_memory(data) if in_memory else from_files(data, folder)
        loader = sample_loader(clips, BATCH, workers, ON_GPU)

        def epoch() -> Iterator[Batch]:
            for batch in loader:
                moved = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
                yield {f"views/{name}": view[None] for name, view in moved.items()}

        return epoch

    return {
        OURS: lambda: iter(resident),
        "a sample at a time, no worker": of_samples(0, False),
        WORKERS: of_samples(2, False),
        "the same, no worker, no files": of_samples(0, True),
    }


def draining(batches: Batches) -> Callable[[], None]:
    """Makes the batches of an epoch, and nothing with them."""

    def work() -> None:
        for _ in batches():
            pass
        _wait()

    return work


def training(batches: Batches, step: Callable[[Batch], None]) -> Callable[[], None]:
    """An epoch of steps."""

    def work() -> None:
        for batch in batches():
            step(batch)
        _wait()

    return work


def stepper(system: CMC) -> Callable[[Batch], None]:
    """Forward, backward and the optimizer's step."""
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3, weight_decay=0.0, fused=True)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        system.objective(batch)["loss"].backward()
        optimizer.step()

    return step


def synchronisations(batches: Batches, step: Callable[[Batch], None]) -> float:
    """How often a step, with the making of its batch, waits for the GPU; the mean of an epoch."""
    iterator, steps = batches(), 0
    next(iterator)  # the order of the epoch goes to the device with the first batch
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in iterator:
            step(batch)
            steps += 1
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught) / steps


def race_epochs(works: Mapping[str, Callable[[], object]], n_steps: int, title: str) -> None:
    """Runs each in turn, once to warm up, and prints times of a step and of an epoch.

    CPU time is that of this process, without its workers; on a busy machine it says more than the
    time on the clock.
    """
    for work in works.values():
        work()
    clock: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            start = time.process_time()
            clock[name].append(seconds(work))
            cpu[name].append(time.process_time() - start)
    rows = [
        {
            "batches": name,
            "ms a step": median_and_spread([1000 * t / n_steps for t in clock[name]]),
            "CPU ms": f"{1000 * statistics.median(cpu[name]) / n_steps:.2f}",
            "epoch [s]": f"{statistics.median(clock[name]):.2f}",
            "times ours": "" if name == OURS else paired_ratio(clock[name], clock[OURS]),
            "by CPU": "" if name in (OURS, WORKERS) else paired_ratio(cpu[name], cpu[OURS]),
        }
        for name in works
    ]
    print_table(rows, title)


def same_views(arms: dict[str, Batches]) -> str:
    """Mean squares of the views of both sides, which a slip in either recipe would part."""

    def squares(batches: Batches) -> tuple[float, float]:
        found: dict[str, list[Tensor]] = {SKELETON: [], IMU: []}
        for _ in range(4):
            for batch in batches():
                for name, values in found.items():
                    values.append(batch[f"views/{name}"].square().mean())
        return tuple(float(torch.stack(v).mean()) for v in found.values())  # type: ignore[return-value]

    ours, theirs = (squares(arms[name]) for name in (OURS, "the same, no worker, no files"))
    return (
        f"mean squares of the views, ours and a sample at a time: skeleton {ours[0]:.3f} and "
        f"{theirs[0]:.3f}, imu {ours[1]:.0f} and {theirs[1]:.0f}"
    )


def evaluations(path: Path) -> None:
    """Seconds of the evaluation of both sizes at the split of the field's tables."""
    data = load_windows(path)
    task = ActivityRecognition()
    rows = []
    for size, encoder in ENCODERS.items():
        torch.manual_seed(0)
        system = CMC.of(task.system_arguments(data), encoder=encoder).to(data.inputs[IMU].device)
        system.eval()
        for split in ("valid", "test"):
            start = time.process_time()
            took = seconds(lambda system=system, split=split: task.evaluate(system, data, split))
            cpu = time.process_time() - start
            rows.append({"encoders": size, "split": split, "seconds": took, "CPU seconds": cpu})
    print_table(rows, "evaluation, once: a probe of fixed penalty on valid, of eight on test")


def worker_mib() -> float:
    """Memory that a worker shares with no other process."""
    workers = psutil.Process().children()
    return max((worker.memory_full_info().uss / 2**20 for worker in workers), default=0.0)


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def race(path: Path, folder: Path) -> None:
    """Prints the tables of views, of steps and of evaluation."""
    subjects = sorted(load_windows(path).classes["subject"])
    data = load_windows(path, train_subjects=subjects)
    print(f"{len(data.ids)} clips on {data.inputs[IMU].device}")
    resident = sum(values.numel() * 4 for values in data.inputs.values())
    task = ActivityRecognition(augment={SKELETON: SkeletonViews(), IMU: InertialViews()})
    write_arrays(data, folder)
    arms = batches_of(data, folder, task)
    n_steps = len(data.ids) // BATCH
    draining(arms[OURS])()
    peak = peak_mib()
    print(same_views(arms))
    works = {name: draining(batches) for name, batches in arms.items()}
    race_epochs(works, n_steps, "batches and their views alone, median (least to most)")
    for size, encoder in ENCODERS.items():
        torch.manual_seed(0)
        arguments = task.system_arguments(data)
        systems = {name: CMC.of(arguments, encoder=encoder) for name in arms}
        steps = {name: stepper(s.to(data.inputs[IMU].device)) for name, s in systems.items()}
        works = {name: training(arms[name], step) for name, step in steps.items()}
        one = next(arms[OURS]())
        works["the network alone, one batch again"] = lambda one=one, step=steps[OURS]: [
            *map(step, [one] * n_steps),
            _wait(),
        ]
        race_epochs(works, n_steps, f"steps with their batches, {size} encoders")
        if ON_GPU:
            for name, step in steps.items():
                print(f"{synchronisations(arms[name], step):.1f} synchronisations a step: {name}")
    print(
        f"memory of the windows {resident / 2**20:.0f} MiB; process, with ours alone {peak:.0f}, "
    )
    print(f"with all {peak_mib():.0f}, and {worker_mib():.0f} of its own for each worker")
    if ON_GPU:
        print(f"peak on the GPU {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
    evaluations(path)


def main() -> None:
    """Races on the folder that is named, or on generated clips."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    given = parser.parse_args().data
    with TemporaryDirectory() as place:
        folder = Path(place) / "arrays"
        folder.mkdir()
        race(given or demo(Path(place) / "clips"), folder)


if __name__ == "__main__":
    main()
