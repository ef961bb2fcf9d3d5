from dataclasses import replace

import pytest
import torch

from core.data.checks import DataError
from medical.data.report_tokens import ReportTokenizer
from medical.finding_attention import attention_hits, mentions
from medical.report_retrieval import among_candidates
from medical.volume_task import VolumesAndReports, tokenize
from tests.medical.cases import generated_cases
from tests.medical.systems.reports import small_velvet


@pytest.fixture(scope="module")
def data():
    return generated_cases()


@pytest.fixture(scope="module")
def system():
    return small_velvet().eval()


def test_a_batch_has_what_the_objective_needs(data):
    system, task = small_velvet(), VolumesAndReports()
    loader = task.train_loader(system, data, 2, 0)
    batches = list(loader)
    # Five training cases: the last one alone would have no wrong pair.
    assert [len(batch["ids"]) for batch in batches] == [2, 2]
    terms = system.objective(batches[0])
    assert terms["loss"].isfinite()
    rows = batches[0]["row"]
    assert torch.equal(batches[0]["volume"], data.whole(rows))
    assert torch.equal(batches[0]["ids"], tokenize(system, data)[1].rows(rows)["ids"])


def test_without_the_report_contrast_no_training_begins(data):
    system = small_velvet(objectives=["vision"])
    with pytest.raises(DataError, match=r"system.objectives=\['vision'\]"):
        VolumesAndReports().train_loader(system, data, 2, 0)


def test_the_vocabulary_is_of_the_training_reports_alone(data):
    pieces = VolumesAndReports(vocabulary_size=150).system_arguments(data)["vocabulary"]
    test_only = replace(data, reports=[*data.reports[:-1], "zzzz quux quux"])
    assert VolumesAndReports(vocabulary_size=150).system_arguments(test_only) == {
        "vocabulary": pieces,
        "size": data.size,
    }


def test_retrieval_ranks_each_direction(data, system):
    found = VolumesAndReports(similarity="tmb").evaluate(system, data, "test")
    assert found.metrics["r@10"] == 1
    for name in ("r@1", "mrr"):
        ways = [found.metrics[f"{name}/{way}"] for way in ("volume_to_report", "report_to_volume")]
        assert found.metrics[name] == pytest.approx(sum(ways) / 2)
        assert found.per_unit[name].mean() == pytest.approx(found.metrics[name])
    assert [row["similarity"] for row in found.table] == [
        f"{s}{m}" for s in ("t", "tm", "tb", "tmb") for m in ("", " + matching")
    ]
    chosen = next(row for row in found.table if row["similarity"] == "tmb")
    assert chosen["mrr"] == found.metrics["mrr"]


def test_cases_of_equal_reports_belong_together(data, system):
    same = replace(data, reports=["The heart is normal."] * len(data.ids))
    found = VolumesAndReports().evaluate(system, same, "test")
    assert found.metrics["r@1"] == 1


def test_only_candidates_are_scored():
    scores = torch.tensor([[1.0, 5.0, 3.0]])
    coarse = torch.tensor([[9.0, 1.0, 8.0]])
    assert among_candidates(scores, coarse, 2).tolist() == [[1.0, -torch.inf, 3.0]]


def test_levels_that_were_not_trained_are_refused(data):
    system = small_velvet(objectives=["report", "word"]).eval()
    with pytest.raises(DataError, match="similarities of sentence"):
        VolumesAndReports(similarity="tm").evaluate(system, data, "valid")
    with pytest.raises(DataError, match="without the multimodal objective"):
        VolumesAndReports(matching=True).evaluate(system, data, "valid")
    table = VolumesAndReports().evaluate(system, data, "test").table
    assert [row["similarity"] for row in table] == ["t", "tb"]


@pytest.mark.parametrize(
    "arguments", [{"similarity": "b"}, {"monitor": "recall"}, {"monitor": "loss"}]
)
def test_unknown_choices_are_refused(arguments):
    name = next(iter(arguments))
    with pytest.raises(DataError, match=f"task.{name}="):
        VolumesAndReports(**arguments)


