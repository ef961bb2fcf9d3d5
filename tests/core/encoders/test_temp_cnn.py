import pytest
import torch
from torch import nn

from core.data.checks import DataError
from core.encoders.temp_cnn import TempCNN


def test_is_two_convolutions_a_hidden_layer_and_a_linear_map() -> None:
    torch.manual_seed(0)
    net = TempCNN([3, 7], dim=4, hidden=5).eval()
    x = torch.randn(6, 3, 7)
    first, second = (m for m in net.modules() if isinstance(m, nn.Conv1d))
    hidden, last = (m for m in net.modules() if isinstance(m, nn.Linear))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d)]
    assert (first.kernel_size, first.padding, second.in_channels) == ((5,), (2,), 5)
    assert (hidden.in_features, hidden.out_features, last.out_features) == (35, 20, 4)
    for norm in norms:  # as if it had been trained
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    h = norms[0](nn.functional.conv1d(x, first.weight, first.bias, padding=2)).relu()
    h = norms[1](nn.functional.conv1d(h, second.weight, second.bias, padding=2)).relu()
    h = norms[2](hidden(h.reshape(6, -1))).relu()
    torch.testing.assert_close(net(x), last(h))


def test_the_published_size() -> None:
    net = TempCNN([12, 12])
    widths = [tuple(p.shape) for p in net.parameters() if p.ndim > 1]
    assert widths == [(128, 12, 5), (128, 128, 5), (512, 128 * 12), (128, 512)]
    assert net.dim == 128
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.2] * 3


def test_ends_in_a_layer_norm_where_asked() -> None:
    z = TempCNN([2, 5], dim=8, hidden=4, layer_norm=True).eval()(torch.randn(3, 2, 5))
    torch.testing.assert_close(z.mean(1), torch.zeros(3), atol=1e-5, rtol=0)


def test_refuses_other_samples() -> None:
    with pytest.raises(DataError, match=r"shape \[3, 8, 8\] for TempCNN"):
        TempCNN([3, 8, 8])
    with pytest.raises(DataError, match="odd number"):
        TempCNN([3, 8], kernel=4)
    with pytest.raises(DataError, match=r"\(2, 3, 9\)\n.*\(batch, 3, 8\)"):
        TempCNN([3, 8])(torch.zeros(2, 3, 9))
