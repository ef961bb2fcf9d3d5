"""Closed questions and written reports, from a pre-trained VELVET-Med."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from core.data.checks import DataError
from medical.data.questions import questions_from_findings, read_questions
from medical.question_task import ClosedQuestions, _others
from medical.systems import velvet_med
from medical.systems.velvet_reports import VelvetReports
from medical.systems.velvet_vqa import VelvetVQA
from medical.writing_task import ReportWriting, _measures
from tests.medical.cases import SIZE, generated_cases
from tests.medical.systems.reports import SMALL, VOCABULARY, Pyramid, batch_of, small_velvet


@pytest.fixture(autouse=True)
def without_monai():
    with patch.object(velvet_med, "swin_transformer", Pyramid):
        yield


@pytest.fixture(scope="module")
def data():
    return generated_cases()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint as training writes it."""
    system = small_velvet(seed=7)
    ours = {
        "target": "medical.systems.velvet_med.VELVETMed",
        "arguments": {"vocabulary": VOCABULARY, "size": SIZE} | SMALL,
        "config": {},
        "loader": {},
        "monitor": None,
        "best_score": None,
        "best_epoch": 0,
    }
    file = tmp_path_factory.mktemp("run") / "last.ckpt"
    torch.save({"state_dict": system.state_dict(), "epoch": 0, "consilience": ours}, file)
    return file, system


def _step(system, batch) -> None:
    optimizer = torch.optim.SGD([p for p in system.parameters() if p.requires_grad], lr=0.5)
    system.objective(batch)["loss"].backward()
    optimizer.step()


def test_a_pretrained_run_brings_sizes_and_weights_and_only_fusion_is_trained(run, data):
    file, pretrained = run
    task = ClosedQuestions(pretrained=str(file))
    system = VelvetVQA.of(task.system_arguments(data))
    system.prepare(data)
    before = {name: weight.clone() for name, weight in system.state_dict().items()}
    for name, weight in pretrained.state_dict().items():
        if f"states.velvet.{name}" in before:
            assert torch.equal(before[f"states.velvet.{name}"], weight), name
    batch = next(iter(task.train_loader(system, data, 6, 0)))
    _step(system.train(), batch)
    changed = {n for n, weight in system.state_dict().items() if not torch.equal(weight, before[n])}
    assert {n.split(".")[0] for n in changed if not n.startswith("states.")} == {"head"}
    inside = {n.removeprefix("states.velvet.") for n in changed if n.startswith("states.")}
    assert all(n.startswith(("adapter.", "text.fusion_layers.")) for n in inside)
    assert any(n.startswith("adapter.") for n in inside)
    assert any(n.startswith("text.fusion_layers.") for n in inside)


def test_whom_the_pretraining_has_learned_is_told(run, data, recwarn):
    splits = run[0].parent / "splits.csv"
    task = ClosedQuestions(pretrained=str(run[0]))
    tested, trained = (data.patients[int(data.splits[s][0])] for s in ("test", "train"))
    splits.write_text(f"patient_id,split\n{tested},test\n{trained},train\n")
    task.system_arguments(data)
    assert not [one for one in recwarn if "was trained on" in str(one.message)]
    splits.write_text(f"patient_id,split\n{tested},train\n")
    with pytest.warns(UserWarning, match=rf"was trained on 1 patients .* such as {tested}"):
        task.system_arguments(data)
    splits.unlink()


def test_what_is_frozen_is_without_dropout_in_training(data):
    model = SMALL | {"dropout": 0.5, "text_layers": 1}
    system = VelvetVQA(VOCABULARY, SIZE, model, None).train()
    batch = batch_of(small_velvet(), 3)
    velvet = system.states.velvet
    assert torch.equal(velvet.text_states(batch), velvet.text_states(batch))
    assert not torch.equal(system.states(batch), system.states(batch))


def test_a_run_of_another_system_or_size_is_refused(run, data, tmp_path):
    file, _ = run
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["consilience"]["target"] = "medical.systems.uni.UNI"
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match=r"a checkpoint of medical\.systems\.uni\.UNI"):
        ClosedQuestions(pretrained=str(tmp_path / "other.ckpt")).system_arguments(data)
    system = VelvetVQA(VOCABULARY, SIZE, SMALL | {"text_dim": 24}, str(file))
    with pytest.raises(DataError, match="of another shape"):
        system.prepare(data)


