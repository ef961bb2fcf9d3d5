import pytest
import torch
from torch import Tensor

from audio_music.systems.code_teachers import AutoencoderTeacher, EncodecTeacher, KMeansTeacher
from core.data.checks import DataError
from tests.audio_music.recordings import RATE, Tones

HOP = 80


def _tone(pitch: float) -> Tensor:
    return 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(RATE) / RATE)[None]


def test_k_means_tells_pitches_and_loudness_apart() -> None:
    torch.manual_seed(0)
    teacher = KMeansTeacher(RATE, HOP, codebooks=2, codes=8, n_mels=16, window=256)
    teacher.fit(Tones().training_waves(24))
    low, high = teacher.encode(_tone(150)), teacher.encode(_tone(800))
    assert low.shape == (1, RATE // HOP, 2)
    # A steady tone has one code, apart from its ends, and another tone another.
    steady = low[0, 5:-5, 0].mode().values
    assert (low[0, 5:-5, 0] == steady).float().mean() > 0.9
    assert steady != high[0, 5:-5, 0].mode().values
    assert int(low.min()) >= 0 and int(low.max()) < 8
    batch = torch.cat([_tone(150), _tone(800)])
    assert torch.equal(teacher.encode(batch), torch.cat([low, high]))


def test_a_hop_that_parts_do_not_divide() -> None:
    with pytest.raises(DataError, match="3 windows in a hop of 80"):
        KMeansTeacher(RATE, HOP, parts=3)


def _autoencoder(steps: int) -> AutoencoderTeacher:
    torch.manual_seed(0)
    sizes = {"codebooks": 2, "codes": 16, "dim": 8, "channels": 4, "strides": (5, 4, 4)}
    return AutoencoderTeacher(RATE, HOP, steps=steps, lr=3e-3, **sizes)


def test_the_autoencoder_learns_and_then_stays() -> None:
    teacher, wave = _autoencoder(60), next(iter(Tones().training_waves(8)))
    before = float(teacher.loss(wave))
    teacher.fit(Tones().training_waves(24))
    assert float(teacher.loss(wave)) < 0.8 * before
    codes = teacher.encode(wave)
    assert codes.shape == (8, RATE // HOP, 2)
    # What the trainer does to all modules of the student moves nothing here.
    weights = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    teacher.encode(wave)
    teacher.loss(wave)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    with pytest.raises(DataError, match="for a hop of 100"):
        AutoencoderTeacher(RATE, 100)


_SMALL = {
    "sampling_rate": RATE,
    "num_filters": 2,
    "hidden_size": 8,
    "codebook_dim": 8,
    "codebook_size": 16,
    "num_lstm_layers": 1,
    "upsampling_ratios": [5, 4, 4],
    "target_bandwidths": [0.8, 1.6],
}


def test_encodec_with_weights_of_the_user(tmp_path) -> None:
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(1)
    published = EncodecModel(EncodecConfig(**_SMALL)).eval()
    published.save_pretrained(tmp_path)
    teacher = EncodecTeacher(RATE, HOP, str(tmp_path), bandwidth=0.8, config=_SMALL)
    assert (teacher.codebooks, teacher.codes) == (2, 16)
    teacher.fit([])
    wave = torch.randn(2, 1600)
    expected = published.encode(wave[:, None], bandwidth=0.8).audio_codes[0]
    assert torch.equal(teacher.encode(wave), expected.transpose(1, 2))
    assert teacher.encode(wave).shape == (2, 20, 2)


def test_encodec_without_weights_or_of_another_rate(tmp_path) -> None:
    teacher = EncodecTeacher(RATE, HOP, config=_SMALL)
    with pytest.raises(DataError, match=r"system\.teacher\.weights=DIR"):
        teacher.fit([])
    with pytest.raises(DataError, match="no such folder"):
        EncodecTeacher(RATE, HOP, str(tmp_path / "none"), config=_SMALL).fit([])
    with pytest.raises(DataError, match="cannot be read as weights of this codec"):
        EncodecTeacher(RATE, HOP, str(tmp_path), config=_SMALL).fit([])
    with pytest.raises(DataError, match="24000 Hz, 320 samples"):
        EncodecTeacher(16000, 320)
