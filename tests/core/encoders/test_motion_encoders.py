"""What every encoder of skeletons and inertial series must do, whichever it is."""

import pytest
import torch
from torch import nn

from core.data.checks import DataError
from core.encoders.build import build_encoder
from core.encoders.cooccurrence import CooccurrenceCNN
from core.encoders.csshar import CSSHAR
from core.encoders.series_convolutions import SeriesConvNet
from core.encoders.stgcn import STGCN

SKELETON, IMU = [3, 50, 20], [6, 50]
# name of the module and class, shape of a sample, width
CASES = [
    ("cooccurrence.CooccurrenceCNN", SKELETON, 256),
    ("cooccurrence.CooccurrenceCNN", [2, 48, 17], 256),
    ("cooccurrence.CooccurrenceCNN", [3, 64, 25], 512),
    ("csshar.CSSHAR", IMU, 128 * 44),
    ("csshar.CSSHAR", [12, 33], 128 * 27),
    ("stgcn.STGCN", SKELETON, 256),
    ("series_convolutions.SeriesConvNet", IMU, 256),
    ("series_convolutions.SeriesConvNet", SKELETON, 256),
]


def _built(name: str, shape: list[int]) -> nn.Module:
    torch.manual_seed(0)
    return build_encoder({"_target_": f"core.encoders.{name}"}, shape)


@pytest.mark.parametrize(("name", "shape", "dim"), CASES)
def test_width_gradients_and_evaluation(name: str, shape: list[int], dim: int) -> None:
    encoder = _built(name, shape)
    x = torch.randn(4, *shape)
    features = encoder(x)
    assert encoder.dim == dim
    assert features.shape == (4, dim)
    features.square().mean().backward()
    unreached = [key for key, p in encoder.named_parameters() if p.grad is None]
    assert not unreached
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    # A bias before a batch norm without a ReLU between has no effect; every weight has one.
    still = [key for key, p in encoder.named_parameters() if p.ndim > 1 and not p.grad.any()]
    assert not still

    encoder.eval()
    with torch.no_grad():
        once = encoder(x)
        assert torch.equal(encoder(x), once)
        torch.testing.assert_close(encoder(x[1:3]), once[1:3], rtol=1e-4, atol=1e-5)
        changed = encoder(x + 0.1 * torch.randn_like(x))
    assert (changed - once).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize(
    ("build", "shape", "words"),
    [
        (CooccurrenceCNN, [3, 47, 20], "at least 48 frames"),
        (CooccurrenceCNN, [6, 50], "coordinates, time, joints"),
        (CSSHAR, [6, 6], "at least 7 steps"),
        (CSSHAR, [3, 50, 20], "channels, time"),
        (SeriesConvNet, [6], "channels, time"),
        (STGCN, [6, 50], "coordinates, time, joints"),
        (STGCN, [3, 50, 17], "joints 0 to 16"),
    ],
)
def test_samples_that_do_not_fit(build: type[nn.Module], shape: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        build(shape)


@pytest.mark.parametrize(("build", "shape"), [(CooccurrenceCNN, SKELETON), (CSSHAR, IMU)])
def test_other_lengths_than_built_for_are_refused(build: type[nn.Module], shape: list[int]) -> None:
    longer = torch.randn(2, shape[0], shape[1] + 14, *shape[2:])
    with pytest.raises(DataError, match=r"50"):
        build(shape)(longer)


def test_cooccurrence_needs_channels_that_make_an_axis() -> None:
    with pytest.raises(DataError, match="at least 26"):
        CooccurrenceCNN(SKELETON, (64, 25, 32, 64, 128, 256))


def test_a_skeleton_that_rests_has_no_motion() -> None:
    """The branch of motions sees zeros for it, wherever it rests."""
    encoder = CooccurrenceCNN(SKELETON).eval()
    seen: list[torch.Tensor] = []
    encoder.motions.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    pose = torch.randn(2, 3, 1, 20).round()
    x = pose.expand(2, 3, 50, 20).clone()
    x[1, :, 30:] += 1
    encoder(x)
    assert not seen[0][0].any()
    assert (seen[0][1, :, 30] == 1).all()
    assert seen[0][1].abs().sum() == pytest.approx(60)


def test_the_series_net_takes_skeletons_as_channels() -> None:
    net = _built("series_convolutions.SeriesConvNet", [3, 24, 5]).eval()
    x = torch.randn(2, 3, 24, 5)
    channels = torch.stack([x[:, c, :, j] for c in range(3) for j in range(5)], 1)
    torch.testing.assert_close(net(x), net(channels))


def test_csshar_knows_the_order_of_time() -> None:
    encoder = _built("csshar.CSSHAR", IMU).eval()
    tokens = encoder.layers(encoder.dropout(encoder.convolutions(torch.randn(1, 6, 50)).mT))
    assert tokens.shape == (1, 44, 128)
    flat = torch.zeros(1, 6, 50)
    inner = encoder(flat).unflatten(1, (44, 128))[0, 3:-3]
    # Away from the ends the convolutions give equal tokens; only the positions differ.
    assert (inner[1:] - inner[:-1]).abs().amax(1).min() > 1e-3
