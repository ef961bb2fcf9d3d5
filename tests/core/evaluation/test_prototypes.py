import math

import pytest
import torch
from sklearn.neighbors import NearestCentroid

from core.data.checks import DataError
from core.evaluation import prototypes
from core.evaluation.prototypes import few_shot_accuracy, nearest_mean, sample_episodes


def _labels():
    """Classes of 3 to 40 rows, in any order, their numbers not in a row."""
    sizes = torch.tensor([40, 3, 20, 25, 19, 30, 20])
    labels = (torch.arange(7) * 10 - 5).repeat_interleave(sizes)
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def _features(spread, labels):
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(200, 6, generator=generator)
    return centres[labels + 5] + spread * torch.randn(len(labels), 6, generator=generator)


def test_episodes_hold_distinct_rows_of_distinct_large_classes():
    labels = _labels()
    rows = sample_episodes(labels, 4, 5, 15, 200)
    assert rows.shape == (200, 4, 20)
    of_rows = labels[rows]
    assert (of_rows == of_rows[:, :, :1]).all()
    assert all(len(episode.unique()) == 4 for episode in of_rows)
    assert all(len(episode.unique()) == 80 for episode in rows)
    # Those with 20 rows or more, and all of them.
    assert labels[rows].unique().tolist() == [-5, 15, 25, 45, 55]
    assert torch.equal(rows, sample_episodes(labels, 4, 5, 15, 200))
    assert not torch.equal(rows, sample_episodes(labels, 4, 5, 15, 200, seed=1))


def test_every_row_is_as_likely_to_be_support_as_query():
    labels = torch.arange(5).repeat_interleave(12)
    n = 6000
    rows = sample_episodes(labels, 3, 2, 4, n)
    for place, part in enumerate(rows.unbind(2)):
        seen = torch.bincount(part.flatten(), minlength=60).double()
        expected = n * 3 / 60
        # 60 counts, each within five of their deviations.
        assert (seen - expected).abs().max() < 5 * math.sqrt(expected), place
    pairs = torch.bincount((rows[:, :, 0] % 12 * 12 + rows[:, :, 1] % 12).flatten(), minlength=144)
    expected = n * 3 / 132
    pairs = pairs.view(12, 12).double()
    assert pairs.diagonal().eq(0).all()
    assert (pairs + torch.eye(12) * expected - expected).abs().max() < 5 * math.sqrt(expected)


def test_scores_are_distances_to_the_means():
    generator = torch.Generator().manual_seed(2)
    support = torch.randn(7, 4, 3, 5, generator=generator) + 100
    queries = torch.randn(7, 9, 5, generator=generator) + 100
    scores = nearest_mean(support, queries)
    expected = -torch.cdist(queries.double(), support.double().mean(2)).square()
    torch.testing.assert_close(scores.double(), expected, rtol=1e-3, atol=1e-3)
    for episode in range(7):
        peer = NearestCentroid().fit(
            support[episode].flatten(0, 1), torch.arange(4).repeat_interleave(3)
        )
        assert scores[episode].argmax(1).tolist() == peer.predict(queries[episode]).tolist()


def test_accuracy_is_that_of_the_episodes(monkeypatch):
    labels = _labels()
    features = _features(2.0, labels)
    found = few_shot_accuracy(features, labels, 3, 2, 5, episodes=40, seed=3)
    accuracies = []
    for rows in sample_episodes(labels, 3, 2, 5, 40, seed=3):
        peer = NearestCentroid().fit(
            features[rows[:, :2]].flatten(0, 1), torch.arange(3).repeat_interleave(2)
        )
        predicted = peer.predict(features[rows[:, 2:]].flatten(0, 1))
        accuracies.append((predicted == torch.arange(3).repeat_interleave(5).numpy()).mean())
    values = torch.tensor(accuracies)
    assert found.mean == pytest.approx(values.mean().item())
    # 2.0227 is the 97.5 % point of Student's t with 39 degrees of freedom.
    half = 2.0227 * values.std().item() / math.sqrt(40)
    assert (found.low, found.high) == pytest.approx(
        (found.mean - half, found.mean + half), rel=1e-4
    )
    assert found.n == 40
    assert "episodes" in found.covers

    monkeypatch.setattr(prototypes, "_BLOCK_FEATURES", {"cpu": 1000, "other": 1000})
    assert few_shot_accuracy(features, labels, 3, 2, 5, episodes=40, seed=3) == found


def test_separable_and_shuffled_classes():
    labels = _labels()
    assert few_shot_accuracy(_features(1e-3, labels), labels, 4, 1, 10).mean == 1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(4))
    chance = few_shot_accuracy(_features(1.0, labels)[order], labels, 4, 5, 10)
    assert chance.mean == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_way": 6}, "5 of 7 classes have 20 rows"),
        ({"n_query": 100}, "0 of 7 classes have 105 rows"),
        ({"k_shot": 0}, "with 0 \\+ 15 rows"),
        ({"labels": torch.zeros(3)}, "3 labels for 157 rows"),
        ({"features": torch.full((157, 6), torch.nan)}, "157 of 157 rows hold NaN"),
    ],
)
def test_refuses(change, message):
    labels = _labels()
    arguments = {"features": _features(1.0, labels), "labels": labels} | change
    with pytest.raises(DataError, match=message):
        few_shot_accuracy(**arguments)
