import pytest
import torch

from core.augment.small_images import SmallImageViews
from core.data.checks import DataError
from core.data.digits import write_digits
from core.data.samples import Samples
from core.data.table import load_table
from core.systems.simclr import SimCLR
from core.tasks.long_tail import LongTailProbing, long_tail
from core.tasks.probing import Probing


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return load_table(folder)


def test_classes_keep_geometrically_fewer() -> None:
    labels = torch.arange(5).repeat_interleave(1000)[torch.randperm(5000)]
    rows = long_tail(labels, 5, tail=0.0016, minimum=6, seed=0)
    assert torch.bincount(labels[rows]).tolist() == [1000, 200, 40, 8, 6]
    assert (rows.diff() > 0).all()
    assert torch.equal(rows, long_tail(labels, 5, tail=0.0016, minimum=6, seed=0))
    assert not torch.equal(rows, long_tail(labels, 5, tail=0.0016, minimum=6, seed=1))


def test_small_classes_keep_what_they_have_and_unknown_ones_nothing() -> None:
    labels = torch.tensor([0] * 20 + [1] * 3 + [-1] * 9)
    assert torch.bincount(labels[long_tail(labels, 2, 0.05, 6, 0)]).tolist() == [20, 3]
    assert torch.equal(long_tail(labels[:20], 1, 0.05, 6, 0), torch.arange(20))


def test_training_sees_the_tail_and_the_classifiers_all(digits: Samples) -> None:
    task, plain = LongTailProbing(SmallImageViews()), Probing(SmallImageViews())
    counts = torch.bincount(digits.labels["label"][task.trained_on(digits).splits["train"]])
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    assert counts[9] == 6
    n = int(counts.sum())
    assert task.system_arguments(digits)["n_train"] == n
    system = SimCLR.of(plain.system_arguments(digits)).eval()
    batches = list(task.train_loader(system, digits, 64, seed=0))
    assert sorted(torch.cat([b["index"] for b in batches]).tolist()) == list(range(n))
    seen = torch.bincount(torch.cat([b["label"] for b in batches]))
    assert torch.equal(seen, counts)
    for split in ("valid", "test"):
        found = task.evaluate(system, digits, split)
        assert found.metrics == plain.evaluate(system, digits, split).metrics


def test_the_part_is_the_same_without_the_test_rows(digits: Samples) -> None:
    task = LongTailProbing()
    parts = [task.trained_on(data) for data in (digits, digits.without_test())]
    ids = [[part.ids[row] for row in part.splits["train"].tolist()] for part in parts]
    assert ids[0] == ids[1]


def test_what_cannot_have_a_tail_is_refused(digits: Samples) -> None:
    with pytest.raises(DataError, match=r"task\.tail=0"):
        LongTailProbing(tail=0)
    unlabelled = Samples(digits.inputs, {}, digits.splits, digits.ids)
    with pytest.raises(DataError, match="a label"):
        LongTailProbing().system_arguments(unlabelled)
