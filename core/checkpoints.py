"""Checkpoints read: found, loaded without running their code, turned into systems again."""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class

from core.data.checks import DataError
from core.trainers.checkpointing import OURS
from core.trainers.system import System


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that a user means by a file or by a run folder (its best, else its last).

    Raises:
        DataError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for name in ("best.ckpt", "last.ckpt"):
        for file in (path / "checkpoints" / name, path / name):
            if file.is_file():
                return file
    found = "a folder without checkpoints" if path.is_dir() else "no such file or folder"
    raise DataError(found, path=path, expected="a run folder or one of its checkpoints/*.ckpt")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU without running any code of it.

    Raises:
        DataError: the file is damaged or was not written by this project.
    """
    path = find_checkpoint(path)
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise DataError(
            f"cannot be read as a checkpoint ({reason})",
            path=path,
            expected="a .ckpt file written by a train command",
            fix="use another checkpoint of the run, or train again",
        ) from error
    if OURS not in checkpoint:
        raise DataError(
            "not a checkpoint of this project", path=path, expected=f"the entry {OURS!r}"
        )
    return checkpoint


def load_system(path: str | Path) -> tuple[System, dict[str, Any], dict[str, Any]]:
    """Rebuilds a trained system from a checkpoint or run folder.

    Returns:
        The system in evaluation mode on the CPU, the config of its run, and what chose the
        checkpoint: `monitor`, `best_score`, `best_epoch`, and the `epoch` it was written in.

    Raises:
        DataError: the file is damaged, foreign, or names something that is not a System.
    """
    path = find_checkpoint(path)
    checkpoint = read_checkpoint(path)
    ours = checkpoint[OURS]
    try:
        system_class = get_class(ours["target"])
    except Exception as error:
        raise DataError(f"its system {ours['target']} is not installed", path=path) from error
    if not issubclass(system_class, System):
        raise DataError(f"it names {ours['target']}, which is not a System", path=path)
    system = system_class(**ours["arguments"])
    system.load_state_dict(checkpoint["state_dict"])
    choice = {key: ours[key] for key in ("monitor", "best_score", "best_epoch")}
    choice["epoch"] = checkpoint["epoch"]
    return system.eval(), ours["config"], choice
