"""ResNets for small images."""

from typing import Literal

import torch
from jaxtyping import Float
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

_BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class SmallImageResNet(nn.Module):
    """timm's ResNet with the stem for images of 32 x 32: a 3 x 3 convolution, no max-pool.

    SimCLR (Chen et al. 2020), appendix B.9: the first feature map keeps the size of the image. For
    images of ImageNet's size take `timm.create_model(name, num_classes=0)` as it is.

    Args:
        depth: layers of the ResNet.
        channels: of the images.
        width: of the first maps, 64 in the papers; a quarter of it trains on a CPU.
        stem_stride: of the first convolution; 2 makes every map a quarter of the size.

    Attributes:
        dim: width of the pooled features: 8 times `width`, of 50 layers 32 times.
    """

    def __init__(
        self,
        depth: Literal[10, 18, 34, 50] = 18,
        channels: int = 3,
        width: int = 64,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        block, layers = _BLOCKS[depth]
        widths = (width, 2 * width, 4 * width, 8 * width)
        # Of a deep stem, which is exchanged below, the width can be chosen.
        self.trunk = ResNet(
            block,  # type: ignore[arg-type]
            layers,
            num_classes=0,
            channels=widths,
            stem_type="deep",
            stem_width=width // 2,
        )
        self.dim: int = self.trunk.num_features
        stem = nn.Conv2d(channels, width, 3, stem_stride, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.trunk.conv1 = stem  # type: ignore[assignment]
        self.trunk.maxpool = nn.Identity()  # type: ignore[assignment]

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim"]:
        """(B, dim) features averaged over the last map, an eighth of the first one's side."""
        # Over a half faster on a CPU, and what accelerators like.
        features: Tensor = self.trunk(images.contiguous(memory_format=torch.channels_last))
        return features
