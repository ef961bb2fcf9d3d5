"""The encoders of the modalities at hand, and the projection that follows each."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from core.data.checks import DataError
from core.encoders.build import build_encoder
from har.data.recordings import IMU, SKELETON

PUBLISHED = {
    SKELETON: {"_target_": "core.encoders.cooccurrence.CooccurrenceCNN"},
    IMU: {"_target_": "core.encoders.csshar.CSSHAR"},
}


def encoder_config(config: Mapping[str, Any] | None, modality: str) -> dict[str, Any]:
    """The `_target_` and arguments of a modality's encoder.

    Args:
        config: modality -> `_target_` and arguments, or one `_target_` for all; None: those that
            the field's tables are of (arXiv 2205.10071), the co-occurrence network for skeletons
            and CSSHAR for sensors.
        modality: whose.

    Raises:
        DataError: the modality has no encoder.
    """
    if config is not None and "_target_" in config:
        return dict(config)
    chosen = PUBLISHED if config is None else config
    if modality not in chosen:
        raise DataError(
            f"no encoder for {modality}",
            fix=f"name one: +system.encoder.{modality}={{_target_: core.encoders...}}",
        )
    return dict(chosen[modality])


def build_encoders(
    config: Mapping[str, Any] | None, shapes: Mapping[str, Sequence[int]]
) -> nn.ModuleDict:
    """An encoder for each modality of the data, see `encoder_config`.

    Those that are configured for modalities that are not there are left aside.
    """
    return nn.ModuleDict(
        {name: build_encoder(encoder_config(config, name), shape) for name, shape in shapes.items()}
    )


class Projection(nn.Sequential):
    """Linear, batch norm, ReLU, Linear (arXiv 2205.10071).

    Args:
        in_dim: width of the representation.
        hidden_dim: width between the two layers.
        dim: width of the projection.
    """

    def __init__(self, in_dim: int, hidden_dim: int, dim: int) -> None:
        super().__init__(
            nn.Linear(in_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, dim),
        )
