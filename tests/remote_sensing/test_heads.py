"""Trained heads: what a hidden layer adds, and what fine-tuning leaves alone."""

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from core.trainers.system import Batch, System
from remote_sensing.data.chips import Chips
from remote_sensing.heads import fine_tuned_scores, fit_head, head_scores, nonlinear_scores
from remote_sensing.probes import RidgeProbe
from remote_sensing.task import ChipProbing


def _xor(n: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) * 5 + 20
    return x, ((x[:, :2] > 20).sum(1, keepdim=True) == 1)


def test_a_hidden_layer_tells_what_no_plane_can() -> None:
    train, valid, (x, y) = _xor(400, 0), _xor(200, 1), _xor(300, 2)
    found = nonlinear_scores(train, valid, x)
    linear = RidgeProbe.fit(*train, *valid).scores(x)
    truth = y[:, 0].numpy()
    assert average_precision_score(truth, found[:, 0].numpy()) > 0.97
    assert average_precision_score(truth, linear[:, 0].numpy()) < 0.7
    torch.testing.assert_close(nonlinear_scores(train, valid, x), found)


def test_the_epoch_is_chosen_by_the_rows_that_judge() -> None:
    # Labels that are turned round in validation: every step makes it worse.
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    y = x[:, :1] > 0
    rows = torch.arange(200)
    kept, spoilt = (nn.Linear(3, 1) for _ in range(2))
    spoilt.load_state_dict(kept.state_dict())
    fit_head(kept, lambda some: x[some], (rows, y), (rows, y), lr=0.05)
    fit_head(spoilt, lambda some: x[some], (rows, y), (rows, ~y), lr=0.05)
    far, near = (
        average_precision_score(y[:, 0], head_scores(h, lambda some: x[some], rows)[:, 0])
        for h in (kept, spoilt)
    )
    assert far > 0.98
    assert near < far


class OneBand(System):
    """Sees what it was told to look at, until it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(2, 2, 1)
        nn.init.zeros_(self.look.weight)
        nn.init.zeros_(self.look.bias)
        self.look.weight.data[0, 0] = 0.001

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"radar": 1000 * self.look(batch["radar"] - 0.5).mean((2, 3))}


@pytest.fixture
def chips() -> Chips:
    """The class is in the band that the system does not look at."""
    g = torch.Generator().manual_seed(0)
    radar = torch.randint(0, 256, (240, 2, 1, 1), generator=g).expand(-1, -1, 4, 4)
    label = (radar[:, 1, 0, 0] > 127).long()
    parts = torch.arange(240).tensor_split([120, 180])
    return Chips(
        inputs={"radar": radar.to(torch.uint8).contiguous()},
        labels={"label": label},
        splits=dict(zip(("train", "valid", "test"), parts, strict=True)),
        ids=[f"c{i}" for i in range(240)],
        classes={"label": ["low", "high"]},
        bands={"radar": ["VV", "VH"]},
        targets=nn.functional.one_hot(label, 2).float(),
    )


def test_fine_tuning_learns_what_the_frozen_features_lack(chips: Chips) -> None:
    system = OneBand().eval()
    before = {name: weight.clone() for name, weight in system.state_dict().items()}
    found = ChipProbing(fine_tune=True, nonlinear=True).evaluate(system, chips, "test")
    assert found.metrics["map"] < 0.7
    assert found.metrics["nonlinear_map"] < 0.7
    assert found.metrics["fine_tuned_map"] > 0.9
    for name in ("nonlinear_map", "fine_tuned_map"):
        assert found.per_unit[name].mean() == pytest.approx(found.metrics[name], abs=1e-6)
    for name, weight in system.state_dict().items():
        assert torch.equal(weight, before[name])
    rows = chips.splits["train"]
    taught = (rows, chips.targets[rows] > 0.5)
    with torch.no_grad():
        one, other = (fine_tuned_scores(system, chips, taught, taught, rows[:5]) for _ in range(2))
    assert torch.equal(one, other)
    assert "nonlinear_map" not in ChipProbing().evaluate(system, chips, "valid").metrics
