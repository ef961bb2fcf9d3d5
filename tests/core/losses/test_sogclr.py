import pytest
import torch
from torch import Tensor

from core.distributed import rank
from core.losses import BimodalGlobalContrastiveLoss, GlobalContrastiveLoss
from tests.core.gloo import run_gloo


def _views(n: int = 5) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(n, 4, generator=g, dtype=torch.float64)
    return a, a + torch.randn(n, 4, generator=g, dtype=torch.float64)


def test_fresh_averages_give_the_gradient_of_the_batch_loss() -> None:
    a, b = _views()
    a.requires_grad_()
    GlobalContrastiveLoss(9, 0.5)(a, b, torch.arange(5)).backward()
    surrogate = a.grad.clone()
    a.grad = None
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    scores = z @ z.T
    negatives = scores.masked_fill(torch.eye(5).repeat(2, 2).bool(), -torch.inf)
    positives = scores.diagonal(5)
    (0.5 * (negatives / 0.5).logsumexp(1).sum() - 2 * positives.sum()).div(5).backward()
    torch.testing.assert_close(surrogate, a.grad, rtol=1e-6, atol=1e-8)


def test_averages_move_by_gamma_and_start_with_the_first_visit() -> None:
    a, b = _views()
    loss = GlobalContrastiveLoss(9, 0.5, gamma=0.25)
    index = torch.tensor([8, 1, 3, 5, 0])
    loss(a, b, index)
    first = loss.table.average[index].clone()
    assert (first > 0).all()
    assert (loss.table.average[[2, 4, 6, 7]] == 0).all()
    other = GlobalContrastiveLoss(9, 0.5)
    other(b.flip(0), a, index)
    loss(b.flip(0), a, index)
    expected = 0.75 * first + 0.25 * other.table.average[index]
    torch.testing.assert_close(loss.table.average[index], expected)


@pytest.mark.parametrize("bimodal", [False, True])
def test_temperatures_move_only_where_learned_and_only_in_training(bimodal: bool) -> None:
    a, b = _views()
    index = torch.arange(5)
    for individual in (False, True):
        if bimodal:
            loss = BimodalGlobalContrastiveLoss((9, 9), 0.2, individual=individual)
            table, inputs = loss.second, (a, b, index, index)
        else:
            loss = GlobalContrastiveLoss(9, 0.2, individual=individual)
            table, inputs = loss.table, (a, b, index)
        loss.eval()(*inputs)
        assert not table.seen.any()
        loss.train()(*inputs)
        assert (table.temperature[:5] != 0.2).all() == individual
        assert (table.temperature[5:] == 0.2).all()
        for _ in range(200):
            loss(*inputs)
        low, high = loss.first.bounds if bimodal else table.bounds
        assert table.temperature.min() >= low - 1e-7
        assert table.temperature.max() <= high + 1e-7


def test_a_sample_that_comes_twice_gets_the_mean() -> None:
    a, b = _views()
    apart, twice = GlobalContrastiveLoss(9, 0.5), GlobalContrastiveLoss(9, 0.5)
    apart(a, b, torch.arange(5))
    twice(a, b, torch.tensor([0, 1, 2, 3, 0]))
    expected = (apart.table.average[0] + apart.table.average[4]) / 2
    torch.testing.assert_close(twice.table.average[0], expected)


def test_the_running_maximum_keeps_small_temperatures_finite() -> None:
    a, b = (x.float() for x in _views())
    a.requires_grad_()
    loss = BimodalGlobalContrastiveLoss((5, 5), 0.005, bounds=(0.001, 1.0))
    for other in (b, -b, b):
        value = loss(a, other, torch.arange(5), torch.arange(5))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(a.grad).all()
    assert loss.first.maximum.max() > 88, "beyond the range of a float32 exponential"
    assert torch.isfinite(loss.first.average).all()


def _table_of_a_rank() -> dict[str, Tensor]:
    loss = BimodalGlobalContrastiveLoss((9, 9), 0.2, individual=True)
    a, b = _views()
    index = torch.tensor([8, 1, 3, 5, 0])
    rows = slice(0, 2) if rank() == 0 else slice(2, 5)
    for _ in range(3):
        loss(a[rows], b[rows], index[rows], index[rows])
    return loss.state_dict()


def test_all_ranks_write_the_same_rows() -> None:
    expected = _table_of_one_process()
    for state in run_gloo(2, _table_of_a_rank):
        torch.testing.assert_close(state, expected)


def _table_of_one_process() -> dict[str, Tensor]:
    loss = BimodalGlobalContrastiveLoss((9, 9), 0.2, individual=True)
    a, b = _views()
    index = torch.tensor([8, 1, 3, 5, 0])
    for _ in range(3):
        loss(a, b, index, index)
    return dict(loss.state_dict())
