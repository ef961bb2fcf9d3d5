import threading
from collections.abc import Callable, Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor

from core.data.checks import DataError
from core.data.stream import Block, StreamLoader

Batch = dict[str, Tensor]
SIZES = (5, 1, 0, 7, 4, 6, 3, 7, 2)
N = sum(SIZES)


def _blocks(read: Callable[[int, Batch], Batch] = lambda number, rows: rows) -> list[Block]:
    blocks, start = [], 0
    for number, size in enumerate(SIZES):
        row = torch.arange(start, start + size)
        rows = {"row": row, "square": (row * row).double()}
        blocks.append(Block(size, lambda number=number, rows=rows: read(number, rows)))
        start += size
    return blocks


def _draw(columns: Batch, generator: torch.Generator) -> Batch:
    return {"noise": torch.randint(1000, (len(columns["row"]),), generator=generator)}


def _loader(rank: int = 0, world_size: int = 1, **options) -> StreamLoader:
    blocks = options.pop("blocks", None) or _blocks()
    options = {"batch_size": 4, "seed": 3, "window": 8, "draw": _draw} | options
    device = torch.device("cpu")
    return StreamLoader(blocks, device=device, rank=rank, world_size=world_size, **options)


def _join(batches: Iterator[Batch] | list[Batch]) -> Batch:
    batches = list(batches)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _assert_equal(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys() == {"row", "square", "noise"}
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("window", [1, 8, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 13, 100])
def test_every_row_once_an_epoch_in_batches_of_one_size(window, batch_size):
    loader = _loader(window=window, batch_size=batch_size)
    orders = []
    for _ in range(3):
        batches = list(loader)
        assert [len(b["row"]) for b in batches[:-1]] == [batch_size] * (len(loader) - 1)
        epoch = _join(batches)
        assert sorted(epoch["row"].tolist()) == list(range(N))
        assert torch.equal(epoch["square"], epoch["row"].double() ** 2)
        orders.append(epoch["row"].tolist())
    assert orders[0] != orders[1] != orders[2]
    assert list(range(N)) not in orders


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("batch_size", [4, 13])
def test_processes_share_every_batch(world, batch_size):
    whole = list(_loader(batch_size=batch_size))
    shares = [list(_loader(r, world, batch_size=batch_size)) for r in range(world)]
    joined = [_join(parts) for parts in zip(*shares, strict=True)]
    _assert_equal(joined, whole)


@pytest.mark.parametrize("given", range(25))
def test_it_goes_on_from_every_place(given):
    whole = _loader()
    batches = [batch for _ in range(3) for batch in whole]
    broken, resumed = _loader(), _loader()
    assert len(whole) == 9
    taken = [
        b for _ in range(3) for b in islice(broken, max(0, given - broken.order.batches_given))
    ]
    _assert_equal([*taken, batches[0]], [*batches[:given], batches[0]])
    resumed.load_state_dict(broken.state_dict())
    rest = [batch for _ in range(3 - resumed.order.epoch) for batch in resumed]
    _assert_equal(rest, batches[given:])


def test_only_the_blocks_that_are_left_are_read():
    read: list[int] = []

    def recording(number: int, rows: Batch) -> Batch:
        read.append(number)
        return rows

    loader = _loader(blocks=_blocks(recording), window=4)
    batches = list(loader)
    assert sorted(read) == [number for number, size in enumerate(SIZES) if size]
    read.clear()
    again = _loader(blocks=_blocks(recording), window=4)
    again.load_state_dict(loader.state_dict() | {"batches_given": 8})
    _assert_equal(list(again), batches[8:])
    assert 0 < len(read) <= 3


def test_few_windows_are_in_memory_at_a_time():
    """No more rows are read than the window in use, the one read ahead, and one on its way."""
    read = [0]
    lock = threading.Lock()

    def recording(number: int, rows: Batch) -> Batch:
        with lock:
            read[0] += len(rows["row"])
        return rows

    given = 0
    for batch in _loader(blocks=_blocks(recording), batch_size=2, window=4):
        given += len(batch["row"])
        largest = 4 + max(SIZES)
        assert read[0] - given <= 3 * largest
        assert read[0] >= given


def test_rows_of_one_window_are_shuffled_among_each_other():
    loader = _loader(window=1000, batch_size=N)
    (batch,) = loader
    places = batch["row"].argsort()
    steps = (places[1:] - places[:-1]).abs()
    assert (steps == 1).sum() < N / 3


def test_batches_are_prepared_whole():
    loader = _loader(prepare=lambda batch: {"sum": batch["row"] + batch["noise"]})
    plain = _join(_loader())
    assert torch.equal(_join(loader)["sum"], plain["row"] + plain["noise"])


def test_the_stream_that_trains_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(_loader())
    assert torch.equal(torch.rand(3), expected)


def test_a_block_that_cannot_be_read_ends_it_with_its_message():
    def broken(number: int, rows: Batch) -> Batch:
        if number == 5:
            raise DataError("cut off", path="shard-5")
        return rows

    with pytest.raises(DataError, match="shard-5: cut off"):
        list(_loader(blocks=_blocks(broken)))


def test_nothing_to_train_on_is_said():
    with pytest.raises(DataError, match="nothing to train on"):
        _loader(blocks=[Block(0, dict)])


def test_another_order_is_refused():
    state = _loader().state_dict()
    with pytest.raises(DataError, match="seed was 3 and is now 4"):
        _loader(seed=4).load_state_dict(state)
