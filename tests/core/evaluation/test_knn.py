import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from core.data.checks import DataError
from core.evaluation import knn
from core.evaluation.knn import knn_predict


def _problem(n=300, m=70, dim=8, n_classes=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(n_classes, (n,), generator=generator)
    train = centres[labels] + torch.randn(n, dim, generator=generator, dtype=torch.float64)
    queries = torch.randn(m, dim, generator=generator, dtype=torch.float64) * 2
    return train.to(dtype), labels, queries.to(dtype), n_classes


@pytest.mark.parametrize("k", [1, 7, 20, 300])
@pytest.mark.parametrize("temperature", [None, 0.07, 1.0])
def test_equals_scikit_learn(k, temperature):
    train, labels, queries, n_classes = _problem()
    weights = "uniform" if temperature is None else lambda d: np.exp((1 - d) / temperature)
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
    expected = peer.fit(train.numpy(), labels.numpy()).predict_proba(queries.numpy())
    shares = knn_predict(train, labels, queries, n_classes, k=k, temperature=temperature)
    np.testing.assert_allclose(shares.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tile_scores", [1, 37, 256 * 11, 256 * 299, 1 << 20])
def test_tiles_change_nothing(tile_scores):
    train, labels, queries, n_classes = _problem()
    whole = knn_predict(train, labels, queries, n_classes, k=30)
    tiled = knn_predict(train, labels, queries, n_classes, k=30, tile_scores=tile_scores)
    torch.testing.assert_close(tiled, whole, rtol=1e-12, atol=1e-14)


def test_never_holds_more_than_a_tile(monkeypatch):
    held = []

    def spy(queries, keys, k, block_rows):
        held.append(len(queries) * len(keys))
        return real(queries, keys, k, block_rows)

    real = knn.nearest
    monkeypatch.setattr(knn, "nearest", spy)
    knn_predict(*_problem(), k=3, tile_scores=1024)
    assert len(held) > 10
    assert max(held) <= 1024


def test_invariances():
    train, labels, queries, n_classes = _problem()
    shares = knn_predict(train, labels, queries, n_classes)
    order = torch.randperm(len(train))
    lengths = torch.rand(len(train), 1, dtype=torch.float64) * 1e3 + 1e-6
    same = knn_predict((train * lengths)[order], labels[order], queries.flip(0) / 50, n_classes)
    torch.testing.assert_close(same.flip(0), shares)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(queries), dtype=torch.float64))


def test_by_hand():
    train = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    shares = knn_predict(train, torch.tensor([0, 2, 0]), torch.tensor([[1.0, 1]]), 3, 2, None)
    assert shares.tolist() == [[0.5, 0, 0.5]]
    shares = knn_predict(train, torch.tensor([0, 2, 0]), torch.tensor([[3.0, 0]]), 3, 2, 0.5)
    assert shares[0, 2].item() == pytest.approx(1 / (1 + math.exp(2)), rel=1e-6)


def test_more_neighbours_than_rows_are_all_rows():
    train, labels, queries, n_classes = _problem(n=9)
    shares = knn_predict(train, labels, queries, n_classes, k=20, temperature=None)
    expected = torch.bincount(labels, minlength=n_classes).double() / 9
    torch.testing.assert_close(shares, expected.expand_as(shares))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_compared_in_float32(dtype):
    train, labels, queries, n_classes = _problem(dtype=dtype)
    expected = knn_predict(train.double(), labels, queries.double(), n_classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shares = knn_predict(train, labels, queries, n_classes)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.double(), expected, rtol=1e-4, atol=1e-5)


def test_small_temperatures_and_odd_lengths_stay_finite():
    train, labels, queries, n_classes = _problem(dtype=torch.float32)
    nearest = knn_predict(train, labels, queries, n_classes, k=1)
    for size in (1e-25, 1e25):
        cold = knn_predict(train, labels, queries * size, n_classes, temperature=1e-6)
        torch.testing.assert_close(cold, nearest, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": torch.zeros(0, 8)}, "no training rows"),
        ({"train_labels": torch.full((300,), 5)}, "labels from 5 to 5"),
        ({"train_labels": torch.zeros(299).long()}, "299 labels for 300"),
        ({"queries": torch.zeros(3, 7)}, "queries of width 7"),
        ({"queries": torch.full((3, 8), torch.nan)}, "3 of 3 query rows hold NaN"),
        ({"k": 0}, "k is 0"),
        ({"temperature": 0.0}, "temperature is 0"),
    ],
)
def test_refuses(change, message):
    train, labels, queries, n_classes = _problem()
    arguments = {"train": train, "train_labels": labels, "queries": queries} | change
    with pytest.raises(DataError, match=message):
        knn_predict(**arguments, n_classes=n_classes)
