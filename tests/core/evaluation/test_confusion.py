from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.metrics import confusion_matrix

from core.evaluation.confusion import Confusion

NAMES = ["walk", "jog", "sit", "a class whose name is longer than the picture"]


def drawn(confusion: Confusion, file: Path) -> np.ndarray:
    confusion.draw(file, "test: accuracy 50.0 %")
    return imread(file)[..., :3]


def test_counts_are_of_true_by_predicted_class() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 3, 200), rng.integers(1, 4, 200)
    found = Confusion.of(truth, said, NAMES).counts
    assert np.array_equal(found, confusion_matrix(truth, said, labels=range(4)))
    assert not np.array_equal(found, found.T)


@pytest.mark.parametrize("n", [1, 6])
def test_the_picture_shows_where_rows_went(n: int, tmp_path: Path) -> None:
    names = [NAMES[i % 4] for i in range(n)]
    right = drawn(Confusion(np.eye(n, dtype=np.int64) * 5, names), tmp_path / "new/right.png")
    wrong = drawn(
        Confusion(np.roll(np.eye(n, dtype=np.int64), 1, 0), names), tmp_path / "wrong.png"
    )
    assert min(right.shape[:2]) > 300
    assert len(np.unique(right.reshape(-1, 3), axis=0)) > 50
    if n > 1:
        assert right.shape != wrong.shape or not np.array_equal(right, wrong)


def test_a_class_without_rows_is_an_empty_row(tmp_path: Path) -> None:
    counts = np.array([[3, 1], [0, 0]])
    some = drawn(Confusion(counts, ["a", "b"]), tmp_path / "some.png")
    # Shares, so that the same with more rows looks the same.
    more = drawn(Confusion(counts * 10, ["a", "b"]), tmp_path / "more.png")
    assert np.array_equal(some, more)
