from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from core.data.domains import write_domains
from core.data.samples import Samples
from core.data.table import load_table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("domains")
    write_domains(folder, unseen=1)
    return load_table(folder)


def test_training_and_validation_see_three_domains_and_the_test_the_fourth(data: Samples) -> None:
    domain = data.labels["domain"]
    assert {s: len(rows) for s, rows in data.splits.items()} == {
        "train": 1000,
        "valid": 200,
        "test": 597,
    }
    for split in ("train", "valid"):
        assert set(domain[data.splits[split]].tolist()) == {0, 2, 3}
    assert (domain[data.splits["test"]] == -1).all()
    counts = domain[data.splits["train"]].bincount()[[0, 2, 3]]
    assert counts.min() > 280


def test_240_training_images_have_a_label_and_all_others_do(data: Samples) -> None:
    label = data.labels["label"]
    known = {s: label[rows] >= 0 for s, rows in data.splits.items()}
    assert known["train"].sum() == 240
    assert known["valid"].all() and known["test"].all()
    truth = torch.from_numpy(load_digits().target)[torch.tensor([int(i) for i in data.ids])]
    assert torch.equal(label[label >= 0], truth[label >= 0])


def test_a_domain_is_a_colour_and_a_low_wave(data: Samples) -> None:
    images = data.inputs["image"].float() / 255
    assert data.inputs["image"].dtype == torch.uint8
    assert images.shape[1:] == (3, 24, 24)
    train = data.splits["train"]
    domain, mean = data.labels["domain"][train], images[train].mean((2, 3))
    centres = torch.stack([mean[domain == d].mean(0) for d in (0, 2, 3)])
    found = torch.tensor([0, 2, 3])[torch.cdist(mean, centres).argmin(1)]
    assert (found == domain).float().mean() > 0.95
    # The digit is in every colour channel, the wave is not.
    digits = load_digits().images[[int(i) for i in data.ids]] / 16
    big = torch.nn.functional.interpolate(
        torch.from_numpy(digits)[:, None], size=20, mode="bilinear"
    )
    inner = images[:, :, 2:-2, 2:-2].mean(1).flatten(1)
    correlations = [
        np.corrcoef(a, b)[0, 1] for a, b in zip(inner, big[:, 0].flatten(1), strict=True)
    ]
    assert np.mean(correlations) > 0.7


def test_the_seed_and_the_domain_are_what_matters(tmp_path: Path) -> None:
    for name, seed, unseen in (("a", 0, 3), ("b", 0, 3), ("c", 1, 3), ("d", 0, 2)):
        write_domains(tmp_path / name, seed=seed, unseen=unseen)
    digests = [load_table(tmp_path / name).digest() for name in "abcd"]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
