import gzip
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import Tensor
from torchvision.io import encode_png

from core.augment.images import SimCLRViews
from core.checkpoints import read_checkpoint
from core.data import images
from core.data.checks import DataError
from core.data.encoded_images import EncodedImage
from core.data.images import check_images, load_images
from core.data.samples import Samples
from core.data.stored_rows import StoredRows
from core.systems.multistage_cl import MultistageCL
from core.systems.simclr import SimCLR
from core.tasks.probing import Probing
from core.trainers import fit
from core.trainers.checkpointing import Checkpoints
from tests.core.data.test_images import Member, folder_of, picture, samples_of, shard

MLP = {"_target_": "core.encoders.mlp.MLP", "hidden": [16], "dim": 8}
LAYOUTS = pytest.mark.parametrize("layout", ["folder", "tar", "tar.gz"])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))


def noise(seed: int) -> bytes:
    pixels = torch.randint(256, (3, 6, 6), generator=torch.Generator().manual_seed(seed))
    return bytes(encode_png(pixels.byte()).numpy())


def written(root: Path, layout: str) -> Path:
    """53 training and 10 test images of two classes; the shards are of several sizes."""
    rows = {"train": range(53), "test": range(53, 63)}
    if layout == "folder":
        files = {f"{s}/{'ab'[i % 2]}/{i}.png": noise(i) for s, of in rows.items() for i in of}
        return folder_of(root, files)
    root.mkdir()
    mode = "w:gz" if layout == "tar.gz" else "w"
    for name, part in (
        ("train-0", range(20)),
        ("train-1", range(20, 53)),
        ("test-0", rows["test"]),
    ):
        members: list[Member] = []
        for i in part:
            members += [(f"k{i}.cls", b"%d" % (i % 2)), (f"k{i}.PNG", noise(i))]
        shard(root / f"{name}.{layout}", members, mode)
    return root


def both(root: Path, layout: str, workers: int = 0) -> tuple[Samples, Samples]:
    path = written(root, layout)
    return load_images(path), load_images(path, stream=True, workers=workers)


def batches(
    data: Samples, rank: int = 0, world: int = 1, given: int = 0
) -> list[dict[str, Tensor]]:
    task = Probing(SimCLRViews())
    system = SimCLR.of(task.system_arguments(data), encoder=MLP)
    loader = task.train_loader(system, data.without_test(), 8, 3, rank, world)
    loader.load_state_dict(loader.state_dict() | {"batches_given": given})
    return list(loader)


@LAYOUTS
def test_streamed_samples_are_those_in_memory(tmp_path: Path, layout: str) -> None:
    whole, streamed = both(tmp_path / "images", layout)
    column = streamed.inputs["image"]
    assert isinstance(column, StoredRows)
    assert streamed.ids == whole.ids and streamed.shapes == whole.shapes
    assert torch.equal(streamed.labels["label"], whole.labels["label"])
    for split, rows in whole.splits.items():
        assert torch.equal(streamed.splits[split], rows)
        taken = column.take(rows)
        assert torch.equal(
            taken.index_select(0, torch.arange(len(rows))), whole.inputs["image"][rows]
        )
    again = load_images(tmp_path / "images", stream=True)
    assert again.digest() == streamed.digest() != streamed.without_test().digest()


@LAYOUTS
@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_is_that_of_images_in_memory(tmp_path: Path, layout: str, workers: int) -> None:
    whole, streamed = both(tmp_path / "images", layout, workers)
    expected, found = batches(whole), batches(streamed)
    assert len(found) == 6
    for a, b in zip(expected, found, strict=True):
        assert set(a) == set(b)
        for name in a:
            assert torch.equal(a[name], b[name]), name
    # The epoch goes on where a run was cut, on each of two processes with its share.
    shares = [batches(streamed, rank, 2, given=4) for rank in range(2)]
    for a, parts in zip(expected[4:], zip(*shares, strict=True), strict=True):
        assert torch.equal(torch.cat([part["index"] for part in parts]), a["index"])
        assert torch.equal(torch.cat([part["views"] for part in parts], 1), a["views"])


