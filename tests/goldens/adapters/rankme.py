"""RankMe and alpha-ReQ on their reference case."""

from typing import Any

import numpy as np
import torch

from core.evaluation.rank import alpha_req
from core.evaluation.rank import rankme as rank_of

Arrays = dict[str, np.ndarray]


def rankme(inputs: Arrays, params: dict[str, Any]) -> Arrays:
    """Generic, degenerate, scaled and centred matrices."""
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    z, eps = tensors["z"], params["eps"]
    out = {
        "out_rankme": rank_of(z, eps=eps),
        "out_rankme_centred": rank_of(z, eps=eps, centre=True),
        "out_rankme_scaled": rank_of(100 * z, eps=eps),
        "out_alpha_req": alpha_req(z),
    }
    for name in ("rank_one", "orthonormal", "wide"):
        out[f"out_rankme_{name}"] = rank_of(tensors[name], eps=eps)
    return {name: value.numpy() for name, value in out.items()}
