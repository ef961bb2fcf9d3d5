from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from core.data.digit_parts import write_digit_parts
from core.data.table import load_table


def test_parts_make_up_the_digit(tmp_path: Path) -> None:
    write_digit_parts(tmp_path, noise=0.0)
    data = load_table(tmp_path)
    assert data.shapes == {"top": [24], "middle": [16], "bottom": [24]}
    assert [len(data.splits[s]) for s in ("train", "valid", "test")] == [250, 200, 597]
    images, labels = load_digits(return_X_y=True)
    rows = [int(name) for name in data.ids]
    whole = torch.cat([data.inputs[name] for name in ("top", "middle", "bottom")], 1)
    torch.testing.assert_close(whole, torch.tensor(images[rows] / 16).float())
    assert data.labels["label"].tolist() == labels[rows].tolist()


def test_noise_is_of_the_asked_strength_and_of_its_own_in_every_part(tmp_path: Path) -> None:
    clean, noisy = tmp_path / "clean", tmp_path / "noisy"
    write_digit_parts(clean, n_train=400, noise=0.0)
    write_digit_parts(noisy, n_train=400, noise=0.35)
    both = [load_table(folder) for folder in (clean, noisy)]
    assert both[0].ids == both[1].ids
    noise = torch.cat([both[1].inputs[k] - both[0].inputs[k] for k in both[0].inputs], 1)
    assert noise.std().item() == pytest.approx(0.35, rel=0.02)
    correlations = torch.corrcoef(noise.T) - torch.eye(noise.shape[1])
    assert correlations.abs().max() < 0.2
