from pathlib import Path

import pytest
import torch
from torchvision.models import resnet50

from core.data.checks import DataError
from remote_sensing.systems.eo_colearning import MDiCo
from remote_sensing.systems.sensor_encoders import ResNet50, load_image_weights
from tests.remote_sensing.sensors import CLASSES, PLAIN, SHAPES, series


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(resnet50(weights=None).state_dict(), file)
    return file


def test_four_bands_get_a_first_convolution_of_their_own(weights: Path) -> None:
    torch.manual_seed(0)
    net, file = ResNet50([4, 64, 64], dim=6), torch.load(weights, weights_only=True)
    before = {name: value.clone() for name, value in net.trunk.state_dict().items()}
    net.load_weights(weights)
    own = {"conv1.weight", "fc.weight", "fc.bias"}
    for name, value in net.trunk.state_dict().items():
        assert torch.equal(value, before[name] if name in own else file[name]), name
    assert net.eval()(torch.zeros(2, 4, 64, 64)).shape == (2, 6)


def test_three_bands_take_the_first_convolution_too(weights: Path) -> None:
    net, file = ResNet50([3, 32, 32], dim=6), torch.load(weights, weights_only=True)
    net.load_weights(weights)
    assert torch.equal(net.trunk.conv1.weight, file["conv1.weight"])


def test_weights_are_read_before_training_and_not_to_rebuild(weights: Path) -> None:
    shapes = {"S1": [2, 6], "aerial": [4, 32, 32]}
    system = MDiCo(shapes, CLASSES, dim=8, image_weights=str(weights))
    system.prepare(series())
    file = torch.load(weights, weights_only=True)
    for encoders in (system.unique, system.common):
        trunk = encoders["aerial"].trunk
        assert torch.equal(trunk.layer1[0].conv1.weight, file["layer1.0.conv1.weight"])
    # With a file that is gone it can still be built.
    MDiCo(shapes, CLASSES, dim=8, image_weights="gone.pth")


def test_refuses_files_that_hold_something_else(tmp_path: Path, weights: Path) -> None:
    net = ResNet50([3, 32, 32])
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"broken\.pth: cannot be read as weights"):
        net.load_weights(tmp_path / "broken.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"other\.pth: has no"):
        net.load_weights(tmp_path / "other.pth")
    with pytest.raises(DataError, match="without images"):
        load_image_weights(MDiCo(SHAPES, CLASSES, encoder=PLAIN), str(weights))
    with pytest.raises(DataError, match="for ResNet50"):
        ResNet50([3, 32])
