from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from torch import nn

from core.data.checks import DataError
from core.evaluation.simpleshot import SimpleShot
from medical.bag_heads import SlideClassifier, mi_simpleshot
from medical.data.patches import load_patches
from medical.data.patches_demo import write_patches
from medical.generated_bags import Labelled, compare_bag_heads
from medical.linear_probe import NormProbe
from medical.retrieval import majority_of, retrieved
from medical.scores import judged_classes, row_of


def patches(n: int, classes: int, seed: int, apart: float = 4.0) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    noise = torch.randn(n, 8, generator=generator)
    return Labelled(noise + apart * torch.nn.functional.one_hot(labels, 8), labels)


def test_a_few_patches_decide_where_their_mean_does_not() -> None:
    train, test = patches(300, 4, 0, 3.0), patches(300, 4, 1, 3.0)
    rare = compare_bag_heads(train, test, background=0, purity=0.1)
    assert rare["mi_simpleshot/10_percent"] > 0.9
    gain = rare["mi_simpleshot/10_percent"] - rare["mean_pooling/10_percent"]
    assert rare["mi_simpleshot_gain/10_percent"] == pytest.approx(gain)
    pure = compare_bag_heads(train, test, background=0, purity=1.0)
    assert pure["mean_pooling/100_percent"] > 0.95
    with pytest.raises(DataError, match="two classes besides"):
        compare_bag_heads(patches(30, 2, 0), patches(30, 2, 1), 0, 0.1)


@pytest.mark.claim
def test_a_few_patches_decide_on_features_that_know_the_tissue(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Of trained classes: no worse than the mean of a slide at 10 % purity, equal at 100 %."""
    if "claim" not in request.config.getoption("markexpr"):
        pytest.skip("a training, some seconds: pytest -m claim")
    write_patches(tmp_path / "demo", train=80, valid=1, test=40, patients=24)
    data = load_patches(tmp_path / "demo")
    images = data.inputs["image"].float().div(255).sub(0.6).div(0.2)
    labels, rows = data.labels["label"], data.splits["train"]
    torch.manual_seed(0)
    steps = [
        nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
        for before, after in pairwise((3, 16, 32, 64, 64))
    ]
    encoder = nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(encoder, nn.Linear(64, 6))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(30):
        for some in rows[torch.randperm(len(rows))].split(32):
            turned = images[some].rot90(int(torch.randint(4, ())), (2, 3))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(turned), labels[some]).backward()
            optimizer.step()
    with torch.no_grad():
        features = encoder.eval()(images)
    train, test = (
        Labelled(features[data.splits[split]], labels[data.splits[split]])
        for split in ("train", "test")
    )
    background = data.classes["label"].index("stroma")
    rare = compare_bag_heads(train, test, background, 0.1)
    assert rare["mi_simpleshot/10_percent"] >= 0.9
    assert rare["mi_simpleshot_gain/10_percent"] >= 0
    pure = compare_bag_heads(train, test, background, 1.0)
    assert abs(pure["mi_simpleshot_gain/100_percent"]) <= 0.02


def test_a_slide_of_few_patches_takes_all_it_has() -> None:
    fitted = SimpleShot.fit(*patches(40, 2, 0), 2)
    bag = torch.randn(3, 8)
    found = mi_simpleshot(fitted, [bag], k=5)
    torch.testing.assert_close(found[0], fitted.squared_distances(bag).mean(0))
    with pytest.raises(DataError, match="slide 1 has no patches"):
        mi_simpleshot(fitted, [bag, bag[:0]])


def slides(n: int, seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """One patch in eight says what the slide is of."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    bags = [torch.randn(16, 8, generator=generator) for _ in range(n)]
    for bag, label in zip(bags, labels.tolist(), strict=True):
        bag[:2, label] += 8
    return bags, labels


def test_attention_finds_the_patches_that_tell() -> None:
    (bags, labels), (valid, valid_labels), (test, truth) = (
        slides(24, 0),
        slides(8, 1),
        slides(20, 2),
    )
    before = torch.random.get_rng_state()
    fitted = SlideClassifier.fit(bags, labels, 2, valid, valid_labels, epochs=15, lr=1e-3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (fitted.scores(test).argmax(1) == truth).float().mean() > 0.9
    weights = fitted.attention(test[0])
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert weights[:2].mean() > 2 * weights[2:].mean()
    again = SlideClassifier.fit(bags, labels, 2, valid, valid_labels, epochs=15, lr=1e-3)
    torch.testing.assert_close(again.scores(test), fitted.scores(test))


def test_the_penalty_is_the_norm_and_not_its_square() -> None:
    x, y = patches(200, 3, 0, 1.0)
    x = x.double().repeat(1, 8)
    fitted = NormProbe.fit(x, y, 3, rounds=30)
    penalty = 0.5 / (64 * 3 / 100)
    weight = fitted.weight.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + fitted.bias, y)
    loss.backward()
    # At the optimum the gradient of the cross-entropy is the unit vector of W times the penalty.
    expected = -penalty * fitted.weight / fitted.weight.norm()
    torch.testing.assert_close(weight.grad, expected, rtol=1e-2, atol=1e-4)
    assert fitted.objective == pytest.approx(loss.item() + penalty * fitted.weight.norm().item())
    assert NormProbe.fit(x, y, 3).objective >= fitted.objective - 1e-9


def test_weights_of_zero_have_a_gradient_and_not_nan() -> None:
    x = torch.zeros(6, 4)
    fitted = NormProbe.fit(x, torch.tensor([0, 0, 0, 0, 1, 1]), 2)
    assert (fitted.weight == 0).all()
    torch.testing.assert_close(
        fitted.scores(x[:1])[0], torch.tensor([2 / 3, 1 / 3]), atol=1e-3, rtol=0
    )
    with pytest.raises(DataError, match="1 of 6 rows hold NaN"):
        NormProbe.fit(torch.cat([x[:5], x[:1] * torch.nan]), torch.zeros(6).long(), 2)


def test_retrieval_and_the_vote_of_five() -> None:
    found = torch.tensor([[1, 2, 2, 1, 0], [0, 1, 2, 1, 1], [2, 0, 1, 1, 2]])
    assert majority_of(found).tolist() == [1, 1, 2], "the first met breaks a tie"
    keys = torch.eye(4)
    labels = torch.tensor([0, 0, 1, 1])
    outcome = retrieved(keys[:1], torch.tensor([1]), keys + 0.1, labels)
    assert not outcome["retrieval@1"].item()
    assert outcome["retrieval@5"].item()


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for n_classes in (2, 3):
        truth = rng.integers(0, n_classes, 60)
        shares = rng.dirichlet(np.ones(n_classes), 60)
        found = judged_classes(
            torch.from_numpy(shares), torch.from_numpy(truth), np.arange(60) // 3, "patient"
        )
        guess = shares.argmax(1)
        kappa = cohen_kappa_score(truth, guess, weights="quadratic")
        assert found.metrics["kappa"] == pytest.approx(kappa)
        if n_classes == 2:
            auroc = roc_auc_score(truth, shares[:, 1])
        else:
            auroc = roc_auc_score(truth, shares, multi_class="ovo")
        assert found.metrics["auroc"] == pytest.approx(auroc)
        assert len(found.unit_ids) == 20
        row = row_of("knn", found)
        low, _, high = row["95 % over patients"].split()
        assert float(low) < found.metrics["balanced_accuracy"] < float(high)
    distances = judged_classes(-torch.rand(6, 2), torch.arange(6) % 2, np.arange(6), "patch")
    assert "auroc" not in distances.metrics, "distances are no probabilities"
