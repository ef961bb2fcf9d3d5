import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.distributed import rank
from core.losses import info_nce
from core.losses.gradient_cache import cached_backward
from tests.core.gloo import run_gloo


def _encoder(dropout: float = 0.0, inputs: int = 5) -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Linear(inputs, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 4)
    return nn.Sequential(*layers).double()


def _batch(rows: int, width: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=g, dtype=torch.float64)


def _gradients(*modules: nn.Module) -> list[Tensor]:
    return [p.grad for module in modules for p in module.parameters()]


@pytest.mark.parametrize("chunk", [1, 3, 10, 50])
def test_equals_the_whole_batch(chunk: int) -> None:
    x, y = _batch(10, 5, 0), _batch(10, 3, 1)
    image, text = _encoder(), _encoder(inputs=3)
    expected = info_nce(image(x), text(y))
    expected.backward()
    whole = [g.clone() for g in _gradients(image, text)]
    image.zero_grad()
    text.zero_grad()
    value = cached_backward(info_nce, [(image, x), (text, y)], chunk)
    torch.testing.assert_close(value, expected.detach())
    assert not value.requires_grad
    for cached, direct in zip(_gradients(image, text), whole, strict=True):
        torch.testing.assert_close(cached, direct)


def test_dropout_is_replayed() -> None:
    x, y = _batch(10, 5, 0), _batch(10, 5, 1)
    encoder = _encoder(dropout=0.5)
    torch.manual_seed(7)
    parts = [torch.cat([encoder(piece) for piece in batch.split(4)]) for batch in (x, y)]
    info_nce(*parts).backward()
    whole = [g.clone() for g in _gradients(encoder)]
    after = torch.get_rng_state()
    encoder.zero_grad()
    torch.manual_seed(7)
    cached_backward(info_nce, [(encoder, x), (encoder, y)], 4)
    # The replay leaves the generator where one forward would have.
    assert torch.equal(torch.get_rng_state(), after)
    for cached, direct in zip(_gradients(encoder), whole, strict=True):
        torch.testing.assert_close(cached, direct)


class _OfDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = _encoder()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.inner(batch["x"]) * batch["weight"]


def test_inputs_may_be_a_dict() -> None:
    encoder = _OfDict()
    batch = {"x": _batch(7, 5, 0), "weight": _batch(7, 1, 1)}
    target = _batch(7, 4, 2)
    expected = info_nce(encoder(batch), target)
    expected.backward()
    whole = [g.clone() for g in _gradients(encoder)]
    encoder.zero_grad()
    cached_backward(lambda z: info_nce(z, target), [(encoder, batch)], 2)
    for cached, direct in zip(_gradients(encoder), whole, strict=True):
        torch.testing.assert_close(cached, direct)


def test_autocast_gives_every_parameter_a_gradient() -> None:
    encoder = _encoder().float()
    x, y = _batch(6, 5, 0).float(), _batch(6, 5, 1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cached_backward(info_nce, [(encoder, x), (encoder, y)], 2)
    assert all(g is not None and g.abs().max() > 0 for g in _gradients(encoder))


def _cached_on_a_rank() -> list[Tensor]:
    encoder = DistributedDataParallel(_encoder())
    rows = slice(0, 5) if rank() == 0 else slice(5, 7)
    x, y = _batch(7, 5, 0)[rows], _batch(7, 5, 1)[rows]
    cached_backward(info_nce, [(encoder, x), (encoder, y)], 2)
    return _gradients(encoder)


def test_ddp_with_unequal_numbers_of_chunks_equals_one_process() -> None:
    encoder = _encoder()
    info_nce(encoder(_batch(7, 5, 0)), encoder(_batch(7, 5, 1))).backward()
    for gradients in run_gloo(2, _cached_on_a_rank):
        for cached, direct in zip(gradients, _gradients(encoder), strict=True):
            torch.testing.assert_close(cached, direct, rtol=1e-8, atol=1e-10)
