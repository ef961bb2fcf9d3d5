"""The global contrastive losses, call by call, on their reference cases."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.losses import BimodalGlobalContrastiveLoss, GlobalContrastiveLoss
from core.losses.sogclr import AnchorTable

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def _exact(table: AnchorTable, temperature: float) -> None:
    # A float32 buffer has rounded it.
    table.temperature.fill_(temperature)


def _stacked(steps: list[dict[str, Tensor]]) -> Arrays:
    return {name: torch.stack([step[name] for step in steps]).numpy() for name in steps[0]}


def unimodal_steps(inputs: Arrays, params: Params) -> Arrays:
    """Two views; averages are replaced in epoch 0."""
    loss = GlobalContrastiveLoss(
        params["N"],
        params["tau_init"],
        individual=True,
        gamma=params["gamma"],
        rho=params["rho"],
        eta=params["eta"],
        beta=params["beta"],
        bounds=(params["tau_min"], params["tau_max"]),
        normalize=False,
    ).double()
    _exact(loss.table, params["tau_init"])
    steps = []
    for step, epoch in enumerate(inputs["epoch"]):
        a, b = (torch.tensor(inputs[k][step], requires_grad=True) for k in ("view1", "view2"))
        value = loss(a, b, torch.tensor(inputs["index"][step]), fresh=bool(epoch == 0))
        value.backward()
        steps.append(
            {
                "out_loss": value.detach(),
                "out_s": loss.table.average.clone(),
                "out_tau": loss.table.temperature.clone(),
                "out_u": loss.table.velocity.clone(),
                "grad_view1": a.grad,
                "grad_view2": b.grad,
            }
        )
    return _stacked(steps)


def _bimodal(params: Params, **options: Any) -> BimodalGlobalContrastiveLoss:
    loss = BimodalGlobalContrastiveLoss(
        (params["N"], params["N"]),
        params["tau_init"],
        individual=True,
        gamma=params["gamma"],
        rho=params["rho"],
        eta=params["eta"],
        beta=params["beta"],
        bounds=(params["tau_min"], params["tau_max"]),
        normalize=False,
        **options,
    ).double()
    for table in (loss.first, loss.second):
        _exact(table, params["tau_init"])
    return loss


def bimodal_steps(inputs: Arrays, params: Params) -> Arrays:
    """Image and text; averages start at 0."""
    loss = _bimodal(params, clip=params["grad_clip"], eps=params["eps"])
    steps = []
    for step in range(len(inputs["image"])):
        a, b = (torch.tensor(inputs[k][step], requires_grad=True) for k in ("image", "text"))
        numbers = (torch.tensor(inputs[k][step]) for k in ("image_id", "text_id"))
        value = loss(a, b, *numbers, fresh=False)
        value.backward()
        outputs = {"out_loss": value.detach(), "grad_image": a.grad, "grad_text": b.grad}
        for side, table in (("image", loss.first), ("text", loss.second)):
            outputs[f"out_s_{side}"] = table.average.clone()
            outputs[f"out_b_{side}"] = table.maximum.clone()
            outputs[f"out_tau_{side}"] = table.temperature.clone()
            outputs[f"out_u_{side}"] = table.velocity.clone()
        steps.append(outputs)
    return _stacked(steps)


def bimodal_negonly_steps(inputs: Arrays, params: Params) -> Arrays:
    """The variant without the positive, not divided by B - 1 and averaged over the directions."""
    loss = _bimodal(params, clip=float("inf"), with_positive=False, eps=params["eps"])
    steps = []
    for step, index in enumerate(inputs["index"]):
        a, b = (torch.tensor(inputs[k][step], requires_grad=True) for k in ("image", "text"))
        index = torch.tensor(index)
        # The reference looks at the whole batch: fresh where nothing is remembered of it.
        fresh = not loss.first.average[index].any()
        value = loss(a, b, index, index, fresh=fresh) * (len(index) - 1) / 2
        value.backward()
        outputs = {"out_loss": value.detach(), "grad_image": a.grad, "grad_text": b.grad}
        for side, table in (("image", loss.first), ("text", loss.second)):
            outputs[f"out_tau_{side}"] = table.temperature.clone()
            outputs[f"out_u_{side}"] = table.average.clone()
        steps.append(outputs)
    return _stacked(steps)
