import pytest
import torch
from transformers import BertConfig, BertModel

from core.data.checks import DataError
from medical.data.report_tokens import PADDING, PIECE, REPORT, SENTENCE, WORD
from medical.systems.tribert import TriBERT, sentence_mask, text_units

# Two sentences of two words; the last word of the second fills the last position.
FULL = torch.tensor([[REPORT, SENTENCE, WORD, PIECE, WORD, SENTENCE, WORD, WORD]])
TYPES = torch.tensor([[1, 1, 1, 1, 1, 2, 2, 2]])


def test_a_report_without_padding_keeps_its_last_sentence_and_word():
    states = torch.arange(8.0)[None, :, None]
    units = text_units(states, FULL, 3, 5)
    assert units.n_words.tolist() == [4]
    assert units.words[0, :, 0].tolist() == [2 + 3, 4, 6, 7, 0]
    assert units.n_sentences.tolist() == [2]
    assert units.sentences[0, :, 0].tolist() == pytest.approx([(1 + 5 + 4) / 3, (5 + 6 + 7) / 3, 0])
    mask = sentence_mask(TYPES, FULL)
    assert mask[0, 5].tolist() == [True, False, False, False, False, True, True, True]
    assert mask[0, 1].tolist() == [True] * 5 + [False] * 3
    assert mask[0, 0].all()


def test_a_report_without_sentences_has_no_units():
    kinds = torch.tensor([[REPORT, PADDING, PADDING]])
    units = text_units(torch.ones(1, 3, 2), kinds, 2, 2)
    assert units.n_sentences.tolist() == units.n_words.tolist() == [0]
    assert units.report.tolist() == [[1, 1]]
    assert not units.has_word().any()
    assert sentence_mask(torch.tensor([[1, 0, 0]]), kinds).any(2).all()


def test_units_beyond_the_room_are_left_out():
    units = text_units(torch.ones(1, 8, 1), FULL, 1, 2)
    assert units.words[0, :, 0].tolist() == [2, 1]
    assert units.n_words.tolist() == [2]
    assert units.n_sentences.tolist() == [1]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=16,
        max_position_embeddings=9,
        type_vocab_size=2,
    )
    model = BertModel(config).eval()
    # Away from the start, so that every weight and bias matters.
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return model, folder


def _tribert(**changed) -> TriBERT:
    sizes = {"dim": 12, "text_layers": 2, "fusion_layers": 1, "heads": 3, "hidden": 16}
    return TriBERT(24, 5, **sizes | {"max_tokens": 9, "max_sentences": 4} | changed).eval()


def test_a_bert_that_is_loaded_gives_its_own_states(bert):
    model, folder = bert
    text = _tribert()
    text.load_bert(str(folder), report_id=3)
    ids = torch.randint(0, 20, (3, 9))
    real = torch.arange(9) < torch.tensor([9, 5, 2])[:, None]
    expected = model(input_ids=ids, attention_mask=real.long()).last_hidden_state
    # All types start as type 0.
    found = text(ids, torch.randint(0, 5, (3, 9)), real[:, None].expand(-1, 9, -1))
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-5)
    words = text.tokens.weight
    assert (words[20:] == words[3]).all()


def test_a_bert_of_other_sizes_is_refused(bert, tmp_path):
    with pytest.raises(DataError, match="its weights do not fit"):
        _tribert(dim=24).load_bert(str(bert[1]), 3)
    with pytest.raises(DataError, match="no BERT could be read"):
        _tribert().load_bert(str(tmp_path / "none"), 3)


def test_padding_has_no_type_that_is_learned():
    text = _tribert()
    types = torch.tensor([[1, 1, 2, 0]])
    text(
        torch.arange(4)[None], types, torch.ones(1, 4, 4, dtype=torch.bool)
    ).square().sum().backward()
    gradient = text.types.weight.grad.abs().sum(1)
    assert gradient[0] == 0
    assert (gradient[1:3] > 0).all()


def test_only_fusion_layers_see_the_volume():
    text = _tribert()
    ids, mask = torch.arange(4)[None], torch.ones(1, 4, 4, dtype=torch.bool)
    states = text(ids, torch.ones_like(ids), mask)
    one, other = (text.fuse(states, mask, torch.randn(1, 7, 5)) for _ in range(2))
    assert not torch.allclose(one, other)
    # The order of voxels does not matter: they have no positions.
    volume = torch.randn(1, 7, 5)
    torch.testing.assert_close(
        text.fuse(states, mask, volume), text.fuse(states, mask, volume[:, torch.randperm(7)])
    )
