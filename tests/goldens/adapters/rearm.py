"""Reference cases of REARM."""

from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from core.encoders.cosines import Cosines
from core.encoders.graph import normalized_adjacency
from core.encoders.neighbours import NeighbourGraph, co_occurrence
from core.losses import bpr, orthogonality
from recsys.systems import rearm
from recsys.systems.rearm import REARM


def co_graphs(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    users, items = torch.from_numpy(inputs["user_ids"]), torch.from_numpy(inputs["item_ids"])
    n_users, n_items = params["n_users"], params["n_items"]
    user_counts = _dense_counts(users, items, n_users, n_items)
    item_counts = _dense_counts(items, users, n_items, n_users)

    weights = torch.from_numpy(inputs["weights"])
    counts, ids = weights.topk(params["k"])
    popularity = torch.zeros(len(weights), dtype=torch.int64)
    popularity[torch.from_numpy(inputs["popular_ids"])] = torch.from_numpy(inputs["popular_counts"])
    graph = rearm.co_occurrence_graph(counts, ids, (counts > 0).sum(1), popularity)
    return {
        "out_user_counts": user_counts.numpy(),
        "out_item_counts": item_counts.numpy(),
        "out_co_graph": _dense(graph).numpy(),
    }


def similarity_graphs(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    users, items = torch.from_numpy(inputs["user_ids"]), torch.from_numpy(inputs["item_ids"])
    n_users, n_items = params["n_users"], params["n_items"]
    interests, item_graphs, user_graphs = {}, {}, {}
    for modality in ("image", "text"):
        features = torch.from_numpy(inputs[f"{modality}_feat"])
        interests[modality] = rearm.interest_features(features, users, items, n_users)
        cosines = Cosines(features)
        item_graphs[modality] = rearm.similarity_graph(*cosines.nearest(params["item_knn_k"]))
        nearest = cosines.nearest_means(users, items, n_users, params["user_knn_k"])
        user_graphs[modality] = rearm.similarity_graph(*nearest)
    out = {
        "out_user_image_interest": interests["image"],
        "out_user_text_interest": interests["text"],
        "out_item_image_knn": _dense(item_graphs["image"]),
        "out_user_text_knn": _dense(user_graphs["text"]),
        "out_norm_adj": normalized_adjacency(users, items, n_users, n_items).to_dense(),
    }
    for kind, graphs, co, image in (
        ("item", item_graphs, "ii_co_weight", "i_mm_image_weight"),
        ("user", user_graphs, "uu_co_weight", "u_mm_image_weight"),
    ):
        similar = rearm.mixed_graph(graphs, rearm.graph_shares(0.0, params[image]))
        out[f"out_{kind}_sim"] = _dense(similar)
        given = torch.from_numpy(inputs[f"co_{kind}"]).double()
        graphs["co"] = torch.arange(len(given)).expand(len(given), -1), given
        mixed = rearm.mixed_graph(graphs, rearm.graph_shares(params[co], params[image]))
        out[f"out_{kind}_graph"] = _dense(mixed)
    return {name: value.float().numpy() for name, value in out.items()}


def losses(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    d, n = params["d"], params["n_users"]
    users, positives, negatives = (torch.from_numpy(inputs[k]) for k in ("users", "pos", "neg"))
    positives, negatives = positives - n, negatives - n
    both = torch.cat([positives, negatives])
    n_items = len(inputs["feat"]) - n
    system = REARM(n, n_items, 0, {"image": 3, "text": 2}, dim=d, temperature=params["tau"])
    terms = {
        "cl_item": lambda feat: system.contrast(feat[n:], both),
        "cl_user": lambda feat: system.contrast(feat[:n], users),
        "diff_item": lambda feat: orthogonality(*feat[n:][positives].split(d, 1)),
        "diff_user": lambda feat: orthogonality(*feat[:n][users].split(d, 1)),
    }
    out = {}
    for name, term in terms.items():
        feat = torch.from_numpy(inputs["feat"]).requires_grad_()
        value = term(feat)
        value.backward()
        out[f"out_{name}"] = value.detach().numpy()
        out[f"grad_feat_{name}"] = feat.grad.numpy()
    rep = torch.from_numpy(inputs["rep"])
    user, positive, negative = rep[:n][users], rep[n:][positives], rep[n:][negatives]
    out["out_bpr"] = bpr((user * positive).sum(1), (user * negative).sum(1)).numpy()
    return out


def forward(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    n_users, n_items = params["n_users"], params["n_items"]
    system = REARM(
        n_users,
        n_items,
        n_interactions=0,
        feature_dims={m: given[f"{m}_embedding_weight"].shape[1] for m in ("image", "text")},
        dim=params["d"],
        n_layers=params["n_layers"],
        rank=params["rank"],
        n_user_layers=params["n_uu_layers"],
        n_item_layers=params["n_ii_layers"],
        temperature=params["tau"],
        cl_weight=params["cl_loss_weight"],
        diff_weight=params["diff_loss_weight"],
    ).double()
    system.adjacency = lambda: given["norm_adj"]
    graphs = {kind: _graph_of(given[f"{kind}_graph"]) for kind in ("user", "item")}
    system.graph = graphs.__getitem__
    weights = _weights(system)
    for name, weight in weights.items():
        weight.data.copy_(given[name])

    system.eval()
    batch = {
        "user": given["users"],
        "item": given["pos"] - n_users,
        "negative": given["neg"] - n_users,
    }
    with patch.object(rearm, "propagate", _propagate):
        terms = system.objective(batch)
        terms["loss"].backward()
        with torch.no_grad():
            _, fused = system.heterography(drop=False)
            tables = system.tables()
    out = {
        "out_representation": torch.cat([tables["user"], tables["item"]]),
        "out_total": terms["loss"],
        "out_bpr": terms["bpr"],
        "out_cl": params["cl_loss_weight"] * terms["contrast"],
        "out_diff": params["diff_loss_weight"] * terms["overlap"],
        "out_fused": fused,
    }
    trained = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    out |= {f"grad_{name}": trained[name] for name in _WITH_GRADIENT}
    assert not any(name.startswith("meta_net") for name in trained)
    return {name: value.detach().numpy() for name, value in out.items()}


_WITH_GRADIENT = (
    "user_id_embedding_weight",
    "item_id_embedding_weight",
    "image_i_trs_weight",
    "text_u_trs_weight",
    "user_v_prefer",
    "image_embedding_weight",
    "self_i_attn1_in_proj_weight",
    "ly_norm_weight",
    "prl_weight",
    "mlp_u1_linear_out_weight",
)


def _weights(system: REARM) -> dict[str, torch.nn.Parameter]:
    """The system's parameters by the names that the authors' code has for them."""
    named = {
        "user_v_prefer": system.features["user_image"].weight,
        "user_t_prefer": system.features["user_text"].weight,
        "image_embedding_weight": system.features["item_image"].weight,
        "text_embedding_weight": system.features["item_text"].weight,
        "user_id_embedding_weight": system.ids["user"].weight,
        "item_id_embedding_weight": system.ids["item"].weight,
        "ly_norm_weight": system.norm.weight,
        "ly_norm_bias": system.norm.bias,
        "prl_weight": system.activation.weight,
    }
    for number, modality in ((1, "image"), (2, "text")):
        for place, attention in (
            ("self", system.self_attention[modality]),
            ("mutual", system.mutual_attention[modality]),
        ):
            for part in ("in_proj", "out_proj"):
                for what in ("weight", "bias"):
                    name = f"{place}_i_attn{number}_{part}_{what}"
                    named[name] = getattr(attention, f"{part}_{what}")
    for kind in ("user", "item"):
        layers = {f"meta_net{kind[0]}": system.meta[kind]}
        for modality in ("image", "text"):
            layers[f"{modality}_{kind[0]}_trs"] = system.project[f"{kind}_{modality}"]
        for number, mlp in ((1, system.down[kind]), (2, system.up[kind])):
            layers[f"mlp_{kind[0]}{number}_linear_pre"] = mlp.hidden
            layers[f"mlp_{kind[0]}{number}_linear_out"] = mlp.out
            named[f"mlp_{kind[0]}{number}_prl_weight"] = mlp.activation.weight
        for name, layer in layers.items():
            named |= {f"{name}_weight": layer.weight, f"{name}_bias": layer.bias}
    return named


def _dense_counts(rows: Tensor, columns: Tensor, n: int, m: int) -> Tensor:
    counts, ids, _ = co_occurrence(rows, columns, n, m, k=n)
    return torch.zeros(n, n).scatter_add_(1, ids.clamp(min=0), counts.float())


def _dense(graph: tuple[Tensor, Tensor]) -> Tensor:
    return NeighbourGraph(*graph).to_dense()


def _propagate(adjacency: Tensor, nodes: Tensor, n_layers: int) -> Tensor:
    """As the project's, for the case's matrix: it is not symmetric, as that of any data is."""
    layers = [nodes]
    for _ in range(n_layers):
        layers.append(adjacency @ layers[-1])
    return torch.stack(layers).mean(0)


def _graph_of(dense: Tensor) -> NeighbourGraph:
    return NeighbourGraph(torch.arange(len(dense)).expand(len(dense), -1), dense)
