from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from core.data.checks import DataError
from core.data.samples import Samples
from core.systems.simclr import SimCLR
from core.tasks.retrieval import Retrieval
from core.trainers.system import Batch, System


class Nearest(System):
    """Scores by the distance to the sum of the queries; `same` scores all alike."""

    def __init__(self, same: bool = False, broken: bool = False) -> None:
        super().__init__()
        self.same, self.broken = same, broken

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {name: batch[name].flatten(1) for name in ("x", "y", "z")}

    def score(self, candidates: Tensor, queries: Sequence[Tensor]) -> Tensor:
        scores = -torch.cdist(sum(queries), candidates)
        if self.broken:
            scores[2, 1] = torch.nan
        return torch.zeros_like(scores) if self.same else scores


def samples(n: int = 60, distinct: int | None = None) -> Samples:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, n, 4, generator=g)
    z = x + y + 0.8 * torch.randn(n, 4, generator=g)
    if distinct is not None:
        z = z[torch.arange(n) % distinct]
    splits = {"train": torch.arange(5), "valid": torch.arange(5, 9), "test": torch.arange(9, n)}
    inputs = {"x": x, "y": y.view(n, 2, 2), "z": z}
    return Samples(inputs, {}, splits, [f"row {i}" for i in range(n)])


def test_every_other_row_is_a_candidate_where_there_are_few() -> None:
    data = samples()
    found = Retrieval("z", n_candidates=51).evaluate(Nearest(), data, "test")
    x, y, z = (data.inputs[k][9:].flatten(1) for k in "xyz")
    scores = -torch.cdist(x + y, z).numpy()
    ranks = np.array([(row >= row[i]).sum() for i, row in enumerate(scores)])
    assert 0.1 < (ranks == 1).mean() < 0.9
    np.testing.assert_array_equal(found.per_unit["accuracy"], ranks == 1)
    np.testing.assert_allclose(found.per_unit["mrr"], 1 / ranks)
    assert found.metrics["accuracy"] == pytest.approx((ranks == 1).mean())
    assert found.metrics["mrr"] == pytest.approx((1 / ranks).mean())
    assert found.unit_ids.tolist() == data.ids[9:]


def test_a_copy_of_the_true_row_is_not_a_wrong_answer() -> None:
    data = samples(distinct=6)
    found = Retrieval("z").evaluate(Nearest(), data, "test")
    x, y, z = (data.inputs[k][9:].flatten(1) for k in "xyz")
    best = z[torch.cdist(x + y, z).argmin(1)]
    np.testing.assert_array_equal(found.per_unit["accuracy"], (best == z).all(1))
    # Three candidates are drawn from six, not from the copies of the rows.
    few = Retrieval("z", n_candidates=3).evaluate(Nearest(), data, "test")
    assert 1 / few.per_unit["mrr"].min() <= 3
    assert few.metrics["accuracy"] > found.metrics["accuracy"]


def test_candidates_are_drawn_anew_for_queries_but_not_for_systems() -> None:
    data, task = samples(400), Retrieval("z", n_candidates=2)
    one, two = (task.evaluate(Nearest(), data, "test") for _ in range(2))
    np.testing.assert_array_equal(one.per_unit["accuracy"], two.per_unit["accuracy"])
    whole = Retrieval("z", n_candidates=1000).evaluate(Nearest(), data, "test")
    # Against one of the others, a query wins as often as its rank among all of them says.
    expected = 1 - (1 / whole.per_unit["mrr"] - 1) / 390
    assert one.metrics["accuracy"] == pytest.approx(expected.mean(), abs=0.05)
    assert len(set(one.per_unit["accuracy"])) == 2


def test_ties_count_against_the_query() -> None:
    found = Retrieval("z", n_candidates=8).evaluate(Nearest(same=True), samples(), "test")
    assert found.metrics == pytest.approx({"accuracy": 0, "mrr": 1 / 8})


def test_the_first_modality_is_looked_for_where_none_is_named() -> None:
    named, first = (Retrieval(name).evaluate(Nearest(), samples(), "test") for name in ("x", None))
    assert named.metrics == first.metrics
    assert named.metrics != Retrieval("y").evaluate(Nearest(), samples(), "test").metrics


def test_refuses_what_it_cannot_evaluate() -> None:
    with pytest.raises(DataError, match=r"task.target=w with the modalities x, y, z"):
        Retrieval("w").evaluate(Nearest(), samples(), "test")
    with pytest.raises(DataError, match=r"1 distinct rows of z in the test split"):
        Retrieval("z").evaluate(Nearest(), samples(distinct=1), "test")
    with pytest.raises(DataError, match="scores of candidates that are NaN"):
        Retrieval("z").evaluate(Nearest(broken=True), samples(), "test")
    with pytest.raises(DataError, match="SimCLR does not score candidates"):
        Retrieval("z").evaluate(SimCLR({"x": [4]}), samples(), "test")
    with pytest.raises(DataError, match=r"task.monitor=recall"):
        Retrieval(monitor="recall")
    with pytest.raises(DataError, match=r"task.n_candidates=1"):
        Retrieval(n_candidates=1)
