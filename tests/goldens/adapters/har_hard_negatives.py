"""Skeletons, inertial sensors and their contrast on the reference cases."""

from typing import Any

import numpy as np
import torch

from core.encoders.cooccurrence import CooccurrenceCNN
from har.data.generator import Clip, clip_pose, inertial

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


def generator(inputs: Arrays, params: Params) -> Arrays:
    """Joints and IMU without noise of given clips, every fourth sample of each."""
    outputs = {}
    for number, activity in enumerate(params["activities"]):
        given = {k: inputs[f"clip{number}_{k}"] for k in ("scalars", "style_plus_trial", "sway")}
        names = ("scale", "tempo", "amplitude", "warp", "shift", "heading", "x", "z")
        clip = Clip(
            activity=activity,
            **dict(zip(names, given["scalars"][:8].tolist(), strict=True)),
            mount=given["scalars"][8:],
            posture=given["style_plus_trial"],
            sway=given["sway"],
            bias=np.zeros(6),
        )
        joints = clip_pose(clip, clip.times(params["skeleton_hz"])).joints
        imu = inertial(clip, clip.times(params["imu_hz"]))
        outputs[f"out_clip{number}_skeleton"] = joints.transpose(1, 2, 0)[:, :, ::4]
        outputs[f"out_clip{number}_inertial"] = imu[::4]
    return outputs
