from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from audio_music.data.lines import Lines
from audio_music.data.score_files import Performance, Piece, read_piece, write_piece
from audio_music.data.scores import SheetMusic, load_scores
from audio_music.data.snippet_views import AudioViews, PairViews, SheetViews
from audio_music.data.snippets import MARGIN, strip
from audio_music.data.unpaired import read_system
from core.augment.draws import Draws
from core.data.checks import DataError


@pytest.fixture(scope="module")
def data(scores: Path) -> SheetMusic:
    return load_scores(scores)


def draws(n: int, own: slice | None = None, seed: int = 0) -> Draws:
    return Draws(seed, n, own or slice(0, n), torch.device("cpu"))


def test_windows_are_slices_and_filled_beyond_the_ends():
    arrays = [np.arange(2 * n).reshape(2, n) + 100 * n for n in (7, 3, 12)]
    lines = Lines.of(arrays, torch.int64, margin=10)
    items, first = torch.tensor([0, 1, 2, 2, 0]), torch.tensor([2, -4, 9, 3, -9])
    found = lines.windows(items, first, 6, -1)
    for row, (item, start) in enumerate(zip(items.tolist(), first.tolist(), strict=True)):
        padded = np.pad(arrays[item], ((0, 0), (10, 10)), constant_values=-1)
        assert np.array_equal(found[row].numpy(), padded[:, start + 10 : start + 16])
    some = lines.only(torch.tensor([2, 0]))
    assert torch.equal(some.one(1), lines.one(0))
    assert torch.equal(
        some.windows(torch.tensor([0]), torch.tensor([5]), 9, -1),
        lines.windows(torch.tensor([2]), torch.tensor([5]), 9, -1),
    )


