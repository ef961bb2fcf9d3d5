"""Frame projections on their reference cases."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.augment.projections import fourier, morlet_spectra, scalogram
from core.encoders.latent_mapper import LatentMapper
from core.encoders.resnet1d import ResNet1D
from har.systems.frame_projections import mapped, objective_terms

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def projections(inputs: Arrays, params: Params) -> Arrays:
    """Scalogram, amplitudes and phases of raw windows."""
    x = torch.tensor(inputs["x"])
    amplitude, phase = fourier(x).chunk(2, 1)
    found = scalogram(x, morlet_spectra(x.shape[-1], inputs["scales"].tolist()))
    return {
        "out_scalogram": found.float().numpy(),
        "out_fourier_abs": amplitude.numpy(),
        "out_fourier_angle": phase.numpy(),
    }


def isoalign_loss(inputs: Arrays, params: Params) -> Arrays:
    """The objective of given projections, with the authors' names for Gabor and Fourier."""
    raw = {
        view: torch.tensor(inputs[f"e_{name}"], requires_grad=True)
        for view, name in (("time", "time"), ("gabor", "cwt"), ("fourier", "ft"))
    }
    mappers = nn.ModuleDict({"gabor": _mapper(inputs, "cwt"), "fourier": _mapper(inputs, "ft")})
    e = {view: torch.nn.functional.normalize(x, dim=1) for view, x in raw.items()}
    terms = objective_terms(e, mappers, params["temperature"])
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    guesses = mapped(mappers, e["time"])
    out: dict[str, Tensor] = {
        "out_loss": loss,
        "out_nce_time_cwt": terms["time_gabor"],
        "out_nce_time_ft": terms["time_fourier"],
        "out_nce_cwt_ft": terms["gabor_fourier"],
        "out_mapped_ft": guesses["fourier"],
        "out_mapped_cwt": guesses["gabor"],
        "grad_e_time": raw["time"].grad,
        "grad_e_cwt": raw["gabor"].grad,
        "grad_e_ft": raw["fourier"].grad,
    }
    return {name: value.detach().numpy() for name, value in out.items()}


def _mapper(inputs: Arrays, name: str) -> LatentMapper:
    weights = {
        f"layers.{place}.{part}": torch.tensor(inputs[f"w_{name}_{layer}_{part}"])
        for place, layer in ((0, "conv1"), (2, "deconv"))
        for part in ("weight", "bias")
    }
    mapper = LatentMapper(len(weights["layers.0.bias"])).double()
    mapper.load_state_dict(weights)
    return mapper


def resnet1d_forward(inputs: Arrays, params: Params) -> Arrays:
    """The time encoder in evaluation mode, with given weights."""
    x = torch.tensor(inputs["x"]).transpose(1, 2)
    net = ResNet1D(
        x.shape[1:],
        dim=params["out_dim"],
        width=params["base_filters"],
        n_blocks=params["n_block"],
        kernel=params["kernel_size"],
        stride=params["stride"],
        shorten_every=params["downsample_gap"],
        widen_every=params["increasefilter_gap"],
    )
    weights = {_our_name(k): torch.tensor(v) for k, v in inputs.items() if k.startswith("w__")}
    counters = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
    net.load_state_dict(weights | counters)
    with torch.no_grad():
        return {"out_embedding": net.double().eval()(x).numpy()}


_RENAMED = {
    "first_block_conv.conv": "first",
    "first_block_bn": "first_norm",
    "basicblock_list": "blocks",
    "conv1.conv": "convolution1",
    "conv2.conv": "convolution2",
    "bn1": "activation1.0",
    "bn2": "activation2.0",
    "final_bn": "last_norm",
    "dense2": "head",
}


def _our_name(theirs: str) -> str:
    name = theirs.removeprefix("w__").replace("__", ".")
    for part, ours in _RENAMED.items():
        name = name.replace(part, ours)
    return name
