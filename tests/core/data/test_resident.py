from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor

from core.data.checks import DataError
from core.data.resident import ResidentLoader

Batch = dict[str, Tensor]


def _columns(n_rows: int = 11) -> dict[str, Tensor]:
    row = torch.arange(n_rows)
    return {
        "row": row,
        "square": (row * row).double(),
        "image": row.view(-1, 1, 1).expand(-1, 2, 3),
    }


def _draw(columns: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    noise = torch.randint(1000, (len(columns["row"]),), generator=generator)
    return {"noise": noise, "sum": columns["row"] * 1000 + noise}


def _loader(rank: int = 0, world_size: int = 1, seed: int = 4) -> ResidentLoader:
    return ResidentLoader(_columns(), 4, seed, rank, world_size, draw=_draw)


def _join(batches: Iterator[Batch] | list[Batch]) -> Batch:
    batches = list(batches)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _assert_equal(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_row_once_an_epoch_and_columns_stay_together() -> None:
    loader = _loader()
    orders = []
    for _ in range(3):
        assert len(loader) == 3
        epoch = _join(loader)
        assert sorted(epoch["row"].tolist()) == list(range(11))
        assert torch.equal(epoch["square"], epoch["row"].double() ** 2)
        assert torch.equal(epoch["image"][:, 1, 2], epoch["row"])
        # What was drawn for a row travels with that row.
        assert torch.equal(epoch["sum"], epoch["row"] * 1000 + epoch["noise"])
        orders.append((epoch["row"].tolist(), epoch["noise"].tolist()))
    assert orders[0] != orders[1] != orders[2]
    assert len({str(noise) for _, noise in orders}) == 3


@pytest.mark.parametrize("world", [2, 3])
def test_draws_are_the_same_on_one_process_and_on_many(world: int) -> None:
    alone, ranks = _loader(), [_loader(rank, world) for rank in range(world)]
    for _ in range(2):
        shared = [_join([dict(part) for part in parts]) for parts in zip(*ranks, strict=True)]
        _assert_equal(list(alone), shared)


@pytest.mark.parametrize("place", range(6))
def test_a_resumed_epoch_has_the_same_batches_left(place: int) -> None:
    loader = _loader()
    whole = [batch for _ in range(2) for batch in loader]
    loader = _loader()
    epochs, inside = divmod(place, 3)
    for _ in range(epochs):
        list(loader)
    for _ in islice(loader, inside):
        pass
    resumed = _loader()
    resumed.load_state_dict(loader.state_dict())
    rest = list(resumed)
    _assert_equal(rest, whole[place : (epochs + 1) * 3])
    if epochs == 0:
        _assert_equal(list(resumed), whole[3:])


def test_loading_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(_loader())
    assert torch.equal(torch.get_rng_state(), before)


def test_another_data_set_cannot_go_on() -> None:
    state = _loader().state_dict()
    with pytest.raises(DataError, match="n_rows was 11 and is now 12"):
        ResidentLoader(_columns(12), 4, 4).load_state_dict(state)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        ResidentLoader(_columns(0), 4, 0)
