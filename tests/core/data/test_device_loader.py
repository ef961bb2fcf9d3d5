from itertools import chain, islice

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from core.augment.draws import Draws
from core.data.checks import DataError
from core.data.device_loader import DeviceLoader
from core.data.resident import ResidentLoader

Batch = dict[str, Tensor]
CPU = torch.device("cpu")
WORKERS = pytest.mark.parametrize("workers", [0, 2])


class Scans(Dataset[Batch]):
    """What a decoder gives: integers as they lie in the file."""

    def __init__(self, n_rows: int = 11, broken: int | None = None) -> None:
        self.n_rows, self.broken = n_rows, broken

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, row: int) -> Batch:
        if row == self.broken:
            raise DataError("truncated", path=f"scan-{row}.nii", fix="copy it again")
        return {
            "image": torch.full((3, 2, 2), 200 + row, dtype=torch.uint8),
            "volume": torch.full((2,), -1000 + row, dtype=torch.int16),
            "index": torch.tensor(row),
        }


def _loader(
    workers: int = 0, rank: int = 0, world_size: int = 1, **options: object
) -> DeviceLoader:
    return DeviceLoader(
        Scans(), 4, CPU, 5, workers=workers, rank=rank, world_size=world_size, **options
    )


def _rows(batches: list[Batch]) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


@WORKERS
def test_the_dtype_of_the_file_until_prepare_which_sees_whole_batches(workers: int) -> None:
    seen = []

    def prepare(batch: Batch, draws: Draws) -> Batch:
        seen.append({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()})
        return {"image": batch["image"].float() / 255, "index": batch["index"]}

    batches = list(_loader(workers, prepare=prepare))
    assert seen == [
        {
            "image": (torch.uint8, (n, 3, 2, 2)),
            "volume": (torch.int16, (n, 2)),
            "index": (torch.int64, (n,)),
        }
        for n in (4, 4, 3)
    ]
    for batch in batches:
        assert batch["image"].dtype == torch.float32
        torch.testing.assert_close(batch["image"][:, 2, 1, 1], (200.0 + batch["index"]) / 255)


@WORKERS
def test_every_row_once_an_epoch_in_another_order(workers: int) -> None:
    loader = _loader(workers)
    first, second = list(loader), list(loader)
    assert len(loader) == len(first) == 3
    for epoch in (first, second):
        assert sorted(chain.from_iterable(_rows(epoch))) == list(range(11))
        for batch in epoch:
            assert torch.equal(batch["volume"][:, 0], (batch["index"] - 1000).short())
    assert _rows(first) != _rows(second)


@WORKERS
@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_a_resumed_epoch_has_the_same_batches_left(workers: int, place: int) -> None:
    # The whole is read without workers: their number must not change the order.
    loader = _loader()
    whole = _rows([*loader, *loader])
    loader = _loader(workers)
    epochs, inside = divmod(place, 3)
    for _ in range(epochs):
        list(loader)
    for _ in islice(loader, inside):
        pass
    # Workers have read ahead by now; what was not given does not count.
    assert loader.state_dict()["batches_given"] == place
    resumed = _loader(workers)
    resumed.load_state_dict(loader.state_dict())
    assert _rows(list(resumed)) == whole[place : (epochs + 1) * 3]
    if epochs == 0:
        assert _rows(list(resumed)) == whole[3:]


@WORKERS
def test_loading_leaves_the_global_stream_alone(workers: int) -> None:
    # Else a resumed epoch, which starts its workers once more, would draw other dropout masks.
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(_loader(workers))
    assert torch.equal(torch.get_rng_state(), before)


@WORKERS
def test_processes_share_every_batch_even_of_one_row(workers: int) -> None:
    def loader(rank: int = 0, world_size: int = 1) -> DeviceLoader:
        return DeviceLoader(Scans(9), 4, CPU, 5, workers=workers, rank=rank, world_size=world_size)

    alone = list(loader())
    ranks = [list(loader(rank, 2)) for rank in range(2)]
    assert [len(batch["index"]) for batch in ranks[0]] == [2, 2, 0]
    for batch, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        for name in batch:
            assert torch.equal(torch.cat([part[name] for part in parts]), batch[name])
    assert ranks[0][2]["image"].shape == (0, 3, 2, 2)
    assert ranks[0][2]["image"].dtype == torch.uint8


@WORKERS
def test_a_broken_file_is_named_without_a_traceback(workers: int) -> None:
    loader = DeviceLoader(Scans(broken=6), 4, CPU, 5, workers=workers)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value) == "scan-6.nii: truncated\n  to do:    copy it again"
    assert caught.value.path == "scan-6.nii"


def test_another_data_set_cannot_go_on() -> None:
    with pytest.raises(DataError, match="n_rows was 11 and is now 12"):
        DeviceLoader(Scans(12), 4, CPU, 5).load_state_dict(_loader().state_dict())


class Crops(Scans):
    """A decoder that needs random numbers."""

    def __getitem__(self, row: tuple[int, Tensor]) -> Batch:
        return {"index": torch.tensor(row[0]), "place": row[1]}


@WORKERS
def test_decoding_gets_its_numbers_ahead_and_prepare_goes_on_from_there(workers: int) -> None:
    def prepare(batch: Batch, draws: Draws) -> Batch:
        return batch | {"later": draws.uniform(0, 1)}

    loader = DeviceLoader(Crops(), 4, CPU, 5, prepare, workers=workers, draw=_two)
    resident = ResidentLoader(
        {"index": torch.arange(11)},
        4,
        5,
        prepare=lambda batch, draws: batch | {"place": _two(draws), "later": draws.uniform(0, 1)},
    )
    for _ in range(2):
        for ours, expected in zip(loader, resident, strict=True):
            assert ours.keys() == expected.keys()
            for name, values in expected.items():
                assert torch.equal(ours[name], values), name


def test_a_share_without_rows_draws_nothing() -> None:
    shares = [
        list(DeviceLoader(Crops(9), 4, CPU, 5, rank=rank, world_size=2, draw=_two))
        for rank in (0, 1)
    ]
    assert [len(batch["place"]) for batch in shares[0]] == [2, 2, 0]
    whole = [batch["place"] for batch in DeviceLoader(Crops(9), 4, CPU, 5, draw=_two)]
    for parts in zip(*shares, whole, strict=True):
        own, other, both = (part["place"] if isinstance(part, dict) else part for part in parts)
        assert torch.equal(torch.cat([own, other]), both)


def _two(draws: Draws) -> Tensor:
    return draws.uniform(0, 1, 2)
