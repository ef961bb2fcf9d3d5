import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_jaccard_index,
)

from core.data.checks import DataError
from core.evaluation.segmentation import SegmentationScores


def _problem(n=24, n_classes=5, ignore_index=None, seed=0):
    """Images of unequal difficulty; the last class is never true nor predicted."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(n_classes - 1, (n, 9, 7), generator=generator)
    noise = torch.randint(n_classes - 1, target.shape, generator=generator)
    wrong = (
        torch.rand(target.shape, generator=generator) < torch.linspace(0.1, 0.8, n)[:, None, None]
    )
    predicted = torch.where(wrong, noise, target)
    if ignore_index is not None:
        target[:, :2] = ignore_index
    return predicted, target


def _scores(predicted, target, ids, ignore_index=None, batch=5, n_classes=5):
    scores = SegmentationScores(n_classes, ignore_index)
    for rows in torch.arange(len(target)).split(batch):
        scores.update(predicted[rows], target[rows], [ids[i] for i in rows])
    return scores.evaluation()


@pytest.mark.parametrize("ignore_index", [None, 255, -1, 0, 2])
def test_equals_torchmetrics(ignore_index):
    predicted, target = _problem(ignore_index=ignore_index)
    found = _scores(predicted, target, range(24), ignore_index)
    arguments = {"num_classes": 5, "ignore_index": ignore_index}
    expected = multiclass_jaccard_index(predicted, target, average="macro", **arguments)
    assert found.metrics["miou"] == pytest.approx(expected.item(), abs=1e-6)
    expected = multiclass_accuracy(predicted, target, average="micro", **arguments)
    assert found.metrics["pixel_accuracy"] == pytest.approx(expected.item(), abs=1e-6)
    for name, values in found.per_unit.items():
        assert values.mean() == pytest.approx(found.metrics[name], abs=1e-12)


def test_by_hand():
    scores = SegmentationScores(3)
    scores.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 2]]), ["a"])
    found = scores.evaluation()
    assert found.metrics["miou"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert found.metrics["pixel_accuracy"] == 0.5


def test_batches_and_tiles_of_one_unit_add_up():
    predicted, target = _problem(ignore_index=255)
    scenes = [f"scene {i % 6}" for i in range(24)]
    found = _scores(predicted, target, scenes, 255)
    assert found.unit_ids.tolist() == [f"scene {i}" for i in range(6)]
    other = _scores(predicted.flip(0), target.flip(0), scenes[::-1], 255, batch=24)
    assert found.metrics == pytest.approx(other.metrics)
    stacked = [torch.stack([x[i::6].flatten() for i in range(6)]) for x in (predicted, target)]
    whole = _scores(*stacked, sorted(set(scenes)), 255)
    for name, values in whole.per_unit.items():
        np.testing.assert_allclose(found.per_unit[name], values, atol=1e-12)
        assert values.std() > 0


def test_units_bootstrap_to_the_spread_of_the_metric():
    predicted, target = _problem(n=60)
    found = _scores(predicted, target, range(60))
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(300):
        rows = torch.from_numpy(generator.integers(0, 60, 60))
        draws.append(_scores(predicted[rows], target[rows], range(60), batch=60).metrics)
    for name, values in found.per_unit.items():
        spread = np.std([draw[name] for draw in draws])
        # 300 draws know their spread to about 4 %.
        assert values.std() / np.sqrt(60) == pytest.approx(spread, rel=0.15), name


def test_predictions_at_ignored_pixels_are_free():
    scores = SegmentationScores(2, ignore_index=255)
    target = torch.tensor([[0, 255, 1]], dtype=torch.uint8)
    scores.update(torch.tensor([[0, 77, 1]]), target, [3])
    assert scores.evaluation().metrics == {"miou": 1, "pixel_accuracy": 1}


def test_refuses():
    scores = SegmentationScores(3, ignore_index=9)
    ok = torch.tensor([[0, 1, 2, 9]])
    with pytest.raises(DataError, match=r"shape \(1, 4\), targets of shape \(1, 3\)"):
        scores.update(ok, ok[:, :3], [0])
    with pytest.raises(DataError, match="2 ids"):
        scores.update(ok, ok, [0, 1])
    for number in (-1, 3, 255):
        with pytest.raises(DataError, match="target holds numbers"):
            scores.update(torch.zeros(1, 4).long(), torch.tensor([[0, number, 1, 9]]), [0])
        with pytest.raises(DataError, match="prediction holds numbers"):
            scores.update(torch.tensor([[0, number, 1, 0]]), ok, [0])
    with pytest.raises(DataError, match="no pixel has a label"):
        scores.evaluation()
    scores.update(ok, torch.full_like(ok, 9), [0])
    with pytest.raises(DataError, match="no pixel has a label"):
        scores.evaluation()
