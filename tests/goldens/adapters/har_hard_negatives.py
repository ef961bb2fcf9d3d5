"""Skeletons, inertial sensors and their contrast on the reference cases."""

from typing import Any

import numpy as np
import torch

from core.encoders.cooccurrence import CooccurrenceCNN

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]

# conv<number>_<branch> of the reference -> where the same block begins here
_BLOCKS = {
    "conv1": ("each_joint", 0),
    "conv2": ("each_joint", 3),
    "conv3": ("all_joints", 0),
    "conv4": ("all_joints", 3),
    "conv5": ("together", 0),
    "conv6": ("together", 4),
}


def _own_name(name: str) -> str:
    """`conv2_motions__1__bias` -> `motions.each_joint.4.bias`."""
    block, index, value = name.split("__")
    number, _, branch = block.partition("_")
    part, first = _BLOCKS[number]
    branch = {"joints": "positions.", "motions": "motions.", "": ""}[branch]
    return f"{branch}{part}.{first + int(index)}.{value}"


def cooccurrence_forward(inputs: Arrays, params: Params) -> Arrays:
    """Features of the co-occurrence network with given weights."""
    shape = [params["input_channels"], params["sample_length"], params["n_joints"]]
    network = CooccurrenceCNN(shape, params["out_channels"]).double().eval()
    weights = {
        _own_name(name.removeprefix("w__")): torch.tensor(value).double()
        for name, value in inputs.items()
        if name.startswith("w__")
    }
    missing, unknown = network.load_state_dict(weights, strict=False)
    assert not unknown
    assert all(name.endswith("num_batches_tracked") for name in missing)
    with torch.no_grad():
        return {"out_features": network(torch.tensor(inputs["x"])).numpy()}
