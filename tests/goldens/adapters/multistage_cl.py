"""Multistage contrastive learning on its reference cases."""

from typing import Any

import numpy as np
import torch

from core.data.cluster_sampler import compose_labels, one_label_batches
from core.evaluation.pairs import pair_probabilities, pairs_told_apart
from core.systems.multistage_cl import integrate

Arrays = dict[str, np.ndarray]


def sampler(inputs: Arrays, params: dict[str, Any]) -> Arrays:
    """The batches of each process, for given shuffles of the labels."""
    label, perms = torch.tensor(inputs["pseudo_label"]), torch.tensor(inputs["perms"])
    rows = [(label == number).nonzero().flatten() for number in range(params["clusters"])]
    shuffles = perms.split([len(of_label) for of_label in rows])
    groups = [of_label[shuffle] for of_label, shuffle in zip(rows, shuffles, strict=True)]
    world_size = params["world_size"]
    batches = one_label_batches(groups, params["batch_size"] * world_size)
    of_rank = [batches[:, world_size - 1 - rank :: world_size] for rank in range(world_size)]
    return {"out_batches": torch.stack(of_rank).numpy()}


def pseudo_labels_and_scores(inputs: Arrays, params: dict[str, Any]) -> Arrays:
    """Composed labels, the paper's and the published code's; features of all stages; pairs."""
    clusters = torch.tensor(inputs["cluster_labels"])
    forgetful = clusters[-1:].expand(len(clusters), -1)
    images, texts = (
        integrate(list(torch.tensor(inputs[f"{name}_features"]))) for name in ("image", "text")
    )
    probabilities = pair_probabilities(images, texts, params["scale"])
    return {
        "out_pseudo_label": compose_labels(clusters, params["K"]).numpy(),
        "out_pseudo_label_as_published_code": compose_labels(forgetful, params["K"]).numpy(),
        "out_integrated_image": images.numpy(),
        "out_integrated_text": texts.numpy(),
        "out_prob": probabilities.numpy(),
        "out_pair_correct": pairs_told_apart(probabilities).long().numpy(),
    }
