import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.checks import DataError
from core.encoders.latent_mapper import LatentMapper
from core.encoders.resnet1d import PreActivationBlock, ResNet1D, SameConv1d
from core.encoders.scalogram_convolutions import ScalogramConvNet
from core.encoders.spectrum_convolutions import SpectrumConvNet


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def grown(net: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of what every convolution gives for one sample, by its name."""
    shapes = {}
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d):
            module.register_forward_hook(
                lambda _m, _i, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:]))
            )
    return shapes


def test_the_residual_network_halves_four_times_and_widens_once() -> None:
    net = ResNet1D([6, 50]).eval()
    shapes = grown(net)
    assert net(drawn(2, 6, 50)).shape == (2, 128)
    of_blocks = [shapes[f"blocks.{i}.convolution2"] for i in range(8)]
    assert of_blocks == [
        (32, 50),
        (32, 25),
        (32, 25),
        (32, 13),
        (64, 13),
        (64, 7),
        (64, 7),
        (64, 4),
    ]
    assert isinstance(net.blocks[0].activation1, torch.nn.Identity)
    dropouts = [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts == [0.5] * 15


def test_its_dropout_is_on_in_training_only() -> None:
    net, x = ResNet1D([6, 50]), drawn(4, 6, 50)
    net(x)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_a_block_pools_and_pads_its_shortcut() -> None:
    block = PreActivationBlock(2, 5, 3, 2, 0.0, batch_norm=False)
    torch.nn.init.zeros_(block.convolution2.weight)
    torch.nn.init.zeros_(block.convolution2.bias)
    x = -1 - drawn(1, 2, 5).abs()
    found = block(x)
    # The last step is pooled with the zero that was added after it.
    pooled = torch.stack([x[..., 0:2].amax(-1), x[..., 2:4].amax(-1), torch.zeros(1, 2)], -1)
    torch.testing.assert_close(found, F.pad(pooled, (0, 0, 1, 2)))


@pytest.mark.parametrize(("time", "stride"), [(7, 1), (7, 2), (8, 2), (9, 3)])
def test_convolutions_keep_the_steps(time: int, stride: int) -> None:
    convolution, x = SameConv1d(2, 3, 5, stride), drawn(2, 2, time)
    found = convolution(x)
    kept = -(-time // stride)
    assert found.shape == (2, 3, kept)
    padding = max(0, (kept - 1) * stride + 5 - time)
    whole = F.pad(x, (padding // 2, padding - padding // 2))
    expected = F.conv1d(whole, convolution.weight, convolution.bias, stride)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("scales", "time"), [(48, 200), (16, 50), (48, 37)])
def test_scalograms_of_any_size(scales: int, time: int) -> None:
    net = ScalogramConvNet([2, scales, time])
    shapes = grown(net)
    assert net(drawn(3, 2, scales, time)).shape == (3, 128)
    assert shapes["layer1.0"] == (32, scales, time)
    assert shapes["layer4.0"] == (128, -(-scales // 8), -(-time // 8))
    assert net.layer3[0].in_channels == 64 + 2
    assert net.layer4[0].in_channels == 96 + 2


def test_the_scalogram_reaches_the_later_layers_by_itself() -> None:
    net = ScalogramConvNet([2, 16, 24]).eval()
    for layer in (net.layer1, net.layer3):
        torch.nn.init.zeros_(layer[0].weight)
    x = drawn(2, 2, 16, 24).requires_grad_()
    net(x).square().sum().backward()
    # Only what is averaged by 4 is left: all of its 4 x 4 places count alike.
    blocks = x.grad.unfold(2, 4, 4).unfold(3, 4, 4).flatten(-2)
    assert blocks.abs().max() > 0
    torch.testing.assert_close(blocks, blocks[..., :1].expand_as(blocks))


@pytest.mark.parametrize("bins", [26, 101])
def test_amplitudes_and_phases_have_a_half_each(bins: int) -> None:
    net, x = SpectrumConvNet([6, bins]), drawn(4, 6, bins)
    other = x.clone()
    other[:, 3:] += 1
    found, moved = net(x), net(other)
    assert found.shape == (4, net.dim) == (4, 128)
    assert torch.equal(found[:, :64], moved[:, :64])
    assert not torch.allclose(found[:, 64:], moved[:, 64:])
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in net.modules())


def test_mappers_keep_the_length_with_few_weights() -> None:
    for channels, weights in ((1, 8), (64, 449)):
        mapper = LatentMapper(channels)
        assert mapper(drawn(3, 128)).shape == (3, 128)
        assert sum(p.numel() for p in mapper.parameters()) == weights


def test_refuses_samples_of_other_kinds() -> None:
    for make, shape in (
        (ResNet1D, [6, 5, 5]),
        (ScalogramConvNet, [6, 50]),
        (SpectrumConvNet, [5, 26]),
    ):
        with pytest.raises(DataError, match=f"for {make.__name__}"):
            make(shape)
