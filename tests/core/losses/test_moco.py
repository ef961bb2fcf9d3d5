import torch
import torch.nn.functional as F
from torch import Tensor

from core.distributed import rank
from core.losses import MoCoLoss, moco_v3
from tests.core.gloo import run_gloo


def _rows(n: int, seed: int) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def test_the_queue_is_first_in_first_out_and_changes_after_the_loss() -> None:
    moco = MoCoLoss(3, size=5, temperature=0.2)
    start = moco.queue.clone()
    queries, keys = _rows(2, 0), _rows(2, 1)
    loss = moco(queries, keys)
    q, k = F.normalize(queries), F.normalize(keys)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ start.T], dim=1) / 0.2
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.zeros(2, dtype=torch.int64)))
    torch.testing.assert_close(moco.queue[:2], k)
    assert torch.equal(moco.queue[2:], start[2:])
    moco(_rows(2, 2), _rows(2, 3))
    moco(_rows(2, 4), newest := _rows(2, 5))
    assert moco.position == 1
    torch.testing.assert_close(moco.queue[[4, 0]], F.normalize(newest))
    torch.testing.assert_close(moco.queue[1], k[1])


def test_evaluation_and_invalid_keys_leave_the_queue() -> None:
    moco = MoCoLoss(3, size=5)
    start = moco.queue.clone()
    moco.eval()(_rows(2, 0), _rows(2, 1))
    assert torch.equal(moco.queue, start)
    moco.train()(_rows(2, 0), keys := _rows(2, 1), valid=torch.tensor([False, True]))
    assert torch.equal(moco.queue[0], start[0])
    torch.testing.assert_close(moco.queue[1], F.normalize(keys)[1])


def test_a_batch_longer_than_the_queue_keeps_its_end() -> None:
    moco = MoCoLoss(3, size=4)
    moco(_rows(6, 0), keys := _rows(6, 1))
    assert sorted(moco.queue[:, 0].tolist()) == sorted(F.normalize(keys)[2:, 0].tolist())


def test_state_is_saved() -> None:
    moco, other = MoCoLoss(3, size=5), MoCoLoss(3, size=5)
    moco(_rows(2, 0), _rows(2, 1))
    other.load_state_dict(moco.state_dict())
    assert torch.equal(other.queue, moco.queue)
    assert other.position == 2


def _queue_of_a_rank() -> Tensor:
    moco = MoCoLoss(3, size=8)
    rows = slice(0, 3) if rank() == 0 else slice(3, 4)
    moco(_rows(4, 0)[rows], _rows(4, 1)[rows])
    return moco.queue


def test_all_ranks_hold_the_same_queue() -> None:
    moco = MoCoLoss(3, size=8)
    moco(_rows(4, 0), _rows(4, 1))
    for queue in run_gloo(2, _queue_of_a_rank):
        torch.testing.assert_close(queue, moco.queue)


def test_v3_is_scaled_by_twice_the_temperature() -> None:
    q, k = F.normalize(_rows(4, 0)), F.normalize(_rows(4, 1))
    expected = 2 * 0.5 * F.cross_entropy(q @ k.T / 0.5, torch.arange(4))
    torch.testing.assert_close(moco_v3(q, k, 0.5), expected)