def test_questions_have_as_many_answers_of_either_kind(data):
    asked = questions_from_findings(data)
    assert sum(one.answer for one in asked) == sum(not one.answer for one in asked) == 11
    for one in asked:
        (finding,) = data.findings[one.row]
        named = finding.kind in one.text and finding.site in one.text
        assert named == one.answer
    # The same cases are asked the same in whatever split they are.
    kept, tested = data.without_test(), set(data.splits["test"].tolist())
    assert [
        (data.ids[one.row], one.text, one.answer) for one in asked if one.row not in tested
    ] == [(kept.ids[one.row], one.text, one.answer) for one in questions_from_findings(kept)]
    # Of a case that has all findings there is nothing to say no to.
    every = tuple(found for (found,) in data.findings)
    full = replace(data, findings=[every, *data.findings[1:]])
    assert all(one.answer for one in questions_from_findings(full) if one.row == 0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("c0,Is it?,maybe", "the answer 'maybe'"),
        ("c0,,yes", "no question"),
        ("zz,Is it?,yes", "none of 1 questions"),
    ],
)
def test_questions_that_cannot_be_used_are_named(data, tmp_path, lines, message):
    file = tmp_path / "questions.csv"
    file.write_text(f"case,question,answer\n{lines}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_questions(file, data)
    file.write_text("case,question,answer\nc1,Is it?,Yes\nc9,Where?,no\n", encoding="utf-8")
    found = read_questions(file, data)
    assert [(one.row, one.answer) for one in found] == [(1, True), (9, False)]


def test_answers_are_judged_by_question(data):
    system = VelvetVQA(VOCABULARY, SIZE, SMALL, None).eval()
    found = ClosedQuestions().evaluate(system, data, "test")
    assert len(found.unit_ids) == 8
    assert found.per_unit["accuracy"].mean() == pytest.approx(found.metrics["accuracy"])
    assert {"auroc", "f1", "accuracy/other_volume"} < found.metrics.keys()
    with pytest.raises(DataError, match="cubes of 64 voxels"):
        ClosedQuestions().evaluate(system, replace(data, size=64), "test")
    split = torch.tensor([3, 5, 8])
    assert _others(torch.tensor([5, 8, 3]), split).tolist() == [8, 3, 5]


def test_a_report_is_learned_by_heart_and_padding_is_not_counted(data):
    torch.manual_seed(0)
    sizes = {"decoder_dim": 24, "decoder_layers": 1, "decoder_heads": 2, "max_length": 20}
    system = VelvetReports(VOCABULARY, SIZE, SMALL, None, **sizes)
    task = ReportWriting()
    batch = next(iter(task.train_loader(system, data, 3, 0)))
    with torch.no_grad():
        loss = system.eval().objective(batch)["loss"]
        longer = torch.cat([batch["target"], torch.full((3, 4), -100)], 1)
        torch.testing.assert_close(system.objective(batch | {"target": longer})["loss"], loss)
    target = system.targets(["the heart is normal."] * 3)
    one = {k: v for k, v in batch.items() if k != "target"} | {"target": target}
    optimizer = torch.optim.AdamW(system.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        system.objective(one)["loss"].backward()
        optimizer.step()
    assert system.write(one) == ["the heart is normal."] * 3


def test_any_causal_language_model_of_a_folder_writes(data, tmp_path):
    torch.manual_seed(0)
    sizes = {"decoder_dim": 24, "decoder_layers": 1, "decoder_heads": 2, "max_length": 12}
    small = VelvetReports(VOCABULARY, SIZE, SMALL, None, **sizes)
    small.decoder.save_pretrained(tmp_path)
    small.tokenizer.save_pretrained(tmp_path)
    system = VelvetReports(
        VOCABULARY, SIZE, SMALL, None, str(tmp_path), train_language_model=False, max_length=12
    )
    before = system.decoder.state_dict()
    torch.testing.assert_close(before, small.decoder.state_dict())
    assert not any(p.requires_grad for p in system.decoder.parameters())
    batch = next(iter(ReportWriting().train_loader(system, data, 3, 0)))
    system.objective(batch)["loss"].backward()
    assert system.prompt.weight.grad.abs().sum() > 0
    with pytest.raises(DataError, match="no language model could be read"):
        VelvetReports(VOCABULARY, SIZE, SMALL, None, str(tmp_path / "none"))


def test_written_reports_are_scored_and_drawn(data, tmp_path):
    sizes = {"decoder_dim": 8, "decoder_layers": 1, "decoder_heads": 1, "max_length": 6}
    system = VelvetReports(VOCABULARY, SIZE, SMALL, None, **sizes).eval()
    found = ReportWriting().evaluate(system, data, "test")
    assert {"rouge_l", "bleu_1", "bleu_4", "rouge_l/other_case"} == found.metrics.keys()
    assert len(found.per_unit["rouge_l"]) == 4
    with pytest.raises(DataError, match="cubes of 64 voxels"):
        ReportWriting().evaluate(system, replace(data, size=64), "test")
    (file,) = ReportWriting().draw(system, data, "test", tmp_path)
    assert file.stat().st_size > 10_000


def test_scores_of_texts_are_those_of_the_definitions():
    found = _measures(["a b c d", "x"], ["a b d c", "y z"])
    # Longest common subsequence 3 of 4 and 4 words.
    assert found["rouge_l"].tolist() == pytest.approx([0.75, 0.0])
    assert found["bleu_1"][0] == pytest.approx(1.0)
    assert found["bleu_4"][0] < 0.6
    assert found["bleu_1"][1] < 0.2
