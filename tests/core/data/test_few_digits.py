from pathlib import Path

import pytest

from core.data.checks import DataError
from core.data.few_digits import write_few_digits
from core.data.table import load_table


@pytest.mark.parametrize("per_class", [5, 20])
def test_so_many_training_images_of_each_digit(tmp_path: Path, per_class: int) -> None:
    write_few_digits(tmp_path, per_class=per_class)
    data = load_table(tmp_path)
    train = data.labels["label"][data.splits["train"]]
    assert train.bincount().tolist() == [per_class] * 10
    assert len(data.splits["valid"]) == 200
    assert len(data.splits["test"]) == 1597 - 10 * per_class
    images = data.inputs["image"]
    assert images.shape == (1797, 1, 8, 8)
    assert images.min() == 0 and images.max() == 1


def test_more_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="per_class=150"):
        write_few_digits(tmp_path, per_class=150)
