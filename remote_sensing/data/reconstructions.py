"""Pictures of what a system reconstructs: what was there, what it saw, and what it made of it."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from core.augment.draws import Draws
from core.trainers.system import System
from remote_sensing.data.bands import OPTICAL
from remote_sensing.data.chips import Chips
from remote_sensing.data.gallery import rendered

_SIDE, _TEXT = 1.6, 0.3  # inches
_REMOVED = 0.6  # grey


@torch.no_grad()
def draw_reconstructions(
    system: System, data: Chips, rows: Int64[Tensor, " rows"], title: str, file: Path
) -> None:
    """A line a chip: of each sensor the chip, the patches that the system saw, the reconstruction.

    Which patches are seen is drawn from one seed, so that pictures of several epochs compare. The
    mean and the deviation of a removed patch are the true ones, as they are no part of the target.

    Args:
        system: has `draw` and `reconstruct`.
        data: the chips.
        rows: those to show.
        title: above the picture.
        file: the PNG to write.
    """
    from matplotlib.figure import Figure

    batch = data.batch(rows)
    draws = Draws(0, len(rows), slice(0, len(rows)), rows.device)
    batch = batch | system.draw(batch, draws)  # type: ignore[operator]
    made = system.reconstruct(batch)  # type: ignore[operator]
    columns = [(sensor, part) for sensor in data.inputs for part in ("", "/seen", "/made")]
    width, height = _SIDE * len(columns) + 0.1, _SIDE * len(rows) + _TEXT + 0.35
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - (_TEXT + 0.3) / height, 0.03, 0.03)
    names = {"": "", "/seen": ", seen", "/made": ", reconstructed"}
    for line in range(len(rows)):
        for axes, (sensor, part) in zip(grid[line], columns, strict=True):
            source = made if part else batch
            values = source[sensor if part != "/seen" else f"{sensor}/seen"][line]
            shown = rendered(values.float().clamp(0, 1).cpu().numpy(), data.bands[sensor], sensor)
            if part == "/seen":
                shown[(values == 0).all(0).cpu().numpy()] = _REMOVED
            axes.imshow(np.clip(shown, 0, 1), interpolation="nearest")
            axes.axis("off")
            if line == 0:
                title_of = "optical" if sensor == OPTICAL else "radar"
                axes.set_title(title_of + names[part], fontsize=8)
    figure.text(0.01, 1 - 0.06 / height, title, va="top", fontsize=9, fontweight="bold")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
