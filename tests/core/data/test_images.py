import gzip
import io
import tarfile
from pathlib import Path

import pytest
import torch
from torchvision.io import encode_jpeg, encode_png

from core.data.checks import DataError
from core.data.digit_shards import write_digit_shards
from core.data.images import check_images, load_images

Member = tuple[str, bytes]


def picture(value: int, height: int = 6, width: int = 6) -> bytes:
    return bytes(encode_png(torch.full((3, height, width), value, dtype=torch.uint8)).numpy())


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def shard(file: Path, members: list[Member], mode: str = "w") -> None:
    with tarfile.open(file, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def samples_of(start: int, n: int) -> list[Member]:
    rows = range(start, start + n)
    return [m for i in rows for m in ((f"k{i}.png", picture(i)), (f"k{i}.cls", b"%d" % (i % 2)))]


def test_a_folder_of_classes_is_split_by_ratio(tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": picture(i) for name in ("cat", "dog") for i in range(10)}
    data = load_images(folder_of(tmp_path, files))
    assert data.classes["label"] == ["cat", "dog"]
    assert [len(data.splits[s]) for s in ("train", "valid", "test")] == [14, 2, 4]
    for row, name in enumerate(data.ids):
        assert data.labels["label"][row] == ["cat", "dog"].index(name.split("/")[0])
        assert data.inputs["image"][row].unique().tolist() == [int(Path(name).stem)]


def test_folders_named_like_splits_are_the_splits(tmp_path: Path) -> None:
    files = {
        f"{split}/{name}/{i}.png": picture(i)
        for split, n in (("train", 20), ("val", 3), ("test", 4))
        for name in "ab"
        for i in range(n)
    }
    data = load_images(folder_of(tmp_path, files))
    assert [len(data.splits[s]) for s in ("train", "valid", "test")] == [40, 6, 8]
    assert all(data.ids[row].startswith("val/") for row in data.splits["valid"].tolist())


def test_validation_is_taken_from_training_where_there_is_none(tmp_path: Path) -> None:
    shard(tmp_path / "train-000000.tar", samples_of(0, 40))
    shard(tmp_path / "test-000000.tar", samples_of(40, 10))
    data = load_images(tmp_path)
    assert [len(data.splits[s]) for s in ("train", "valid", "test")] == [36, 4, 10]
    assert torch.bincount(data.labels["label"][data.splits["valid"]]).tolist() == [2, 2]
    assert {data.ids[row] for row in data.splits["test"].tolist()} == {
        f"k{i}" for i in range(40, 50)
    }


def test_gzipped_shards_are_read_like_plain_ones(tmp_path: Path) -> None:
    plain, zipped = tmp_path / "plain", tmp_path / "zipped"
    for folder, name, mode in ((plain, "train-0.tar", "w"), (zipped, "train-0.tar.gz", "w:gz")):
        folder.mkdir()
        shard(folder / name, samples_of(0, 20), mode)
    assert load_images(plain).digest() == load_images(zipped).digest()


def test_a_jpeg_keeps_its_colours_and_its_orientation(tmp_path: Path) -> None:
    pixels = torch.zeros(3, 16, 16, dtype=torch.uint8)
    pixels[0, :8], pixels[2, :, 8:] = 200, 90
    content = bytes(encode_jpeg(pixels, quality=95).numpy())
    data = load_images(folder_of(tmp_path, {f"c/{i}.jpg": content for i in range(5)}))
    image = data.inputs["image"][0].float()
    for row, column in ((3, 3), (3, 12), (12, 3), (12, 12)):
        found, expected = image[:, row, column], pixels[:, row, column].float()
        assert (found - expected).abs().max() < 8


def test_size_scales_the_shorter_side_and_keeps_the_middle(tmp_path: Path) -> None:
    wide = torch.zeros(3, 20, 60, dtype=torch.uint8)
    wide[:, :, 20:40] = 255
    content = bytes(encode_png(wide).numpy())
    data = load_images(folder_of(tmp_path, {f"c/{i}.png": content for i in range(3)}), size=10)
    assert data.inputs["image"].shape == (3, 3, 10, 10)
    assert data.inputs["image"][0, 0, 5, 1:9].min() > 250


def test_the_written_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    write_digit_shards(tmp_path, size=8)
    data = load_images(tmp_path)
    assert [len(data.splits[s]) for s in ("train", "valid", "test")] == [1000, 200, 597]
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    for row in (0, 700, 1796):
        number = int(data.ids[row].removeprefix("digit"))
        expected = torch.from_numpy(pixels[number].reshape(8, 8) / 16 * 255)
        assert (data.inputs["image"][row, 0] - expected).abs().max() <= 0.5
        assert data.labels["label"][row] == labels[number]


def truncated(root: Path, where: float) -> Path:
    shard(root / "train-0.tar", samples_of(0, 30))
    content = (root / "train-0.tar").read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 if where == 1 else int(len(content) * where)
    (root / "train-0.tar").write_bytes(content[:end])
    return root


@pytest.mark.parametrize("where", [0.3, 0.5, 1])
def test_a_truncated_shard_is_named(tmp_path: Path, where: float) -> None:
    with pytest.raises(DataError, match=r"train-0.tar: truncated or damaged"):
        load_images(truncated(tmp_path, where))


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", samples_of(0, 30))
    whole = gzip.compress((tmp_path / "train-0.tar").read_bytes())
    (tmp_path / "train-0.tar").unlink()
    (tmp_path / "train-0.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-0.tar.gz: truncated or damaged"):
        load_images(tmp_path)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    files = {f"c/{i}.png": picture(i) for i in range(5)} | {"c/7.png": b"no picture at all"}
    with pytest.raises(DataError, match=r"c/7.png: cannot be decoded"):
        load_images(folder_of(tmp_path, files))
    (tmp_path / "s").mkdir()
    shard(tmp_path / "s" / "train-0.tar", [*samples_of(0, 3), ("bad.png", picture(1)[:20])])
    report = check_images(tmp_path / "s")
    assert "train-0.tar: bad.png: cannot be decoded" in str(report.problems[0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/1.png": picture(1), "a/2.png": picture(1, 9, 9)}, "images of 2 sizes.*6 x 6"),
        (
            {"a/1.png": picture(1), "b/1.png": picture(1), "b/2.png": picture(1)},
            r"0 \(a\) has one member",
        ),
        ({"train/a/1.png": picture(1), "test/a/notes.txt": b""}, "the test split has no images"),
        ({"notes.txt": b""}, "no images"),
        (
            {"classes.txt": b"cat\n", "cat/1.png": picture(1), "dog/1.png": picture(1)},
            "classes.txt: classes without a line: dog",
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataError, match=message.replace(".txt", r"\.txt")) as error:
        load_images(folder_of(tmp_path, files))
    assert len(str(error.value).splitlines()) > 1, "says what to do"


def test_a_number_beyond_the_named_classes_is_refused(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", [("a.png", picture(1)), ("a.cls", b"3")])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="a label is 3"):
        load_images(tmp_path)


def test_a_sample_without_an_image_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", [*samples_of(0, 2), ("lost.cls", b"1")])
    with pytest.raises(DataError, match=r"train-0.tar: sample 'lost' holds .cls"):
        load_images(tmp_path)
