import io
import json
import tarfile
from pathlib import Path

import pytest

from audio_music.data.audio_files import Source
from audio_music.data.audio_splits import split_entries
from audio_music.data.labels import make_label
from audio_music.data.manifests import Entry, find_entries
from core.data.checks import DataError
from tests.audio_music.recordings import write_tones


def test_fairseq(tmp_path: Path) -> None:
    write_tones(tmp_path / "clips")
    for split, numbers in (("train", (0, 1, 2)), ("valid", (3,))):
        lines = [str(tmp_path / "clips"), *(f"tone_{n}.wav\t4000" for n in numbers)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    entries = find_entries(tmp_path)
    assert [entry.name for entry in entries] == [f"tone_{n}.wav" for n in range(4)]
    assert [entry.split for entry in entries] == ["train"] * 3 + ["valid"]
    assert all(entry.said == {"frames": 4000} for entry in entries)
    assert entries[0].source.path == tmp_path / "clips" / "tone_0.wav"
    (tmp_path / "train.tsv").write_text("clips\ntone_0.wav 4000\n")
    with pytest.raises(DataError, match=r"train\.tsv:2: (?s:.*)path<TAB>samples"):
        find_entries(tmp_path)
    (tmp_path / "train.tsv").write_text("tone_0.wav\t4000\n")
    with pytest.raises(DataError, match=r"train\.tsv:1: no folder"):
        find_entries(tmp_path)


def test_json_lines_as_marble_writes_them(tmp_path: Path) -> None:
    write_tones(tmp_path / "audio", 2)
    line = {"audio_path": "audio/tone_0.wav", "sample_rate": 8000, "num_samples": 4000}
    line |= {"label": ["happy", "loud"], "key": "C major", "artist": "A", "bit_depth": 16}
    (tmp_path / "Set.train.jsonl").write_text(json.dumps(line) + "\n")
    other = {"audio_path": "audio/tone_1.wav", "label": []}
    (tmp_path / "Set.val.jsonl").write_text(json.dumps(other) + "\n")
    first, second = find_entries(tmp_path)
    assert (first.split, first.group) == ("train", "A")
    assert first.said == {"rate": 8000, "frames": 4000}
    assert first.labels == {"label": ["happy", "loud"], "key": "C major", "artist": "A"}
    assert (second.split, second.labels) == ("valid", {"label": []})
    label = make_label("label", [first.labels["label"], second.labels["label"]], "")
    assert label.kind == "tags"
    assert label.present.tolist() == [[True, True], [False, False]]
    (tmp_path / "Set.val.jsonl").write_text('{"label": 3}\n')
    with pytest.raises(DataError, match=r"Set\.val\.jsonl:1: "):
        find_entries(tmp_path)


def test_what_tables_leave_behind(tmp_path: Path) -> None:
    """A mark of the byte order, NaN for what is not known, and text that is not UTF-8."""
    write_tones(tmp_path, 2)
    lines = [
        {"audio_path": "tone_0.wav", "artist": float("nan"), "tempo": float("nan"), "album": ""},
        {"audio_path": "tone_1.wav", "artist": "A", "tempo": 99.5, "album": "B"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "all.jsonl").write_text(text, "utf-8-sig")
    first, second = find_entries(tmp_path)
    assert (first.group, second.group) == (None, "A")
    assert first.labels == {"album": ""}
    (tmp_path / "all.jsonl").write_text('{"audio_path": "Dvořák.wav"}\n', "iso8859-2")
    with pytest.raises(DataError, match=r"all\.jsonl: cannot be read as text(?s:.*)UTF-8"):
        find_entries(tmp_path)
    (tmp_path / "all.jsonl").write_text('{"audio_path": null}\n')
    with pytest.raises(DataError, match=r"all\.jsonl:1: "):
        find_entries(tmp_path)


def test_maestro(tmp_path: Path) -> None:
    write_tones(tmp_path / "2004", 2)
    (tmp_path / "maestro-v3.0.0.csv").write_text(
        "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration\n"
        "Franz Liszt,Sonata,train,2004,2004/a.midi,2004/tone_0.wav,0.5\n"
        '"Bach, J. S.",Fugue,validation,2004,2004/b.midi,2004/tone_1.wav,0.5\n'
    )
    entries = find_entries(tmp_path)
    assert [entry.split for entry in entries] == ["train", "valid"]
    assert [entry.labels["composer"] for entry in entries] == ["Franz Liszt", "Bach, J. S."]
    assert [entry.group for entry in entries] == ["Sonata", "Fugue"]


def _shard(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as shard:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))


def test_shards(tmp_path: Path) -> None:
    write_tones(tmp_path / "clips", 3)
    sound = [(tmp_path / "clips" / f"tone_{n}.wav").read_bytes() for n in range(3)]
    shards = tmp_path / "shards"
    shards.mkdir()
    _shard(
        shards / "train-0000.tar",
        {"a.wav": sound[0], "a.json": b'{"key": "D minor"}', "b.wav": sound[1], "b.cls": b"7"},
    )
    _shard(shards / "test-0000.tar", {"c.json": b'{"group": "G"}', "c.wav": sound[2]})
    by_name = {entry.name: entry for entry in find_entries(shards)}
    assert by_name["a"].labels == {"key": "D minor"}
    assert by_name["b"].labels == {"label": "7"}
    assert (by_name["c"].split, by_name["c"].group) == ("test", "G")
    # As `tar cf train-0001.tar .` names them.
    _shard(shards / "train-0001.tar", {"./v1.0/d.WAV": sound[0], "./v1.0/d.cls": b"3"})
    (added,) = (entry for entry in find_entries(shards) if entry.name not in by_name)
    assert (added.name, added.labels) == ("v1.0/d", {"label": "3"})
    whole = (shards / "test-0000.tar").read_bytes()
    (shards / "test-0000.tar").write_bytes(whole[:6000])
    with pytest.raises(DataError, match=r"test-0000\.tar: truncated or damaged"):
        find_entries(shards)


def test_folders_classes_and_patterns(tmp_path: Path) -> None:
    write_tones(tmp_path / "train" / "low", 2)
    write_tones(tmp_path / "test" / "high", 1)
    entries = find_entries(tmp_path, pattern=r"(?P<what>[a-z]+)_(?P<group>\d)")
    assert [(e.split, e.group, e.labels) for e in entries] == [
        ("test", "0", {"label": "high", "what": "tone"}),
        ("train", "0", {"label": "low", "what": "tone"}),
        ("train", "1", {"label": "low", "what": "tone"}),
    ]
    with pytest.raises(DataError, match="not as the pattern says"):
        find_entries(tmp_path, pattern=r"\d+")
    with pytest.raises(DataError, match=r"data\.pattern=\*\.wav is no regular expression"):
        find_entries(tmp_path, pattern="*.wav")


def test_an_artist_in_the_names_is_a_group(tmp_path: Path) -> None:
    write_tones(tmp_path, 1)
    (tmp_path / "tone_0.wav").rename(tmp_path / "abba_1.wav")
    (tmp_path / "._abba_1.wav").write_bytes(b"\0\5\x16\7")  # what a Mac leaves on foreign drives
    (entry,) = find_entries(tmp_path, pattern=r"(?P<artist>[a-z]+)_\d")
    assert (entry.group, entry.labels) == ("abba", {"artist": "abba"})


def test_the_official_split_of_fsdd(tmp_path: Path) -> None:
    write_tones(tmp_path, 1)
    content = (tmp_path / "tone_0.wav").read_bytes()
    (tmp_path / "tone_0.wav").unlink()
    for take in (0, 4, 5, 9, 10, 49):
        (tmp_path / f"7_jackson_{take}.wav").write_bytes(content)
    entries = find_entries(tmp_path)
    said = {entry.name.split("_")[2].removesuffix(".wav"): entry.split for entry in entries}
    expected = {"0": "test", "4": "test", "5": "valid", "9": "valid", "10": "train", "49": "train"}
    assert said == expected
    assert entries[0].labels == {"digit": "7", "speaker": "jackson"}


def test_what_names_no_recording(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        find_entries(tmp_path / "none")
    with pytest.raises(DataError, match="names no recording"):
        find_entries(tmp_path)
    with pytest.raises(DataError, match=r"data\.format=mp4"):
        find_entries(tmp_path, "mp4")


def _entries(groups: list[str | None], splits: list[str | None] | None = None) -> list[Entry]:
    said = splits or [None] * len(groups)
    return [
        Entry(str(n), Source(Path(f"{n}.wav")), f"list:{n}", {}, split, group)
        for n, (group, split) in enumerate(zip(groups, said, strict=True))
    ]


def test_groups_are_in_one_split_each() -> None:
    groups = [f"artist {n % 20}" for n in range(200)]
    rows = split_entries(_entries(groups), ratios=(0.6, 0.2, 0.2), seed=3)
    assert [len(rows[split]) for split in ("train", "valid", "test")] == [120, 40, 40]
    seen = [{groups[row] for row in of.tolist()} for of in rows.values()]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    again = split_entries(_entries(groups), ratios=(0.6, 0.2, 0.2), seed=4)
    assert again["test"].tolist() != rows["test"].tolist()
    mixed = split_entries(_entries(groups), "random")
    assert {groups[r] for r in mixed["train"].tolist()} & {
        groups[r] for r in mixed["test"].tolist()
    }


def test_the_files_say_the_split() -> None:
    splits = ["train"] * 8 + ["test"] * 2
    rows = split_entries(_entries([str(n // 2) for n in range(10)], splits), valid_share=0.25)
    assert rows["test"].tolist() == [8, 9]
    assert len(rows["valid"]) == 2
    assert rows["valid"][1] == rows["valid"][0] + 1  # a whole group
    with pytest.raises(DataError, match="list:1: of no split"):
        split_entries(_entries(["a", "b"], ["train", None]))
    with pytest.raises(DataError, match="no recording is left to train on"):
        split_entries(_entries(["a"], ["test"]))
    with pytest.raises(DataError, match=r"data\.split=other"):
        split_entries(_entries(["a"]), "other")


def test_kinds_of_labels() -> None:
    label = make_label("genre", ["rock", None, "jazz"], "")
    assert (label.kind, label.names, label.numbers.tolist()) == (
        "classes",
        ("jazz", "rock"),
        [1, -1, 0],
    )
    assert make_label("pitch", [10, 9, 100], "").names == ("9", "10", "100")
    values = make_label("tempo", [120, 119.5, None], "")
    assert values.kind == "value"
    assert values.values.isnan().tolist() == [False, False, True]
    beats = make_label("beats", [[0.5, 1.0], []], "")
    assert beats.kind == "times"
    assert [of.tolist() for of in beats.times] == [[0.5, 1.0], []]
    with pytest.raises(DataError, match=r"a\.jsonl: the label key is"):
        make_label("key", ["C", 3.5], "a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl: the label about is no label"):
        make_label("about", [{"title": "A"}, None], "a.jsonl")
    with pytest.raises(DataError, match=r"do not ascend(?s:.*)a name each"):
        make_label("beats", [[1.0, 0.5]], "")
