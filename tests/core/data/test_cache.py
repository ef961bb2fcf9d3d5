from pathlib import Path

import pytest
import torch

from core.data.cache import cache_folder, cached


class Compute:
    """Counts its calls and returns other numbers at each."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"a": torch.arange(6).view(2, 3).T + self.calls, "b": torch.ones(2)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _only_file(folder: Path) -> Path:
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    return file


def test_the_second_call_reads_what_the_first_has_left(folder):
    compute = Compute()
    first, was_read = cached("graphs", "k=3", compute)
    assert not was_read
    again, was_read = cached("graphs", "k=3", compute)
    assert was_read
    assert compute.calls == 1
    assert again.keys() == first.keys()
    for name, tensor in first.items():
        assert torch.equal(again[name], tensor)
        assert again[name].dtype == tensor.dtype
    assert _only_file(folder).parent == folder / "graphs"


def test_another_key_is_computed(folder):
    compute = Compute()
    cached("graphs", "k=3", compute)
    other, was_read = cached("graphs", "k=4", compute)
    assert not was_read
    assert compute.calls == 2
    assert other["a"][0, 0] == 2
    assert cached("graphs", "k=3", compute)[0]["a"][0, 0] == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "folder"])
def test_a_damaged_file_is_computed_anew_and_replaced(folder, damage):
    compute = Compute()
    cached("graphs", "k=3", compute)
    file = _only_file(folder)
    content = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        damaged = {"cut": content[:-5], "flipped": flipped, "empty": b"", "text": b"x" * 99}
        file.write_bytes(damaged[damage])
    found, was_read = cached("graphs", "k=3", compute)
    assert not was_read
    assert found["a"][0, 0] == 2
    if damage != "folder":
        assert cached("graphs", "k=3", compute)[1]
        assert compute.calls == 2


def test_a_file_of_another_key_is_not_believed(folder):
    compute = Compute()
    cached("graphs", "k=3", compute)
    stale = _only_file(folder).read_bytes()
    cached("graphs", "k=4", compute)
    for file in (folder / "graphs").iterdir():
        file.write_bytes(stale)
    found, was_read = cached("graphs", "k=4", compute)
    assert not was_read
    assert found["a"][0, 0] == 3


def test_a_folder_that_cannot_be_written_costs_only_the_time(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("CONSILIENCE_CACHE", str(blocked / "cache"))
    compute = Compute()
    for _ in range(2):
        assert not cached("graphs", "k=3", compute)[1]
    assert compute.calls == 2


def test_without_the_variable_it_is_in_the_users_cache(monkeypatch):
    monkeypatch.delenv("CONSILIENCE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/consilience")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/.cache/consilience")
