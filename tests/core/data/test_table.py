from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from core.data.checks import DataError
from core.data.samples import Samples, split_by_ratio
from core.data.table import check_table, load_table


def arrays(n: int = 30) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (n, 3, 4, 4)).astype(np.uint8),
        "audio": rng.normal(size=(n, 7)),
        "label": np.arange(n) % 3,
        "label_code": np.arange(n) % 2,
        "split": np.repeat(["train", "valid", "test"], n // 3),
        "id": np.array([f"row{i}" for i in range(n)]),
    }


def written(folder: Path, **changed: np.ndarray | None) -> Path:
    content = {k: v for k, v in (arrays() | changed).items() if v is not None}
    np.savez(folder / "table.npz", **content)
    return folder


def test_npz_becomes_samples(tmp_path: Path) -> None:
    samples = load_table(written(tmp_path))
    assert samples.shapes == {"image": [3, 4, 4], "audio": [7]}
    assert samples.inputs["image"].dtype == torch.uint8
    np.testing.assert_allclose(samples.inputs["audio"], arrays()["audio"].astype(np.float32))
    assert list(samples.labels) == ["label", "code"]
    assert samples.n_classes == {"label": 3, "code": 2}
    assert samples.splits["valid"].tolist() == list(range(10, 20))
    assert samples.ids[29] == "row29"


def test_parquet_gives_the_same_as_npz(tmp_path: Path) -> None:
    content = {k: v for k, v in arrays().items() if k not in ("image",)}
    frame = pl.DataFrame({k: v.tolist() if v.ndim > 1 else v for k, v in content.items()})
    frame.with_columns(age=pl.Series(range(30)), dose=pl.Series([0.5] * 30)).write_parquet(
        tmp_path / "table.parquet"
    )
    found = load_table(tmp_path / "table.parquet")
    expected = load_table(written(tmp_path, image=None) / "table.npz")
    torch.testing.assert_close(found.inputs["audio"], expected.inputs["audio"])
    assert found.splits["test"].tolist() == expected.splits["test"].tolist()
    assert found.inputs["table"].tolist() == [[float(i), 0.5] for i in range(30)]


def test_columns_of_a_split_are_its_rows(tmp_path: Path) -> None:
    samples = load_table(written(tmp_path))
    columns = samples.columns("valid")
    assert columns["index"].tolist() == list(range(10))
    torch.testing.assert_close(columns["audio"], samples.inputs["audio"][10:20])
    assert columns["label"].tolist() == [i % 3 for i in range(10, 20)]


def test_without_test_forgets_every_test_row(tmp_path: Path) -> None:
    samples = load_table(written(tmp_path, split=np.tile(["train", "test", "valid"], 10)))
    kept = samples.without_test()
    assert len(kept.splits["test"]) == 0
    for split in ("train", "valid"):
        before, after = samples.columns(split), kept.columns(split)
        assert all(torch.equal(before[name], after[name]) for name in before)
        rows = samples.splits[split].tolist()
        assert [kept.ids[i] for i in kept.splits[split].tolist()] == [samples.ids[i] for i in rows]
    assert len(kept.ids) == 20 == len(kept.inputs["audio"])


def test_a_class_that_only_the_test_split_has_keeps_its_place(tmp_path: Path) -> None:
    label = np.where(np.arange(30) == 29, 7, np.arange(30) % 3)
    samples = load_table(written(tmp_path, label=label))
    assert samples.without_test().n_classes["label"] == samples.n_classes["label"] == 8


def test_the_digest_sees_every_part(tmp_path: Path) -> None:
    digests = {load_table(written(tmp_path)).digest()}
    audio, label = arrays()["audio"].copy(), arrays()["label"].copy()
    audio[3, 3] += 1e-3
    label[4] = 0
    for change in ({"audio": audio}, {"label": label}, {"id": np.arange(30)}):
        digests.add(load_table(written(tmp_path, **change)).digest())
    assert len(digests) == 4


def test_a_split_by_ratio_divides_every_class_alike() -> None:
    labels = torch.tensor([0] * 100 + [1] * 40)
    splits = split_by_ratio(labels, 140, (0.7, 0.1, 0.2), seed=0)
    assert sorted(torch.cat(list(splits.values())).tolist()) == list(range(140))
    for split, counts in (("train", [70, 28]), ("valid", [10, 4]), ("test", [20, 8])):
        assert torch.bincount(labels[splits[split]]).tolist() == counts
    other = split_by_ratio(labels, 140, (0.7, 0.1, 0.2), seed=1)
    assert other["test"].tolist() != splits["test"].tolist()


def test_a_class_with_one_member_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="class 2 has one member"):
        split_by_ratio(torch.tensor([0, 0, 1, 1, 2]), 5, (0.6, 0.2, 0.2), seed=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"audio": np.zeros((7, 2))}, "different lengths .*audio: 7"),
        ({"audio": np.full((30, 2), np.nan)}, "audio: NaN or infinite values in 30 samples"),
        ({"audio": np.array(["a"] * 30)}, "audio is of <U1"),
        ({"label": np.linspace(0, 1, 30)}, "label is of float64"),
        ({"split": np.array(["train"] * 29 + ["dev"])}, "split says dev"),
        ({"split": np.array(["test"] * 30)}, "the training split is empty"),
        ({"id": np.zeros(30)}, "an id stands at several rows"),
        ({"image": None, "audio": None}, "no modality"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, changed: dict[str, np.ndarray | None], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        load_table(written(tmp_path, **changed))
    assert "table.npz" in str(error.value)
    assert message.split(" ")[0] in str(check_table(tmp_path).problems[0]) or ".*" in message


def test_a_truncated_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 tables"):
        load_table(tmp_path)
    file = written(tmp_path) / "table.npz"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"table.npz: cannot be read"):
        load_table(tmp_path)


def test_a_check_warns_of_what_is_unlikely_to_be_meant(tmp_path: Path) -> None:
    label = np.where(np.arange(30) == 0, 5, np.arange(30) % 3)
    audio = arrays()["audio"].copy()
    audio[:, 2] = 1.0
    report = check_table(written(tmp_path, label=label, audio=audio))
    assert report.problems == []
    assert any("one training sample alone in class 5" in w for w in report.warnings)
    assert any("no training sample of class 3, 4" in w for w in report.warnings)
    assert any("audio: 1 of 7 values never change" in w for w in report.warnings)


def test_samples_move_as_a_whole(tmp_path: Path) -> None:
    moved: Samples = load_table(written(tmp_path)).to(torch.device("meta"))
    tensors = [*moved.inputs.values(), *moved.labels.values(), *moved.splits.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
