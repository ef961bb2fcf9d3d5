import pytest
import torch
from torch import nn

from core.data.checks import DataError
from core.encoders.build import build_encoder
from core.encoders.mlp import MLP, ProjectionHead


@pytest.mark.parametrize(("shape", "dim"), [([20], 128), ([1, 8, 8], 128), ([3, 24, 24], 512)])
def test_the_usual_encoder_takes_samples_of_the_shape(shape: list[int], dim: int) -> None:
    encoder = build_encoder(None, shape).eval()
    assert encoder.dim == dim
    assert encoder(torch.rand(2, *shape)).shape == (2, dim)


def test_large_images_get_the_stem_that_halves_them_twice() -> None:
    encoder = build_encoder(None, [3, 96, 96]).eval()
    assert isinstance(encoder.maxpool, nn.MaxPool2d)
    assert encoder(torch.rand(1, 3, 96, 96)).shape == (1, encoder.dim)


def test_a_config_names_the_encoder_which_is_given_the_shape_if_it_asks() -> None:
    config = {"_target_": "core.encoders.mlp.MLP", "hidden": [10], "dim": 4}
    encoder = build_encoder(config, [2, 3])
    assert [layer.in_features for layer in encoder.layers if isinstance(layer, nn.Linear)] == [
        6,
        10,
    ]
    other = {"_target_": "core.encoders.series.TCN", "channels": 2, "dim": 8}
    assert build_encoder(other, [2, 30]).dim == 8


def test_what_is_no_encoder_or_has_no_usual_one_is_refused() -> None:
    with pytest.raises(DataError, match=r"LogitScale has no width"):
        build_encoder({"_target_": "core.losses.logit_scale.LogitScale"}, [3])
    with pytest.raises(DataError, match=r"would be made by torch.nn.Identity"):
        build_encoder({"_target_": "torch.nn.Identity"}, [3])
    with pytest.raises(DataError, match=r"shape \[1, 16, 16, 16\]"):
        build_encoder(None, [1, 16, 16, 16])


def test_a_perceptron_is_linear_without_hidden_layers_and_activates_none_of_its_outputs() -> None:
    linear = MLP([2, 3], hidden=[], dim=4)
    x, y = torch.rand(2, 5, 2, 3)
    torch.testing.assert_close(linear(x + y) + linear(0 * x), linear(x) + linear(y))
    assert (MLP([6])(torch.randn(50, 2, 3)) < 0).any()


def test_a_head_with_batch_norm_gives_standardised_projections() -> None:
    z = ProjectionHead(6, 12, 4, batch_norm=True)(torch.randn(200, 6))
    torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)
    plain = ProjectionHead(6, 12, 4)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in plain.modules())