class _Looking:
    """Attends where it is told to, with every word alike."""

    def __init__(self, centres, off: int = 0) -> None:
        self.centres, self.off = centres, off

    def attention(self, batch, level):
        weights = torch.zeros(len(batch["ids"]), 60, 4, 4, 4)
        for row, centre in enumerate(self.centres):
            x, y, z = ((int(place) // 8 + self.off) % 4 for place in centre)
            weights[row, :, x, y, z] = 1
        return weights


@pytest.mark.parametrize(("off", "share"), [(0, 1.0), (1, 0.0)])
def test_a_hit_is_the_region_that_holds_the_finding(data, system, off, share):
    tokenizer, tokens = tokenize(system, data)
    named = mentions(data, tokenizer, tokens, data.splits["test"])
    assert [one.row for one in named] == data.splits["test"].tolist()
    looking = _Looking([one.finding.centre for one in named], off)
    hits, chance = attention_hits(looking, data, tokens, named, "word")
    assert hits.mean() == share
    assert chance == 1 / 64


def test_a_finding_is_named_by_its_word_in_the_sentence_that_names_its_site(data):
    report = "The nodule of last year. Stone of the left kidney. A nodule in the right upper lobe."
    one = replace(data, reports=[report] * len(data.ids))
    system = small_velvet()
    tokenizer, tokens = tokenize(system, one)
    found = mentions(one, tokenizer, tokens, torch.tensor([0]))
    words = tokenizer.words(tokens.ids[0], tokens.kinds[0])
    assert [(m.sentence, m.word) for m in found] == [(2, [*words].index("nodule", 5))]
    assert (
        mentions(replace(one, findings=[None] * len(one.ids)), tokenizer, tokens, torch.tensor([0]))
        == []
    )


def test_search_finds_as_the_vectors_say(data, system, tmp_path):
    task = VolumesAndReports()
    table = task.embed(system, data)
    of = {
        kind: torch.tensor(rows["embedding"].to_list())
        for (kind,), rows in table.group_by("kind", maintain_order=True)
    }
    expected = (of["volume"] @ of["report"][3]).topk(3)
    rows = task.search(system, data, "report:c3", 3)
    assert [row["id"] for row in rows] == [data.ids[i] for i in expected.indices.tolist()]
    own = task.search(system, data, f"sentence:{data.reports[3]}", 3)
    assert [row["id"] for row in own] == [row["id"] for row in rows]
    for query in ("report:c3", "sentence:a cyst"):
        task.draw_search(data, query, rows, tmp_path / "found.png")
        assert (tmp_path / "found.png").stat().st_size > 10_000
        (tmp_path / "found.png").unlink()
    spaces = task.index_spaces(system, data)
    torch.testing.assert_close(spaces["volume"][0], of["volume"])
    torch.testing.assert_close(spaces["volume"][1], of["report"])


@pytest.mark.parametrize("query", ["report:nobody", "lesion:c1", "sentence:", "c1"])
def test_queries_that_name_nothing_are_refused(data, system, query):
    with pytest.raises(DataError, match="query="):
        VolumesAndReports().search(system, data, query, 3)


def test_cubes_of_another_size_are_refused(data, system):
    other, task = replace(data, size=64), VolumesAndReports()
    for act in (
        lambda: task.search(system, other, "report:c1", 1),
        lambda: task.evaluate(system, other, "test"),
    ):
        with pytest.raises(DataError, match="cubes of 64 voxels"):
            act()


def test_attention_is_drawn_for_findings_and_for_what_is_not_known(data, system, tmp_path):
    task = VolumesAndReports()
    (file,) = task.draw(system, data, "test", tmp_path)
    known = file.read_bytes()
    unknown = replace(data, findings=[None] * len(data.ids))
    task.draw(system, unknown, "test", tmp_path)
    assert file.read_bytes() != known
    assert task.draw(small_velvet(objectives=["report"]), data, "test", tmp_path) == []


def test_words_come_in_the_order_of_their_units(data, system):
    tokenizer = ReportTokenizer(system.vocabulary)
    tokens = tokenizer(["The cyst. No nodule."])
    assert tokenizer.words(tokens.ids[0], tokens.kinds[0])[:2] == ["the", "cyst"]
