"""Runs a function in several real processes that talk over gloo."""

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# The fork server imports torch once; every process of every test is then a quick, clean fork.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch.distributed", "torch._dynamo"])


def run_gloo(world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Calls `function(*args)` on every rank of a gloo group and returns the results by rank.

    Args:
        world_size: number of processes.
        function: defined at the top of an importable module; its result must be picklable.
        args: picklable arguments, the same on every rank.

    Raises:
        RuntimeError: with the traceback of the first rank that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            _CONTEXT.Process(target=_work, args=(rank, world_size, folder, function, args))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=120)
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
        outcomes = [_outcome(Path(folder), rank) for rank in range(world_size)]
    for rank, (_, error) in enumerate(outcomes):
        if error is not None:
            raise RuntimeError(f"rank {rank} of {world_size} failed:\n{error}")
    return [result for result, _ in outcomes]


def _outcome(folder: Path, rank: int) -> tuple[Any, str | None]:
    path = folder / f"{rank}.pickle"
    return pickle.loads(path.read_bytes()) if path.exists() else (None, "no result: killed or hung")


def _work(
    rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    outcome: tuple[Any, str | None]
    try:
        outcome = function(*args), None
    except Exception:
        outcome = None, traceback.format_exc()
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(outcome))
    dist.destroy_process_group()
