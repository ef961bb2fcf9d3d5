"""Columns whose rows lie in files and are decoded only when they are asked for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from core.augment.draws import Draws
from core.data.device_loader import DeviceLoader
from core.data.order import EpochOrder
from core.data.resident import Prepare, ResidentLoader

Batch = dict[str, Tensor]


class StoredRows(Dataset[Tensor]):
    """Stands for a tensor (n, ...) that does not fit into memory, wherever rows are selected.

    Args:
        decode: number of a row -> the row as it lies in the file, of `shape` and `dtype`. It is
            called in threads and in worker processes, so it opens the files itself; of a file that
            cannot be read it raises a DataError.
        n_rows: how many there are.
        shape: of one row.
        dtype: of the files.
        fingerprint: what tells these files from others, e.g. a hash of names and sizes.
        workers: processes that decode for each training process; 0 decodes in the process itself.
        rows: which of the rows this column has; None: all.
        device: where selected rows go.
    """

    def __init__(
        self,
        decode: Callable[[int], Tensor],
        n_rows: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        fingerprint: str,
        workers: int = 2,
        rows: Int64[Tensor, " n"] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.decode, self.n_rows, self.dtype = decode, n_rows, dtype
        self.fingerprint, self.workers = fingerprint, workers
        self.rows = torch.arange(n_rows) if rows is None else rows
        self.shape = (len(self.rows), *shape)
        self.device = torch.device("cpu") if device is None else device

    def __len__(self) -> int:
        """How many rows this column has."""
        return len(self.rows)

    def __getitem__(self, row: int) -> Tensor:
        """One row, decoded, on the CPU."""
        return self.decode(int(self.rows[row]))

    def index_select(self, dim: int, rows: Int64[Tensor, " k"]) -> Shaped[Tensor, "k ..."]:
        """Some rows, decoded by threads, on the device; `dim` is 0."""
        assert dim == 0
        if len(rows) == 0:
            return torch.empty(0, *self.shape[1:], dtype=self.dtype, device=self.device)
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(self.__getitem__, rows.tolist()))).to(self.device)

    def take(self, rows: Int64[Tensor, " k"]) -> Self:
        """The column of these rows, nothing decoded."""
        return self._again(self.rows[rows.cpu()], self.device)

    def to(self, device: torch.device) -> Self:
        """The same column, whose selected rows go to another device."""
        return self._again(self.rows, device)

    def _again(self, rows: Tensor, device: torch.device) -> Self:
        same = (self.decode, self.n_rows, self.shape[1:], self.dtype, self.fingerprint)
        return type(self)(*same, self.workers, rows, device)


Column = Tensor | StoredRows


def take(column: Column, rows: Int64[Tensor, " k"]) -> Column:
    """Some rows of a column; those that lie in files stay there."""
    return column.take(rows) if isinstance(column, StoredRows) else column.index_select(0, rows)


def column_loader(
    columns: dict[str, Column],
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    prepare: Prepare | None = None,
    drop_last: bool = False,
    order: EpochOrder | None = None,
) -> ResidentLoader | DeviceLoader:
    """Batches of columns, wherever they are: the same ones for the same seed.

    Args:
        columns: name -> (n, ...); `index`, the numbers 0 to n - 1, must be there for stored ones.
        batch_size: rows of a batch over all processes.
        seed: of the order.
        rank: number of this process.
        world_size: processes that share a batch.
        prepare: (batch, random numbers for its rows) -> batch.
        drop_last: see `EpochOrder`.
        order: in which rows are given, where it is not the shuffled one.
    """
    stored = {name: column for name, column in columns.items() if isinstance(column, StoredRows)}
    resident = {k: column for k, column in columns.items() if isinstance(column, Tensor)}
    loader: ResidentLoader | DeviceLoader
    if not stored:
        loader = ResidentLoader(
            resident, batch_size, seed, rank, world_size, prepare=prepare, drop_last=drop_last
        )
    else:
        loader = DeviceLoader(
            _StoredColumns(stored),
            batch_size,
            next(iter(stored.values())).device,
            seed,
            _WithResident(resident, prepare),
            max(column.workers for column in stored.values()),
            rank,
            world_size,
            drop_last,
        )
    loader.order = order or loader.order
    return loader


class _StoredColumns(Dataset[Batch]):
    """What workers decode: a row of every stored column, and its number."""

    def __init__(self, columns: dict[str, StoredRows]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, row: int) -> Batch:
        decoded = {name: column[row] for name, column in self.columns.items()}
        return decoded | {"index": torch.tensor(row)}


class _WithResident:
    """Adds the columns that are in memory to decoded rows, then prepares the batch."""

    def __init__(self, columns: Batch, prepare: Prepare | None) -> None:
        self.columns, self.prepare = columns, prepare

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        rows = batch["index"]
        whole = batch | {k: column.index_select(0, rows) for k, column in self.columns.items()}
        return self.prepare(whole, draws) if self.prepare else whole
