"""Features of chips, some at a time."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.data.checks import DataError
from core.trainers.system import System
from remote_sensing.data.chips import Chips

JOINT = "joint"
_PIXELS = 1 << 19  # that are embedded at a time


def rows_at_a_time(data: Chips, rows: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " some"], ...]:
    """Rows in groups of so many pixels as are embedded at a time."""
    height, width = next(iter(data.shapes.values()))[1:]
    return rows.split(max(1, _PIXELS // (height * width)))


@torch.no_grad()
def embed_chips(
    system: System,
    data: Chips,
    rows: Int64[Tensor, " rows"] | None = None,
    projected: bool = False,
) -> dict[str, Float[Tensor, "rows ..."]]:
    """`System.embed` or `System.project` of chips of any size.

    Raises:
        DataError: the system was trained on other bands.
    """
    shapes = getattr(system, "shapes", data.shapes)
    n_bands = {name: shape[0] for name, shape in data.shapes.items()}
    if {name: shape[0] for name, shape in shapes.items()} != n_bands:
        raise DataError(f"chips of {data.shapes}", expected=f"the bands of the training, {shapes}")
    if rows is None:
        rows = torch.arange(len(data.ids), device=next(iter(data.inputs.values())).device)
    encode = system.project if projected else system.embed
    parts: dict[str, list[Tensor]] = {}
    for some in rows_at_a_time(data, rows):
        batch = data.batch(some)
        images = {name: batch[name] for name in data.inputs}
        for name, vectors in encode(images).items():  # type: ignore[operator]
            parts.setdefault(name, []).append(vectors.float())
    return {name: torch.cat(vectors) for name, vectors in parts.items()}


def with_joint(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same features and `joint`: where the system does not fuse, all side by side."""
    if JOINT in vectors:
        return vectors
    return vectors | {JOINT: torch.cat(list(vectors.values()), -1)}
