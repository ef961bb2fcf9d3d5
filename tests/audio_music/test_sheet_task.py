from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from audio_music.data.scores import SheetMusic, load_scores
from audio_music.sheet_task import SheetRetrieval, piece_of, snippets_of, spaced
from audio_music.systems.audio_sheet import AudioSheet
from core.data.checks import DataError
from core.trainers.system import Batch, System
from tests.audio_music.scores import ENCODERS


class Oracle(System):
    """Embeds a snippet by where it is from: both modalities by one table of random rows."""

    def __init__(self, data: SheetMusic, noise: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(len(data.piece), 16, generator=generator)
        other = torch.randn(len(data.piece), 16, generator=generator)
        self.table = {"sheet": rows, "audio": normalize(rows + noise * other)}
        self.known = {
            name: {_key(cut): row for row, cut in enumerate(of)}
            for name, of in data.pairs(torch.arange(len(data.piece))).items()
        }
        self.asked = 0

    def refine(self, batches: object) -> None:
        self.asked = sum(len(batch["sheet"]) for batch in batches)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        found = {}
        for name, cut in batch.items():
            rows = [self.known[name].get(_key(one)) for one in cut]
            table = self.table[name]
            found[name] = torch.stack([table[0] * 0 if r is None else table[r] for r in rows])
        return found


def _key(cut: Tensor) -> bytes:
    return cut.numpy().tobytes()


@pytest.fixture(scope="module")
def data(scores: Path) -> SheetMusic:
    return load_scores(scores)


def test_snippets_are_ranked_both_ways(data: SheetMusic):
    system = Oracle(data, 1.5)
    found = SheetRetrieval().evaluate(system, data, "test")
    rows = data.splits["test"]
    sheet, audio = (normalize(system.table[name][rows], dim=1) for name in ("sheet", "audio"))
    cosines = (audio @ sheet.T).double().numpy()
    for way, table in (("audio_to_sheet", cosines), ("sheet_to_audio", cosines.T)):
        rank = (table >= np.diag(table)[:, None]).sum(1)
        assert found.metrics[f"mrr/{way}"] == pytest.approx((1 / rank).mean())
        assert found.metrics[f"median_rank/{way}"] == np.median(rank)
        for k in (1, 5, 10, 25):
            assert found.metrics[f"r@{k}/{way}"] == pytest.approx((rank <= k).mean())
    both = (found.metrics["mrr/audio_to_sheet"] + found.metrics["mrr/sheet_to_audio"]) / 2
    assert found.metrics["mrr"] == pytest.approx(both)
    assert 0.1 < both < 0.95
    n = len(rows)
    assert found.metrics["mrr_by_chance"] == pytest.approx(sum(1 / r for r in range(1, n + 1)) / n)
    assert system.asked == len(data.splits["train"])


def test_the_units_are_pieces_and_their_mean_is_the_metric(data: SheetMusic):
    found = SheetRetrieval().evaluate(Oracle(data, 1.0), data, "test")
    assert len(found.unit_ids) == 2
    for name, values in found.per_unit.items():
        assert values.mean() == pytest.approx(found.metrics[name]), name


def test_candidates_are_spaced_evenly():
    rows = torch.arange(100, 117)
    assert torch.equal(spaced(rows, 17), rows)
    assert spaced(rows, 4).tolist() == [100, 104, 108, 112]


def test_fewer_candidates_are_asked_for(data: SheetMusic):
    few = SheetRetrieval(n_pairs=10).evaluate(Oracle(data, 5.0), data, "test")
    assert few.metrics["r@10"] == 1
    assert few.metrics["mrr_by_chance"] == pytest.approx(0.2929, abs=1e-4)


def test_snippets_of_pieces_lie_side_by_side(data: SheetMusic):
    pieces = data.piece[data.splits["test"]].unique()
    items, places = snippets_of(data, "sheet", pieces, 50)
    assert torch.equal(items.unique(), pieces)
    for piece in pieces:
        own = places[items == piece]
        assert own[0] == 100 and torch.equal(own.diff().unique(), torch.tensor([50]))
        assert int(data.scores.lengths[piece]) - 150 < own[-1] <= data.scores.lengths[piece] - 100
    items, places = snippets_of(data, "audio", pieces, 10)
    assert torch.equal(piece_of(data, "audio", items).unique(), pieces)
    assert int(places.min()) == 42
    assert bool((places + 42 <= data.spectrograms.lengths[items]).all())


def test_pieces_are_identified_by_votes(data: SheetMusic, monkeypatch: pytest.MonkeyPatch):
    # Every snippet of a piece is embedded as that piece, but the audio of the last one as the
    # first.
    pieces = data.piece[data.splits["test"]].unique()

    def embedded(system: object, data: object, kind: str, items: Tensor, places: Tensor) -> Tensor:
        of = piece_of(data, kind, items)
        of = torch.where((of == pieces[-1]) & (kind == "audio"), pieces[0], of)
        return torch.eye(len(data.pieces))[of]

    monkeypatch.setattr("audio_music.sheet_task.embed_at", embedded)
    task = SheetRetrieval(n_candidates=3)
    metrics = task.evaluate(Oracle(data, 1.0), data, "test").metrics
    assert metrics["piece_r@1/audio_to_sheet"] == 0.5
    assert metrics["piece_mrr/audio_to_sheet"] == 0.75
    assert metrics["votes/audio_to_sheet"] == 0.5


def test_search_finds_the_counterpart(data: SheetMusic):
    system, row = Oracle(data, 0.1), int(data.splits["test"][3])
    for kind, target in (("audio", "sheet"), ("sheet", "audio")):
        rows = SheetRetrieval().search(system, data, f"{kind}:{data.ids[row]}", 4)
        assert [found["rank"] for found in rows] == [1, 2, 3, 4]
        assert rows[0][target] == data.ids[row]
        assert rows[0]["pixel"] == int(data.column[row])
        assert rows[0]["cosine"] > rows[1]["cosine"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("video:x", "sheet:PIECE@SECONDS"),
        ("audio:", "sheet:PIECE@SECONDS"),
        ("audio:absent.wav@3", "no such onset in the data, and no such file"),
        ("audio:{wav}@100", "place 2000 of"),
        ("audio:{text}", "cannot be read"),
        ("sheet:{text}", "cannot be read"),
    ],
)
def test_queries_that_name_nothing_are_refused(
    data: SheetMusic, scores: Path, tmp_path: Path, query: str, reason: str
):
    text = tmp_path / "text"
    text.write_text("neither sound nor picture")
    wav = next((scores / "recordings").glob("*.wav"))
    with pytest.raises(DataError, match=reason):
        SheetRetrieval().search(Oracle(data, 1.0), data, query.format(wav=wav, text=text), 3)


def test_snippets_of_another_length_are_refused(data: SheetMusic, scores: Path):
    system = AudioSheet(data.shapes, **ENCODERS, pretrain="none").eval()
    with pytest.raises(DataError, match=r"\[1, 92, 42\](?s:.*)training(?s:.*)\[1, 92, 84\]"):
        SheetRetrieval().evaluate(system, load_scores(scores, frames=42), "test")


@pytest.mark.parametrize("monitor", ["map", "mrr/both", "r@3"])
def test_unknown_monitors_are_refused(monitor: str):
    with pytest.raises(DataError, match=r"task\.monitor"):
        SheetRetrieval(monitor)


def test_a_recording_is_cut_like_the_data(data: SheetMusic, scores: Path):
    from audio_music.data.queries import asked_snippet

    row = int(data.splits["test"][5])
    name = data.performances[int(data.performance[row, 0])]
    seconds = int(data.frame[row, 0]) / 20
    _, snippet = asked_snippet(data, f"audio:{scores}/recordings/{name}.wav@{seconds}")
    exact = data.pairs(torch.tensor([row]))["audio"]
    torch.testing.assert_close(snippet, exact, atol=0.02, rtol=0)  # 16-bit files
