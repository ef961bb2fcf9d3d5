import pytest
import torch
from torch import Tensor

from core.distributed import rank
from core.losses import sinkhorn
from tests.core.gloo import run_gloo


def _scores(rows: int = 9) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("iterations", [1, 3])
def test_equals_the_form_without_logarithms(iterations: int) -> None:
    scores = _scores() / 5
    q = (scores / 0.05).exp().T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / 4
        q = q / q.sum(0, keepdim=True) / 9
    torch.testing.assert_close(sinkhorn(scores, 0.05, iterations), (q * 9).T, rtol=1e-6, atol=0)


def test_balance() -> None:
    q = sinkhorn(_scores(), 0.5, iterations=100)
    torch.testing.assert_close(q.sum(1), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(q.sum(0), torch.full((4,), 9 / 4, dtype=torch.float64))


def test_huge_scores_stay_finite_and_no_gradient_flows() -> None:
    scores = (_scores().float() * 1000).requires_grad_()
    q = sinkhorn(scores)
    assert torch.isfinite(q).all()
    assert not q.requires_grad


def test_invalid_rows_take_no_part() -> None:
    valid = torch.arange(9) % 3 != 1
    scores = _scores().masked_fill(~valid[:, None], torch.nan)
    q = sinkhorn(scores, valid=valid)
    torch.testing.assert_close(q[valid], sinkhorn(_scores()[valid]))
    assert (q[~valid] == 0).all()
    assert (sinkhorn(scores, valid=torch.zeros_like(valid)) == 0).all()


def _of_a_rank() -> Tensor:
    rows = slice(0, 4) if rank() == 0 else slice(4, 9)
    return sinkhorn(_scores()[rows])


def test_balanced_over_all_ranks() -> None:
    torch.testing.assert_close(torch.cat(run_gloo(2, _of_a_rank)), sinkhorn(_scores()))
