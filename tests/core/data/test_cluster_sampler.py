from collections import Counter

import pytest
import torch

from core.data.checks import DataError
from core.data.cluster_sampler import (
    OneLabelOrder,
    compose_labels,
    merge_small_labels,
    one_label_batches,
)
from core.data.resident import ResidentLoader

LABELS = torch.tensor([0] * 9 + [1] * 14 + [2] * 3 + [3] * 4)  # 30 rows, whole fours of 0, 1, 3


def order(rank: int = 0, world_size: int = 1, seed: int = 5, batch_size: int = 4) -> OneLabelOrder:
    shuffled = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(0))
    return OneLabelOrder(
        len(LABELS), batch_size, seed, lambda epoch: LABELS[shuffled], rank, world_size
    )


def loader(**options: int) -> ResidentLoader:
    made = ResidentLoader({"index": torch.arange(30)}, 4, 5)
    made.order = order(**options)
    return made


def label_of(rows: torch.Tensor) -> torch.Tensor:
    shuffled = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(0))
    return LABELS[shuffled][rows]


def test_every_batch_is_full_and_of_one_label() -> None:
    made = loader()
    for _ in range(3):
        batches = [batch["index"] for batch in made]
        assert len(batches) == len(made) == 7
        for rows in batches:
            assert len(set(rows.tolist())) == 4
            assert len(label_of(rows).unique()) == 1
        # A label of three rows is left out; the six whole batches come before any row comes again.
        first = torch.cat(batches[:6])
        assert len(first.unique()) == 24
        assert Counter(label_of(first).tolist()) == {0: 8, 1: 12, 3: 4}


def test_labels_take_turns() -> None:
    batches = one_label_batches([torch.arange(5), torch.arange(10, 18), torch.arange(30, 31)], 2)
    assert batches.tolist() == [[3, 2], [17, 16], [1, 0], [15, 14], [13, 12], [11, 10]]


def test_two_processes_share_the_batches_of_one() -> None:
    alone, shares = loader(), [loader(rank=rank, world_size=2) for rank in range(2)]
    for _ in range(2):
        for whole, *parts in zip(alone, *shares, strict=True):
            assert torch.cat([part["index"] for part in parts]).equal(whole["index"])


def test_a_resumed_epoch_goes_on_with_the_same_batches() -> None:
    unbroken = loader()
    expected = [batch["index"].tolist() for _ in range(3) for batch in unbroken]
    for at in (3, 7, 10):
        first, second = loader(), loader()
        seen = []
        while len(seen) < at:
            for batch in first:
                seen.append(batch["index"].tolist())
                if len(seen) == at:
                    break
        second.load_state_dict(first.state_dict())
        while len(seen) < 21:
            seen += [batch["index"].tolist() for batch in second]
        assert seen == expected
    assert len({tuple(rows) for rows in expected}) > 14  # each epoch has its own shuffle


def test_labels_are_asked_for_by_the_epoch() -> None:
    asked = []

    def labels(epoch: int) -> torch.Tensor:
        asked.append(epoch)
        return LABELS

    made = ResidentLoader({"index": torch.arange(30)}, 4, 5)
    made.order = OneLabelOrder(30, 4, 5, labels)
    for _ in range(3):
        list(made)
    assert asked == [0, 1, 2]


def test_small_labels_and_small_data_are_refused() -> None:
    too_few = OneLabelOrder(30, 15, 0, lambda epoch: LABELS)
    with pytest.raises(DataError, match=r"no label has the 15 rows.*largest of 4 labels has 14"):
        too_few.permutation(too_few.generator())
    with pytest.raises(DataError, match=r"30 training rows do not fill one batch of 31"):
        OneLabelOrder(30, 31, 0, lambda epoch: LABELS)


def test_composed_labels_agree_where_all_stages_do() -> None:
    clusters = torch.randint(0, 3, (3, 200), generator=torch.Generator().manual_seed(1))
    label = compose_labels(clusters, 3)
    same = (clusters[:, :, None] == clusters[:, None]).all(0)
    assert torch.equal(label[:, None] == label[None], same)
    assert torch.equal(label, 9 * clusters[0] + 3 * clusters[1] + clusters[2])
    assert compose_labels(clusters[:0], 3).tolist() == [0] * 200


def test_small_labels_join_those_that_differ_later_only() -> None:
    # Two stages of three clusters: labels 00 (5 rows), 01 (2), 02 (1), 10 (1), 11 (2), 22 (1).
    label = torch.tensor([0] * 5 + [1] * 2 + [2] + [3] + [4] * 2 + [8])
    merged = merge_small_labels(label, 2, 3, smallest=3)
    parts = [merged[:5], merged[5:8], merged[8:11], merged[11:]]
    assert all(len(part.unique()) == 1 for part in parts)
    assert len({int(part[0]) for part in parts}) == 4
    assert merged[11] == -1  # one row is too few even at the root
    assert merged.max() == 2
    assert merge_small_labels(label, 2, 3, smallest=1).unique().tolist() == list(range(6))
    assert merge_small_labels(label, 2, 3, smallest=6).tolist() == [0] * 8 + [-1] * 4
    assert merge_small_labels(label, 2, 3, smallest=12).tolist() == [0] * 12
