import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.nn.functional import normalize, one_hot

from core.data.checks import DataError
from core.evaluation.prototypes import sample_episodes
from core.evaluation.simpleshot import SimpleShot, simpleshot_episodes


def rows(n: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    noise = torch.randn(n, 12, generator=generator)
    return noise + 2 * one_hot(labels, 12) + 3, labels


def test_the_definition() -> None:
    x, labels = rows(30, 3, 0)
    fitted = SimpleShot.fit(x, labels, 4)
    unit = normalize(x - x.mean(0), dim=1)
    mean = unit[labels == 1].mean(0)
    torch.testing.assert_close(fitted.prototypes[1], mean)
    assert mean.norm() < 0.95
    distances = fitted.squared_distances(x)
    torch.testing.assert_close(distances[:, 1], (unit - mean).square().sum(1))
    assert (distances[:, 3] == torch.inf).all(), "a class without support wins nothing"
    assert set(fitted.predict(x).tolist()) == {0, 1, 2}


def test_distance_and_cosine_rank_differently() -> None:
    # The first class is spread: its mean is short, so by distance it is nearer than by angle.
    support = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 0.4], [-1.0, -0.4]])
    fitted = SimpleShot.fit(support, torch.tensor([0, 0, 1, 1]), 2)
    query = torch.tensor([[-0.11, 1.0]])
    assert fitted.predict(query).tolist() == [0]
    cosines = normalize(query - fitted.mean) @ normalize(fitted.prototypes).T
    assert cosines.argmax().item() == 1


def test_all_episodes_at_once_are_those_of_a_loop() -> None:
    (x, labels), (queries, truth) = rows(300, 5, 1), rows(72, 6, 2)
    found = simpleshot_episodes(x, labels, queries, truth, 4, 20, seed=3)
    drawn = sample_episodes(labels, 5, 4, 0, 20, seed=3)
    for episode, accuracy in zip(drawn.flatten(1), found.tolist(), strict=True):
        fitted = SimpleShot.fit(x[episode], labels[episode], 5)
        known = truth < 5
        expected = balanced_accuracy_score(truth[known], fitted.predict(queries[known]))
        assert accuracy == pytest.approx(expected, abs=1e-5)


def test_classes_with_too_few_rows_are_left_out() -> None:
    x, labels = rows(30, 3, 0)
    kept = torch.cat([torch.arange(len(x))[labels < 2], (labels == 2).nonzero()[:1, 0]])
    found = simpleshot_episodes(x[kept], labels[kept], x, labels, 3, 5)
    assert len(found) == 5
    with pytest.raises(DataError, match=r"0 classes have 99 rows"):
        simpleshot_episodes(x, labels, x, labels, 99, 5)
