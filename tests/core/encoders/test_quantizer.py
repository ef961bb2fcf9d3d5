import pytest
import torch
from torch import Tensor

from core.data.checks import DataError
from core.encoders.quantizer import GumbelQuantizer, gumbel_temperature
from core.losses.wav2vec2 import code_perplexity


def _quantizer() -> GumbelQuantizer:
    torch.manual_seed(0)
    return GumbelQuantizer(8, dim=6, groups=2, codes=5)


def _from_codebooks(quantizer: GumbelQuantizer, codes: Tensor) -> Tensor:
    parts = [quantizer.codebooks[group][codes[..., group]] for group in range(2)]
    return torch.cat(parts, dim=-1)


@pytest.mark.parametrize("training", [True, False])
def test_equals_that_of_transformers_with_the_same_weights_and_noise(training: bool) -> None:
    from transformers import Wav2Vec2Config
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GumbelVectorQuantizer

    ours = _quantizer().train(training)
    config = Wav2Vec2Config(
        num_codevector_groups=2, num_codevectors_per_group=5, codevector_dim=6, conv_dim=(8,) * 7
    )
    theirs = Wav2Vec2GumbelVectorQuantizer(config).train(training)
    theirs.temperature = 0.7
    with torch.no_grad():
        theirs.codevectors.copy_(ours.codebooks.flatten(0, 1)[None])
    theirs.weight_proj.load_state_dict(ours.logits.state_dict())
    x = torch.randn(3, 7, 8)
    mask = torch.rand(3, 7) < 0.6
    results = []
    for quantizer, args in ((ours, (0.7,)), (theirs, (mask,))):
        leaf = x.clone().requires_grad_()
        torch.manual_seed(5)
        quantized, extra = quantizer(leaf, *args)
        quantized.square().sum().backward()
        results.append((quantized.detach(), extra.detach(), leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    if training:
        torch.testing.assert_close(code_perplexity(results[0][1], mask), results[1][1])
        torch.testing.assert_close(results[0][2], results[1][2])
        assert results[0][2].abs().max() > 1e-4


def test_training_takes_whole_codes_and_evaluation_the_likeliest() -> None:
    quantizer = _quantizer()
    x = torch.randn(4, 9, 8)
    likeliest = _from_codebooks(quantizer, quantizer.codes(x))
    torch.testing.assert_close(quantizer.eval()(x)[0], likeliest)
    drawn = quantizer.train()(x, 2.0)[0]
    distance = (drawn.view(4, 9, 2, 1, 3) - quantizer.codebooks).norm(dim=-1)
    assert distance.min(-1).values.max() < 1e-6
    assert (drawn - likeliest).abs().max() > 0.1


def test_large_logits_leave_the_noise_nothing_to_choose() -> None:
    quantizer = _quantizer()
    with torch.no_grad():
        quantizer.logits.weight *= 1e4
    x = torch.randn(4, 9, 8)
    drawn, probabilities = quantizer(x, 0.01)
    torch.testing.assert_close(drawn, _from_codebooks(quantizer, quantizer.codes(x)))
    torch.testing.assert_close(probabilities.max(-1).values, torch.ones(4, 9, 2))


def test_probabilities_are_those_of_the_logits_whatever_the_temperature() -> None:
    quantizer = _quantizer()
    x = torch.randn(2, 3, 8)
    expected = quantizer.logits(x).view(2, 3, 2, 5).softmax(-1)
    for temperature in (0.5, 2.0):
        torch.testing.assert_close(quantizer(x, temperature)[1], expected)


def test_half_precision_chooses_in_full() -> None:
    quantizer = _quantizer()
    with torch.autocast("cpu", torch.bfloat16):
        quantized, probabilities = quantizer(torch.randn(2, 3, 8))
    assert probabilities.dtype == torch.float32
    assert quantized.isfinite().all()


def test_temperature_falls_to_its_end() -> None:
    assert gumbel_temperature(0) == 2.0
    assert gumbel_temperature(100_000) == pytest.approx(2 * 0.999995**100_000)
    assert gumbel_temperature(10_000_000) == 0.5


def test_codebooks_must_divide_the_width() -> None:
    with pytest.raises(DataError, match="4 codebooks for 6 channels"):
        GumbelQuantizer(8, dim=6, groups=4)
