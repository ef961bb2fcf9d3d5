from pathlib import Path

import pytest
import torch

from core.data.samples import Samples
from core.data.table import load_table
from core.data.two_factors import write_two_factors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("two_factors")
    write_two_factors(folder)
    return load_table(folder)


def test_training_digits_have_every_pattern_and_one_pair_of_labels(data: Samples) -> None:
    rows = data.splits["train"]
    assert [len(data.splits[split]) for split in ("train", "valid", "test")] == [8000, 200, 597]
    x = data.inputs["factors"][rows].view(1000, 8, 88)
    assert torch.equal(x[:, :, :64], x[:, :1, :64].expand(-1, 8, -1))
    patterns = x[0, :, 64:]
    assert torch.equal(x[:, :, 64:], patterns.expand(1000, -1, -1))
    torch.testing.assert_close(patterns.norm(dim=1), torch.full((8,), 3.0))
    assert torch.cdist(patterns, patterns).fill_diagonal_(9).min() > 1
    for name in ("label", "code"):
        assert (data.labels[name][rows].view(1000, 8) >= 0).sum(1).unique().tolist() == [1]
    # The labelled copy tells which pattern it has.
    labelled = data.labels["code"][rows].view(1000, 8).argmax(1)
    assert torch.equal(data.labels["code"][rows].view(1000, 8).amax(1), labelled)


def test_held_out_rows_are_other_digits_whose_patterns_tell_nothing(data: Samples) -> None:
    test = data.splits["test"]
    digit, code = data.labels["label"][test], data.labels["code"][test]
    assert int(digit.min()) == int(code.min()) == 0
    counts = torch.bincount(digit * 8 + code, minlength=80).view(10, 8).double()
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
    assert float(((counts - expected) ** 2 / expected).sum()) < 92  # chi², 63 degrees, 1 %
    names = [data.ids[row].split("-")[0] for row in range(len(data.ids))]
    split = {s: {names[row] for row in data.splits[s].tolist()} for s in data.splits}
    assert not split["train"] & split["test"]
    assert sum(len(of) for of in split.values()) == 1797


def test_the_seed_decides(tmp_path: Path, data: Samples) -> None:
    write_two_factors(tmp_path / "same")
    write_two_factors(tmp_path / "other", seed=1)
    assert load_table(tmp_path / "same").digest() == data.digest()
    assert load_table(tmp_path / "other").digest() != data.digest()
