import pytest
import torch

from core.data.checks import DataError
from medical.data.report_tokens import (
    PADDING,
    PIECE,
    REPORT,
    SENTENCE,
    WORD,
    ReportTokenizer,
    read_vocabulary,
    split_sentences,
    train_vocabulary,
)

REPORT_TEXT = (
    "Title: CT of the chest\n\n\nPresentation: Cough. Fever!\nFindings: a nodule of 1.5 cm in the\n"
    "left lobe. Is it new?   "
)


def test_sentences_keep_their_ends_and_lose_the_names_of_sections():
    assert split_sentences(REPORT_TEXT) == [
        "CT of the chest",
        "Cough.",
        "Fever!",
        "a nodule of 1.5 cm in the left lobe.",
        "Is it new?",
    ]


def test_a_long_sentence_is_cut_at_its_lines_and_a_short_one_is_not():
    lines = "\n".join(["one two three four five six seven"] * 5)
    assert split_sentences(lines) == ["one two three four five six seven"] * 5
    assert split_sentences("one\ntwo") == ["one two"]


@pytest.mark.parametrize("text", ["", " \n\n\n ", "...", "- - -"])
def test_nothing_said_is_no_sentence(text):
    assert split_sentences(text) == []


@pytest.fixture(scope="module")
def vocabulary():
    return train_vocabulary([REPORT_TEXT, "The lungs are clear. No effusion."], 120)


def test_a_report_is_its_token_then_sentences_that_begin_with_theirs(vocabulary):
    tokens = ReportTokenizer(vocabulary)(["The lungs are clear. No effusion.", ""])
    n = len(vocabulary)
    kinds = tokens.kinds[0].tolist()
    assert kinds[0] == REPORT
    assert kinds.count(SENTENCE) == 2
    assert set(kinds) <= {REPORT, SENTENCE, WORD, PIECE}
    first, second = (i for i, kind in enumerate(kinds) if kind == SENTENCE)
    assert tokens.ids[0, [0, first, second]].tolist() == [vocabulary.index("[CLS]"), n, n + 1]
    assert tokens.types[0, : first + 1].tolist() == [1, 1]
    assert set(tokens.types[0, first:second].tolist()) == {1}
    assert set(tokens.types[0, second:].tolist()) == {2}
    assert tokens.kinds[1].tolist() == [REPORT] + [PADDING] * (len(kinds) - 1)
    assert tokens.ids[1, 1:].unique().tolist() == [vocabulary.index("[PAD]")]
    assert tokens.types[1].tolist() == [1] + [0] * (len(kinds) - 1)


def test_words_are_put_together_from_their_pieces(vocabulary):
    tokenizer = ReportTokenizer(vocabulary)
    tokens = tokenizer(["The effusions are clear."])
    assert (tokens.kinds == PIECE).any()
    words = tokenizer.words(tokens.ids[0], tokens.kinds[0])
    assert words == ["the", "effusions", "are", "clear", "."]


def test_too_many_sentences_some_are_left_out_in_order_and_numbered_anew(vocabulary):
    tokenizer = ReportTokenizer(vocabulary, max_sentences=4)
    text = " ".join(f"{word}." for word in ("the", "lungs", "are", "clear", "no", "effusion"))
    tokens = tokenizer([text, text])
    assert tokens.types.max() == 4
    said = tokenizer.words(tokens.ids[0], tokens.kinds[0])[::2]
    assert len(said) == 4
    assert said == [w for w in ("the", "lungs", "are", "clear", "no", "effusion") if w in said]
    assert torch.equal(tokens.ids[0], tokens.ids[1])


def test_a_sentence_and_a_report_are_cut(vocabulary):
    tokenizer = ReportTokenizer(vocabulary, max_tokens=512)
    tokens = tokenizer(["the " * 300 + "."])
    assert tokens.ids.shape == (1, 2 + 198)
    assert ReportTokenizer(vocabulary, max_tokens=7)(["the " * 300]).ids.shape == (1, 7)


def test_a_vocabulary_is_read_as_bert_writes_it(vocabulary, tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    assert read_vocabulary(file) == vocabulary
    file.write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"without \[PAD\], \[UNK\]"):
        read_vocabulary(file)
    with pytest.raises(DataError, match="no vocabulary could be read"):
        read_vocabulary(tmp_path / "none.json")
