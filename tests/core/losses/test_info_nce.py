import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.losses import LogitScale, info_nce


def _pairs(n: int, dim: int = 6, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, dim, generator=g) * scale for _ in range(2))
    return a.requires_grad_(), b.requires_grad_()


def _with_gradients(n: int, scale: float, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    a, b = _pairs(n, scale=scale)
    loss = info_nce(a, b, 1.0, normalize=False, **options)
    loss.backward()
    return loss.detach(), a.grad, b.grad


@pytest.mark.parametrize("tile", [1, 4, 7, 23, 100])
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_tile_size_does_not_matter(tile: int, scale: float) -> None:
    valid = torch.arange(23) % 5 != 0
    ids = torch.arange(23) % 9
    options = {"valid": valid, "ids": ids}
    for tiled, dense in zip(
        _with_gradients(23, scale, tile=tile, **options),
        _with_gradients(23, scale, **options),
        strict=True,
    ):
        torch.testing.assert_close(tiled, dense, rtol=2e-5, atol=2e-5)


class _LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def test_tiles_keep_the_matrix_out_of_memory() -> None:
    n, dim, tile = 256, 6, 16
    largest = {}
    for name, option in (("dense", None), ("tiled", tile)):
        with _LargestTensor() as record:
            info_nce(*_pairs(n, dim), tile=option).backward()
        largest[name] = record.elements
    assert largest["dense"] == n * n
    assert largest["tiled"] == max(n * dim, tile * tile)


def test_the_definition() -> None:
    a, b = (torch.nn.functional.normalize(x.detach().double()) for x in _pairs(5))
    scores = a @ b.T / 0.2
    target = torch.arange(5)
    rows = torch.nn.functional.cross_entropy(scores, target)
    columns = torch.nn.functional.cross_entropy(scores.T, target)
    torch.testing.assert_close(info_nce(a, b, 0.2), (rows + columns) / 2)
    torch.testing.assert_close(info_nce(a, b, 0.2, symmetric=False), rows)
    torch.testing.assert_close(info_nce(3 * a, b / 7, 0.2), (rows + columns) / 2)


@pytest.mark.parametrize("tile", [None, 2])
def test_a_learned_temperature_gets_its_gradient(tile: int | None) -> None:
    a, b = (x.detach().double() for x in _pairs(5))
    scale = LogitScale(start=8.0).double()
    info_nce(a, b, 1 / scale(), tile=tile).backward()
    start, step = torch.tensor(8.0, dtype=torch.float64).log(), 1e-5
    above, below = (info_nce(a, b, (-(start + s)).exp()) for s in (step, -step))
    expected = (above - below) / (2 * step)
    torch.testing.assert_close(scale.log_scale.grad, expected, rtol=1e-6, atol=1e-9)


def test_logit_scale_starts_where_told_and_ends_at_its_maximum() -> None:
    assert LogitScale()().item() == pytest.approx(1 / 0.07, rel=1e-5)
    scale = LogitScale(start=250.0, maximum=100.0)
    assert scale().item() == pytest.approx(100.0, rel=1e-5)
    assert [p.ndim for p in scale.parameters()] == [0]
