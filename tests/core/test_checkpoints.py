import pickle
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoints import OURS, find_checkpoint, load_system, read_checkpoint
from core.data.checks import DataError
from tests.core.trainers.tiny import Tiny, TinyTask, tiny_data, train


@pytest.fixture
def run(tmp_path: Path) -> Path:
    train(tmp_path / "run", task=TinyTask([0.1, 0.3, 0.2]), config={"seed": 0})
    return tmp_path / "run"


def test_a_system_is_rebuilt_from_a_run_or_a_file(run: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    batch = {"x": tiny_data().x}
    outputs = []
    for path in (run, str(run), run / "checkpoints", best):
        system, config, choice = load_system(path)
        assert type(system) is Tiny
        assert not system.training
        assert config == {"seed": 0}
        assert choice == {"monitor": "valid/score", "best_score": 0.3, "best_epoch": 1, "epoch": 1}
        outputs.append(system.embed(batch)["series"])
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    saved = read_checkpoint(best)["state_dict"]
    assert saved["mean"].abs().sum() > 0
    assert all(torch.equal(value, saved[n]) for n, value in system.state_dict().items())
    assert load_system(run / "checkpoints" / "last.ckpt")[2]["epoch"] == 2


def test_arguments_that_were_not_the_defaults_come_back(tmp_path: Path) -> None:
    _, trained = train(tmp_path, system=lambda: Tiny(5, p=0.25), data=tiny_data(width=5))
    system = load_system(tmp_path / "checkpoints" / "last.ckpt")[0]
    assert (system.p, system.noise, system.hidden.in_features) == (0.25, 0.1, 5)
    x = {"x": tiny_data(width=5).x}
    assert torch.equal(system.embed(x)["series"], trained.eval().embed(x)["series"])


def test_the_last_where_there_is_no_best(run: Path) -> None:
    (run / "checkpoints" / "best.ckpt").unlink()
    assert find_checkpoint(run).name == "last.ckpt"
    assert load_system(run)[2]["epoch"] == 2


@pytest.mark.parametrize("kind", ["missing", "folder", "unfinished"])
def test_where_there_is_no_checkpoint(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind != "missing":
        (path / "checkpoints").mkdir(parents=True)
    if kind == "unfinished":
        (path / "checkpoints" / "last.ckpt.tmp").write_bytes(b"half")
    said = "no such file or folder" if kind == "missing" else "a folder without checkpoints"
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: {said}"):
        load_system(path)


def _refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_system(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert caught.value.path == path
    return message


@pytest.mark.parametrize("keep", [0, 1, 100, -1000])
def test_a_truncated_file(run: Path, keep: int) -> None:
    file = run / "checkpoints" / "best.ckpt"
    file.write_bytes(file.read_bytes()[:keep])
    assert "cannot be read as a checkpoint" in _refused(file)


def test_damaged_bytes(run: Path) -> None:
    file = run / "checkpoints" / "best.ckpt"
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    start = content.index(largest.filename.encode()) + 200
    content[start : start + 50] = bytes(50)
    file.write_bytes(content)
    assert "cannot be read as a checkpoint" in _refused(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"step,loss\n1,2\n", b"\x80\x02}q\x00.", b"PK\x03\x04", b"\x93NUMPY" + bytes(90)],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other.ckpt"
    file.write_bytes(content)
    _refused(file)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {}, "epoch": 3},
        {OURS: 3, "state_dict": {}},
        torch.zeros(3),
        [OURS],
        OURS,
        7,
        None,
    ],
)
def test_a_checkpoint_of_another_project(tmp_path: Path, content: object) -> None:
    file = tmp_path / "foreign.ckpt"
    torch.save(content, file)
    assert "not a checkpoint of this project" in _refused(file)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("plain_pickle", [False, True])
def test_code_in_a_file_does_not_run(tmp_path: Path, plain_pickle: bool) -> None:
    sprung, file = tmp_path / "sprung", tmp_path / "trap.ckpt"
    content = {OURS: {}, "state_dict": {"w": Trap(sprung)}}
    if plain_pickle:
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    message = _refused(file)
    assert "weights_only" not in message, "advice to run the code"
    assert not sprung.exists()
    # The trap is one: a reader that does not care springs it.
    if plain_pickle:
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert sprung.exists()


def _changed(run: Path, **entries: Any) -> Path:
    checkpoint = read_checkpoint(run)
    checkpoint[OURS] |= entries
    file = run / "changed.ckpt"
    torch.save(checkpoint, file)
    return file


def test_a_target_that_is_no_system_is_not_called(run: Path) -> None:
    sprung = run / "sprung"
    arguments = {"args": ["touch", str(sprung)]}
    message = _refused(_changed(run, target="subprocess.Popen", arguments=arguments))
    assert "subprocess.Popen, which is not a System" in message
    assert not sprung.exists()
    subprocess.Popen(**arguments).wait()
    assert sprung.exists()


@pytest.mark.parametrize("target", ["nowhere.Method", "tests.core.trainers.tiny.Gone", "", None, 3])
def test_a_target_that_is_not_there(run: Path, target: Any) -> None:
    assert f"its system {target} is not installed" in _refused(_changed(run, target=target))


@pytest.mark.parametrize(
    "arguments", [{"width": 4}, {"depth": 3}, {"width": "three"}, {"width": -1}]
)
def test_arguments_that_are_not_those_of_the_weights(run: Path, arguments: dict[str, Any]) -> None:
    _refused(_changed(run, arguments=arguments))


def test_entries_that_are_missing(run: Path) -> None:
    checkpoint = read_checkpoint(run)
    del checkpoint["state_dict"]
    torch.save(checkpoint, run / "less.ckpt")
    _refused(run / "less.ckpt")
    checkpoint = read_checkpoint(run)
    del checkpoint[OURS]["target"]
    torch.save(checkpoint, run / "less.ckpt")
    _refused(run / "less.ckpt")
