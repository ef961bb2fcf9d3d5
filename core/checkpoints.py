"""Checkpoints read: found, loaded without running their code, turned into systems again."""

import pickle
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import get_class

from core.data.checks import DataError

if TYPE_CHECKING:
    from core.trainers.system import System

OURS = "consilience"  # the key of a checkpoint under which lies what Lightning does not keep
_ENTRIES = {"state_dict", "epoch", OURS}
_OUR_ENTRIES = {"target", "arguments", "config", "loader", "monitor", "best_score", "best_epoch"}


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
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # What torch says of a file that would run code is advice to let it.
        unsafe = isinstance(error, pickle.UnpicklingError)
        lines = str(error).splitlines() or [type(error).__name__]
        reason = "it is not made of tensors and plain values alone" if unsafe else lines[0][:200]
        raise DataError(
            f"cannot be read as a checkpoint ({reason})",
            path=path,
            expected="a .ckpt file written by a train command",
            fix="use another checkpoint of the run, or train again",
        ) from error
    ours = checkpoint.get(OURS) if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or not (
        checkpoint.keys() >= _ENTRIES and ours.keys() >= _OUR_ENTRIES
    ):
        raise DataError(
            "not a checkpoint of this project",
            path=path,
            expected=f"the entries {', '.join(sorted(_ENTRIES))} that a train command writes",
        )
    entries: dict[str, Any] = checkpoint
    return entries


def load_weights(system: "System", checkpoint: dict[str, Any], path: Path) -> None:
    """Gives a system the weights of a checkpoint.

    Raises:
        DataError: they are of a system of another kind or size.
    """
    try:
        system.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise DataError(
            f"its weights are not of this system: {' '.join(lines[1:3])}",
            path=path,
            fix="leave the system and the data as they were in the run",
        ) from error


def load_system(path: str | Path) -> tuple["System", dict[str, Any], dict[str, Any]]:
    """Rebuilds a trained system from a checkpoint or run folder.

    Returns:
        The system in evaluation mode on the CPU, the config of its run, and what chose the
        checkpoint: `monitor`, `best_score`, `best_epoch`, and the `epoch` it was written in.

    Raises:
        DataError: the file is damaged, foreign, or names something that is not a System.
    """
    from core.trainers.system import System

    path = find_checkpoint(path)
    checkpoint = read_checkpoint(path)
    ours = checkpoint[OURS]
    try:
        system_class = get_class(ours["target"])
    except Exception as error:
        raise DataError(f"its system {ours['target']} is not installed", path=path) from error
    if not issubclass(system_class, System):
        raise DataError(f"it names {ours['target']}, which is not a System", path=path)
    try:
        system = system_class(**ours["arguments"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{ours['target']} cannot be built: {error}", path=path) from error
    load_weights(system, checkpoint, path)
    choice = {key: ours[key] for key in ("monitor", "best_score", "best_epoch")}
    choice["epoch"] = checkpoint["epoch"]
    return system.eval(), ours["config"], choice


def weights_digest(system: "System") -> str:
    """First 16 hex digits of the sha256 of a system's weights and buffers."""
    total = sha256()
    for name, tensor in sorted(system.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
