"""What all races share: clocks, repeats taken in turn, memory, and peers that may be missing."""

import importlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Wall time of one call in seconds, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Wall time of one call, or what another clock says."""
    start = clock()
    work()
    return clock() - start


def interleaved(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each work, taken in turn, so that a busy moment of the machine meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(seconds(work, clock))
    return times


def median_and_spread(times: list[float]) -> str:
    """`median (least to most)` in seconds."""
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"


def paired_ratio(slow: list[float], fast: list[float]) -> str:
    """Median of the ratios of the repeats, with the least and the most of them."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"


def peak_mib() -> float:
    """Most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peer(module: str) -> Any:  # noqa: ANN401 - a module, or None
    """A module of another library, or None, saying so, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"{module.partition('.')[0]} does not race: {error}", flush=True)
        return None
