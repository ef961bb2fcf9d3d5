"""Self-supervised label augmentation on its reference cases."""

from typing import Any

import numpy as np
import torch

from core.augment.transformations import ColourPermutations, Combinations, Rotations
from core.systems.sla import aggregated, cross_entropy, distillation, joint_labels, single

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]

_HALF, _THREE = (0, 2), ((0, 1, 2), (1, 2, 0), (2, 0, 1))
GROUPS = {
    "rotation": Rotations(),
    "rotation2": Rotations(_HALF),
    "color_perm": ColourPermutations(),
    "color_perm3": ColourPermutations(_THREE),
    "rot_color_perm6": Combinations(Rotations(_HALF), ColourPermutations(_THREE)),
    "rot_color_perm12": Combinations(Rotations(), ColourPermutations(_THREE)),
    "rot_color_perm24": Combinations(Rotations(), ColourPermutations()),
}


def transforms(inputs: Arrays, params: Params) -> Arrays:
    """All copies of every image, sample-major."""
    x = torch.tensor(inputs["x"])
    return {f"out_{name}": group(x).flatten(0, 1).numpy() for name, group in GROUPS.items()}


def joint_and_distillation(inputs: Arrays, params: Params) -> Arrays:
    """Losses, inferences and gradients of linear classifiers on the pixels."""
    x, y = torch.tensor(inputs["x"]), torch.tensor(inputs["y"])
    group = GROUPS[params["transformation"]]
    count = group.count
    copies = group(x).flatten(0, 1).flatten(1)
    w_joint = torch.tensor(inputs["w_joint"], requires_grad=True)
    w_single = torch.tensor(inputs["w_single"], requires_grad=True)
    logits, scores = copies @ w_joint, x.flatten(1) @ w_single
    labels = joint_labels(y, count)
    loss = cross_entropy(logits, labels) * (count if params["with_large_loss"] else 1)
    teacher = aggregated(logits, count)
    temperature = params["distillation_temperature"]
    both = loss + cross_entropy(scores, y) + distillation(teacher, scores, temperature)
    (of_sla,) = torch.autograd.grad(loss, w_joint, retain_graph=True)
    of_both = torch.autograd.grad(both, (w_joint, w_single))
    return {
        "out_joint_labels": labels.numpy(),
        "out_sla_loss": loss.detach().numpy(),
        "out_single_scores": single(logits[::count], count).detach().numpy(),
        "out_aggregated_scores": teacher.detach().numpy(),
        "out_sla_sd_loss": both.detach().numpy(),
        "out_sd_single_scores": scores.detach().numpy(),
        "grad_w_joint_sla": of_sla.numpy(),
        "grad_w_joint_sla_sd": of_both[0].numpy(),
        "grad_w_single_sla_sd": of_both[1].numpy(),
    }
