"""Mixup contrast and SoftClip on their reference cases."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from core.losses import m3co, mix, soft_clip
from core.systems.m3col import M3CoL

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


def omics_total_softclip(inputs: Arrays, params: Params) -> Arrays:
    """The whole model with given weights, in its second phase."""
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    weights = {name: tensors.pop(name) for name in list(tensors) if name.startswith("w_")}
    label = tensors["label"]
    names = [name for name in tensors if name != "label"]
    n_classes, hidden_dim = weights["w_mm_classfier_post_layer_2_clf_0_weight"].shape
    system = M3CoL(
        shapes={name: tensors[name].shape[1:] for name in names},
        n_classes={"label": n_classes},
        dim=len(weights["w_fe_1_fe1_clf_0_weight"]),
        hidden_dim=hidden_dim,
        contrast_weight=params["lambda_mixup"],
        soft_temperature=params["soft_clip_temp"],
        switch=0,
    ).double()
    parts = {"w_mm_classfier_post_layer_": system.fusion}
    for number, name in enumerate(names, 1):
        parts[f"w_fe_{number}_fe"] = system.encoders[name]
        parts[f"w_cl_{number}_post_layer_"] = system.heads[name]
    for start, part in parts.items():
        linear = [layer for layer in part.layers if isinstance(layer, torch.nn.Linear)]
        for number, layer in enumerate(linear, 1):
            layer.weight.data = weights[f"{start}{number}_clf_0_weight"]
            layer.bias.data = weights[f"{start}{number}_clf_0_bias"]

    terms, logits = system.objective(tensors), system.predict(tensors)
    fusion = F.cross_entropy(logits, label, reduction="none")
    heads = zip(system.heads.values(), system.encode(tensors), strict=True)
    unimodal = sum(F.cross_entropy(head(z), label, reduction="none") for head, z in heads)
    # The reference adds the scalar of the contrast to the loss of every sample.
    contrast = terms["loss"] - terms["fusion"] - terms["unimodal"]
    out = {
        "out_total": fusion + unimodal + contrast,
        "out_fusion_ce": fusion,
        "out_fusion_logits": logits,
    }
    return {name: value.detach().numpy() for name, value in out.items()}
