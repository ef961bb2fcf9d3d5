"""UNI and the objectives of DINOv2 on their reference cases."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.encoders.neighbours import nearest
from core.evaluation.knn import knn_predict
from core.evaluation.simpleshot import SimpleShot
from core.losses import IBOTLoss, koleo, sinkhorn
from core.losses.dino import Centre, cross_view_entropies
from medical.bag_heads import mi_simpleshot as bag_distances
from medical.linear_probe import NormProbe, cost
from medical.retrieval import majority_of
from medical.scores import judged_classes

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def _tensors(inputs: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in inputs.items()}


def dinov2_losses(inputs: Arrays, params: Params) -> Arrays:
    """Both losses with targets by Sinkhorn-Knopp, KoLeo, and the centre after one update."""
    given = _tensors(inputs)
    batch, temperature = params["batch"], params["teacher_temp"]
    logits = given["student_global_logits"].requires_grad_()
    patches = given["student_patch_logits"].requires_grad_()
    features = given["student_global_features"].requires_grad_()
    teacher = given["teacher_global_logits"]
    shares = sinkhorn(teacher, temperature, params["sinkhorn_iterations"]).unflatten(0, (2, -1))
    every = torch.cat([logits, given["student_local_logits"]]).unflatten(0, (-1, batch))
    entropies = cross_view_entropies(every, shares, params["student_temp"])
    pairs = 2 + 2 * params["local_crops"]
    across = (entropies[0, 1] + entropies[1, 0]) / pairs
    local = entropies[:, 2:].sum() / pairs
    ibot = IBOTLoss(patches.shape[1], params["student_temp"], balance="sinkhorn")
    of_patches = ibot(
        patches, given["teacher_patch_logits"], given["patch_mask"].bool(), temperature
    )
    spread = params["koleo_weight"] * sum(koleo(crop) for crop in features.split(batch))
    total = local + across + of_patches + spread
    total.backward()
    centre = Centre(teacher.shape[1], params["center_momentum"]).double()
    centre(teacher, temperature)
    return {
        # Each large crop's target is that of the other one.
        "out_teacher_sinkhorn": shares.flip(0).flatten(0, 1).numpy(),
        "out_patch_sinkhorn": sinkhorn(
            given["teacher_patch_logits"], temperature, params["sinkhorn_iterations"]
        ).numpy(),
        "out_local": local.detach().numpy(),
        "out_global": across.detach().numpy(),
        "out_ibot": of_patches.detach().numpy(),
        "out_koleo": spread.detach().numpy(),
        "out_total": total.detach().numpy(),
        "out_center_after_one_update": centre.centre.numpy(),
        "grad_student_global_logits": logits.grad.numpy(),
        "grad_student_patch_logits": patches.grad.numpy(),
        "grad_features": features.grad.numpy(),
    }


def linear_probe(inputs: Arrays, params: Params) -> Arrays:
    """Where many rounds of L-BFGS end, and where a single one stops."""
    given = _tensors(inputs)
    train, label = given["train"], given["train_label"]
    n_classes = int(label.max()) + 1
    optimum = NormProbe.fit(train, label, n_classes, params["max_iter"], rounds=50)
    released = NormProbe.fit(train, label, n_classes, params["max_iter"])
    return {
        "out_cost": np.array(cost(train.shape[1], n_classes)),
        "out_objective_at_optimum": np.array(optimum.objective),
        "out_probabilities": optimum.scores(given["query"]).numpy(),
        "out_probabilities_released_code": released.scores(given["query"]).numpy(),
    }


def mi_simpleshot(inputs: Arrays, params: Params) -> Arrays:
    """Scores and classes of slides."""
    given = _tensors(inputs)
    label = given["roi_label"]
    prototypes = SimpleShot.fit(given["roi"], label, int(label.max()) + 1)
    lengths = given["bag_lengths"].tolist()
    bags = [bag[:length] for bag, length in zip(given["bags"], lengths, strict=True)]
    scores = bag_distances(prototypes, bags, params["topk"])
    return {"out_scores": scores.numpy(), "out_prediction": scores.argmin(1).numpy()}


def simpleshot_knn_retrieval(inputs: Arrays, params: Params) -> Arrays:
    """Everything that needs no training."""
    given = _tensors(inputs)
    label, query_label = given["train_label"], given["query_label"]
    n_classes = int(max(label.max(), query_label.max())) + 1
    fitted = SimpleShot.fit(given["train"], label, n_classes)
    squared = fitted.squared_distances(given["query"])
    train, query = fitted.centred(given["train"]), fitted.centred(given["query"])
    votes = knn_predict(train, label, query, n_classes, params["knn_k"], temperature=None)
    metrics = judged_classes(-squared, query_label, range(len(query)), "query").metrics
    found = label[nearest(query, train, max(params["retrieval_k"]))[1]]
    hits = found == query_label[:, None]
    return {
        "out_mean": fitted.mean.numpy(),
        "out_prototypes": fitted.prototypes.numpy(),
        "out_distances": squared.sqrt().numpy(),
        "out_prediction": squared.argmin(1).numpy(),
        "out_knn_prediction": votes.argmax(1).numpy(),
        "out_metrics": np.array(
            [metrics[name] for name in ("accuracy", "balanced_accuracy", "kappa", "weighted_f1")]
        ),
        "out_retrieval_acc": np.array(
            [float(hits[:, :k].any(1).double().mean()) for k in params["retrieval_k"]]
        ),
        "out_retrieval_majority5": np.array(
            float((majority_of(found[:, :5]) == query_label).double().mean())
        ),
    }
