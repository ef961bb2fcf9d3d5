"""Task: what a domain tells the trainer, the evaluation and the commands about its field."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import polars as pl
import torch
from torch import Tensor

from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.trainers.system import Batch, System


class Loader(Protocol):
    """Batches on the device, in an order that goes on where a saved state says."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left of the current epoch."""
        ...

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        ...

    def state_dict(self) -> dict[str, int]:
        """Where in the training the loader stands."""
        ...

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from where `state_dict` was taken."""
        ...


class Data(Protocol):
    """All splits of one data set, as a domain's reader gives them."""

    def to(self, device: torch.device) -> Self:
        """The same data on a device."""
        ...

    def without_test(self) -> Self:
        """The same data with an empty test split: all that training is ever given."""
        ...

    def digest(self) -> str:
        """A short hash of everything that was read, for the record of the run."""
        ...


class Task(Protocol):
    """A field's way to train on, evaluate and use a system: one class a domain.

    Attributes:
        monitor: the metric that chooses among checkpoints and configurations; higher is better.
    """

    monitor: str

    def system_arguments(self, data: Any) -> dict[str, Any]:  # noqa: ANN401
        """What follows from the data for the constructors of systems, see `System.of`."""
        ...

    def train_loader(
        self,
        system: System,
        data: Any,  # noqa: ANN401
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> Loader:
        """Batches of the training split; `batch_size` rows over all `world_size` processes."""
        ...

    def has_split(self, data: Any, split: str) -> bool:  # noqa: ANN401
        """Whether there is anything to evaluate in `"valid"` or `"test"`."""
        ...

    def evaluate(self, system: System, data: Any, split: str) -> Evaluation:  # noqa: ANN401
        """The field's protocol on `"valid"` or `"test"`."""
        ...

    def embed(self, system: System, data: Any) -> pl.DataFrame:  # noqa: ANN401
        """One row an embedding: `kind`, `id` as in the user's files, `embedding`."""
        ...

    def search(
        self,
        system: System,
        data: Any,  # noqa: ANN401
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """The `k` nearest neighbours of a `KIND:ID` query, best first; exact without an index."""
        ...

    def index_spaces(self, system: System, data: Any) -> dict[str, tuple[Tensor, Tensor]]:  # noqa: ANN401
        """Name -> (vectors to find by inner product, queries such as will be asked)."""
        ...

    def keep_reading(self, data: Any, run_dir: Path) -> None:  # noqa: ANN401
        """Writes into the run folder what later readings of other files must agree with."""
        ...

    def reading(self, run_dir: Path) -> dict[str, str]:
        """Arguments of the data reader that make it agree with what `keep_reading` wrote."""
        ...
