import pytest
import torch
from torch import nn

from core.encoders.build import build_encoder
from core.encoders.small_convolutions import PooledConvNet, StridedConvNet


@pytest.mark.parametrize(
    ("name", "shape", "dim", "maps"),
    [("PooledConvNet", [1, 8, 8], 192, [16, 32, 48]), ("StridedConvNet", [3, 24, 24], 96, [])],
)
def test_widths(name: str, shape: list[int], dim: int, maps: list[int]) -> None:
    encoder = build_encoder({"_target_": f"core.encoders.small_convolutions.{name}"}, shape)
    assert encoder.dim == dim
    assert encoder(torch.rand(4, *shape)).shape == (4, dim)
    found = [layer.out_channels for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    assert found == (maps or [24, 48, 96])


def test_the_pooled_net_keeps_places_and_the_strided_one_averages_over_them() -> None:
    """A corner's content is in one of the four averages of the first."""
    torch.manual_seed(0)
    x = torch.zeros(1, 1, 16, 16)
    x[:, :, 3, 3] = 1
    moved = x.roll((8, 8), (2, 3))
    pooled, strided = PooledConvNet([1, 16, 16]).eval(), StridedConvNet([1, 16, 16]).eval()
    first, second = (pooled(image).unflatten(1, (48, 2, 2)) for image in (x, moved))
    torch.testing.assert_close(first[..., 0, 0], second[..., 1, 1])
    assert not torch.allclose(first[..., 0, 0], first[..., 1, 1])
    assert strided(x).shape == (1, 96)


def test_images_of_other_sizes_fit() -> None:
    for net in (PooledConvNet([2, 8, 8]), StridedConvNet([2, 8, 8])):
        assert net.eval()(torch.rand(1, 2, 13, 9)).shape == (1, net.dim)
