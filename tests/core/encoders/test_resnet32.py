import math

import torch

from core.encoders.resnet32 import BasicBlock, ResNet32


def test_size_of_the_paper() -> None:
    """0.46 million weights with ten classes; the shortcuts have none."""
    trunk = ResNet32([3, 32, 32])
    assert sum(p.numel() for p in trunk.parameters()) + 64 * 10 + 10 == 464_154
    assert sum(isinstance(m, torch.nn.Conv2d) for m in trunk.modules()) == 31
    assert trunk.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 64)
    assert trunk.dim == 64


def test_the_shortcut_is_every_second_pixel_and_new_channels_at_0() -> None:
    block = BasicBlock(4, 8, 2).eval()
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(2, 4, 6, 6)
    out = block(x)
    assert torch.equal(out[:, :4], x[:, :, ::2, ::2])
    assert (out[:, 4:] == 0).all()
    same = BasicBlock(4, 4, 1).eval()
    for parameter in same.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(same(x), x)


def test_convolutions_begin_with_the_variance_of_the_paper() -> None:
    torch.manual_seed(0)
    for layer in ResNet32([3, 32, 32]).modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.numel() > 2000:
            expected = math.sqrt(2 / (9 * layer.out_channels))
            assert abs(layer.weight.std().item() / expected - 1) < 0.06
