"""Weights of MERT as its authors publish them on the Hugging Face hub (MERT-v1-95M, -330M)."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from audio_music.systems.mert import MERT
from core.data.checks import DataError
from core.encoders.waveform import WaveEncoder

_BLOCK = {
    "attention_norm": "layer_norm",
    "up": "feed_forward.intermediate_dense",
    "down": "feed_forward.output_dense",
    "final_norm": "final_layer_norm",
    "attention.out": "attention.out_proj",
}


def read_published(path: str | Path, rate: int = 24000, heads: int | None = None) -> MERT:
    """A system with the published trunk, to embed with or to train on from.

    The files hold no teachers and no heads: those are as they are drawn. The size follows from the
    weights; that of 1024 channels is the 330M model, whose blocks normalise first.

    Args:
        path: `pytorch_model.bin` or `model.safetensors`, or a folder with one.
        rate: of the model, 24000 Hz of v1, 16000 of v0.
        heads: of the attention; None: a head for every 64 channels, as published.

    Raises:
        DataError: it is no such file.
    """
    weights = _read(path)
    try:
        dim = len(weights["encoder.layer_norm.weight"])
        depth = 1 + max(int(n.split(".")[2]) for n in weights if n.startswith("encoder.layers."))
        hidden = len(weights["encoder.layers.0.feed_forward.intermediate_dense.bias"])
        norms = "parametrizations.weight.original1"
        convolution = weights[f"encoder.pos_conv_embed.conv.{norms}"]
    except (KeyError, ValueError) as error:
        raise _foreign(path, str(error)) from error
    system = MERT(
        rate,
        dim=dim,
        depth=depth,
        hidden=hidden,
        heads=heads or max(dim // 64, 1),
        pre_norm=dim == 1024,
        position_kernel=convolution.shape[2],
        position_groups=dim // convolution.shape[1],
    )
    _fill(system.encoder, weights, path)
    return system.eval()


def load_published(encoder: WaveEncoder, path: str | Path) -> None:
    """Gives a trunk the published weights.

    Raises:
        DataError: it is no such file, or of another size.
    """
    _fill(encoder, _read(path), path)


def _read(path: str | Path) -> dict[str, Tensor]:
    file = Path(path)
    if file.is_dir():
        names = ("model.safetensors", "pytorch_model.bin")
        found = [file / name for name in names if (file / name).is_file()]
        if not found:
            raise DataError("no weights", path=file, expected=" or ".join(names))
        file = found[0]
    try:
        if file.suffix == ".safetensors":
            weights = load_file(file)
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot be read as weights: {reason}", path=file) from error
    if not isinstance(weights, dict):
        raise DataError("holds no dict of weights", path=file)
    # Files of fine-tuned models and of older versions of torch have other names for the same.
    renamed = {}
    for name, weight in weights.items():
        name = name.removeprefix("mert.").removeprefix("hubert.")
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            name = name.replace(f"conv.{old}", f"conv.parametrizations.weight.{new}")
        renamed[name] = weight
    return renamed


def _fill(encoder: WaveEncoder, weights: dict[str, Tensor], path: str | Path) -> None:
    own = encoder.state_dict()
    for name in weights:
        # Of HuBERT's larger models, whose convolutions have biases and a norm each.
        if name.startswith("feature_extractor.") and name.endswith("conv.bias"):
            raise _foreign(path, f"{name} is more than they have")
    try:
        found = {name: _of(name, weights) for name in own}
        encoder.load_state_dict(found)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise _foreign(path, reason) from error


def _foreign(path: str | Path, reason: str) -> DataError:
    return DataError(
        f"not the published weights of MERT of this size: {reason}",
        path=path,
        expected="pytorch_model.bin or model.safetensors of MERT-v1-95M, or others of its layout",
    )


def _of(name: str, weights: dict[str, Tensor]) -> Tensor:
    """The published weight of one of the trunk."""
    if name == "mask_vector":
        # Models that are only to be fine-tuned may come without it.
        return weights.get(
            "masked_spec_embed", torch.zeros(len(weights["encoder.layer_norm.bias"]))
        )
    module, _, leaf = name.rpartition(".")
    parts = module.split(".")
    if module == "convolutions.norm":
        return weights[f"feature_extractor.conv_layers.0.layer_norm.{leaf}"]
    if parts[0] == "convolutions":
        return weights[f"feature_extractor.conv_layers.{parts[2]}.conv.{leaf}"]
    if parts[0] == "positions":
        inner = "parametrizations.weight." if "parametrizations" in module else ""
        return weights[f"encoder.pos_conv_embed.conv.{inner}{leaf}"]
    if parts[0] == "blocks":
        layer, inner = f"encoder.layers.{parts[1]}", ".".join(parts[2:])
        if inner == "attention.qkv":
            return torch.cat([weights[f"{layer}.attention.{p}_proj.{leaf}"] for p in "qkv"])
        return weights[f"{layer}.{_BLOCK[inner]}.{leaf}"]
    published = {
        "feature_norm": "feature_projection.layer_norm",
        "projection": "feature_projection.projection",
        "norm": "encoder.layer_norm",
    }
    return weights[f"{published[module]}.{leaf}"]
