"""Ridge probe of several labels, and the probe of pixels."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from core.data.checks import DataError
from core.evaluation.linear_probe import LinearProbe
from remote_sensing.probes import RidgeProbe
from remote_sensing.segmentation import patch_labels, pixel_classes


def _rows(n: int = 80, dim: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, dim, generator=g) * torch.linspace(0.1, 20, dim) + 3
    truth = (x @ torch.randn(dim, 3, generator=g) + torch.randn(n, 3, generator=g)) > 0
    return x, truth


@pytest.mark.parametrize("penalty", [0.001, 0.1, 10.0])
def test_is_the_ridge_regression_of_scikit_learn(penalty: float) -> None:
    x, y = _rows()
    found = RidgeProbe.fit(x, y, x, y, (penalty,)).scores(x).numpy()
    scaled = StandardScaler().fit_transform(x.double().numpy())
    ridge = Ridge(alpha=penalty * len(x)).fit(scaled, y.double().numpy())
    np.testing.assert_allclose(found, ridge.predict(scaled), rtol=1e-6, atol=1e-8)


def test_the_penalty_is_chosen_on_validation() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 60, generator=g)
    y = (x[:, :3] + torch.randn(40, 3, generator=g)) > 0
    valid = torch.randn(400, 60, generator=g)
    truth = valid[:, :3] > 0
    strong = RidgeProbe.fit(x, y, valid, truth)
    weak = RidgeProbe.fit(x, y, x, y)
    assert strong.penalty > weak.penalty


def test_a_constant_feature_changes_nothing() -> None:
    x, y = _rows()
    more = torch.cat([x, torch.full((len(x), 1), 7.0)], 1)
    one = RidgeProbe.fit(x, y, x, y, (0.1,)).scores(x)
    torch.testing.assert_close(RidgeProbe.fit(more, y, more, y, (0.1,)).scores(more), one)


def test_what_would_be_a_wrong_number_is_refused() -> None:
    x, y = _rows()
    with pytest.raises(DataError, match="NaN or infinite"):
        RidgeProbe.fit(x.index_fill(0, torch.tensor([0]), torch.inf), y, x, y)
    with pytest.raises(DataError, match="no training chip"):
        RidgeProbe.fit(x[:0], y[:0], x, y)


def test_a_patch_has_the_class_of_most_of_its_pixels() -> None:
    cover = torch.full((1, 4, 8), 255, dtype=torch.uint8)
    cover[0, 0, :3] = 2
    cover[0, 1:3, 0] = 1
    cover[0, 2, 5:7] = 0
    found = patch_labels(cover, 8, 3, 255)
    assert found.tolist() == [[2, 2, -1, -1, 1, -1, 0, 0]]
    with pytest.raises(DataError, match="7 tokens of chips of 8 x 4"):
        patch_labels(cover, 7, 3, 255)


def test_tokens_that_know_the_class_give_the_map_back() -> None:
    g = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 3, (20, 3, 4), generator=g)
    cover = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    tokens = torch.nn.functional.one_hot(coarse.flatten(1), 3).float()
    labels = patch_labels(cover, 12, 3, 255)
    assert torch.equal(labels, coarse.flatten(1))
    rows, classes = tokens.flatten(0, 1), labels.flatten()
    probe = LinearProbe.fit(rows, classes, rows, classes, (1e-3,))
    found = pixel_classes(probe, tokens, 12, 16)
    assert found.shape == (20, 12, 16)
    middle = found.unflatten(2, (4, 4)).unflatten(1, (3, 4))[:, :, 1:3, :, 1:3]
    truth = coarse[:, :, None, :, None].expand_as(middle)
    assert (middle == truth).float().mean() > 0.97
