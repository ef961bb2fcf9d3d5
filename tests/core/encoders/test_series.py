import pytest
import torch
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.series import TCN, SeriesTransformer, masked_mean

LENGTHS = (17, 9, 4)


def _transformer(patch: int = 1, **options: object) -> SeriesTransformer:
    torch.manual_seed(0)
    return SeriesTransformer(3, 16, depth=2, heads=2, hidden=24, patch=patch, **options)


def _tcn(**options: object) -> TCN:
    torch.manual_seed(0)
    return TCN(3, 8, depth=3, **options)


ENCODERS = {
    "transformer": _transformer,
    "patches of 4": lambda: _transformer(4),
    "post norm": lambda: _transformer(pre_norm=False),
    "tcn": _tcn,
    "causal tcn": lambda: _tcn(causal=True),
}


def _padded(generator_seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    torch.manual_seed(generator_seed)
    series = [torch.randn(3, length) for length in LENGTHS]
    batch = torch.full((len(series), 3, 20), 7.0)  # padding is not zero
    for row, values in zip(batch, series, strict=True):
        row[:, : values.shape[1]] = values
    return series, batch, torch.arange(20) < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_padded_series_gives_what_the_unpadded_gives(name: str, grad: bool) -> None:
    encoder = ENCODERS[name]().eval()
    series, batch, mask = _padded()
    with torch.set_grad_enabled(grad):
        pooled = encoder(batch, mask)
        assert pooled.shape == (3, encoder.dim)
        for row, values in zip(pooled, series, strict=True):
            torch.testing.assert_close(row, encoder(values[None])[0], rtol=1e-4, atol=1e-5)
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_gets_no_gradient_and_an_empty_series_is_zero(name: str) -> None:
    encoder = ENCODERS[name]()
    _, batch, mask = _padded()
    mask[2] = False
    batch[~mask[:, None].expand_as(batch)] = torch.nan
    batch.requires_grad_()
    pooled = encoder(batch, mask)
    assert (pooled[2] == 0).all()
    pooled.square().sum().backward()
    hidden = ~mask[:, None].expand_as(batch)
    assert batch.grad is not None and (batch.grad[hidden] == 0).all()
    assert batch.grad.abs()[~hidden].max() > 0
    for parameter in encoder.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


def test_patches_of_time_are_one_token() -> None:
    encoder = _transformer(4).eval()
    _, batch, mask = _padded()
    assert encoder.tokens(batch[:, :, :18], mask[:, :18]).shape == (3, 5, 16)
    assert encoder.token_mask(mask).sum(1).tolist() == [5, 3, 1]
    # One token, no layers: the first 4 steps, channel by channel.
    encoder.layers = nn.Identity()
    encoder.layers.forward = lambda tokens, src_key_padding_mask: tokens
    token = encoder.tokens(batch[:, :, :4])[:, 0]
    expected = encoder.projection(batch[:, :, :4].flatten(1))
    position = torch.cat([torch.zeros(8), torch.ones(8)])
    torch.testing.assert_close(token, expected + position)


def test_the_order_of_steps_matters_to_the_transformer() -> None:
    encoder = _transformer().eval()
    x = torch.randn(2, 3, 12)
    assert (encoder(x) - encoder(x.flip(-1))).abs().max() > 1e-3


def _reach(encoder: TCN) -> list[int]:
    """Steps of the input that step 20 of the output sees."""
    x = torch.randn(1, 3, 41, requires_grad=True)
    encoder.eval().tokens(x)[0, 20].sum().backward()
    assert x.grad is not None
    return [step for step in range(41) if x.grad[0, :, step].abs().max() > 0]


def test_the_tcn_sees_as_far_as_its_dilations_reach() -> None:
    assert _reach(_tcn()) == list(range(20 - 14, 20 + 14 + 1))
    causal = _reach(_tcn(causal=True))
    assert causal[-1] == 20
    assert causal[0] >= 0 and len(causal) == 21


def test_the_tcn_equals_its_formula() -> None:
    """One block: ReLU(x' + ReLU(conv(ReLU(conv(x))))) with the weights g v / |v|."""
    encoder = TCN(3, 8, depth=1, dropout=0.0)
    x = torch.randn(2, 3, 10)
    block = encoder.blocks[0]
    branch = x
    for convolution in block.convolutions:
        scale = convolution.parametrizations.weight.original0
        direction = convolution.parametrizations.weight.original1
        weight = scale * direction / direction.flatten(1).norm(dim=1)[:, None, None]
        branch = nn.functional.conv1d(branch, weight, convolution.bias, padding=1).relu()
    expected = (block.shortcut(x) + branch).relu()
    torch.testing.assert_close(encoder.tokens(x), expected.mT)


def test_masked_mean() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [8.0]]])
    assert masked_mean(tokens, None).item() == 4.0
    assert masked_mean(tokens, torch.tensor([[True, True, False]])).item() == 2.0


@pytest.mark.parametrize("name", ["transformer", "tcn"])
def test_other_channels_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"shape \(2, 6, 10\)"):
        ENCODERS[name]()(torch.zeros(2, 6, 10))


def test_the_kernel_has_a_middle() -> None:
    with pytest.raises(DataError, match="over 4 steps"):
        _tcn(kernel=4)
