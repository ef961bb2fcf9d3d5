"""Which windows of one sensor are near to which of the other."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from core.tasks.samples import embed_all
from core.trainers.system import System
from har.data.windows import Windows


def cross_modal_retrieval(
    system: System, data: Windows, rows: Int64[Tensor, " n"]
) -> dict[str, Float[Tensor, " n"]]:
    """Whether the nearest projection of the other modality is of the same class, and clip.

    The mean of both directions for every window; nothing for a system without projections of two
    modalities. The candidates are the rows themselves.
    """
    if getattr(system, "project", None) is None:
        return {}
    projected = list(embed_all(system, data, rows, projected=True).values())
    if len(projected) != 2:
        return {}
    cosines = normalize(projected[0], dim=1) @ normalize(projected[1], dim=1).T
    labels = data.labels["label"][rows]
    places = torch.arange(len(rows), device=rows.device)
    nearest = [cosines.argmax(1), cosines.argmax(0)]
    same_class = torch.stack([(labels[near] == labels).float() for near in nearest])
    same_clip = torch.stack([(near == places).float() for near in nearest])
    return {"class_retrieval@1": same_class.mean(0), "clip_retrieval@1": same_clip.mean(0)}


def of_units(
    values: Float[np.ndarray, " n"], units: Int64[np.ndarray, " n"]
) -> Float[np.ndarray, " units"]:
    """Values of units, ascending, whose mean is the mean of all rows."""
    ids, unit_of_row = np.unique(units, return_inverse=True)
    return np.bincount(unit_of_row, weights=values) * len(ids) / len(values)


def search_spaces(system: System, data: Windows) -> tuple[dict[str, Float[Tensor, "n dim"]], bool]:
    """Modality -> unit vectors, and whether those of one can be compared with another's.

    They can be where the system has projections of several modalities.
    """
    if getattr(system, "project", None) is not None:
        projected = embed_all(system, data, projected=True)
        if len(projected) > 1:
            return {name: normalize(vectors, dim=1) for name, vectors in projected.items()}, True
    own = embed_all(system, data)
    return {name: normalize(vectors.float(), dim=1) for name, vectors in own.items()}, False
