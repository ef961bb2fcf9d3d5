"""The encoder of a config, or the usual one for samples of a shape."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

from hydra.utils import get_object
from torch import nn

from core.build import build_part, is_part
from core.data.checks import DataError
from core.encoders.mlp import MLP


def build_encoder(config: dict[str, Any] | None, shape: Sequence[int]) -> nn.Module:
    """Calls the config's `_target_` with its values, and with `shape` if it asks for one.

    Without a config: a ResNet-18 for images (channels, height, width) above 16 pixels, with the
    stem for small images up to 64; an MLP 256-128 for vectors and smaller images.

    Args:
        config: `_target_` and plain values.
        shape: of one sample.

    Returns:
        (B, *shape) -> (B, dim), with the attribute `dim`.

    Raises:
        DataError: the encoder is none of those that `core.build.build_part` calls, it says no
            width `dim`, or there is no usual one for the shape.
    """
    if config is not None:
        target = config["_target_"]
        asks = is_part(target) and "shape" in signature(get_object(target)).parameters
        sizes = {"shape": list(shape)} if asks else {}
        encoder: nn.Module = build_part(config, **sizes)
        if not isinstance(getattr(encoder, "dim", None), int):
            raise DataError(
                f"{config['_target_']} has no width `dim`", expected="an encoder of core.encoders"
            )
        return encoder
    if len(shape) == 1 or (len(shape) == 3 and max(shape[1:]) <= 16):
        return MLP(shape)
    if len(shape) == 3 and max(shape[1:]) <= 64:
        from core.encoders.resnet import SmallImageResNet

        return SmallImageResNet(channels=shape[0])
    if len(shape) == 3:
        import timm

        trunk: nn.Module = timm.create_model("resnet18", num_classes=0, in_chans=shape[0])
        trunk.dim = int(trunk.num_features)  # type: ignore[arg-type, assignment]
        return trunk
    raise DataError(
        f"no usual encoder for samples of shape {list(shape)}",
        fix="name one: system.encoder={_target_: core.encoders..., ...}",
    )
