"""MDiCo on its reference cases."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.losses import nt_xent
from remote_sensing.systems.eo_colearning import MDiCo

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def contrastive_pair(inputs: Arrays, params: Params) -> Arrays:
    """One pair of sensors and its gradients."""
    a, b = (torch.tensor(inputs[name], requires_grad=True) for name in ("za", "zb"))
    loss = nt_xent(a, b, params["temperature"])
    loss.backward()
    return {
        "out_loss": loss.detach().numpy(),
        "grad_za": a.grad.numpy(),
        "grad_zb": b.grad.numpy(),
    }


def mdico_objective(inputs: Arrays, params: Params) -> Arrays:
    """Every term with linear encoders in training mode, and both totals."""
    names = params["modalities"]
    sensors = {name: torch.tensor(inputs[f"x_{name}"]) for name in names}
    batch = sensors | {"label": torch.tensor(inputs["y"])}
    figure, code = (_system(inputs, params, second) for second in ("unused", "shared"))
    totals = {key: of.objective(batch) for key, of in (("unused", figure), ("official", code))}
    out: dict[str, Tensor] = {f"out_total_{key}": of["loss"] for key, of in totals.items()}
    parts = figure.encode(sensors)
    for name, of in parts.items():
        main, auxiliary, out[f"out_Ldisc_unused_{name}"] = figure.sensor_costs(name, of, batch)
        out |= {f"out_Lmain{name}": main, f"out_Laux{name}": auxiliary}
        out[f"out_Ldisc_official_{name}"] = code.sensor_costs(name, of, batch)[2]
        out[f"out_shared_{name}"] = of.shared
        for other, theirs in parts.items():
            if other != name:
                pair = nt_xent(of.shared, theirs.shared, params["contrastive_temp"])
                out[f"out_Lcon{name}_{other}"] = pair
    return {name: value.detach().numpy() for name, value in out.items()}


def _system(inputs: Arrays, params: Params, mod_head_input: str) -> MDiCo:
    names, weights = params["modalities"], params["weights"]
    system = MDiCo(
        {name: inputs[f"x_{name}"].shape[1:] for name in names},
        target={
            "_target_": "remote_sensing.systems.targets.Classes",
            "n_outputs": len(inputs["class_weight"]),
        },
        encoder={"_target_": "core.encoders.mlp.MLP", "hidden": [], "dim": params["emb_dim"]},
        temperature=params["contrastive_temp"],
        main_weight=weights["main"],
        auxiliary_weight=weights["auxiliary"],
        contrast_weight=weights["contrastive"],
        modality_weight=weights["discriminative"],
        mod_head_input=mod_head_input,
    ).double()
    for layer in system.share.values():
        layer[1].eps = params["bn_eps"]
    given = {_our_name(k): torch.tensor(v) for k, v in inputs.items() if k.startswith("w.")}
    given["target.weights"] = torch.tensor(inputs["class_weight"])
    lost = system.load_state_dict(given, strict=False)
    assert not lost.unexpected_keys
    assert all(".1." in key for key in lost.missing_keys), lost.missing_keys
    return system.train()


_RENAMED = {
    "modality_encoders_unique": "unique",
    "modality_encoders_common": "common",
    "aux_common_layer": "share",
    "modality_prediction_heads": "heads",
    "aux_prediction_head": "auxiliary_head",
    "modality_head_awr_inf": "specific_head",
    "modality_head_awr_irr": "unused_head",
}


def _our_name(theirs: str) -> str:
    first, *rest = theirs.removeprefix("w.").split(".")
    ours = _RENAMED[first]
    layer = {"unique": "layers.1", "common": "layers.1", "heads": "0"}.get(ours, "")
    name = ".".join([ours, *rest]).replace("linear_layer", layer)
    return name.replace("..", ".")
