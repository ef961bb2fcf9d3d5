from pathlib import Path

import numpy as np
import pytest
import torch

from audio_music.data.audio_checks import check_recordings
from audio_music.data.crop_loader import CropLoader
from audio_music.data.read_recordings import load_recordings
from audio_music.systems.mert import MERT
from core.augment.draws import Draws
from core.data.checks import DataError
from tests.audio_music.recordings import RATE, TINY, write_tones

HOW = {"codes": "encodec", "label_rate": 100.0, "rate": RATE, "seconds": 0.25, "workers": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four recordings of half a second; code k of frame t of recording n is n + 4 k + t % 2."""
    write_tones(tmp_path / "clips", 4)
    lines = [str(tmp_path / "clips"), *(f"tone_{n}.wav\t4000" for n in range(4))]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    for k in range(2):
        rows = [" ".join(str((n + 4 * k + t % 2) % 8) for t in range(50)) for n in range(4)]
        (tmp_path / f"train.encodec_{k}").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize("resident_mib", [0, 64])
def test_codes_are_cut_with_the_wave(folder: Path, resident_mib: int) -> None:
    data = load_recordings(folder, valid_share=0, device="cpu", resident_mib=resident_mib, **HOW)
    assert [of.shape for of in data.codes] == [(50, 2)] * 4
    for batch in CropLoader(data, 8, seed=0):
        assert batch["codes"].shape == (8, 25, 2)
        row = batch["index"]
        first = batch["codes"][:, :, 0]
        assert torch.equal(first.amin(1), row) and torch.equal(first.amax(1), row + 1)
        assert torch.equal(batch["codes"][:, :, 1], (first + 4) % 8)
    window = data.random_window(1, 0.999)
    assert window.start == 1998
    assert data.codes_of(window)[:3, 0].tolist() == [2, 1, 2]  # from frame round(24.975)


def test_the_objective_predicts_the_codes_that_came(folder: Path) -> None:
    data = load_recordings(folder, valid_share=0, device="cpu", **HOW)
    teacher = {"_target_": "audio_music.systems.code_teachers.GivenCodes"}
    torch.manual_seed(0)
    still = {"dropout": 0.0, "attention_dropout": 0.0, "layer_drop": 0.0}
    given = MERT(RATE, **TINY | still | {"teacher": teacher | {"codebooks": 2, "codes": 8}})
    given.prepare(data)
    (batch,) = CropLoader(data, 8, seed=0)
    batch |= given.draw(batch, Draws(0, 8, slice(0, 8), torch.device("cpu")))
    first = given.objective(batch)["codes"]
    unmasked = torch.nn.functional.pad(~batch["mask"], (0, 1))
    missing = batch | {"codes": batch["codes"].masked_fill(unmasked[..., None], -1)}
    torch.testing.assert_close(given.objective(missing)["codes"], first)
    other = given.objective(batch | {"codes": 7 - batch["codes"]})["codes"]
    assert not torch.isclose(other, first)
    with pytest.raises(DataError, match=r"data\.codes=encodec"):
        given.objective({k: v for k, v in batch.items() if k != "codes"})
    small = MERT(RATE, **TINY | {"teacher": teacher | {"codebooks": 2, "codes": 7}})
    with pytest.raises(DataError, match="codes up to 7 of 2 codebooks"):
        small.prepare(data)


def test_codes_that_are_not_of_the_recording(folder: Path) -> None:
    file = folder / "train.encodec_1"
    lines = file.read_text().splitlines()
    for k in range(2):
        changed = [line[: 2 * 40 - 1] if n == 2 else line for n, line in enumerate(lines)]
        (folder / f"train.encodec_{k}").write_text("\n".join(changed) + "\n")
    (problem,) = check_recordings(folder, **HOW).problems
    assert "train.tsv:4: 40 codes for 0.50 s of audio" in str(problem)
    assert "50, 100 a second" in str(problem)
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"train\.encodec_0:3: 40, 50 codes of one recording"):
        load_recordings(folder, **HOW)
    file.write_text("\n".join([*lines[:3], "1 2 x"]) + "\n")
    with pytest.raises(DataError, match=r"train\.encodec_1:4: '1 2 x'"):
        load_recordings(folder, **HOW)
    file.write_text("\n".join(lines[:3]) + "\n")
    with pytest.raises(DataError, match=r"train\.encodec_1: 3 lines"):
        load_recordings(folder, **HOW)
    with pytest.raises(DataError, match=r"neither train\.km_0 nor train\.km"):
        load_recordings(folder, **HOW | {"codes": "km"})
    with pytest.raises(DataError, match=r"data\.codes=encodec beside folder"):
        load_recordings(folder / "clips", **HOW)


def test_codes_end_with_the_recording() -> None:
    from audio_music.data.code_files import cut_codes

    codes = np.arange(6, dtype=np.int16).reshape(3, 2)
    assert cut_codes(codes, 2, 3).tolist() == [[4, 5], [-1, -1], [-1, -1]]
