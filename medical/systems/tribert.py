"""TriBERT, the text encoder of VELVET-Med: states of a report, of its sentences and of its words.

arXiv 2508.12108; called SentBert in the authors' code. Text layers see the text alone; fusion
layers attend to a volume as well. Where the authors' code loses the last sentence of a report that
fills all positions, here its row of the mask is as those of all others, and its last word is kept.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.bert_layer import BertLayer
from medical.data.report_tokens import PADDING, PIECE, REPORT, SENTENCE, WORD


def sentence_mask(
    types: Int64[Tensor, "batch tokens"], kinds: Int64[Tensor, "batch tokens"]
) -> Bool[Tensor, "batch tokens tokens"]:
    """True where the token of a row may attend to the token of a column.

    A sentence's token sees the report's token and its own sentence; all other rows see every real
    token, those of padding too, whose states are used by nothing.

    Args:
        types: number of the sentence of each token; the report's is 1.
        kinds: see `medical.data.report_tokens`.
    """
    real = (kinds != PADDING)[:, None, :]
    is_report = (kinds == REPORT)[:, None, :]
    same_sentence = types[:, :, None] == types[:, None, :]
    is_sentence = (kinds == SENTENCE)[:, :, None]
    return real & (~is_sentence | same_sentence | is_report)


class TextUnits(NamedTuple):
    """What the states of a report's tokens make, padded with zeros.

    Attributes:
        report: (B, D) state of the report's token.
        sentences: (B, S, D) means over a sentence's token and its words.
        n_sentences: (B,).
        words: (B, W, D) sums over the pieces of a word.
        n_words: (B,).
    """

    report: Float[Tensor, "batch dim"]
    sentences: Float[Tensor, "batch sentences dim"]
    n_sentences: Int64[Tensor, " batch"]
    words: Float[Tensor, "batch words dim"]
    n_words: Int64[Tensor, " batch"]

    def has_sentence(self) -> Bool[Tensor, "batch sentences"]:
        """True where there is one."""
        return _below(self.n_sentences, self.sentences)

    def has_word(self) -> Bool[Tensor, "batch words"]:
        """True where there is one."""
        return _below(self.n_words, self.words)


def text_units(
    states: Float[Tensor, "batch tokens dim"],
    kinds: Int64[Tensor, "batch tokens"],
    max_sentences: int,
    max_words: int,
) -> TextUnits:
    """Report, sentences and words from the states of tokens, without a loop over reports.

    Args:
        states: (B, T, D), of several layers their sum.
        kinds: see `medical.data.report_tokens`; a sentence goes from its token to the next.
        max_sentences: of a report; those beyond are left out.
        max_words: of a report; likewise.
    """
    starts_word, is_sentence = kinds == WORD, kinds == SENTENCE
    in_word = starts_word | (kinds == PIECE)
    sentence_of = is_sentence.cumsum(1) - 1
    words = _segment_sums(states, starts_word.cumsum(1) - 1, in_word, max_words)
    # A sum over words of sums over pieces is a sum over pieces.
    sums = _segment_sums(states, sentence_of, in_word | is_sentence, max_sentences)
    ones = torch.ones_like(states[..., :1])
    members = _segment_sums(ones, sentence_of, starts_word | is_sentence, max_sentences)
    return TextUnits(
        (states * (kinds == REPORT)[..., None]).sum(1),
        sums / members.clamp(min=1),
        is_sentence.sum(1).clamp(max=max_sentences),
        words,
        starts_word.sum(1).clamp(max=max_words),
    )


def _segment_sums(
    states: Float[Tensor, "batch tokens dim"],
    segment: Int64[Tensor, "batch tokens"],
    counted: Bool[Tensor, "batch tokens"],
    n_segments: int,
) -> Float[Tensor, "batch segments dim"]:
    # What is not counted goes into one more segment, which is dropped.
    kept = counted & (segment < n_segments)
    place = segment.where(kept, n_segments)[..., None].expand_as(states)
    sums = states.new_zeros(len(states), n_segments + 1, states.shape[-1])
    return sums.scatter_add(1, place, states)[:, :-1]


def _below(counts: Int64[Tensor, " batch"], units: Tensor) -> Bool[Tensor, "batch units"]:
    return torch.arange(units.shape[1], device=counts.device) < counts[:, None]


class TriBERT(nn.Module):
    """Embeddings, text layers and fusion layers of BERT.

    Args:
        n_tokens: word pieces and tokens of sentences.
        context_dim: width of a volume's tokens.
        dim: width of the states.
        text_layers: layers that see the text alone.
        fusion_layers: layers that attend to a volume as well.
        heads: of every attention.
        hidden: width within the dense layers.
        max_tokens: positions.
        max_sentences: types of tokens, beside that of padding, which is not learned.
        dropout: in training.
    """

    def __init__(
        self,
        n_tokens: int,
        context_dim: int,
        dim: int = 768,
        text_layers: int = 12,
        fusion_layers: int = 6,
        heads: int = 6,
        hidden: int = 3072,
        max_tokens: int = 512,
        max_sentences: int = 50,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, dim)
        self.positions = nn.Embedding(max_tokens, dim)
        self.types = nn.Embedding(max_sentences + 1, dim, padding_idx=0)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.text_layers = nn.ModuleList(
            BertLayer(dim, heads, hidden, dropout) for _ in range(text_layers)
        )
        self.fusion_layers = nn.ModuleList(
            BertLayer(dim, heads, hidden, dropout, context_dim) for _ in range(fusion_layers)
        )
        self.apply(initialise_bert)

    def forward(
        self,
        ids: Int64[Tensor, "batch tokens"],
        types: Int64[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens tokens"],
    ) -> Float[Tensor, "batch tokens dim"]:
        """States of the last text layer.

        Args:
            ids: see `medical.data.report_tokens.ReportTokens`.
            types: likewise.
            mask: see `sentence_mask`.
        """
        x = self.tokens(ids) + self.types(types) + self.positions.weight[: ids.shape[1]]
        x = self.dropout(self.norm(x))
        for layer in self.text_layers:
            x = layer(x, mask)
        return x

    def fuse(
        self,
        states: Float[Tensor, "batch tokens dim"],
        mask: Bool[Tensor, "batch tokens tokens"],
        volume: Float[Tensor, "batch voxels context_dim"],
    ) -> Float[Tensor, "batch tokens dim"]:
        """States of the last fusion layer, from those of the last text layer and a volume."""
        for layer in self.fusion_layers:
            states = layer(states, mask, volume)
        return states

    @torch.no_grad()
    def load_bert(self, folder: str, report_id: int) -> None:
        """Starts from a BERT of the same sizes, such as CXR-BERT.

        The tokens of sentences start as that of the report, all types as type 0. Layers beyond
        those of the BERT, and all attention to volumes, stay as drawn.

        Args:
            folder: written by transformers, or a name on the Hugging Face hub.
            report_id: of the report's token, [CLS], in its vocabulary.

        Raises:
            DataError: there is none, or it has other sizes.
        """
        from transformers import AutoModel

        try:
            bert = AutoModel.from_pretrained(folder).state_dict()
        except (OSError, ValueError) as error:
            raise DataError(
                f"no BERT could be read: {str(error).splitlines()[0]}",
                path=folder,
                expected="a folder with config.json and weights",
            ) from error
        try:
            words = bert["embeddings.word_embeddings.weight"]
            sentence_rows = words[report_id].expand(len(self.tokens.weight) - len(words), -1)
            self.tokens.weight.copy_(torch.cat([words, sentence_rows]))
            positions = bert["embeddings.position_embeddings.weight"]
            self.positions.weight.copy_(positions[: len(self.positions.weight)])
            self.types.weight.copy_(
                bert["embeddings.token_type_embeddings.weight"][:1].expand_as(self.types.weight)
            )
            for part in ("weight", "bias"):
                getattr(self.norm, part).copy_(bert[f"embeddings.LayerNorm.{part}"])
            for number, layer in enumerate([*self.text_layers, *self.fusion_layers]):
                if f"encoder.layer.{number}.output.dense.weight" in bert:
                    _copy_layer(layer, bert, f"encoder.layer.{number}.")
        except (KeyError, IndexError, RuntimeError) as error:
            raise DataError(
                f"its weights do not fit: {str(error).splitlines()[0]}",
                path=folder,
                expected="a BERT of the same width, and the vocabulary of system.vocabulary",
                fix="give its task.vocabulary=FILE too, and its sizes to the system",
            ) from error


_NAMES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "dense": "intermediate.dense",
    "out": "output.dense",
    "norm": "output.LayerNorm",
}


def _copy_layer(layer: nn.Module, bert: dict[str, Tensor], prefix: str) -> None:
    for ours, theirs in _NAMES.items():
        module = layer.get_submodule(ours)
        for part in ("weight", "bias"):
            getattr(module, part).copy_(bert[f"{prefix}{theirs}.{part}"])


def initialise_bert(module: nn.Module) -> None:
    """Normal weights, biases 0: of deviation 0.02 at BERT's width of 768, larger at smaller ones.

    A narrow layer with 0.02 passes on next to nothing: at a width of 48 all reports start with the
    same state of [CLS], to a cosine of 0.99998.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02 * (768 / module.weight.shape[1]) ** 0.5)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
