"""Mixup contrast and SoftClip on their reference cases."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from core.losses import m3co, mix, soft_clip

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def losses(inputs: Arrays, params: Params) -> Arrays:
    """Both phases, and a permutation with fixed points."""
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    partner, weight = tensors["perm"], tensors["betas"]
    lonely, temperature = tensors["perm_fixed_point"], params["temp"]
    out = {}

    mixed, clean = (tensors[k].clone().requires_grad_() for k in ("mixed", "fixed"))
    loss = m3co(mixed, clean, partner, weight, temperature)
    loss.backward()
    out["out_m3co"], out["grad_mixed"], out["grad_fixed"] = loss, mixed.grad, clean.grad
    inputs_of_loss = tensors["mixed"], tensors["fixed"]
    out["out_m3co_one_way"] = m3co(*inputs_of_loss, partner, weight, temperature, symmetric=False)
    inputs_of_loss = mix(tensors["raw"], lonely, weight), tensors["fixed"]
    out["out_fixed_point_summed"] = m3co(*inputs_of_loss, lonely, weight, temperature)

    # The reference overwrites the diagonal of a sample that is its own partner: written out here,
    # because the project gives such a sample its whole mass.
    targets = weight.diag()
    targets[torch.arange(len(lonely)), lonely] = 1 - weight
    unit_mixed, unit_clean = (F.normalize(x) for x in inputs_of_loss)
    scores = unit_mixed @ unit_clean.T / temperature
    both = scores.log_softmax(1) + scores.log_softmax(0)
    out["out_fixed_point_official"] = -(targets * both).sum() / 2 / len(lonely)

    raw, clean = (tensors[k].clone().requires_grad_() for k in ("raw", "fixed"))
    loss = soft_clip(raw, clean, params["soft_clip_temp"])
    loss.backward()
    out["out_soft_clip"] = loss
    out["grad_raw_soft_clip"], out["grad_fixed_soft_clip"] = raw.grad, clean.grad
    return {name: value.detach().numpy() for name, value in out.items()}
