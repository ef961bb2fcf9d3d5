"""CROMA on its reference cases."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.encoders.positions import ALiBiPositions, SinCosPositions, grid_places
from core.losses import LogitScale, info_nce
from remote_sensing.systems.croma import CrossEncoder, Decoder, reconstruction_loss

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def _places(patches: int) -> tuple[tuple[int, int], Tensor]:
    grid = (round(patches**0.5),) * 2
    return grid, grid_places(grid, torch.zeros((), dtype=torch.float64))


def _weights(inputs: Arrays, names: dict[str, str]) -> dict[str, Tensor]:
    """The reference's weights under ours; those that `+` joins are stacked."""
    return {
        own: torch.cat([torch.tensor(inputs[f"w.{part}"]) for part in theirs.split(" + ")])
        for own, theirs in names.items()
    }


def _attention(own: str, theirs: str, norm: str, out: str, qkv: list[str]) -> dict[str, str]:
    stacked = " + ".join(f"{theirs}.{part}.weight" for part in qkv)
    names = {f"{own}.qkv.weight": stacked}
    for part in ("weight", "bias"):
        names[f"{own}.out.{part}"] = f"{theirs}.{out}.{part}"
        names[f"{norm}.{part}"] = f"{theirs}.input_norm.{part}"
    return names


def _feedforward(own: str, theirs: str, norm: str) -> dict[str, str]:
    names = {}
    for part in ("weight", "bias"):
        names[f"{norm}.{part}"] = f"{theirs}.input_norm.{part}"
        names |= {f"{own}.{n}.{part}": f"{theirs}.net.{n}.{part}" for n in (0, 2)}
    return names


def alibi_2d(inputs: Arrays, params: Params) -> Arrays:
    """Slopes, the bias of all patches, that of the kept ones, and the waves of the decoder."""
    positions = ALiBiPositions(params["heads"])
    grid, places = _places(params["num_patches"])
    queries, keys = (torch.tensor(inputs[f"ids_keep_{name}"]) for name in ("queries", "keys"))
    full = positions.bias(places[None], places[None]).rows(0, params["num_patches"])
    kept = positions.bias(places[queries], places[keys]).rows(0, queries.shape[1])
    waves = SinCosPositions(params["sincos_dim"]).embedding(places, grid)
    return {
        "out_slopes": positions.slopes.double().numpy(),
        "out_bias": full[0].numpy(),
        "out_masked_bias": kept.numpy(),
        "out_sincos": waves.numpy(),
    }


def cross_encoder_masked(inputs: Arrays, params: Params) -> Arrays:
    """Joint tokens, with the published bias of the self-attention and with its own."""
    names = {f"norm.{part}": f"norm_out.{part}" for part in ("weight", "bias")}
    for layer in range(params["layers"]):
        own, theirs = f"blocks.{layer}", f"layers.{layer}"
        names |= _attention(
            f"{own}.within", f"{theirs}.0", f"{own}.norm_within", "out", ["create_qkv"]
        )
        names |= _attention(
            f"{own}.across",
            f"{theirs}.1",
            f"{own}.norm_across",
            "to_out",
            ["create_q", "create_k", "create_v"],
        )
        names |= _feedforward(f"{own}.feedforward", f"{theirs}.2", f"{own}.norm")
    weights = _weights(inputs, names)
    places = _places(params["num_patches"])[1]
    given = [torch.tensor(inputs[name]) for name in ("x", "context")]
    given += [places[torch.tensor(inputs[f"ids_keep_{name}"])] for name in ("radar", "optical")]
    out = {}
    for name, self_bias in (("official", "cross"), ("own_self_bias", "own")):
        positions = ALiBiPositions(params["heads"])
        encoder = CrossEncoder(
            params["dim"], params["layers"], params["heads"], positions, self_bias
        ).double()
        encoder.load_state_dict(weights)
        with torch.no_grad():
            out[f"out_joint_{name}"] = encoder(*given).numpy()
    return out


def mae_decoder_loss(inputs: Arrays, params: Params) -> Arrays:
    """The reconstruction of both sensors; positions are computed, not those of the case."""
    names = {"mask_token": "mask_token"}
    for part in ("weight", "bias"):
        names[f"narrow.{part}"] = f"encoder_to_decoder.{part}"
        names[f"norm.{part}"] = f"decoder.norm_out.{part}"
        names[f"values.{part}"] = f"linear_output.{part}"
    for layer in range(params["decoder_layers"]):
        own, theirs = f"blocks.{layer}", f"decoder.layers.{layer}"
        names |= _attention(
            f"{own}.attention", f"{theirs}.0", f"{own}.norm1", "out", ["create_qkv"]
        )
        names |= _feedforward(f"{own}.feedforward", f"{theirs}.1", f"{own}.norm2")
    weights = _weights(inputs, names)
    weights["mask_token"] = weights["mask_token"].flatten()
    cut = params["patch_size"]
    channels = [params["optical_channels"], params["radar_channels"]]
    decoder = Decoder(
        params["encoder_dim"],
        sum(channels) * cut**2,
        params["decoder_dim"],
        params["decoder_layers"],
        params["decoder_heads"],
    ).double()
    decoder.load_state_dict(weights)
    x = torch.tensor(inputs["x"], requires_grad=True)
    restore = torch.tensor(inputs["ids_restore_radar"])
    predicted = decoder(x, restore, (params["grid"],) * 2)
    images = torch.tensor(inputs["images"]).split(channels, dim=1)
    optical, radar = (F.unfold(image, cut, stride=cut).transpose(1, 2) for image in images)
    masks = (torch.tensor(inputs[f"mask_{name}"]) for name in ("optical", "radar"))
    loss = reconstruction_loss(predicted, optical, radar, *masks)
    loss.backward()
    return {"out_loss": loss.detach().numpy(), "grad_x": x.grad.numpy()}


def contrastive(inputs: Arrays, params: Params) -> Arrays:
    """Full gradients as we train, and the share of one process as published."""
    names, size = ("radar", "optical"), params["per_rank"]
    own = slice(params["rank"] * size, (params["rank"] + 1) * size)
    scale = LogitScale(maximum=torch.inf).double()
    features = [torch.tensor(inputs[name], requires_grad=True) for name in names]
    projections = [nn.Linear(*inputs[f"w_{name}"].shape).double() for name in names]
    for name, projection in zip(names, projections, strict=True):
        projection.load_state_dict(
            {"weight": torch.tensor(inputs[f"w_{name}"]), "bias": torch.tensor(inputs[f"b_{name}"])}
        )
    radar, optical = (p(of) for p, of in zip(projections, features, strict=True))
    full = info_nce(radar, optical, 1 / scale())
    grads = torch.autograd.grad(full, features, retain_graph=True)
    # What other processes hold, and the keys of one's own rows, carry no gradient there.
    radar, optical = F.normalize(radar, dim=1), F.normalize(optical, dim=1)
    target = torch.arange(own.start, own.stop)
    share = F.cross_entropy(scale() * radar[own] @ optical.detach().T, target)
    share = (share + F.cross_entropy(scale() * optical[own] @ radar.detach().T, target)) / 2
    out = {"out_loss_rank": share, "out_loss_full": full}
    for name, whole, part in zip(names, grads, torch.autograd.grad(share, features), strict=True):
        out |= {f"grad_{name}_full": whole, f"grad_{name}_rank": part[own]}
    return {name: value.detach().numpy() for name, value in out.items()}