def test_pairs_are_cut_from_the_files(data: SheetMusic, scores: Path):
    for row in (0, len(data.piece) // 2, len(data.piece) - 1):
        piece = read_piece(scores / f"{data.pieces[int(data.piece[row])]}.npz")
        column, frame = int(data.column[row]), int(data.frame[row, 0])
        assert [frame, column] in piece.performances[0].onsets.tolist()
        pair = data.pairs(torch.tensor([row]))
        score = strip(piece.score)[MARGIN:-MARGIN, column - 100 : column + 100] / 255
        halved = score.reshape(80, 2, 100, 2).mean((1, 3))
        np.testing.assert_allclose(pair["sheet"][0, 0].numpy(), halved, atol=1e-6)
        spectrogram = piece.performances[0].spectrogram[:, frame - 42 : frame + 42]
        assert np.array_equal(pair["audio"][0, 0].numpy(), spectrogram)


def test_pictures_of_scores_are_read_as_they_look(tmp_path: Path):
    """Black ink in all of them, on what is white, transparent, or white in 16 bits."""
    ink = np.zeros((4, 6), bool)
    ink[1:3, 2:4] = True
    expected = np.where(ink, 0, 255)
    clear = np.zeros((4, 6, 4), np.uint8)  # as MuseScore exports: black everywhere
    clear[..., 3] = 255 * ink
    for name, picture in {
        "grey": expected.astype(np.uint8),
        "clear": clear,
        "deep": (257 * expected).astype(np.uint16),
    }.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        assert np.array_equal(read_system(tmp_path / f"{name}.png"), expected), name
    deep = np.full((4, 6), 200 * 257, np.uint16)
    deep[0] = 100 * 257
    Image.fromarray(deep).save(tmp_path / "scan.png")
    assert np.unique(read_system(tmp_path / "scan.png")).tolist() == [100, 200]


def test_both_windows_lie_inside(data: SheetMusic):
    lengths = data.scores.lengths[data.piece]
    assert bool((data.column >= 100).all()) and bool((data.column + 100 <= lengths).all())
    ends = data.spectrograms.lengths[data.performance]
    assert bool((data.frame >= 42).all()) and bool((data.frame + 42 <= ends).all())


def test_no_piece_is_in_two_splits(data: SheetMusic):
    of = {split: set(data.piece[rows].tolist()) for split, rows in data.splits.items()}
    assert all(of.values())
    assert not of["train"] & of["test"] and not of["train"] & of["valid"]
    assert not of["valid"] & of["test"]


def test_training_never_sees_the_test(data: SheetMusic):
    left = data.without_test()
    gone = {data.pieces[i] for i in data.piece[data.splits["test"]].unique().tolist()}
    assert not gone & set(left.pieces)
    assert not any(name.startswith(tuple(gone)) for name in left.performances)
    assert len(left.splits["test"]) == 0
    assert len(left.piece) == len(data.piece) - len(data.splits["test"])
    for split in ("train", "valid"):
        for before, after in zip(data.splits[split], left.splits[split], strict=True):
            one, other = data.pairs(before[None]), left.pairs(after[None])
            assert all(torch.equal(one[name], other[name]) for name in one)
    assert left.digest() != data.digest()


def made(folder: Path, *onsets: list[list[int]], names: tuple[str, ...] = ()) -> Path:
    """One training and one test piece with performances of these onsets."""
    random = np.random.default_rng(0)
    score = random.integers(0, 255, (200, 600)).astype(np.uint8)
    names = names or tuple(f"tempo-{n}" for n in range(len(onsets)))
    performances = [
        Performance(name, random.random((92, 300)).astype(np.float32), np.array(of))
        for name, of in zip(names, onsets, strict=True)
    ]
    for name in ("a", "b"):
        write_piece(folder, Piece(name, score, performances))
    (folder / "split.yaml").write_text("train: [a]\nvalid: []\ntest: [b]\n")
    return folder


def test_onsets_that_all_performances_have_count_once(tmp_path: Path):
    one = [[50, 110], [50, 130], [60, 150], [70, 170], [90, 150], [290, 200]]
    other = [[55, 110], [66, 150], [99, 150]]
    data = load_scores(made(tmp_path, one, other))
    rows = data.splits["train"]
    # Two noteheads at one time are one onset; a column that is played twice is two; 170 is not
    # played by the other, and 290 is too near to the end.
    assert data.column[rows].tolist() == [110, 150, 150]
    assert data.frame[rows].tolist() == [[50, 55], [60, 66], [90, 99]]
    assert data.frame[data.splits["test"]].tolist()[0][0] == 50
    assert data.ids[0] == "a@2.50"


def test_performances_are_chosen_by_name(tmp_path: Path):
    onsets = [[50, 110], [60, 150]]
    folder = made(tmp_path, onsets, onsets, onsets, names=("x_900", "y_1000", "x_1100"))
    with pytest.raises(DataError, match=r"data\.test_performances=\* is no regular expression"):
        load_scores(folder, test_performances="*")
    data = load_scores(folder, train_performances="x_", test_performances="1000$")
    assert data.performances == ["x_900", "x_1100", "y_1000"]
    with pytest.raises(DataError, match=r"data\.train_performances=z"):
        load_scores(folder, train_performances="z")


def test_a_piece_in_two_splits_is_refused(tmp_path: Path):
    made(tmp_path, [[50, 110], [60, 150]])
    (tmp_path / "split.yaml").write_text("train: [a, b]\nvalid: []\ntest: [b]\n")
    with pytest.raises(DataError, match="b is in train and in test"):
        load_scores(tmp_path)


def test_pairs_of_training_are_near_to_the_truth(data: SheetMusic):
    rows = data.splits["train"][:12]
    batch = PairViews()(data, rows, draws(12))
    plain = PairViews(0.0, (1.0, 1.0), 0)(data, rows, draws(12))
    exact = data.pairs(rows)
    torch.testing.assert_close(plain["sheet"], exact["sheet"], atol=1e-5, rtol=0)
    moved = (batch["sheet"] - exact["sheet"]).abs().mean((1, 2, 3))
    assert bool((moved > 0.001).all()) and float(moved.max()) < 0.3
    candidates = torch.stack(
        [
            data.audio(data.performance[rows, p], data.frame[rows, p] + shift)
            for p in range(2)
            for shift in (-1, 0, 1)
        ]
    )
    hits = (candidates == batch["audio"]).flatten(2).all(2)
    assert bool(hits.any(0).all())
    assert int(hits.any(1).sum()) >= 4  # of two performances and three shifts


@pytest.mark.parametrize("name", ["pairs", "sheet", "audio"])
def test_a_batch_of_views_is_its_rows_one_by_one(data: SheetMusic, name: str):
    if name == "pairs":
        rows = data.splits["train"][:4]
        batch = PairViews()(data, rows, draws(4))
        for row in range(4):
            own = slice(row, row + 1)
            alone = PairViews()(data, rows[own], draws(4, own))
            for kind in ("sheet", "audio"):
                torch.testing.assert_close(batch[kind][own], alone[kind], atol=1e-5, rtol=1e-5)
        return
    lines = data.unpaired[name]
    items = torch.arange(len(lines))
    views = SheetViews(lines, items) if name == "sheet" else AudioViews(lines, items, data.frames)
    batch = views(draws(4))
    assert list(batch.shape) == [2, 4, *data.shapes[name]]
    for row in range(4):
        alone = views(draws(4, slice(row, row + 1)))
        torch.testing.assert_close(batch[:, row : row + 1], alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(batch[0], batch[1])


def test_two_views_show_the_same_music(data: SheetMusic):
    lines = data.unpaired["audio"]
    views = AudioViews(lines, torch.arange(len(lines)), data.frames)(draws(16)).flatten(2)
    first, second = torch.nn.functional.normalize(views - views.mean(2, keepdim=True), dim=2)
    cosines = first @ second.T
    others = (cosines.sum(1) - cosines.diagonal()) / 15
    assert float((cosines.diagonal() - others).mean()) > 0.05


def test_maestro_says_which_recordings_train(tmp_path: Path, scores: Path):
    made(tmp_path, [[50, 110], [60, 150]])
    sounds = sorted((scores / "pretraining/audio").glob("*.wav"))
    lines = ["split,audio_filename", f"train,{sounds[0]}", f"validation,{sounds[1]}"]
    folder = tmp_path / "maestro"
    folder.mkdir()
    (folder / "maestro-v3.0.0.csv").write_text("\n".join([*lines, "test,absent.wav\n"]))
    data = load_scores(tmp_path, pretraining_audio=str(folder))
    assert data.held_out["audio"].tolist() == [False, True]
    assert "sheet" not in data.unpaired
