"""Recordings that stay in their files are heard as those that are held."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audio_music.data import sound_files
from audio_music.data.lines import Lines
from audio_music.data.scores import load_scores
from audio_music.data.snippet_views import AudioViews
from audio_music.data.sound_files import SoundFiles, read_sound_header
from audio_music.data.unpaired import read_wave
from core.augment.draws import Draws
from core.data.checks import DataError

# Rate, channels, kind of file.
FILES = ((22_050, 1, "wav"), (44_100, 2, "flac"), (48_000, 1, "wav"), (16_000, 1, "ogg"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    for number, (rate, channels, kind) in enumerate(FILES):
        wave = 0.2 * random.standard_normal((int(1.3 * rate) + number, channels))
        soundfile.write(path / f"{number}.{kind}", wave, rate)
    return path


def test_windows_are_those_of_whole_recordings(folder: Path):
    paths = sorted(folder.iterdir())
    files = SoundFiles.of([read_sound_header(path) for path in paths])
    held = Lines.of([read_wave(path)[None] for path in paths], torch.int16, margin=9000)
    assert files.lengths.tolist() == held.lengths.tolist()
    items = torch.arange(4).repeat(4)
    first = torch.tensor([0, 1, 12_345, 20_001]).repeat_interleave(4)
    first[8:12] -= torch.tensor([13_000, 0, 4, 14_000])  # some begin before the recording
    ours, expected = (of.windows(items, first, 9000, 0) for of in (files, held))
    assert ours.shape == (16, 1, 9000) and ours.dtype == torch.int16
    assert (ours.int() - expected.int()).abs().max() <= 1
    assert (files.one(2).int() - held.one(2).int()).abs().max() <= 1


def test_no_more_than_the_window_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    counts = []
    read = sound_files.read_samples

    def counted(source, start=0, count=-1, **how):
        counts.append(count)
        return read(source, start, count, **how)

    monkeypatch.setattr(sound_files, "read_samples", counted)
    files = SoundFiles.of([read_sound_header(path) for path in sorted(folder.iterdir())])
    files.windows(torch.arange(4), torch.full((4,), 8000), 2000, 0)
    for count, (rate, _, _) in zip(sorted(counts), sorted(FILES), strict=True):
        assert 0 < count < 2000 * rate / 22_050 + 4 * 320


def test_pre_training_sees_the_same_of_files_and_of_memory(scores: Path):
    held, files = (load_scores(scores, resident_mib=mib) for mib in (1024, 0))
    assert isinstance(held.unpaired["audio"], Lines)
    assert isinstance(files.unpaired["audio"], SoundFiles)
    assert (
        files.digest() != held.digest()
        and files.digest() == load_scores(scores, resident_mib=0).digest()
    )
    items = torch.arange(2)
    first, second = (
        AudioViews(data.unpaired["audio"], items)(Draws(3, 5, slice(0, 5), torch.device("cpu")))
        for data in (held, files)
    )
    torch.testing.assert_close(first, second)


def test_a_file_that_was_cut_off_is_named(folder: Path, tmp_path: Path):
    whole = folder / "0.wav"
    header = read_sound_header(whole)
    cut = tmp_path / "cut.wav"
    soundfile.write(cut, soundfile.read(whole)[0][:9000], 22_050)
    files = SoundFiles.of([header._replace(path=cut)])
    with pytest.raises(DataError, match=r"cut\.wav.*ends after 9000 samples"):
        files.windows(torch.zeros(1).long(), torch.tensor([5000]), 8000, 0)
