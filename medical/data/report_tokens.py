"""Reports as sentences and word pieces, packed so that every sentence has a token of its own."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError

PADDING, REPORT, SENTENCE, WORD, PIECE = range(5)  # kinds of tokens
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SECTIONS = re.compile(
    r"(?i:\b(?:title|presentation|patient|age|gender|study_findings|discussion|findings|impression)):"
)
_LONG_SENTENCE = 30  # words, above which lines are sentences
_LONGEST = 198  # pieces of a sentence


def split_sentences(report: str) -> list[str]:
    """The sentences of a report, each with its full stop.

    As published: blocks end at three or more line breaks, sentences at `.`, `!`, `?`, the names of
    sections are dropped, and a sentence of more than 30 words is cut at its line breaks. Unlike
    there, a full stop ends a sentence only before a space or the end: `1.5 cm` is one number.
    """
    sentences = []
    for block in re.split(r"\n{3,}", report):
        for text in re.split(r"(?<=[.!?])\s+", _SECTIONS.sub(" ", block)):
            is_long = len(text.split()) > _LONG_SENTENCE
            sentences += text.split("\n") if is_long else [text]
    tidy = (" ".join(text.split()) for text in sentences)
    return [text for text in tidy if re.search(r"\w", text)]


def train_vocabulary(reports: Iterable[str], size: int) -> list[str]:
    """Word pieces of these reports, those of the training split alone; id = place in the list.

    Raises:
        DataError: there is no word in them.
    """
    from core.encoders.text import train_tokenizer

    pieces = train_tokenizer(reports, size).get_vocab()
    return sorted(pieces, key=pieces.__getitem__)


def read_vocabulary(file: str | Path) -> list[str]:
    """The word pieces of a BERT: `vocab.txt`, one a line, or `tokenizer.json`.

    Raises:
        DataError: the file cannot be read, or lacks one of BERT's own tokens.
    """
    import json

    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            pieces = json.loads(text)["model"]["vocab"]
            words = sorted(pieces, key=pieces.__getitem__)
        else:
            words = text.splitlines()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"no vocabulary could be read ({type(error).__name__})",
            path=file,
            expected="vocab.txt or tokenizer.json of a BERT",
        ) from error
    _check(words, file)
    return words


def _check(words: Sequence[str], file: Path | None = None) -> None:
    missing = [token for token in _SPECIAL if token not in words]
    if missing:
        raise DataError(
            f"a vocabulary without {', '.join(missing)}",
            path=file,
            expected="the pieces of a BERT",
        )


@dataclass(frozen=True)
class ReportTokens:
    """Packed reports, padded to the longest of them.

    Attributes:
        ids: (n, T) word pieces; from `len(vocabulary)` on the tokens of sentences.
        types: (n, T) number of the sentence, from 1; 1 for the report's token, 0 for padding.
        kinds: (n, T) PADDING, REPORT, SENTENCE, WORD, or PIECE, which goes on with the word.
    """

    ids: Int64[Tensor, "n tokens"]
    types: Int64[Tensor, "n tokens"]
    kinds: Int64[Tensor, "n tokens"]

    def rows(self, rows: Int64[Tensor, " batch"]) -> dict[str, Int64[Tensor, "batch tokens"]]:
        """Some reports, as columns of a batch."""
        columns = {"ids": self.ids, "types": self.types, "kinds": self.kinds}
        return {name: column.index_select(0, rows) for name, column in columns.items()}

    def to(self, device: torch.device) -> "ReportTokens":
        """The same on a device."""
        return ReportTokens(self.ids.to(device), self.types.to(device), self.kinds.to(device))


class ReportTokenizer:
    """Sentences to ids: `[CLS] [SEN_1] pieces [SEN_2] pieces ...`, as SentBert packs them.

    Of a report with more than `max_sentences` some are left out, drawn at random but always the
    same ones; the others keep their order. A sentence is cut at 200 tokens, the published count
    with its two marks, and a report at `max_tokens`.

    Args:
        vocabulary: word pieces, lower case, with BERT's own tokens.
        max_tokens: of a report.
        max_sentences: of a report.

    Raises:
        DataError: the vocabulary lacks one of BERT's own tokens.
    """

    def __init__(
        self, vocabulary: Sequence[str], max_tokens: int = 512, max_sentences: int = 50
    ) -> None:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        _check(vocabulary)
        self.vocabulary = list(vocabulary)
        self.max_tokens, self.max_sentences = max_tokens, max_sentences
        number = {piece: id_ for id_, piece in enumerate(vocabulary)}
        self.padding, self.report = number["[PAD]"], number["[CLS]"]
        self._pieces = Tokenizer(models.WordPiece(number, unk_token="[UNK]"))
        self._pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def __call__(self, reports: Sequence[str]) -> ReportTokens:
        """Packs reports; one without a sentence is its own token alone."""
        packed = [self._pack(report) for report in reports]
        width = max((len(tokens) for tokens in packed), default=1)
        filled = [
            tokens + [(self.padding, 0, PADDING)] * (width - len(tokens)) for tokens in packed
        ]
        table = torch.tensor(filled, dtype=torch.int64).reshape(len(reports), width, 3)
        return ReportTokens(*(column.contiguous() for column in table.unbind(2)))

    def _pack(self, report: str) -> list[tuple[int, int, int]]:
        sentences = split_sentences(report)
        if len(sentences) > self.max_sentences:
            chance = torch.Generator().manual_seed(len(report))
            kept = torch.randperm(len(sentences), generator=chance)[: self.max_sentences]
            sentences = [sentences[row] for row in kept.sort().values.tolist()]
        tokens = [(self.report, 1, REPORT)]
        encoded = self._pieces.encode_batch(sentences, add_special_tokens=False)
        for number, sentence in enumerate(encoded, 1):
            tokens.append((len(self.vocabulary) + number - 1, number, SENTENCE))
            for id_, piece in zip(sentence.ids[:_LONGEST], sentence.tokens, strict=False):
                tokens.append((id_, number, PIECE if piece.startswith("##") else WORD))
        return tokens[: self.max_tokens]

    def words(self, ids: Int64[Tensor, " tokens"], kinds: Int64[Tensor, " tokens"]) -> list[str]:
        """The words of one packed report, in the order of its word units."""
        words: list[str] = []
        for id_, kind in zip(ids.tolist(), kinds.tolist(), strict=True):
            if kind == WORD:
                words.append(self.vocabulary[id_])
            elif kind == PIECE:
                words[-1] += self.vocabulary[id_].removeprefix("##")
        return words
