"""Losses over the distinct things of a batch, where a batch names some of them repeatedly."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from core.losses.rows import Rows


def distinct(
    ids: Int64[Tensor, " batch"], n: int
) -> tuple[Int64[Tensor, " rows"], Bool[Tensor, " rows"] | None]:
    """Ids among which every one of the batch counts once, over the ids of all processes.

    On the CPU the repeats are left out. An accelerator would have to be waited for to count them,
    so there they stay, for a loss that takes `valid`.

    Args:
        ids: 0 to n - 1, with repeats.
        n: number of things that have an id.

    Returns:
        Ids of this process, and which of them count, or None where all do.
    """
    rows = Rows.of(ids, "full")
    everyones = rows.everywhere(ids)
    place = torch.arange(rows.total, device=ids.device)
    first = place.new_full((n,), rows.total).scatter_reduce_(0, everyones, place, "amin")
    valid = first.index_select(0, ids) == rows.own(place)
    return (ids[valid], None) if ids.device.type == "cpu" else (ids, valid)
