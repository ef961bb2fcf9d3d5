from itertools import permutations

import numpy as np
import pytest
import torch
from torchmetrics.functional.clustering import adjusted_rand_score, normalized_mutual_info_score

from core.data.checks import DataError
from core.evaluation.clustering import assignment_accuracy, kmeans_metrics


def _blobs(spread, n=150, n_classes=4):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(n_classes, (n,), generator=generator) * 7 - 3
    centres = torch.randn(50, 5, generator=generator)
    return centres[labels + 3] + spread * torch.randn(n, 5, generator=generator), labels


@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_the_best_of_all(seed):
    generator = np.random.default_rng(seed)
    clusters, labels = generator.integers(0, 4, 60), generator.integers(0, 4, 60)
    best = max(np.mean(np.take(p, clusters) == labels) for p in permutations(range(4)))
    assert assignment_accuracy(clusters, labels) == pytest.approx(best)


def test_clusters_left_over_are_wrong():
    labels = np.array([5, 5, 5, 5, 9, 9])
    assert assignment_accuracy(np.array([0, 0, 1, 1, 2, 2]), labels) == pytest.approx(4 / 6)
    assert assignment_accuracy(np.zeros(6, np.int64), labels) == pytest.approx(4 / 6)


def test_separate_classes_are_found():
    features, labels = _blobs(1e-3)
    assert kmeans_metrics(features, labels) == pytest.approx({"accuracy": 1, "nmi": 1, "ari": 1})


def test_equals_torchmetrics_on_its_own_clusters():
    from sklearn.cluster import KMeans

    features, labels = _blobs(1.0)
    found = kmeans_metrics(features, labels, n_clusters=6, seed=2, restarts=3)
    clusters = KMeans(6, n_init=3, random_state=2).fit_predict(features.numpy())
    shifted = labels + 3
    expected_nmi = normalized_mutual_info_score(torch.from_numpy(clusters), shifted)
    expected_ari = adjusted_rand_score(torch.from_numpy(clusters).long(), shifted)
    assert found["nmi"] == pytest.approx(expected_nmi.item(), abs=1e-5)
    assert found["ari"] == pytest.approx(expected_ari.item(), abs=1e-5)
    assert found["accuracy"] == assignment_accuracy(clusters, labels.numpy())
    assert 0.1 < found["ari"] < 0.95


def test_clusters_of_noise_have_no_ari():
    labels = _blobs(1.0)[1]
    noise = torch.randn(150, 5, generator=torch.Generator().manual_seed(1))
    found = kmeans_metrics(noise, labels, n_clusters=4)
    assert abs(found["ari"]) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(3)}, "3 labels for 150 rows"),
        ({"n_clusters": 151}, "151 clusters of 150 rows"),
        ({"features": torch.full((150, 2), torch.inf)}, "150 of 150 rows hold NaN"),
    ],
)
def test_refuses(change, message):
    features, labels = _blobs(1.0)
    with pytest.raises(DataError, match=message):
        kmeans_metrics(**{"features": features, "labels": labels} | change)
