"""MERT on its reference cases."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audio_music.data.cqt import CQT
from audio_music.systems.mert import masked_prediction, mixed
from core.encoders.waveform import FrameAttention, relaxed_attention

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def _linear(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = (nn.Parameter(torch.tensor(x)) for x in (weight, bias))
    return layer


def pretrain_loss(inputs: Arrays, params: Params) -> Arrays:
    """The objective with all its terms, and the logits of the right codes."""
    hidden = torch.tensor(inputs["hidden"], requires_grad=True)
    time = hidden.shape[1]
    projection = _linear(inputs["final_proj_weight"], inputs["final_proj_bias"])
    vectors = torch.tensor(inputs["codeword_embeddings"]).unflatten(0, (params["codebooks"], -1))
    codes = torch.tensor(inputs["targets"]).permute(1, 2, 0)
    frames = torch.tensor(inputs["mask"] & ~inputs["padding_mask"])
    terms = masked_prediction(
        hidden,
        torch.tensor(inputs["conv_features"]).transpose(1, 2),
        projection,
        vectors,
        _linear(inputs["cqt_head_weight"], inputs["cqt_head_bias"]),
        codes,
        torch.tensor(inputs["cqt_target"])[:, :time],
        frames,
        temperature=params["logit_temp"],
        cqt_weight=params["weight_cqt"],
        penalty_weight=params["weight_feature_penalty"],
    )
    n = frames.sum()
    total = terms["loss"] * n
    (gradient,) = torch.autograd.grad(total, hidden)
    return {
        "out_ce_sum": _numpy(torch.stack([terms[f"code_{k}"] for k in range(len(vectors))]) * n),
        "out_n_masked": n.numpy(),
        "out_features_penalty": _numpy(terms["penalty"]),
        "out_cqt_mse": _numpy(terms["cqt"]),
        "out_total": _numpy(total),
        "out_total_per_frame": _numpy(terms["loss"]),
        "out_positive_logit": _numpy(_right_logits(hidden, projection, vectors, codes, params))[
            :, frames.flatten().numpy()
        ],
        "grad_hidden": _numpy(gradient),
    }


def _right_logits(
    hidden: Tensor, projection: nn.Linear, vectors: Tensor, codes: Tensor, params: Params
) -> Tensor:
    projected = projection(hidden).unflatten(-1, (len(vectors), -1)).flatten(0, 1)
    right = torch.stack([of[codes[..., k].flatten()] for k, of in enumerate(vectors)])
    cosines = nn.functional.cosine_similarity(projected.transpose(0, 1), right, dim=-1)
    return cosines / params["logit_temp"]


def noise_mixture(inputs: Arrays, params: Params) -> Arrays:
    """The excerpts of one clip; the others get none."""
    batch, target = torch.tensor(inputs["batch"]), int(inputs["target_index"])
    names = ("noise_start", "noise_length", "insert_position")
    drawn = torch.stack([torch.tensor(inputs[name]) for name in names], 1)
    excerpts = torch.zeros(len(batch), *drawn.shape, dtype=torch.int64)
    excerpts[target] = drawn
    found = mixed(batch, excerpts, params["length_range"][1], params["volume"])
    return {"out_augmented": found[target].numpy()}


def attention_relaxation(inputs: Arrays, params: Params) -> Arrays:
    """Relaxed attention, its weights and the gradient of its input."""
    dim = inputs["x"].shape[2]
    attention = FrameAttention(dim, params["heads"], relaxation=params["relax"]).double()
    parts = {
        kind: [torch.tensor(inputs[f"w_{part}_proj_{kind}"]) for part in "qkv"]
        for kind in ("weight", "bias")
    }
    attention.load_state_dict(
        {
            "qkv.weight": torch.cat(parts["weight"]),
            "qkv.bias": torch.cat(parts["bias"]),
            "out.weight": torch.tensor(inputs["w_out_proj_weight"]),
            "out.bias": torch.tensor(inputs["w_out_proj_bias"]),
        }
    )
    x = torch.tensor(inputs["x"]).transpose(0, 1).requires_grad_()
    valid = ~torch.tensor(inputs["key_padding_mask"])
    y = attention(x, valid)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    heads = attention.qkv(x).unflatten(-1, (3, params["heads"], -1)).permute(2, 0, 3, 1, 4)
    weights = relaxed_attention(heads[0], heads[1], params["relax"], valid[:, None, None])
    return {
        "out_y": _numpy(y.transpose(0, 1)),
        "out_attention": _numpy(weights.mean(1)),
        "grad_x": _numpy(gradient.transpose(0, 1)),
    }


def cqt_teacher(inputs: Arrays, params: Params) -> Arrays:
    """The constant-Q spectrum of a wave."""
    cqt = CQT(
        params["sample_rate"],
        params["hop"],
        params["fmin"],
        params["n_bins"],
        params["bins_per_octave"],
    )
    return {"out_cqt": cqt(torch.tensor(inputs["wave"])[None])[0].numpy()}


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().numpy()
