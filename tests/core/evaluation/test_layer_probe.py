import pytest
import torch
from torch import Tensor

from core.evaluation.layer_probe import LayerProbe, fit_layer_probe


def _features(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three layers of which the second alone tells which of three classes a row is of."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    features = torch.randn(n, 3, 6, generator=generator)
    features[:, 1] += 4 * torch.eye(3).repeat(1, 2)[labels]
    return features, labels


def _accuracy(labels: Tensor):
    return lambda scores: float((scores.argmax(1) == labels).float().mean())


def test_the_layer_that_tells_is_weighed_most() -> None:
    train, labels = _features(600, 0)
    valid, valid_labels = _features(200, 1)
    test, test_labels = _features(200, 2)
    probe = fit_layer_probe(
        train, labels, valid, _accuracy(valid_labels), "classes", 3, rates=(5e-3,), max_epochs=30
    )
    weights = probe.layer_weights
    assert sum(weights) == pytest.approx(1)
    assert weights[1] > 0.4 > max(weights[0], weights[2])
    assert _accuracy(test_labels)(probe.scores(test)) > 0.9
    assert not probe.training


def test_the_best_epoch_and_rate_are_kept() -> None:
    train, labels = _features(100, 0)
    valid, valid_labels = _features(80, 1)
    judged: list[float] = []

    def judge(scores: Tensor) -> float:
        judged.append(_accuracy(valid_labels)(scores))
        return judged[-1]

    probe = fit_layer_probe(
        train, labels, valid, judge, "classes", 3, rates=(1e-4, 1e-2), max_epochs=8, patience=8
    )
    assert len(judged) == 16
    assert _accuracy(valid_labels)(probe.scores(valid)) == max(judged)


def test_without_validation_nothing_is_chosen() -> None:
    train, labels = _features(60, 0)

    def judge(scores: Tensor) -> float:
        raise AssertionError("asked")

    one, other = (
        fit_layer_probe(train, labels, None, judge, "classes", 3, max_epochs=2) for _ in range(2)
    )
    assert torch.equal(one.scores(train), other.scores(train))


def test_tags_and_values() -> None:
    features, labels = _features(400, 0)
    tags = torch.stack([labels == 0, labels != 1], 1)
    probe = fit_layer_probe(features, tags, None, lambda _: 0.0, "tags", 2, max_epochs=40)
    assert ((probe.scores(features) > 0) == tags).float().mean() > 0.9
    value = labels.float() - 1
    probe = fit_layer_probe(features, value, None, lambda _: 0.0, "value", 1, max_epochs=40)
    error = (probe.scores(features)[:, 0] - value).square().mean()
    assert error < 0.5 * value.var()


def test_layers_are_standardised_and_dead_channels_stay_zero() -> None:
    features, labels = _features(200, 0)
    features[:, 0] *= 1e4
    features[:, 2, 3] = 7.0
    probe = fit_layer_probe(features, labels, None, lambda _: 0.0, "classes", 3, max_epochs=1)
    standard = (features - probe.mean) / probe.deviation
    assert standard.std(0).max() < 1.1
    assert not standard[:, 2, 3].any()


def test_the_callers_random_stream_is_left_alone() -> None:
    features, labels = _features(50, 0)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fit_layer_probe(features, labels, None, lambda _: 0.0, "classes", 3, max_epochs=1)
    assert torch.equal(torch.rand(2), expected)


def test_weights_start_equal() -> None:
    assert LayerProbe(4, 3, 2).layer_weights == pytest.approx([0.25] * 4)
