from pathlib import Path

import pytest
import torch
from transformers import BertConfig, DistilBertConfig, PreTrainedTokenizerBase, RobertaConfig

from core.data.checks import DataError
from core.encoders.text import TextEncoder, train_tokenizer

TEXTS = [
    "A red square above a blue circle.",
    "A blue circle",
    "Two small green triangles, and one large circle below them.",
    "",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, vocab_size=200)


def _bert() -> BertConfig:
    return BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )


def test_a_trained_tokenizer_knows_its_words_and_spells_out_others(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [
        *range(5)
    ]
    assert len(tokenizer) <= 200
    ids = tokenizer("A BLUE círcle").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "blue", "circle", "[SEP]"]
    pieces = tokenizer.tokenize("squares")
    assert pieces == ["square", "##s"]
    assert tokenizer.tokenize("ß") == ["[UNK]"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a blue circle"


@pytest.mark.parametrize("size", [60, 70, 200])
def test_two_trainings_on_the_same_texts_are_the_same(size: int) -> None:
    vocabularies = [train_tokenizer(iter(TEXTS), size).get_vocab() for _ in range(4)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
    assert len(vocabularies[0]) <= size


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [(["", "  "], 200, "no word"), (TEXTS, 20, "vocabulary of 20 pieces")],
)
def test_tokenizers_that_cannot_be_trained(texts: list[str], size: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        train_tokenizer(texts, size)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padding_changes_nothing(tokenizer: PreTrainedTokenizerBase, pooling: str) -> None:
    encoder = TextEncoder.untrained(tokenizer, _bert(), max_length=24, pooling=pooling).eval()
    ids, mask = encoder.tokenize(TEXTS)
    assert ids.shape == mask.shape and mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [10, 5, 14, 2]
    assert (ids[~mask] == tokenizer.pad_token_id).all()
    pooled = encoder(ids, mask)
    assert pooled.shape == (4, encoder.dim) == (4, 16)
    for row, text in zip(pooled, TEXTS, strict=True):
        torch.testing.assert_close(row, encoder(*encoder.tokenize([text]))[0], rtol=1e-4, atol=1e-5)
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3


def test_pooling_is_the_first_state_or_the_mean_of_the_real_ones(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoder = TextEncoder.untrained(tokenizer, _bert(), max_length=24).eval()
    ids, mask = encoder.tokenize(TEXTS[:2])
    tokens = encoder.tokens(ids, mask)
    assert torch.equal(encoder.pool(tokens, mask), tokens[:, 0])
    encoder.pooling = "mean"
    torch.testing.assert_close(encoder.pool(tokens, mask)[1], tokens[1, :5].mean(0))


def test_long_texts_are_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = TextEncoder.untrained(tokenizer, _bert(), max_length=6)
    ids, mask = encoder.tokenize(TEXTS)
    assert ids.shape == (4, 6)
    assert tokenizer.convert_ids_to_tokens(ids[0].tolist()) == [
        *("[CLS]", "a", "red", "square", "above", "[SEP]")
    ]
    assert mask[0].all()


@pytest.mark.parametrize(
    "config",
    [
        None,
        _bert(),
        RobertaConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        ),
        DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32),
    ],
    ids=lambda config: type(config).__name__,
)
def test_every_weight_is_trained(tokenizer: PreTrainedTokenizerBase, config: BertConfig) -> None:
    before = config.to_dict() if config else None
    encoder = TextEncoder.untrained(tokenizer, config, max_length=24)
    assert (config.to_dict() if config else None) == before
    weights = torch.randn(4, encoder.dim)
    (encoder(*encoder.tokenize(TEXTS)) * weights).sum().backward()
    idle = [name for name, weight in encoder.named_parameters() if weight.grad is None]
    assert not idle


def test_what_was_saved_is_read_from_its_folder(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    encoder = TextEncoder.untrained(tokenizer, _bert(), max_length=24).eval()
    encoder.save(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again = TextEncoder.from_pretrained(tmp_path, max_length=24).eval()
    ids, mask = encoder.tokenize(TEXTS)
    ids_again, mask_again = again.tokenize(TEXTS)
    assert torch.equal(ids, ids_again) and torch.equal(mask, mask_again)
    torch.testing.assert_close(again(ids, mask), encoder(ids, mask))
    assert not any("pooler" in name for name in again.state_dict())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: no text encoder could be read"):
        TextEncoder.from_pretrained(tmp_path / "absent")


def test_what_is_no_text_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = TextEncoder.untrained(tokenizer, _bert(), max_length=24)
    with pytest.raises(DataError, match=r"text 1 of a batch is None \(NoneType\)"):
        encoder.tokenize(["a", None])  # type: ignore[list-item]


def test_texts_longer_than_the_positions_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="at most 40"):
        TextEncoder.untrained(tokenizer, _bert(), max_length=41)
