"""Texts encoded by a BERT-class transformer, with a tokenizer trained on them if need be."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from core.data.checks import DataError
from core.encoders.series import masked_mean

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer like BERT's (lower case, no accents) for the words of these texts.

    Args:
        texts: those of the training split alone.
        vocab_size: at most so many pieces, with [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3 and [MASK] 4.

    Returns:
        A fast tokenizer of transformers; its `save_pretrained` writes it.

    Raises:
        DataError: the texts hold no word, or more different letters than the vocabulary has room.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    normal = [normalizer.normalize_str(text) for text in texts]
    inner = {
        letter
        for text in normal
        for word, _ in splitter.pre_tokenize_str(text)
        for letter in word[1:]
    }
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = splitter
    # The trainer numbers the letters within words in the random order of a hash map, and breaks
    # ties by these numbers: given in order, two trainings on the same texts are the same.
    ordered = [f"##{letter}" for letter in sorted(inner)]
    trainer = WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=_SPECIAL + ordered, show_progress=False
    )
    learner.train_from_iterator(normal, trainer)
    vocab = learner.get_vocab()
    if len(vocab) == len(_SPECIAL):
        raise DataError("no word to train a tokenizer on", expected="texts that are not empty")
    if len(vocab) > vocab_size:
        raise DataError(
            f"a vocabulary of {vocab_size} pieces",
            expected=f"at least {len(vocab)}: every letter at the start of and within a word",
            fix="raise vocab_size",
        )
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(piece, vocab[piece]) for piece in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


class TextEncoder(nn.Module):
    """Texts to ids, ids to one state a token, states to one vector a text.

    Made by `untrained` or `from_pretrained`. A pooling layer of the model is taken off: it would be
    trained by nothing.

    Args:
        model: encoder of transformers.
        tokenizer: that of the model.
        max_length: longer texts are cut, the special tokens counted.
        pooling: a text is the state of its first token, or the mean of its states.

    Attributes:
        dim: width of the states.

    Raises:
        DataError: the model has fewer positions than `max_length`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 64,
        pooling: Literal["first", "mean"] = "first",
    ) -> None:
        super().__init__()
        longest = min(
            tokenizer.model_max_length,
            getattr(model.config, "max_position_embeddings", max_length),
        )
        if max_length > longest:
            raise DataError(
                f"max_length={max_length}",
                expected=f"at most {longest}, the positions of the model",
            )
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # type: ignore[assignment]
        self.dim = int(model.config.hidden_size)
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.pooling = pooling

    @classmethod
    def untrained(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        config: PretrainedConfig | None = None,
        *,
        max_length: int = 64,
        pooling: Literal["first", "mean"] = "first",
    ) -> Self:
        """With random weights.

        Args:
            tokenizer: see `train_tokenizer`; gives the size of the vocabulary and the padding.
            config: of any encoder that transformers knows; None: BERT with 4 layers of width 256.
            max_length: see the class.
            pooling: see the class.
        """
        if config is None:
            config = BertConfig(
                hidden_size=256,
                num_hidden_layers=4,
                num_attention_heads=4,
                intermediate_size=1024,
                max_position_embeddings=max_length,
            )
        config = copy.deepcopy(config)
        config.vocab_size = len(tokenizer)
        config.pad_token_id = tokenizer.pad_token_id
        model = AutoModel.from_config(config)
        return cls(model, tokenizer, max_length=max_length, pooling=pooling)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        max_length: int = 64,
        pooling: Literal["first", "mean"] = "first",
    ) -> Self:
        """With the weights and the tokenizer of a folder or of a model on the Hugging Face hub.

        Args:
            source: folder written by `save`, or by transformers, or a name such as
                `bert-base-uncased`.
            max_length: see the class.
            pooling: see the class.

        Raises:
            DataError: there is no such folder or name, or it cannot be read.
        """
        try:
            model = AutoModel.from_pretrained(source)
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise DataError(
                f"no text encoder could be read: {str(error).splitlines()[0]}",
                path=source,
                expected="a folder with config.json, weights and tokenizer, or a name on the hub",
                fix="without access to the hub, download the model elsewhere and give its folder",
            ) from error
        return cls(model, tokenizer, max_length=max_length, pooling=pooling)

    def save(self, folder: str | Path) -> None:
        """Writes weights (safetensors), config and tokenizer, for `from_pretrained`."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def tokenize(
        self, texts: Sequence[str]
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Ids, cut at `max_length` and padded to the longest text, and True where a token is real.

        Raises:
            DataError: one of them is no text.
        """
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(
                    f"text {number} of a batch is {text!r} ({type(text).__name__})",
                    expected="a text; an empty one where there is none",
                )
        encoded = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"].bool()

    def forward(
        self, ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        """(B, dim) vectors of the texts.

        Args:
            ids: (B, L) from `tokenize`.
            mask: (B, L) True for tokens, False for padding.
        """
        return self.pool(self.tokens(ids, mask), mask)

    def tokens(
        self, ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        """(B, L, dim) states of the last layer; those of padding mean nothing."""
        states: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return states

    def pool(
        self, tokens: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        """The state of the first token, or the mean over the real ones."""
        return tokens[:, 0] if self.pooling == "first" else masked_mean(tokens, mask)
