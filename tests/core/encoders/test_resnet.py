import pytest
import torch
import torchvision
from torch import Tensor, nn

from core.encoders.resnet import SmallImageResNet


@pytest.mark.parametrize(("depth", "dim"), [(18, 512), (50, 2048)])
def test_equals_torchvision_with_the_stem_exchanged(depth: int, dim: int) -> None:
    torch.manual_seed(0)
    ours = SmallImageResNet(depth, channels=2)  # type: ignore[arg-type]
    for name, parameter in ours.named_parameters():
        if name.endswith("bn2.weight") or name.endswith("bn3.weight"):
            nn.init.ones_(parameter)  # timm starts residual branches at zero
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=1)
    theirs.conv1 = nn.Conv2d(2, 64, 3, padding=1, bias=False)
    theirs.maxpool, theirs.fc = nn.Identity(), nn.Identity()
    theirs.load_state_dict(ours.trunk.state_dict())
    images = torch.randn(2, 2, 16, 16)
    assert ours.dim == dim
    expected = theirs.eval()(images)
    torch.testing.assert_close(ours.eval()(images), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0


def test_the_first_map_keeps_the_size_of_the_image() -> None:
    model = SmallImageResNet(18).eval()
    sizes: list[tuple[int, ...]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(tuple(output.shape[2:]))

    for layer in (model.trunk.layer1, model.trunk.layer4):
        layer.register_forward_hook(note)
    model(torch.randn(1, 3, 32, 32))
    assert sizes == [(32, 32), (4, 4)]


def test_a_narrow_network_behind_a_strided_stem() -> None:
    narrow = SmallImageResNet(10, width=16, stem_stride=2)
    assert narrow.dim == 128
    assert narrow.trunk.layer1[0].conv1.weight.shape == (16, 16, 3, 3)
    assert narrow.trunk.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 128, 2, 2)
