from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audio_music.data.scores import SheetMusic, load_scores
from audio_music.sheet_task import SheetRetrieval
from audio_music.systems import audio_sheet_pretraining
from audio_music.systems.audio_sheet import AudioSheet, FrameAttention, SnippetEncoder
from core.data.checks import DataError
from tests.audio_music.scores import ENCODERS

FEW = {"epochs": 2, "snippets": 16, "batch_size": 8}
STAGES = {"audio": FEW, "sheet": FEW, "mixed": FEW}


@pytest.fixture(scope="module")
def data(scores: Path) -> SheetMusic:
    return load_scores(scores)


def built(data: SheetMusic, seed: int = 0, **changes: object) -> AudioSheet:
    torch.manual_seed(seed)
    return AudioSheet(data.shapes, **ENCODERS | STAGES | changes)


def weights(system: AudioSheet, name: str) -> Tensor:
    return torch.cat([p.detach().flatten() for p in system.encoders[name].parameters()])


def test_the_published_encoders_have_the_published_sizes():
    assert SnippetEncoder((1, 80, 100)).dim == 960
    assert SnippetEncoder((1, 92, 84)).dim == 800
    small = SnippetEncoder((1, 92, 84), 8, 16, 2)
    assert small.dim == 16 * 2 * 2 and small(torch.rand(3, 1, 92, 84)).shape == (3, 64)
    with pytest.raises(DataError, match=r"system\.pool"):
        SnippetEncoder((1, 80, 100), pool=8)


@pytest.mark.parametrize("pretrain", ["both", "audio", "sheet", "mixed", "none"])
def test_pre_training_moves_the_encoders_it_is_meant_for(data: SheetMusic, pretrain: str):
    system = built(data, pretrain=pretrain)
    before = {name: weights(system, name) for name in ("sheet", "audio")}
    heads = {name: value.clone() for name, value in system.heads.state_dict().items()}
    system.prepare(data)
    moved = {name for name in before if not torch.equal(before[name], weights(system, name))}
    expected = {"both": {"sheet", "audio"}, "mixed": {"sheet", "audio"}, "none": set()}
    assert moved == expected.get(pretrain, {pretrain})
    for name, value in system.heads.state_dict().items():
        assert torch.equal(value, heads[name])


def test_pre_training_is_computed_once(
    data: SheetMusic, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
):
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path))
    first = built(data)
    first.prepare(data)
    assert "from the cache" not in capsys.readouterr().out
    again = built(data)
    again.prepare(data)
    assert capsys.readouterr().out.count("from the cache") == 2
    other = built(data, seed=1)
    other.prepare(data)
    assert "from the cache" not in capsys.readouterr().out
    for name in ("sheet", "audio"):
        assert torch.equal(weights(first, name), weights(again, name))
        assert not torch.equal(weights(first, name), weights(other, name))
    assert all(module.training for one in (first, again) for module in one.modules())
    # Batch norm starts fine-tuning from the means of pre-training.
    norm = first.encoders["audio"].blocks[1]
    assert norm.running_mean.abs().sum() > 0
    assert torch.equal(norm.running_mean, again.encoders["audio"].blocks[1].running_mean)


def test_pre_training_that_was_cut_off_goes_on_exactly(
    data: SheetMusic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    judge, calls = audio_sheet_pretraining._between_views, []

    def stopped(*arguments: object) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return judge(*arguments)

    found = []
    for name in ("whole", "cut"):
        monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / name))
        stage = FEW | {"epochs": 4, "patience": 1}
        if name == "cut":
            monkeypatch.setattr(audio_sheet_pretraining, "_between_views", stopped)
            with pytest.raises(KeyboardInterrupt):
                built(data, pretrain="sheet", sheet=stage).prepare(data)
            (partial,) = tmp_path.glob("cut/*/*.partial")
        system = built(data, pretrain="sheet", sheet=stage)
        system.prepare(data)
        found.append(weights(system, "sheet"))
    assert torch.equal(*found)
    assert len(calls) == 3 + 2  # two epochs were done, one was lost
    assert not partial.exists()


def test_pre_training_brings_views_of_a_snippet_together(
    data: SheetMusic, capsys: pytest.CaptureFixture[str]
):
    stages = {"short": {"epochs": 1, "snippets": 16}, "long": {"epochs": 4, "snippets": 192}}
    reached = {}
    for name, stage in stages.items():
        stage = stage | {"batch_size": 16, "lr": 0.003}
        built(data, pretrain="sheet", sheet=stage).prepare(data)
        said = capsys.readouterr().out
        reached[name] = float(said.partition("views ")[2].partition(",")[0])
    assert reached["long"] > reached["short"] + 0.1, reached


def test_data_without_unpaired_files_cannot_pre_train(data: SheetMusic):
    with pytest.raises(DataError, match=r"pretraining/scores.*\n.*system\.pretrain=none"):
        built(data).prepare(replace(data, unpaired={"audio": data.unpaired["audio"]}))


@pytest.mark.parametrize("changes", [{"pretrain": "all"}, {"audio": {"epoch": 3}}])
def test_settings_that_do_not_exist_are_refused(data: SheetMusic, changes: dict):
    with pytest.raises(DataError, match=r"system\."):
        built(data, **changes)


def test_embeddings_of_one_modality_are_those_of_both(data: SheetMusic):
    system = built(data, pretrain="none")
    system.objective(data.pairs(torch.arange(24)))
    system.eval()
    batch = data.pairs(torch.arange(5))
    both = system.embed(batch)
    for name, vectors in both.items():
        assert torch.equal(system.embed({name: batch[name]})[name], vectors)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))


def test_evaluation_does_not_depend_on_the_last_batch(data: SheetMusic):
    system, task = built(data, pretrain="none"), SheetRetrieval()
    scores = []
    for start in (0, 30):
        system.train()
        with torch.no_grad():
            system.cca.train()
            latent = (x[:, :8] for x in torch.randn(2, 40, 8, generator=_generator(start)))
            system.cca(*latent)
        system.eval()
        unrefined = system.embed(data.pairs(torch.arange(9)))["sheet"]
        found = task.evaluate(system, data, "test")
        scores.append((unrefined, found.metrics))
    assert (scores[0][0] - scores[1][0]).abs().max() > 0.01
    assert scores[0][1] == scores[1][1]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_even_attention_changes_nothing_and_uneven_weighs_frames():
    attention = FrameAttention(84, 4)
    x = torch.rand(3, 1, 92, 84)
    torch.testing.assert_close(attention(x).mean(), x.mean(), rtol=0.5, atol=0)
    for parameter in attention.blocks[-1].parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(attention(x), x)


def test_attention_and_linear_heads_train(data: SheetMusic):
    for changes in ({"attention": True}, {"cca": False}):
        system = built(data, pretrain="none", **changes)
        terms = system.objective(data.pairs(torch.arange(24)))
        terms["loss"].backward()
        assert all(p.grad is not None for p in system.parameters())
        assert ("correlation" in terms) is ("cca" not in changes)
