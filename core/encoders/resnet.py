"""ResNets for small images."""

from typing import Literal

import timm
from jaxtyping import Float
from torch import Tensor, nn


class SmallImageResNet(nn.Module):
    """timm's ResNet with the stem for images of 32 x 32: a 3 x 3 convolution, no max-pool.

    SimCLR (Chen et al. 2020), appendix B.9: the first feature map keeps the size of the image. For
    images of ImageNet's size take `timm.create_model(name, num_classes=0)` as it is.

    Args:
        depth: layers of the ResNet.
        channels: of the images.

    Attributes:
        dim: width of the pooled features: 512 for 18 and 34 layers, 2048 for 50.
    """

    def __init__(self, depth: Literal[18, 34, 50] = 18, channels: int = 3) -> None:
        super().__init__()
        self.trunk = timm.create_model(f"resnet{depth}", num_classes=0)
        self.dim: int = self.trunk.num_features  # type: ignore[assignment]
        stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.trunk.conv1 = stem
        self.trunk.maxpool = nn.Identity()

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim"]:
        """(B, dim) features averaged over the last map, an eighth of the image's side."""
        features: Tensor = self.trunk(images)
        return features
