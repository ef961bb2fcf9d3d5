from itertools import chain

import pytest
import torch

from core.data.checks import DataError
from core.data.order import EpochOrder


def _epoch(order: EpochOrder) -> list[list[int]]:
    """This process's rows of every batch that is left of the epoch."""
    rows = order.permutation(order.generator())
    return [rows[share].tolist() for share in order.shares()]


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "world"),
    [(10, 5, 2), (11, 4, 2), (13, 6, 4), (1, 4, 2), (3, 8, 4), (9, 8, 8), (7, 7, 7), (2, 5, 5)],
)
def test_processes_together_see_what_one_sees(n_rows: int, batch_size: int, world: int) -> None:
    alone = EpochOrder(n_rows, batch_size, seed=3)
    ranks = [EpochOrder(n_rows, batch_size, 3, rank, world) for rank in range(world)]
    for _ in range(3):
        expected = _epoch(alone)
        shared = [_epoch(order) for order in ranks]
        assert [len(batches) for batches in shared] == [len(expected)] * world
        for number, batch in enumerate(expected):
            # In this order too, so that a gathered batch is the batch of one process.
            assert list(chain.from_iterable(batches[number] for batches in shared)) == batch
            sizes = [len(batches[number]) for batches in shared]
            assert max(sizes) - min(sizes) <= 1


def test_every_row_once_an_epoch() -> None:
    order = EpochOrder(11, 4, seed=0)
    for _ in range(3):
        batches = _epoch(order)
        assert [len(batch) for batch in batches] == [4, 4, 3]
        assert sorted(chain.from_iterable(batches)) == list(range(11))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order, again = EpochOrder(50, 50, seed=1), EpochOrder(50, 50, seed=1)
    other = EpochOrder(50, 50, seed=2)
    first, second = _epoch(order), _epoch(order)
    assert first != second
    assert [first, second] == [_epoch(again), _epoch(again)]
    assert not {str(first), str(second)} & {str(_epoch(other)), str(_epoch(other))}


def test_the_order_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    _epoch(EpochOrder(10, 3, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_goes_on_from_any_place() -> None:
    n_batches = 3 * 4
    whole, order = [], EpochOrder(11, 3, seed=7)
    for _ in range(3):
        whole += _epoch(order)
    for place in range(n_batches):
        order, seen = EpochOrder(11, 3, seed=7), []
        while len(seen) < place:
            rows = order.permutation(order.generator())
            for share in order.shares():
                seen.append(rows[share].tolist())
                if len(seen) == place:
                    break
        state = order.state_dict()
        resumed = EpochOrder(11, 3, seed=7)
        resumed.load_state_dict(state)
        assert resumed.epoch == place // 4
        while len(seen) < n_batches:
            seen += _epoch(resumed)
        assert seen == whole


def test_the_place_does_not_depend_on_the_processes() -> None:
    alone = EpochOrder(10, 4, seed=1)
    shares = alone.shares()
    next(shares)
    half = EpochOrder(10, 4, 1, rank=1, world_size=2)
    half.load_state_dict(alone.state_dict())
    rows = alone.permutation(alone.generator()).tolist()
    assert _epoch(half) == [rows[6:8], rows[9:10]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_rows": 11}, "n_rows was 10 and is now 11"),
        ({"batch_size": 5}, "batch_size was 4 and is now 5"),
        ({"seed": 2}, "seed was 1 and is now 2"),
    ],
)
def test_another_order_is_refused(change: dict[str, int], said: str) -> None:
    state = EpochOrder(10, 4, 1).state_dict()
    other = EpochOrder(**({"n_rows": 10, "batch_size": 4, "seed": 1} | change))
    with pytest.raises(DataError, match=said):
        other.load_state_dict(state)
    assert other.batches_given == 0


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="training split is empty"):
        EpochOrder(0, 4, seed=0)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(DataError, match=r"a batch of 3 rows .* 4 processes"):
        EpochOrder(10, 3, seed=0, rank=0, world_size=4)


def test_a_shorter_last_batch_can_be_left_out() -> None:
    order = EpochOrder(10, 4, seed=0, drop_last=True)
    assert len(order) == 2
    assert [share.stop - share.start for share in order.shares()] == [4, 4]
    assert order.epoch == 1
    only = EpochOrder(3, 4, seed=0, drop_last=True)
    assert [share.stop - share.start for share in only.shares()] == [3]


def test_the_largest_seed_draws() -> None:
    order = EpochOrder(10, 4, seed=2**32 - 1)
    shares = order.shares()
    draws = [order.draws(next(shares), torch.device("cpu")).uniform(0, 1) for _ in range(2)]
    assert not torch.equal(*draws)
