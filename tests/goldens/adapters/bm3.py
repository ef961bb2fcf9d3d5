"""Reference cases of BM3 and of the full ranking."""

import numpy as np
import torch

from core.encoders.graph import normalized_adjacency
from core.evaluation.ranking import masked_topk, ranking_metrics
from recsys.data.demo import generate_grs
from recsys.systems.bm3 import BM3


def norm_adj(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    users, items = torch.from_numpy(inputs["user_ids"]), torch.from_numpy(inputs["item_ids"])
    adjacency = normalized_adjacency(users, items, params["n_users"], params["n_items"])
    return {"out_adj": adjacency.to_dense().numpy()}


def loss(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    system = BM3(
        params["n_users"],
        params["n_items"],
        n_interactions=0,
        feature_dims={m: given[f"{m}_feat"].shape[1] for m in ("image", "text")},
        dim=given["user_embedding"].shape[1],
        n_layers=params["n_layers"],
        dropout=params["dropout"],
        reg_weight=params["reg_weight"],
        cl_weight=params["cl_weight"],
    ).double()
    system.adjacency = given["adj"].double().to_sparse_csr
    weights = {
        "user_embedding": system.user_embedding.weight,
        "item_embedding": system.item_embedding.weight,
        "image_feat": system.features["image"].weight,
        "text_feat": system.features["text"].weight,
        "image_w": system.project["image"].weight,
        "image_b": system.project["image"].bias,
        "text_w": system.project["text"].weight,
        "text_b": system.project["text"].bias,
        "predictor_w": system.predictor.weight,
        "predictor_b": system.predictor.bias,
    }
    for name, weight in weights.items():
        weight.data.copy_(given[name])

    users, items = given["batch_users"], given["batch_items"]
    keep = {"user": given["keep_user"][users]}
    keep |= {view: given[f"keep_{view}"][items] for view in ("item", "image", "text")}
    total = system.loss(users, items, keep)["loss"]
    total.backward()
    with torch.no_grad():
        user_online, item_online = system.online()
        tables = system.tables()
        scores = tables["user"] @ tables["item"].T
    return {
        "out_loss": total.detach().numpy(),
        "out_user_online": user_online.numpy(),
        "out_item_online": item_online.numpy(),
        "out_scores": scores.numpy(),
    } | {f"grad_{name}": weight.grad.numpy() for name, weight in weights.items()}


def full_ranking_metrics(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    topk, padded = params["K"], torch.from_numpy(inputs["positives"])
    ranked = masked_topk(
        torch.from_numpy(inputs["scores"]).clone(),
        torch.from_numpy(inputs["train_rows"]),
        torch.from_numpy(inputs["train_cols"]),
        max(topk),
    )
    rows, places = (padded >= 0).nonzero(as_tuple=True)
    per_user = ranking_metrics(ranked, rows, padded[rows, places], topk)
    n_positives = torch.bincount(rows, minlength=len(padded))
    out = {"out_topk": ranked.numpy()}
    for metric in ("recall", "ndcg", "precision", "map"):
        means = [per_user[f"{metric}@{k}"].mean() for k in topk]
        out[f"out_{metric}"] = torch.stack(means).numpy()
    hits = [(per_user[f"recall@{k}"] * n_positives).sum() / n_positives.sum() for k in topk]
    out["out_recall2"] = torch.stack(hits).numpy()
    return out


def generator_grs(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    data = generate_grs(**params)
    return {
        f"out_{name}": getattr(data, name) for name in ("users", "items", "label", "image", "text")
    }
