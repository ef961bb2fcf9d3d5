import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audio_music.data.crop_loader import CropLoader
from audio_music.data.read_recordings import load_recordings
from audio_music.data.recordings import Recordings
from core.data.checks import DataError
from tests.audio_music.recordings import RATE, tone, write_tones


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six recordings of 0.3 to 2.3 s, two of them at twice the rate."""
    lines = []
    for number in range(6):
        rate = RATE * (1 + number % 3 // 2)
        seconds = 0.3 + 0.4 * number
        wave = tone(seconds, 300 + 50 * number, rate)
        soundfile.write(tmp_path / f"{number}.wav", wave, rate, subtype="PCM_16")
        split = "valid" if number == 4 else "train"
        line = {"audio_path": f"{number}.wav", "split": split, "label": str(number % 2)}
        lines.append(json.dumps(line | {"group": f"g{number}"}))
    (tmp_path / "all.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def _read(folder: Path, **changes: object) -> Recordings:
    settings = {"rate": RATE, "seconds": 0.5, "workers": 0, "device": "cpu"}
    return load_recordings(folder, **settings | changes)


def test_what_was_read(folder: Path) -> None:
    data = _read(folder)
    assert data.ids == [f"{n}.wav" for n in range(6)]
    assert data.whole and data.pads and data.rates == [RATE, 2 * RATE]
    assert {name: len(rows) for name, rows in data.splits.items()} == {
        "train": 5,
        "valid": 1,
        "test": 0,
    }
    assert data.labels["label"].names == ("0", "1")
    assert data.resident.dtype == torch.int16
    # 0.3 and 0.7 s are one crop of 0.5 s each, 1.1, 1.5 and 2.3 s two, three and four.
    assert data.crops_of("train").tolist() == [0, 1, 2, 2, 3, 3, 3, 5, 5, 5, 5]


def test_files_of_another_rate_are_resampled(folder: Path) -> None:
    data = _read(folder)
    windows = [data.windows_of(row)[0] for row in (1, 2)]
    batch = data.at_rate(data.raw(windows), data.crop, False)["wave"]
    assert batch.dtype == torch.float32
    for row, pitch in ((0, 350), (1, 400)):
        spectrum = torch.fft.rfft(batch[row] * torch.hann_window(4000)).abs()
        assert abs(int(spectrum.argmax()) * RATE / 4000 - pitch) <= 2
    # In the middle, where the filter has both sides, it is the same tone at the lower rate.
    expected = tone(1.1, 400, RATE)[500:3500]
    np.testing.assert_allclose(batch[1, 500:3500], expected, atol=2e-3)


def test_short_recordings_are_padded_and_say_how_long_they_are(folder: Path) -> None:
    data = _read(folder)
    loader = CropLoader(data, 11, seed=0)
    (batch,) = list(loader)
    assert batch["wave"].shape == (11, 4000)
    assert sorted(batch["samples"].tolist()) == [2400, *[4000] * 10]
    row = int((batch["samples"] == 2400).nonzero())
    assert not batch["wave"][row, 2400:].any()
    assert batch["label"][row] == 0 and batch["index"][row] == 0


def test_windows_cover_a_recording(folder: Path) -> None:
    data = _read(folder)
    windows = data.windows_of(5)
    assert [(w.start, w.count) for w in windows] == [
        (0, 8000),
        (8000, 8000),
        (16000, 8000),
        (24000, 8000),
        (32000, 4800),
    ]
    # 0.1 s of 0.5 is less than a quarter, and all there is of a recording is never left out.
    assert len(data.windows_of(2)) == 2
    assert len(data.windows_of(0)) == 1
    seen = {}
    for some, batch in data.window_batches(range(6)):
        for number, window in enumerate(some):
            of = batch["wave"][number]
            size = int(batch["samples"][number]) if "samples" in batch else len(of)
            seen[window] = of[:size]
    first = torch.cat([seen[w] for w in data.windows_of(3)])
    np.testing.assert_allclose(first, tone(1.5, 450), atol=1e-4)


def _stream(data: Recordings, epochs: int = 2, **loader: object) -> list[dict[str, torch.Tensor]]:
    made = CropLoader(data, 4, seed=5, **loader)
    return [batch for _ in range(epochs) for batch in made]


def test_batches_are_the_same_from_files_and_from_memory(folder: Path) -> None:
    memory, files = _read(folder), _read(folder, resident_mib=0)
    assert files.resident is None
    ours, theirs = _stream(memory), _stream(files)
    assert len(ours) == len(theirs) == 6
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, column in one.items():
            torch.testing.assert_close(column, other[name], msg=name)
    # Crops begin elsewhere in the next epoch.
    first = torch.cat([batch["wave"] for batch in ours[:3]]).abs().sum(1).sort().values
    second = torch.cat([batch["wave"] for batch in ours[3:]]).abs().sum(1).sort().values
    assert not torch.allclose(first, second)


def test_worker_processes_give_the_same(folder: Path) -> None:
    alone = _stream(_read(folder, resident_mib=0), epochs=1)
    shared = _stream(_read(folder, resident_mib=0, workers=2), epochs=1)
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one["wave"], other["wave"])


@pytest.mark.parametrize("resident_mib", [0, 64])
def test_the_stream_goes_on_from_a_saved_place(folder: Path, resident_mib: int) -> None:
    data = _read(folder, resident_mib=resident_mib)
    whole = _stream(data)
    loader = CropLoader(data, 4, seed=5)
    stream = iter(loader)
    for _ in range(2):
        next(stream)
    again = CropLoader(data, 4, seed=5)
    again.load_state_dict(loader.state_dict())
    rest = [batch for _ in range(2) for batch in again]
    for one, other in zip(rest, whole[2:], strict=True):
        assert torch.equal(one["wave"], other["wave"])
    with pytest.raises(DataError, match="seed was 5 and is now 6"):
        CropLoader(data, 4, seed=6).load_state_dict(loader.state_dict())


@pytest.mark.parametrize("resident_mib", [0, 64])
def test_processes_share_the_batches_of_one(folder: Path, resident_mib: int) -> None:
    data = _read(folder, resident_mib=resident_mib)
    whole = _stream(data, 1)
    parts = [_stream(data, 1, rank=rank, world_size=2) for rank in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([share["wave"] for share in shares]), batch["wave"])


def test_training_waves_are_of_one_length_each(folder: Path) -> None:
    waves = list(_read(folder).training_waves(100))
    assert sum(len(wave) for wave in waves) == 11
    assert waves[0].shape[1] == 2400  # of the shortest


def test_training_never_sees_the_test_recordings(folder: Path) -> None:
    text = (
        (folder / "all.jsonl")
        .read_text()
        .replace('"5.wav", "split": "train"', '"5.wav", "split": "test"')
    )
    (folder / "all.jsonl").write_text(text)
    for resident_mib in (0, 64):
        data = _read(folder, resident_mib=resident_mib)
        kept = data.without_test()
        assert kept.ids == [f"{n}.wav" for n in range(5)]
        assert len(kept.splits["test"]) == 0
        assert kept.labels["label"].numbers.tolist() == [0, 1, 0, 1, 0]
        window = kept.windows_of(4)[0]
        same = data.at_rate(data.raw([data.windows_of(4)[0]]), data.crop, False)["wave"]
        assert torch.equal(kept.at_rate(kept.raw([window]), kept.crop, False)["wave"], same)
        assert kept.digest() != data.digest()


def test_the_digest_follows_what_was_read(folder: Path) -> None:
    data = _read(folder)
    assert _read(folder).digest() == data.digest()
    assert _read(folder, seconds=0.6).digest() != data.digest()
    soundfile.write(folder / "0.wav", tone(0.3, 301), RATE, subtype="PCM_16")
    assert _read(folder).digest() != data.digest()


def test_a_file_that_ends_before_its_header_says(tmp_path: Path) -> None:
    write_tones(tmp_path, 3)
    data = _read(tmp_path, resident_mib=0, ratios=(1.0, 0.0, 0.0))
    content = (tmp_path / "tone_1.wav").read_bytes()
    (tmp_path / "tone_1.wav").write_bytes(content[:2000])
    with pytest.raises(DataError, match=r"tone_1\.wav: ends after (?s:.*)4000, as its header says"):
        list(CropLoader(data, 3, seed=0))


def test_what_the_reader_refuses(folder: Path) -> None:
    with pytest.raises(DataError, match=r"2\.wav: 16000 samples a second"):
        _read(folder, file_rate=RATE)
    with pytest.raises(DataError, match=r"data\.channels=left"):
        _read(folder, channels="left")
    for key, value in (("seconds", 0), ("rate", 0), ("workers", -1)):
        with pytest.raises(DataError, match=f"data.{key}={value}"):
            _read(folder, **{key: value})
    with pytest.raises(DataError, match="no recording can be used"):
        _read(folder, min_seconds=10)
    (folder / "all.jsonl").write_text('{"audio_path": "0.wav", "num_samples": 5}\n')
    with pytest.raises(DataError, match=r"0\.wav: 2400 samples(?s:.*)5, as .*all\.jsonl:1 says"):
        _read(folder)


def test_samples_and_labels_move_to_a_device_and_rows_stay(folder: Path) -> None:
    moved = _read(folder).to(torch.device("meta"))
    label = moved.labels["label"]
    for on in (moved, moved.resident, label.numbers, label.known):
        assert on.device.type == "meta"
    assert moved.splits["train"].device.type == "cpu"