def test_a_streamed_run_killed_within_an_epoch_ends_as_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, streamed = both(tmp_path / "images", "tar", workers=1)
    task = Probing(SimCLRViews(), k=3)

    def train(data: Samples, folder: str, resume: Path | None = None) -> dict:
        torch.manual_seed(0)
        system = SimCLR.of(task.system_arguments(data), encoder=MLP)
        options = {"max_epochs": 2, "batch_size_global": 8, "checkpoint_every_n_steps": 1}
        fit(system, data, task, tmp_path / folder, progress=False, resume=resume, **options)
        return read_checkpoint(tmp_path / folder / "checkpoints" / "last.ckpt")

    expected = train(whole, "whole")

    def killed(self: Checkpoints, trainer, *args) -> None:
        write(self, trainer, *args)
        if trainer.global_step == 9:
            raise InterruptedError

    write = Checkpoints.on_train_batch_end
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", killed)
        with pytest.raises(InterruptedError):
            train(streamed, "streamed")
    last = tmp_path / "streamed" / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["global_step"] == 9, "within the second epoch of 6"
    found = train(streamed, "streamed", last)
    assert found["global_step"] == expected["global_step"] == 12
    for name, weight in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], weight), name
    system = SimCLR.of(task.system_arguments(whole), encoder=MLP).eval()
    scores = [task.evaluate(system, data, "test").metrics for data in (whole, streamed)]
    assert scores[0] == scores[1]


def test_stages_cluster_streamed_images_as_those_in_memory(tmp_path: Path) -> None:
    whole, streamed = both(tmp_path / "images", "tar", workers=1)
    task = Probing(SimCLRViews(), k=3)
    found = []
    for data, folder in ((whole, "whole"), (streamed, "streamed")):
        torch.manual_seed(0)
        sizes = task.system_arguments(data.without_test())
        system = MultistageCL.of(sizes, encoder=MLP, n_stages=2, n_clusters=2)
        options = {"max_epochs": 2, "batch_size_global": 8, "validate_every": 2}
        fit(system, data, task, tmp_path / folder, progress=False, **options)
        found.append(system)
    assert found[1].clusters.unique().tolist() == [0, 1]
    for a, b in zip(found[0].state_dict().values(), found[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_what_does_not_fit_is_streamed_unless_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "images", "tar")
    # 63 images are 6,804 bytes; half of the memory is 6,500, then 7,000.
    room = SimpleNamespace(available=13_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: room)
    with pytest.raises(DataError, match=r"half of the free memory(?s:.*)data.stream"):
        load_images(path, stream=False)
    with pytest.warns(UserWarning, match="read in training"):
        assert isinstance(load_images(path).inputs["image"], StoredRows)
    room.available = 14_000
    assert isinstance(load_images(path).inputs["image"], Tensor)


@pytest.mark.parametrize("layout", ["folder", "tar"])
def test_that_it_will_not_fit_is_known_from_the_first_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    path = written(tmp_path / "images", layout)
    monkeypatch.setattr(images, "_TOGETHER", 8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    decoded: list[str] = []

    def count(self: EncodedImage, size: int | None) -> Tensor:
        decoded.append(self.name)
        return decode(self, size)

    decode = EncodedImage.decoded
    monkeypatch.setattr(EncodedImage, "decoded", count)
    with pytest.raises(DataError, match=r"half of the free memory"):
        load_images(path, stream=False)
    assert len(decoded) <= 16


def test_streamed_shards_that_are_cut_off_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", samples_of(0, 30))
    content = (tmp_path / "train-0.tar").read_bytes()
    for cut in (len(content) // 3, len(content.rstrip(b"\0")) // 512 * 512):
        (tmp_path / "train-0.tar").write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"train-0.tar: truncated or damaged"):
            load_images(tmp_path, stream=True)
    (tmp_path / "train-0.tar").unlink()
    whole = gzip.compress(content)
    for packed in (whole[: len(whole) // 2], b"not packed at all"):
        (tmp_path / "train-0.tar.gz").write_bytes(packed)
        with pytest.raises(DataError, match=r"train-0.tar.gz: truncated or damaged"):
            load_images(tmp_path, stream=True)
    assert not list((tmp_path / "cache").rglob("*.tar*")), "nothing half unpacked is left"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_a_batch_is_named(tmp_path: Path, workers: int) -> None:
    good = [m for i in range(40) for m in ((f"{i}.png", picture(i)), (f"{i}.cls", b"0"))]
    shard(tmp_path / "train-0.tar", [*good, ("bad.png", picture(1)[:20]), ("bad.cls", b"0")])
    data = load_images(tmp_path, stream=True, workers=workers, valid_share=0)
    with pytest.raises(DataError, match=r"train-0.tar: bad.png: cannot be decoded"):
        batches(data)
    for stream in (True, False):
        (problem,) = check_images(tmp_path, stream=stream).problems
        assert "bad.png: cannot be decoded" in str(problem)
    shard(tmp_path / "train-0.tar", [*good, ("wide.png", picture(1, 6, 9)), ("wide.cls", b"0")])
    (problem,) = check_images(tmp_path, stream=True).problems
    assert "wide.png: images of several sizes, such as 6 x 6 and 6 x 9" in str(problem)
    assert not check_images(tmp_path, size=6, stream=True).problems
