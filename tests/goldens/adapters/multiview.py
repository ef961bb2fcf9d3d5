"""The multi-view losses on their reference cases."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.losses import average_view, mv_dhel, mv_info_nce, nt_xent, pairwise, poly_view

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def _with_gradient(
    loss: Callable[[Tensor], Tensor], rows: np.ndarray, params: Params
) -> tuple[np.ndarray, np.ndarray]:
    z = torch.tensor(rows, requires_grad=True)
    value = loss(z.unflatten(0, (params["views"], params["batch"])))
    value.backward()
    return value.detach().numpy(), z.grad.numpy()


def mv_losses(inputs: Arrays, params: Params) -> Arrays:
    """MV-InfoNCE, MV-DHEL and what they are compared with."""
    tau = params["tau"]
    views = torch.tensor(inputs["z"]).unflatten(0, (params["views"], params["batch"]))
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "mv_infonce": lambda z: mv_info_nce(z, tau),
        "mv_dhel": lambda z: mv_dhel(z, tau),
        "pwe_infonce": lambda z: pairwise(lambda a, b: nt_xent(a, b, tau), z),
        "avg_infonce": lambda z: average_view(z, tau),
        "pwe_dhel": lambda z: pairwise(lambda a, b: mv_dhel(torch.stack([a, b]), tau), z),
        "pvc_geometric": lambda z: poly_view(z, tau),
        "two_view_mv_infonce": lambda z: mv_info_nce(z[:2], tau),
        "two_view_mv_dhel": lambda z: mv_dhel(z[:2], tau),
        "mv_infonce_crossview_denominator": lambda z: mv_info_nce(z, tau, denominator="cross_view"),
    }
    out = {f"out_{name}": loss(views).numpy() for name, loss in losses.items()}
    for name in ("mv_infonce", "mv_dhel"):
        _, out[f"grad_z_{name}"] = _with_gradient(losses[name], inputs["z"], params)
    return out


def mv_dhel_stress(inputs: Arrays, params: Params) -> Arrays:
    """Many views and a low temperature, in float32."""
    value, gradient = _with_gradient(lambda z: mv_dhel(z, params["tau"]), inputs["z"], params)
    return {"out_mv_dhel": value, "grad_z": gradient}
