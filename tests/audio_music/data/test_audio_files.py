import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_music.data.audio_files import Source, read_header, read_samples
from core.data.checks import DataError
from tests.audio_music.recordings import RATE, tone


@pytest.mark.parametrize(
    ("suffix", "subtype", "error"),
    [
        ("wav", "PCM_16", 0),
        ("flac", "PCM_16", 0),
        ("wav", "FLOAT", 0),
        ("ogg", "VORBIS", 0.1),
        ("mp3", "MPEG_LAYER_III", 0.1),
    ],
)
def test_a_part_is_what_the_whole_has_there(
    suffix: str, subtype: str, error: float, tmp_path: Path
) -> None:
    file = tmp_path / f"a.{suffix}"
    wave = tone(1.0)
    soundfile.write(file, wave, RATE, subtype=subtype)
    source = Source(file)
    header = read_header(source)
    assert (header.rate, header.channels) == (RATE, 1)
    assert header.is_whole == (subtype == "PCM_16")
    assert abs(header.frames - RATE) <= (0 if error == 0 else 2400)
    whole = read_samples(source)
    assert whole.dtype == np.float32
    part = read_samples(source, 3000, 500)
    np.testing.assert_allclose(part, whole[3000:3500], atol=1e-3 if error else 0)
    if not error:
        np.testing.assert_allclose(whole, wave, atol=1 / 32767)
    else:
        spectrum = np.abs(np.fft.rfft(whole[1000:7000]))
        assert spectrum.argmax() * RATE / 6000 == pytest.approx(440, abs=2)


def test_whole_numbers_stay_such(tmp_path: Path) -> None:
    numbers = np.array([0, 1, -1, 32767, -32768], np.int16)
    soundfile.write(tmp_path / "a.wav", numbers, RATE, subtype="PCM_16")
    found = read_samples(Source(tmp_path / "a.wav"), whole=True)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, numbers)


def test_a_member_of_a_shard_is_read_where_it_lies(tmp_path: Path) -> None:
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.flac", tone(0.5, 300 + number), RATE)
    with tarfile.open(tmp_path / "all.tar", "w") as shard:
        for number in range(2):
            shard.add(tmp_path / f"{number}.flac", f"{number}.flac")
    with tarfile.open(tmp_path / "all.tar") as shard:
        member = shard.getmember("1.flac")
    source = Source(tmp_path / "all.tar", member.offset_data, member.size, member.name)
    alone = Source(tmp_path / "1.flac")
    assert read_header(source) == read_header(alone)
    np.testing.assert_array_equal(read_samples(source, 700, 900), read_samples(alone, 700, 900))
    assert source.place.endswith("all.tar: 1.flac")


def test_channels_are_averaged_only_if_said(tmp_path: Path) -> None:
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], 1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, subtype="FLOAT")
    source = Source(tmp_path / "a.wav")
    np.testing.assert_allclose(read_samples(source, downmix=True), np.full(100, 0.125))
    with pytest.raises(DataError, match=r"a\.wav: 2 channels(?s:.*)data\.channels=downmix"):
        read_samples(source)


def test_what_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_bytes(b"these are words and no samples")
    with pytest.raises(DataError, match=r"empty\.wav: an empty file"):
        read_header(Source(tmp_path / "empty.wav"))
    with pytest.raises(DataError, match=r"text\.wav: cannot be read as audio"):
        read_header(Source(tmp_path / "text.wav"))
    with pytest.raises(DataError, match=r"none\.wav: no such file"):
        read_samples(Source(tmp_path / "none.wav"))


def test_a_wav_that_is_cut_off_is_told_by_its_header(tmp_path: Path) -> None:
    """libsndfile takes what is there for the whole."""
    file = tmp_path / "cut.wav"
    soundfile.write(file, np.zeros((4000, 2)), 8000, subtype="PCM_16")
    whole = file.read_bytes()
    assert read_header(Source(file)).frames == 4000
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"19\d\d samples, then it ends.*\n.*4000, as its header"):
        read_header(Source(file))
    # A header that was written to a pipe does not know.
    place = whole.index(b"data") + 4
    file.write_bytes(whole[:place] + b"\xff" * 4 + whole[place + 4 :])
    assert read_header(Source(file)).frames == 4000
