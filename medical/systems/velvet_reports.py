"""Reports written from volumes: a soft prompt into a language model (VELVET-Med, 2508.12108).

An instruction goes through all layers of a pre-trained TriBERT with the volume; its states, made
as wide as the language model's embeddings, are the prompt that the report follows. The paper adapts
an 8-billion model by LoRA; here a model of any size is trained as a whole or left as it is, and
without one a small decoder learns from random weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from core.data.checks import DataError
from core.distributed import global_mean
from core.losses.precision import full_precision
from core.trainers.system import Batch, System
from medical.data.report_tokens import PADDING
from medical.systems.velvet_fused import FusedStates


class VelvetReports(System):
    """States of an instruction that saw a volume, and a language model that goes on from them.

    Args:
        vocabulary: word pieces.
        size: side of the cubes in voxels.
        model: further constructor arguments of VELVET-Med.
        pretrained: run of system=velvet_med to start from; None starts from random weights.
        language_model: folder, or name on the Hugging Face hub, of a causal language model that
            transformers knows; None: a small Llama of random weights on `vocabulary`.
        train_language_model: whether its weights are trained.
        decoder_dim: width of the small one.
        decoder_layers: its layers.
        decoder_heads: heads of its attention.
        max_length: tokens of a report.

    Raises:
        DataError: the language model cannot be read.
    """

    def __init__(
        self,
        vocabulary: list[str],
        size: int,
        model: dict[str, Any],
        pretrained: str | None,
        language_model: str | None = None,
        train_language_model: bool = True,
        decoder_dim: int = 256,
        decoder_layers: int = 4,
        decoder_heads: int = 4,
        max_length: int = 256,
    ) -> None:
        super().__init__()
        self.vocabulary, self.size, self.pretrained = list(vocabulary), size, pretrained
        self.max_length = max_length
        self.states = FusedStates(vocabulary, size, model)
        self.max_tokens = self.states.velvet.max_tokens
        self.max_sentences = self.states.velvet.max_sentences
        if language_model is None:
            self.tokenizer = _tokenizer(self.vocabulary)
            self.decoder = _small_decoder(
                self.vocabulary,
                decoder_dim,
                decoder_layers,
                decoder_heads,
                self.max_tokens + max_length,
            )
        else:
            self.tokenizer, self.decoder = _read(language_model)
        self.decoder.requires_grad_(train_language_model)
        self.prompt = nn.Linear(
            self.states.dim, self.decoder.get_input_embeddings().weight.shape[1]
        )

    def prepare(self, data: Any) -> None:  # noqa: ANN401
        """Loads the pre-trained weights, before the first step alone."""
        if self.pretrained is not None:
            self.states.load(self.pretrained)

    def targets(self, reports: Sequence[str]) -> Int64[Tensor, "n length"]:
        """Tokens of reports with the end, cut at `max_length`; -100 is padding."""
        end = self.tokenizer.eos_token_id
        rows = [
            [
                *self.tokenizer(text, add_special_tokens=False)["input_ids"][: self.max_length - 1],
                end,
            ]
            for text in reports
        ]
        width = max(map(len, rows))
        return torch.tensor([row + [-100] * (width - len(row)) for row in rows])

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the next token of `target`, after the prompt."""
        prompt, is_prompt = self._prompt(batch)
        target = batch["target"]
        known = target >= 0
        words = self.decoder.get_input_embeddings()(target.clamp(min=0))
        given = torch.cat([prompt, words.to(prompt.dtype)], 1)
        mask = torch.cat([is_prompt, known], 1)
        logits = self.decoder(inputs_embeds=given, attention_mask=mask.long()).logits
        # The last token of the prompt says the first of the report.
        said = logits[:, prompt.shape[1] - 1 : -1]
        return {"loss": global_mean(_losses(said, target.clamp(min=0)), known)}

    @torch.no_grad()
    def write(self, batch: Batch) -> list[str]:
        """The likeliest report of each volume, token by token."""
        prompt, is_prompt = self._prompt(batch)
        tokens = self.decoder.generate(
            inputs_embeds=prompt,
            attention_mask=is_prompt.long(),
            max_new_tokens=self.max_length,
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    @torch.no_grad()
    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`joint`: the mean state of the prompt."""
        prompt, is_prompt = self._prompt(batch)
        kept = is_prompt[..., None]
        return {"joint": ((prompt * kept).sum(1) / kept.sum(1)).float()}

    def _prompt(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch tokens width"], Bool[Tensor, "batch tokens"]]:
        return self.prompt(self.states(batch)), batch["kinds"] != PADDING


@full_precision
def _losses(
    logits: Float[Tensor, "batch length vocabulary"], target: Int64[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    return cross_entropy(logits.mT, target, reduction="none")


def _tokenizer(vocabulary: list[str]) -> Any:  # noqa: ANN401
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(
        models.WordPiece({piece: n for n, piece in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]"
    )


def _small_decoder(vocabulary: list[str], dim: int, layers: int, heads: int, positions: int) -> Any:  # noqa: ANN401
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=dim,
            intermediate_size=4 * dim,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=positions,
            eos_token_id=vocabulary.index("[SEP]"),
            bos_token_id=None,
            pad_token_id=None,
        )
    )


def _read(source: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise DataError(
            f"no language model could be read: {str(error).splitlines()[0]}",
            path=source,
            expected="a folder with config.json, weights and tokenizer, or a name on the hub",
        ) from error
