"""Symile on its reference cases."""

from typing import Any

import numpy as np
import torch

from core.losses import info_nce, multilinear_scores, pairwise, pairwise_scores, symile

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def loss_n(inputs: Arrays, params: Params) -> Arrays:
    """N - 1 negatives, for given permutations."""
    reps = torch.tensor(inputs["reps"], requires_grad=True)
    order = torch.tensor(inputs["perms"])
    loss = symile(list(reps), params["logit_scale"], permutations=order)
    loss.backward()
    return {"out_loss": loss.detach().numpy(), "grad_reps": reps.grad.numpy()}


def loss_n_squared(inputs: Arrays, params: Params) -> Arrays:
    """All combinations, three and four modalities."""
    out = {}
    for count in (3, 4):
        reps = torch.tensor(inputs["reps"][:count], requires_grad=True)
        scale = torch.tensor(params["logit_scale"], dtype=torch.float64, requires_grad=True)
        loss = symile(list(reps), scale, negatives="all", tile=2)
        loss.backward()
        out[f"out_loss_{count}mod"] = loss.detach().numpy()
        out[f"grad_reps_{count}mod"] = reps.grad.numpy()
        out[f"grad_scale_{count}mod"] = scale.grad.numpy()
    first, second, third = torch.tensor(inputs["reps"][:3])
    shifted = [second * third.roll(shift, 0) for shift in range(len(third))]
    scores = [multilinear_scores(block, first) for block in shifted]
    out["out_logits_anchor0_3mod"] = torch.cat(scores, dim=1).numpy()
    three = torch.stack([first, second, third])
    mean = pairwise(lambda a, b: info_nce(a, b, 1 / params["logit_scale"], normalize=False), three)
    out["out_clip_sum_3mod"] = (3 * mean).numpy()
    return out


def retrieval(inputs: Arrays, params: Params) -> Arrays:
    """Scores of the candidates of one modality given the two others."""
    queries = [torch.tensor(inputs[name]) for name in ("query_a", "query_b")]
    candidates, scale = torch.tensor(inputs["candidates"]), params["logit_scale"]
    scores = multilinear_scores(candidates, *queries)
    return {
        "out_mip": scores.numpy(),
        "out_symile_logits": (scale * scores).numpy(),
        "out_clip_logits": (scale * pairwise_scores(candidates, *queries)).numpy(),
    }
