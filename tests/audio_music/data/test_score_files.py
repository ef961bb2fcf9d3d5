import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from audio_music.data.score_files import Performance, Piece, read_piece, read_splits, write_piece
from core.data.checks import DataError
from core.data.findings import Findings


def piece(**changes: object) -> dict:
    spec = np.random.default_rng(0).random((92, 200)).astype(np.float32)
    onsets = np.array([[20, 150], [30, 170], [50, 230]])
    return {"perf": "one_tempo-1000_piano", "spec": spec, "o2c": onsets} | changes


def saved(folder: Path, performances: object, **others: object) -> Path:
    """As `numpy.savez` of MSMD's preparation: a list of dictionaries is pickled."""
    file = folder / "piece.npz"
    score = np.full((200, 400), 255, np.uint8)
    score[90:110, 10:-10] = 0
    np.savez(file, **{"unrolled_score": score, "performances": performances} | others)
    return file


def test_a_piece_is_read_as_it_was_written(tmp_path: Path):
    score = np.random.default_rng(1).integers(0, 255, (180, 500)).astype(np.uint8)
    one = Performance("slow", piece()["spec"], piece()["o2c"])
    write_piece(tmp_path, Piece("name", score, [one, one]))
    found = read_piece(tmp_path / "name.npz")
    assert found.name == "name"
    assert np.array_equal(found.score, score)
    assert [p.name for p in found.performances] == ["slow", "slow"]
    assert np.array_equal(found.performances[1].spectrogram, one.spectrogram)
    assert np.array_equal(found.performances[1].onsets, one.onsets)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_msmd_are_read(tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch):
    dump = pickle.dump
    monkeypatch.setattr(pickle, "dump", lambda x, f, **_: dump(x, f, protocol=protocol))
    file = saved(tmp_path, [piece(), piece(perf="two")])
    found = read_piece(file)
    assert [p.name for p in found.performances] == ["one_tempo-1000_piano", "two"]
    assert found.performances[0].onsets.tolist() == [[20, 150], [30, 170], [50, 230]]


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_no_code_in_a_file_is_run(tmp_path: Path):
    mark = tmp_path / "sprung"
    file = saved(tmp_path, [piece(perf=Trap(mark))])
    with pytest.raises(DataError, match=r"piece\.npz.*it would call posix\.mkdir"):
        read_piece(file)
    assert not mark.exists()


BROKEN = {
    "34 bands": piece(spec=np.ones((34, 200), np.float32)),
    "silence": piece(spec=np.zeros((92, 200), np.float32)),
    "NaN": piece(spec=np.full((92, 200), np.nan, np.float32)),
    r"onset 300 \(15.00 s\) lies outside of the 200 frames": piece(o2c=np.array([[300, 150]])),
    "notehead 401 lies outside of the 400 columns": piece(o2c=np.array([[20, 401]])),
    "notehead -1 lies outside": piece(o2c=np.array([[20, -1]])),
    r"o2c of shape \[3\]": piece(o2c=np.arange(3)),
    "o2c is empty": piece(o2c=np.zeros((0, 2), int)),
    "lacks `spec` or `o2c`": {"perf": "x"},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_performance_is_named(tmp_path: Path, reason: str):
    file = saved(tmp_path, [piece(perf="good"), BROKEN[reason]])
    with pytest.raises(DataError, match=reason) as raised:
        read_piece(file)
    assert raised.value.path == file
    findings = Findings(strict=False)
    assert [p.name for p in read_piece(file, findings).performances] == ["good"]
    assert len(findings.problems) == 1


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    saved(tmp_path, [piece()], unrolled_score=np.zeros((10, 10)))
    cut = tmp_path / "cut.npz"
    cut.write_bytes((tmp_path / "piece.npz").read_bytes()[:700])
    for name, reason in (
        ("text", "cannot be read"),
        ("other", "holds x"),
        ("piece", "lies in 0 to 0"),
        ("cut", "cannot be read"),
        ("absent", "no such file"),
    ):
        with pytest.raises(DataError, match=reason):
            read_piece(tmp_path / f"{name}.npz")


def test_members_of_another_order_are_read(tmp_path: Path):
    score = np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 50)
    file = saved(tmp_path, [piece(o2c=np.array([[3, 1]]))], unrolled_score=score)
    assert np.array_equal(read_piece(file).score, score)
    with zipfile.ZipFile(file) as archive:  # it was in Fortran's order
        header = np.lib.format.read_array_header_1_0
        member = io.BytesIO(archive.read("unrolled_score.npy"))
        np.lib.format.read_magic(member)
        assert header(member)[1]


def test_splits(tmp_path: Path):
    with pytest.raises(DataError, match="0 files that name the splits"):
        read_splits(tmp_path)
    (tmp_path / "all_split.yaml").write_text("train: [a, b]\nvalid: [c]\ntest: [d]\n")
    assert read_splits(tmp_path)[1] == {"train": ["a", "b"], "valid": ["c"], "test": ["d"]}
    (tmp_path / "other_split.yaml").write_text("train: [a]\n")
    with pytest.raises(DataError, match="2 files"):
        read_splits(tmp_path)
    assert read_splits(tmp_path, "all_split.yaml")[1]["valid"] == ["c"]
    with pytest.raises(DataError, match="lacks train or test"):
        read_splits(tmp_path, "other_split.yaml")
