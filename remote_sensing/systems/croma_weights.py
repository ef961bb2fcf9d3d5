"""Weights of CROMA as its authors publish them (`CROMA_base.pt`, `CROMA_large.pt`)."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from core.data.checks import DataError
from remote_sensing.systems.croma import CROMA, OPTICAL, RADAR

_SENSOR_NUMBERS = {RADAR: "s1", OPTICAL: "s2"}


def read_published(path: str | Path, patch: int = 8, heads: int = 16) -> CROMA:
    """A system with the published encoders, to embed with.

    The file holds the three encoders and the pooling of each sensor, under the names that
    `s1_encoder`, `s1_GAP_FFN`, `s2_encoder`, `s2_GAP_FFN` and `joint_encoder` have there. It holds
    no decoder and no contrastive projections: the decoder is as it is drawn, and `project` gives
    the pooled vectors at unit length, which the published training has not aligned itself. Bands
    are in the order of the file's training: optical B1 to B12 without B10, radar VV, VH, scaled as
    there.

    Args:
        path: the file.
        patch: side of its patches in pixels; with `heads`, what weights do not tell. Both are
            those of the published sizes.
        heads: of its attentions.

    Raises:
        DataError: it is no such file.
    """
    published = _read(path)
    try:
        width, radar_values = _shape(published["s1_encoder"])
        _, optical_values = _shape(published["s2_encoder"])
        depth = 1 + max(
            int(name.split(".")[2])
            for name in published["s2_encoder"]
            if name.startswith("transformer.layers.")
        )
        shapes = {
            OPTICAL: [optical_values // patch**2, patch, patch],
            RADAR: [radar_values // patch**2, patch, patch],
        }
        system = CROMA(shapes, patch=patch, dim=width, depth=depth, heads=heads)
        _fill(system, published)
    except (KeyError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise DataError(
            f"not the published weights of CROMA: {type(error).__name__} {reason}",
            path=path,
            expected="CROMA_base.pt or CROMA_large.pt, or others of their layout",
        ) from error
    return system


def _read(path: str | Path) -> dict[str, dict[str, Tensor]]:
    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise DataError(
            f"cannot be read as weights: {str(error).splitlines()[0]}", path=path
        ) from error
    if not isinstance(published, dict):
        raise DataError("holds no dict of weights", path=path)
    return published


def _shape(encoder: dict[str, Tensor]) -> tuple[int, int]:
    """Width of the tokens and values of a patch."""
    width, values = encoder["linear_input.weight"].shape
    return int(width), int(values)


def _fill(system: CROMA, published: dict[str, dict[str, Tensor]]) -> None:
    for sensor, number in _SENSOR_NUMBERS.items():
        encoder, weights = system.encoders[sensor], published[f"{number}_encoder"]
        names = _copied("patches.projection", "linear_input") | _copied(
            "norm", "transformer.norm_out"
        )
        for layer in range(len(encoder.blocks)):
            own, theirs = f"blocks.{layer}", f"transformer.layers.{layer}"
            names |= _copied(f"{own}.norm1", f"{theirs}.0.input_norm")
            names[f"{own}.attention.qkv.weight"] = f"{theirs}.0.to_qkv.weight"
            names |= _copied(f"{own}.attention.out", f"{theirs}.0.to_out")
            names |= _feedforward(f"{own}.norm2", f"{own}.feedforward", f"{theirs}.1")
        _load(encoder, names, weights)
        system.pools[sensor].load_state_dict(published[f"{number}_GAP_FFN"])
        nn.init.eye_(system.projections[sensor].weight)
        nn.init.zeros_(system.projections[sensor].bias)
    names = _copied("norm", "norm_out")
    for layer in range(len(system.cross.blocks)):
        own, theirs = f"blocks.{layer}", f"layers.{layer}"
        names |= _copied(f"{own}.norm_within", f"{theirs}.0.input_norm")
        names[f"{own}.within.qkv.weight"] = f"{theirs}.0.to_qkv.weight"
        names |= _copied(f"{own}.within.out", f"{theirs}.0.to_out")
        names |= _copied(f"{own}.norm_across", f"{theirs}.1.input_norm")
        parts = [f"{theirs}.1.to_{part}.weight" for part in "qkv"]
        names[f"{own}.across.qkv.weight"] = " + ".join(parts)
        names |= _copied(f"{own}.across.out", f"{theirs}.1.to_out")
        names |= _feedforward(f"{own}.norm", f"{own}.feedforward", f"{theirs}.2")
    _load(system.cross, names, published["joint_encoder"])


def _copied(own: str, theirs: str) -> dict[str, str]:
    return {f"{own}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")}


def _feedforward(norm: str, own: str, theirs: str) -> dict[str, str]:
    # There a dropout stands between the activation and the second layer.
    names = _copied(norm, f"{theirs}.input_norm")
    return names | _copied(f"{own}.0", f"{theirs}.net.0") | _copied(f"{own}.2", f"{theirs}.net.3")


def _load(module: nn.Module, names: dict[str, str], weights: dict[str, Tensor]) -> None:
    """Loads weights under their names there; ` + ` joins those that are one here.

    Raises:
        RuntimeError: one is missing, left over or of another shape.
    """
    used = {part for theirs in names.values() for part in theirs.split(" + ")}
    wrong = sorted(used ^ weights.keys())
    if wrong:
        missing = wrong[0] in used
        raise RuntimeError(f"{'no' if missing else 'unknown'} {wrong[0]}")
    state = {
        own: torch.cat([weights[part] for part in theirs.split(" + ")])
        for own, theirs in names.items()
    }
    # Encoders without class token and registers keep an empty table of them.
    empty = {name: of for name, of in module.state_dict().items() if of.numel() == 0}
    module.load_state_dict(state | empty)
