"""Reference cases of the enhanced item graph, the perturbation and the alignments."""

import numpy as np
import torch

from core.encoders.neighbours import NeighbourGraph
from core.losses import info_nce
from recsys.systems.item_graph import (
    anchor_info_nce,
    collaborative_graph,
    perturb,
    semantic_graph,
)
from recsys.systems.item_graph import (
    enhanced_graph as enhance,
)


def enhanced_graph(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    train = torch.from_numpy(np.stack([inputs["user_ids"], inputs["item_ids"]]))
    sizes = params["n_users"], params["n_items"]
    semantic = semantic_graph(torch.from_numpy(inputs["features"]), params["k"])
    collaborative = collaborative_graph(train, *sizes, params["k_collab"])
    graphs = {
        "semantic": semantic,
        "collaborative": collaborative_graph(train, *sizes, params["n_items"] - 1),
        "collaborative_topk": collaborative,
        "graph": enhance(semantic, collaborative, params["lambda_c"]),
    }
    return {f"out_{name}": NeighbourGraph(*g).to_dense().numpy() for name, g in graphs.items()}


def perturb_and_align(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    batch, tau = given["batch"], params["tau"]
    behavior = given["behavior"].requires_grad_()
    semantics = [given[f"semantic_{m}"].requires_grad_() for m in range(params["modalities"])]

    anchor = anchor_info_nce(behavior[batch], [h[batch] for h in semantics], tau)
    anchor_grads = torch.autograd.grad(anchor, [behavior, *semantics])
    fused = sum(
        weight[:, None] * h for weight, h in zip(given["attention"].T, semantics, strict=True)
    )
    align = info_nce(fused[batch], behavior[batch], tau, symmetric=False)
    (align_grad,) = torch.autograd.grad(align, behavior)
    perturbed = perturb(given["embedding"], given["uniform_noise"], params["eps"])
    out = {
        "out_perturbed": perturbed,
        "out_anchor": anchor.detach(),
        "out_align": align.detach(),
        "grad_behavior_anchor": anchor_grads[0],
        "grad_behavior_align": align_grad,
    }
    for m, grad in enumerate(anchor_grads[1:]):
        out[f"grad_semantic_{m}_anchor"] = grad
    return {name: value.numpy() for name, value in out.items()}
