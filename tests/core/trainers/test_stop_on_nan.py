import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.checkpoints import read_checkpoint
from core.data.checks import DataError
from core.data.resident import ResidentLoader
from core.trainers import System
from core.trainers.callbacks import _Rows
from tests.core.trainers.tiny import Line, TinyData, TinyTask, tiny_data, train

# Without an order of its own, 22 rows are batches of 8, 8 and 6.
ROWS = 22


class InOrder(ResidentLoader):
    """The rows as they lie, so that it is known which step sees which."""

    def __iter__(self):
        self.order.permutation = lambda generator: torch.arange(ROWS)
        return super().__iter__()


class OrderedTask(TinyTask):
    def __init__(self, without: str = "") -> None:
        super().__init__()
        self.without = without

    def train_loader(
        self, system: System, data: Any, batch_size: int, seed: int, rank: int, world_size: int
    ) -> ResidentLoader:
        columns = {
            "y": data.y,
            "x": data.x,
            "index": 100 + torch.arange(ROWS),
        }
        columns = {name: column for name, column in columns.items() if name != self.without}
        return InOrder(columns, batch_size, seed, rank, world_size)


def _data(*rows: int, value: float = torch.nan) -> TinyData:
    data = tiny_data(ROWS)
    x = data.x.clone()
    x[list(rows), 1] = value
    return replace(data, x=x, valid=0)


def _message(run_dir: Path, **options: Any) -> str:
    options = {"system": Line, "task": OrderedTask(), "log_every_n_steps": 1} | options
    with pytest.raises(DataError) as caught:
        train(run_dir, **options)
    return str(caught.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_step_modality_and_samples_are_named(tmp_path: Path, value: float) -> None:
    message = _message(tmp_path, data=_data(9, 14, value=value))
    assert message.startswith("training stopped at step 2: train/loss = ")
    assert (
        "; x of step 2 holds NaN or infinite values in 2 of 8 samples with index 109, 114\n"
        in message
    )
    assert "repair or remove them, see `data check`; the last checkpoint is from before" in message


def test_of_many_samples_the_first_are_named(tmp_path: Path) -> None:
    message = _message(tmp_path, data=_data(*range(12)), batch_size_global=22)
    assert "x of step 1 holds NaN or infinite values in 12 of 22 samples" in message
    assert re.search(r"index 100, 101, 102, 103, 104, 105, 106, 107, \.\.\.\n", message)


def test_without_an_index_the_rows_of_the_batch_are_named(tmp_path: Path) -> None:
    message = _message(tmp_path, data=_data(9, 14), task=OrderedTask(without="index"))
    assert "x of step 2 holds NaN or infinite values in 2 of 8 rows of the batch 1, 6\n" in message


def test_between_logged_steps_it_is_stopped_at_the_next_and_still_known(tmp_path: Path) -> None:
    # Step 2 brings it, step 3 already has a broken loss; the first that is looked at is step 4.
    message = _message(
        tmp_path,
        data=_data(9, 17),
        log_every_n_steps=4,
        accumulate=1,
        batch_size_global=4,
    )
    assert message.startswith("training stopped at step 4: train/loss = nan; x of step 3 holds")
    assert "1 of 4 samples with index 109\n" in message


@pytest.mark.parametrize("every", [None, 1])
def test_broken_weights_name_it_too(tmp_path: Path, every: int | None) -> None:
    message = _message(
        tmp_path, data=_data(18), log_every_n_steps=50, checkpoint_every_n_steps=every
    )
    assert message.startswith("training stopped at step 3: linear.weight is no longer finite; x of")
    assert "step 3 holds NaN or infinite values in 1 of 6 samples with index 118\n" in message


def test_a_checkpoint_inside_an_epoch_is_not_written_with_it(tmp_path: Path) -> None:
    message = _message(tmp_path, data=_data(9), log_every_n_steps=50, checkpoint_every_n_steps=1)
    assert "stopped at step 2: linear.weight is no longer finite; x of step 2 holds" in message
    last = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 1


def test_an_earlier_pass_of_the_step_is_named(tmp_path: Path) -> None:
    # The second of two passes is logged, and its loss is finite: the next step has the broken one.
    message = _message(tmp_path, data=_data(1), accumulate=2, batch_size_global=8)
    assert message.startswith("training stopped at step 2: train/loss = nan; x of step 1 holds")
    assert "1 of 4 samples with index 101\n" in message


def test_when_all_inputs_were_finite_it_says_so(tmp_path: Path) -> None:
    class Breaking(Line):
        def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            loss = super().objective(batch)["loss"]
            return {"loss": loss * torch.nan if self.trainer.global_step == 4 else loss}

    message = _message(tmp_path, system=Breaking, data=_data(), log_every_n_steps=2)
    assert message.startswith("training stopped at step 6: train/loss = nan; the inputs of the ")
    # Those of step 4 too, whose update came after the look at it.
    assert "last 3 batches were finite\n" in message
    assert "gradient_clip" in message
    assert "data check" not in message


def test_nan_that_breaks_nothing_is_let_through(tmp_path: Path) -> None:
    class Careful(Line):
        def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return super().objective(batch | {"x": batch["x"].nan_to_num()})

    _, system = train(
        tmp_path, system=Careful, task=OrderedTask(), data=_data(3, 9), log_every_n_steps=2
    )
    assert all(weight.isfinite().all() for weight in system.parameters())


def test_half_precision_that_sums_beyond_its_range_is_finite() -> None:
    batch = {"image": torch.full((2, 64), 6e4, dtype=torch.float16), "empty": torch.zeros(0, 3)}
    batch |= {"scalar": torch.tensor(torch.nan), "edges": torch.zeros(2, 9, dtype=torch.int64)}
    assert _Rows.of(1, batch).describe() is None
    batch["image"][1, 3] = torch.inf
    assert "image of step 1" in str(_Rows.of(1, batch).describe())


def test_the_rows_of_views_are_in_their_second_place() -> None:
    views = torch.zeros(2, 5, 3, 4)
    views[:, 3, 1, 2] = torch.nan
    described = str(_Rows.of(7, {"views": views, "index": torch.arange(20, 25)}).describe())
    assert described.startswith("views of step 7 holds")
    assert described.endswith("1 of 5 samples with index 23")
