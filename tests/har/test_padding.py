"""Views of windows that are longer than their recording."""

import torch
from torch import Tensor

from core.augment.draws import Draws
from core.augment.series import Jitter
from har.data.recordings import IMU, SKELETON
from har.systems.cmc import CMC
from har.task import ActivityRecognition
from tests.har.generated import SMALL, windows


def backwards(x: Tensor, draws: Draws) -> Tensor:
    return x.flip(2)


def test_padding_stays_zero_also_after_noise() -> None:
    lengths = torch.full((120,), 20)
    lengths[::3] = 13
    data = windows(lengths=lengths)
    task = ActivityRecognition({SKELETON: Jitter(1.0), IMU: Jitter(1.0)})
    system = CMC.of(task.system_arguments(data), encoder=SMALL)
    (batch,) = task.train_loader(system, data, 48, 0)
    assert batch["mask"].sum(1).unique().tolist() == [13, 20]
    assert torch.equal(batch["mask"].sum(1), lengths[data.splits["train"]][batch["index"]])
    assert torch.equal(batch["views"], batch["views/skeleton"])
    for name in (SKELETON, IMU):
        steps = batch[f"views/{name}"][0].movedim(2, 1)
        assert not steps[~batch["mask"]].any()
        assert steps[batch["mask"]].all()
    whole = windows()
    assert "mask" not in next(iter(task.train_loader(system, whole, 48, 0)))


def test_views_that_reorder_time_take_nothing_out_of_a_short_recording() -> None:
    lengths = torch.full((120,), 10)
    lengths[::3] = 7
    data = windows(lengths=lengths)
    task = ActivityRecognition({SKELETON: backwards, IMU: backwards})
    system = CMC.of(task.system_arguments(data), encoder=SMALL)
    (batch,) = task.train_loader(system, data, 48, 0)
    for name in (SKELETON, IMU):
        for window, view, mask in zip(
            batch[name], batch[f"views/{name}"][0], batch["mask"], strict=True
        ):
            real, n = window[:, mask], int(mask.sum())
            assert not window[:, ~mask].any()
            # The window over again, read from its end.
            again = torch.cat([real] * 3, 1)[:, :20].flip(1)
            assert torch.equal(view[:, :n], again[:, :n])
