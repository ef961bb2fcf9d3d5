import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from core.data.checks import DataError
from core.evaluation.linear_probe import LinearProbe


def _split(n=240, dim=6, n_classes=4, dtype=torch.float64, seed=0):
    """Rows around three-class-wide centres, features of very unequal scale."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_classes, dim, generator=torch.Generator().manual_seed(7)).double()
    labels = torch.arange(n) % n_classes
    rows = centres[labels] + torch.randn(n, dim, generator=generator).double()
    return (rows * torch.logspace(-3, 3, dim).double() + 5).to(dtype), labels


def _fit(penalties, dtype=torch.float64):
    return LinearProbe.fit(*_split(dtype=dtype), *_split(seed=1, dtype=dtype), penalties)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4, 1e-6])
def test_equals_scikit_learn(penalty, dtype):
    features, labels = _split()
    test = _split(seed=2)[0]
    scaler = StandardScaler().fit(features)
    peer = LogisticRegression(C=1 / (penalty * len(labels)), max_iter=5000, tol=1e-10)
    peer.fit(scaler.transform(features), labels)

    probe = _fit([penalty], dtype)
    weight = (probe.weight - probe.weight.mean(0)).double().numpy()
    expected = peer.coef_ - peer.coef_.mean(0)
    np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=1e-3)
    bias = (probe.bias - probe.bias.mean()).double().numpy()
    np.testing.assert_allclose(bias, peer.intercept_ - peer.intercept_.mean(), atol=1e-3)
    probabilities = probe.scores(test.to(dtype)).double().numpy()
    np.testing.assert_allclose(probabilities, peer.predict_proba(scaler.transform(test)), atol=1e-3)
    assert probe.predict(test.to(dtype)).tolist() == peer.predict(scaler.transform(test)).tolist()


def test_two_classes_equal_the_multinomial_problem():
    features, labels = _split(n_classes=2)
    probe = LinearProbe.fit(features, labels, features, labels, [1e-2])
    x = (features - features.mean(0)) / features.std(0, correction=0)
    # At the optimum the gradient of the objective is 0.
    residual = probe.scores(features) - torch.nn.functional.one_hot(labels).double()
    gradient = residual.T @ x / len(x) + 1e-2 * probe.weight
    assert gradient.abs().max() < 2e-6
    assert residual.mean(0).abs().max() < 2e-6


def test_penalty_is_the_best_on_validation():
    generator = torch.Generator().manual_seed(3)
    train = torch.randn(60, 40, generator=generator).double()
    labels = (train[:, 0] + torch.randn(60, generator=generator) > 0).long()
    valid = torch.randn(400, 40, generator=generator).double()
    valid_labels = (valid[:, 0] > 0).long()
    penalties = [1e-6, 1e-1, 10.0, 1e-3]
    probe = LinearProbe.fit(train, labels, valid, valid_labels, penalties)
    assert set(probe.valid_accuracy) == set(penalties)
    assert len(set(probe.valid_accuracy.values())) > 1
    best = max(probe.valid_accuracy.values())
    assert probe.valid_accuracy[probe.penalty] == best == probe.accuracy(valid, valid_labels)
    alone = LinearProbe.fit(train, labels, valid, valid_labels, [probe.penalty])
    torch.testing.assert_close(alone.weight, probe.weight, rtol=1e-3, atol=1e-4)


def test_validation_chooses_the_penalty_and_nothing_else():
    features, labels = _split()
    here = LinearProbe.fit(features, labels, *_split(seed=1), [1e-2])
    there = LinearProbe.fit(features, labels, *_split(n=17, seed=9), [1e-2])
    for name in ("weight", "bias", "mean", "std"):
        assert torch.equal(getattr(here, name), getattr(there, name))


def test_units_of_the_features_do_not_matter():
    (features, labels), (valid, valid_labels) = _split(), _split(seed=1)
    probe = LinearProbe.fit(features, labels, valid, valid_labels)
    units = torch.logspace(-4, 4, 6).double()
    other = LinearProbe.fit(features * units + 3, labels, valid * units + 3, valid_labels)
    torch.testing.assert_close(
        other.scores(valid * units + 3), probe.scores(valid), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e4])
def test_constant_features_are_ignored(constant):
    (features, labels), (valid, valid_labels) = _split(dtype=torch.float32), _split(seed=1)
    valid = valid.float()
    probe = LinearProbe.fit(features, labels, valid, valid_labels)
    column = torch.full((len(labels), 1), constant)
    wider = LinearProbe.fit(
        torch.cat([features, column], 1), labels, torch.cat([valid, column + 0.01], 1), valid_labels
    )
    assert wider.weight[:, -1].eq(0).all()
    torch.testing.assert_close(
        wider.scores(torch.cat([valid, column + 0.01], 1)), probe.scores(valid), rtol=0, atol=1e-3
    )


def test_classes_without_training_rows_are_never_predicted():
    features, labels = _split()
    kept = labels != 1
    valid, valid_labels = _split(seed=1)
    probe = LinearProbe.fit(features[kept], labels[kept], valid, valid_labels + (valid_labels == 3))
    assert probe.classes.tolist() == [0, 2, 3]
    scores = probe.scores(valid)
    assert scores.shape == (240, 5)
    assert scores[:, [1, 4]].eq(0).all()
    torch.testing.assert_close(scores.sum(1), torch.ones(240).double())
    assert torch.equal(scores.argmax(1), probe.predict(valid))
    # A quarter of the rows has class 1, another the class 4: all of them are errors.
    assert 0.25 < probe.valid_accuracy[probe.penalty] <= 0.5


def test_fits_where_gradients_are_off():
    expected = _fit([1e-2], torch.float32)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            probe = _fit([1e-2], torch.float32)
        assert torch.equal(probe.weight, expected.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probe = _fit([1e-2], torch.float32)
    assert torch.equal(probe.weight, expected.weight)
    assert not expected.weight.requires_grad


def test_low_precision_features_are_fitted_in_float32():
    probe = _fit([1e-2], torch.bfloat16)
    assert probe.weight.dtype == torch.float32
    exact = LinearProbe.fit(
        *(t.float() if t.is_floating_point() else t for t in _split(dtype=torch.bfloat16)),
        *_split(seed=1, dtype=torch.float32),
        [1e-2],
    )
    torch.testing.assert_close(probe.weight, exact.weight)


def test_separable_classes_stay_finite():
    labels = torch.arange(40) % 2
    features = (labels.float() * 2 - 1)[:, None] + torch.linspace(-0.1, 0.1, 40)[:, None]
    probe = LinearProbe.fit(features, labels, features, labels)
    assert torch.isfinite(probe.weight).all()
    assert probe.accuracy(features, labels) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(0, 6)}, "no training rows"),
        ({"valid_features": torch.zeros(0, 6)}, "no validation rows"),
        ({"labels": torch.zeros(3).long()}, "3 labels for 240 training rows"),
        ({"labels": torch.arange(240) - 1}, "training labels from -1"),
        ({"labels": torch.full((240,), 2)}, "all 240 training rows have the label 2"),
        ({"valid_features": torch.zeros(240, 5)}, "5 of validation"),
        ({"features": torch.full((240, 6), torch.inf)}, "240 of 240 training rows hold NaN"),
        ({"penalties": [1.0, 0.0]}, "penalties are"),
        ({"penalties": []}, "penalties are"),
    ],
)
def test_refuses(change, message):
    features, labels = _split()
    arguments = {
        "features": features,
        "labels": labels,
        "valid_features": features,
        "valid_labels": labels,
    } | change
    with pytest.raises(DataError, match=message):
        LinearProbe.fit(**arguments)


def test_more_features_than_rows_have_the_same_optimum() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 90, generator=generator, dtype=torch.float64)
    y = torch.arange(24) % 3
    new = torch.randn(50, 90, generator=generator, dtype=torch.float64)
    probe = LinearProbe.fit(x, y, x, y, penalties=(1e-2,))
    mean, std = x.mean(0), x.std(0, correction=0)
    reference = LogisticRegression(C=1 / (1e-2 * 24), tol=1e-10, max_iter=10_000)
    reference.fit((x - mean) / std, y)
    expected = torch.from_numpy(reference.predict_proba((new - mean) / std))
    torch.testing.assert_close(probe.scores(new), expected, rtol=1e-4, atol=1e-6)


def test_a_wide_group_of_features_does_not_drown_a_narrow_one() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 2
    told = y[:, None] + 0.3 * torch.randn(40, 2, generator=generator)
    noise = torch.randn(40, 400, generator=generator)
    x = torch.cat([told, noise], 1)
    new_y = torch.arange(400) % 2
    told = new_y[:, None] + 0.3 * torch.randn(400, 2, generator=generator)
    new = torch.cat([told, torch.randn(400, 400, generator=generator)], 1)
    alike = LinearProbe.fit(x, y, x, y, penalties=(0.1,))
    balanced = LinearProbe.fit(x, y, x, y, penalties=(0.1,), groups=[2, 400])
    assert balanced.accuracy(new, new_y) > 0.95 > 0.8 > alike.accuracy(new, new_y)


def test_groups_of_one_width_are_as_none() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 8, generator=generator), torch.arange(30) % 3
    plain = LinearProbe.fit(x, y, x, y, penalties=(0.1,))
    grouped = LinearProbe.fit(x, y, x, y, penalties=(0.1,), groups=[4, 4])
    torch.testing.assert_close(plain.scores(x), grouped.scores(x))


def test_unstandardised_features_keep_their_proportions_as_in_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 8, generator=generator).double(), torch.arange(60) % 3
    x[:, 0] += y
    x[:, 4:] *= 0.01
    new = torch.randn(20, 8, generator=generator).double()
    mean, size = x.mean(0), x.var(0, correction=0).mean().sqrt()
    reference = LogisticRegression(C=1 / (0.1 * 60), tol=1e-10, max_iter=5000)
    reference.fit(((x - mean) / size).numpy(), y.numpy())
    expected = torch.from_numpy(reference.predict_proba(((new - mean) / size).numpy()))
    probe = LinearProbe.fit(x, y, x, y, penalties=(0.1,), standardize=False)
    torch.testing.assert_close(probe.scores(new), expected, rtol=1e-4, atol=1e-6)
    # Each group at a scale of its own: the faint one counts as well.
    grouped = LinearProbe.fit(x, y, x, y, penalties=(0.1,), groups=[4, 4], standardize=False)
    apart = torch.cat([x[:, :4], 100 * x[:, 4:]], 1)
    same = LinearProbe.fit(apart, y, apart, y, penalties=(0.1,), groups=[4, 4], standardize=False)
    torch.testing.assert_close(grouped.scores(x), same.scores(apart))
