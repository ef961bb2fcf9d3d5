"""The encoder of a sensor: TempCNN for series, ResNet-50 for images, an MLP for vectors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.build import build_encoder
from core.encoders.mlp import MLP
from core.encoders.temp_cnn import TempCNN


class ResNet50(nn.Module):
    """torchvision's ResNet-50 on images of any number of bands, and a linear map.

    Args:
        shape: of one image (bands, height, width); of three bands, red, green and blue.
        dim: width of the representation.

    Raises:
        DataError: the samples are no images.
    """

    def __init__(self, shape: Sequence[int], dim: int = 128) -> None:
        super().__init__()
        from torchvision.models import resnet50

        if len(shape) != 3:
            raise DataError(
                f"samples of shape {list(shape)} for ResNet50",
                expected="images (bands, height, width)",
            )
        self.dim = dim
        self.trunk = resnet50(weights=None)
        if shape[0] != 3:
            self.trunk.conv1 = nn.Conv2d(shape[0], 64, 7, 2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.trunk.fc = nn.Linear(self.trunk.fc.in_features, dim)

    def forward(
        self, images: Float[Tensor, "batch bands height width"]
    ) -> Float[Tensor, "batch dim"]:
        """The representation of every image."""
        out: Tensor = self.trunk(images)
        return out

    def load_weights(self, file: Path) -> None:
        """Takes over all that a torchvision checkpoint of a ResNet-50 has for these bands.

        The last layer stays as it is, and so does the first where the bands are not three.

        Raises:
            DataError: the file holds something else.
        """
        try:
            weights: Any = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise DataError(
                f"cannot be read as weights ({str(error).splitlines()[0][:200]})", path=file
            ) from error
        own = self.trunk.state_dict()
        kept = {"fc.weight", "fc.bias"} | (
            {"conv1.weight"} if own["conv1.weight"].shape[1] != 3 else set()
        )
        missing = [name for name in own if name not in kept and name not in weights]
        if missing:
            raise DataError(
                f"has no {missing[0]}",
                path=file,
                expected="a state dict of torchvision's resnet50, such as IMAGENET1K_V2",
            )
        self.trunk.load_state_dict(
            {name: own[name] if name in kept else weights[name] for name in own}
        )


def build_sensor_encoders(
    config: Mapping[str, Any] | None, shapes: Mapping[str, Sequence[int]], dim: int
) -> nn.ModuleDict:
    """An encoder for each sensor, all of one width.

    Args:
        config: modality -> `_target_` and arguments, or one `_target_` for all, each also given the
            shape; None, and for modalities that are not named: by the shape of a sample.
        shapes: modality -> shape of one sample: (channels, time), (bands, height, width) or
            (features).
        dim: width of those that are chosen by the shape.

    Raises:
        DataError: encoders of different widths, or of modalities that are not there.
    """
    common = config is not None and "_target_" in config
    unknown = [] if common else [name for name in config or {} if name not in shapes]
    if unknown:
        raise DataError(
            f"an encoder for {unknown[0]}", expected=f"some of {', '.join(shapes)}, or _target_"
        )
    built = {}
    for name, shape in shapes.items():
        own = config if common else (config or {}).get(name)
        built[name] = _usual(shape, dim) if own is None else build_encoder(dict(own), shape)
    widths = {name: int(encoder.dim) for name, encoder in built.items()}  # type: ignore[arg-type]
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise DataError(f"encoders of widths {found}", expected="one width for all sensors")
    return nn.ModuleDict(built)


def _usual(shape: Sequence[int], dim: int) -> nn.Module:
    if len(shape) == 2:
        return TempCNN(shape, dim)
    if len(shape) == 3:
        return ResNet50(shape, dim)
    return MLP(shape, dim=dim)


def load_image_weights(encoders: nn.Module, file: str | None) -> None:
    """Gives a file's weights to every ResNet-50 among some modules; none without a file.

    Raises:
        DataError: the file holds something else, or there is no ResNet-50.
    """
    if file is None:
        return
    found = [module for module in encoders.modules() if isinstance(module, ResNet50)]
    if not found:
        raise DataError("image weights for sensors without images", path=file)
    for module in found:
        module.load_weights(Path(file))
