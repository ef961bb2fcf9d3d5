"""Skeletons, inertial sensors and their contrast on the reference cases."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.encoders.cooccurrence import CooccurrenceCNN
from core.losses import hard_negative, info_nce
from har.data.generator import Clip, clip_pose, inertial
from har.data.resample import fourier_resample, normalise_skeleton

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


def _gradients(
    loss: Callable[[Tensor, Tensor], Tensor], inputs: Arrays, name: str
) -> dict[str, np.ndarray]:
    skeleton, inertial = (
        torch.tensor(inputs[key], requires_grad=True) for key in ("z_skeleton", "z_inertial")
    )
    of_skeleton, of_inertial = torch.autograd.grad(loss(skeleton, inertial), (skeleton, inertial))
    return {
        f"grad_z_skeleton_{name}": of_skeleton.numpy(),
        f"grad_z_inertial_{name}": of_inertial.numpy(),
    }


def losses(inputs: Arrays, params: Params) -> Arrays:
    """CMC, and the contrast with hard negatives of both modalities or of the other one."""
    tau, beta, tau_plus = (params[name] for name in ("temperature", "beta", "tau_plus"))
    z = torch.tensor(inputs["z_skeleton"]), torch.tensor(inputs["z_inertial"])

    def cmc(a: Tensor, b: Tensor) -> Tensor:
        return info_nce(a, b, tau)

    def of_all(a: Tensor, b: Tensor) -> Tensor:
        return hard_negative(a, b, tau, beta=beta, tau_plus=tau_plus)

    def cross(a: Tensor, b: Tensor, prior: float = tau_plus) -> Tensor:
        return hard_negative(a, b, tau, beta=beta, tau_plus=prior, negatives="cross")

    cosines = torch.nn.functional.normalize(z[0]) @ torch.nn.functional.normalize(z[1]).T
    others = ~torch.eye(len(cosines), dtype=torch.bool)
    out = {
        "out_mm_ntxent": cmc(*z),
        "out_pos_mean": cosines.diagonal().mean(),
        "out_neg_mean": cosines[others].mean(),
        "out_hcl_all": of_all(*z),
        "out_hcl_easy": hard_negative(*z, tau, beta=0, tau_plus=0),  # a plain sum
        "out_cross_hard": cross(*z),
        "out_cross_hard_tau_plus_half": cross(*z, 0.5),
    }
    named = {"mm_ntxent": cmc, "hcl_all": of_all, "cross_hard": cross}
    gradients = [_gradients(loss, inputs, name) for name, loss in named.items()]
    return {k: v.numpy() for k, v in out.items()} | gradients[0] | gradients[1] | gradients[2]


def preprocess(inputs: Arrays, params: Params) -> Arrays:
    """A clip of UTD-MHAD as the encoders get it."""
    joints = torch.tensor(inputs["skeleton"]).permute(1, 2, 0)  # (3, time, joints)
    root, size = params["anchor_joint"], params["size"]
    first, second = params["distance_joints"]
    normalised = normalise_skeleton(joints, root, (first, second))
    bone = joints[:, 0, first] - joints[:, 0, second]
    return {
        "out_recentered": (normalised * bone.norm()).permute(2, 0, 1).numpy(),
        "out_normalized": normalised.permute(2, 0, 1).numpy(),
        "out_skeleton": fourier_resample(normalised, size, dim=1).numpy(),
        "out_inertial": fourier_resample(torch.tensor(inputs["inertial"]).T, size).numpy(),
    }
