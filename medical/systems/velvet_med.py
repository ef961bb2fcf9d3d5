"""VELVET-Med: vision and efficient language pre-training for volumes (arXiv 2508.12108).

A Swin transformer of the volume and TriBERT of its report are aligned at three levels: the whole
volume with the report, 6^3 regions with sentences, 12^3 regions with words (of cubes of 96 voxels).
Beside that the text is completed from itself and from the volume, pairs are told from hard wrong
ones, and the volume learns by itself from turned and cut views. All terms have weight 1.

Differs from the authors' code where that slips: the mask and the last word of reports that fill all
positions, the temperature, which is kept from reaching 0, and cut-outs, which copy from volumes as
they were. Wrong pairs are drawn from all processes. The text with masks is encoded once for both
objectives that complete it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.augment.draws import Draws
from core.data.checks import DataError
from core.distributed import all_gather, global_mean, rank, row_counts
from core.losses import local_attention, local_contrast, mask_tokens, masked_language, nt_xent
from core.losses.precision import full_precision
from core.losses.score_contrast import score_contrast
from core.trainers.system import Batch, System
from medical.data.report_tokens import PIECE, WORD
from medical.systems.tribert import TextUnits, TriBERT, initialise_bert, sentence_mask, text_units
from medical.systems.volume_views import draw_views

OBJECTIVES = ("report", "sentence", "word", "multimodal", "vision", "text")
LOCAL = ("sentence", "word")
LEAST_TEMPERATURE = 0.01
_VIEW_TEMPERATURE = 0.5


class VELVETMed(System):
    """Swin transformer, TriBERT, and the heads of the objectives that are chosen.

    Args:
        vocabulary: word pieces, see `medical.data.report_tokens`.
        size: side of the cubes in voxels, a multiple of 32.
        embed_dim: channels of the Swin transformer at stride 2; 16 times as many at stride 32.
        window: side of its windows in tokens.
        depths: blocks of its stages.
        heads: of their attention.
        text_dim: width of TriBERT.
        text_layers: its layers that see text alone.
        fusion_layers: its layers that attend to the volume as well.
        text_heads: of its attention.
        text_hidden: width within its dense layers.
        max_tokens: of a report.
        max_sentences: of a report.
        dropout: in TriBERT.
        projection: width of the spaces in which volumes and texts are compared.
        objectives: some of report, sentence, word, multimodal, vision, text.
        temperature: of the report contrast at the start; learned.
        label_smoothing: of the report contrast.
        mask_share: of the tokens that are to be completed.
        checkpointing: compute the Swin transformer's blocks again in the backward.
        bert: folder of a BERT to start from, such as CXR-BERT.

    Raises:
        DataError: a size or an objective is not as said.
    """

    def __init__(
        self,
        vocabulary: list[str],
        size: int,
        embed_dim: int = 48,
        window: int = 7,
        depths: Sequence[int] = (2, 8, 8, 8),
        heads: Sequence[int] = (4, 8, 16, 32),
        text_dim: int = 768,
        text_layers: int = 12,
        fusion_layers: int = 6,
        text_heads: int = 6,
        text_hidden: int = 3072,
        max_tokens: int = 512,
        max_sentences: int = 50,
        dropout: float = 0.1,
        projection: int = 512,
        objectives: Sequence[str] = OBJECTIVES,
        temperature: float = 0.07,
        label_smoothing: float = 0.1,
        mask_share: float = 0.15,
        checkpointing: bool = True,
        bert: str | None = None,
    ) -> None:
        super().__init__()
        _check(size, objectives, temperature)
        self.vocabulary, self.size = list(vocabulary), size
        self.max_tokens, self.max_sentences = max_tokens, max_sentences
        self.objectives = frozenset(objectives)
        self.label_smoothing, self.mask_share = label_smoothing, mask_share
        self.mask_id = self.vocabulary.index("[MASK]")
        n_tokens = len(self.vocabulary) + max_sentences
        self.vision = swin_transformer(embed_dim, window, depths, heads, checkpointing)
        top, levels = 16 * embed_dim, {"sentence": 8 * embed_dim, "word": 4 * embed_dim}
        if self.objectives != {"vision"}:
            fuses = "multimodal" in self.objectives
            self.text = TriBERT(
                n_tokens,
                text_dim,
                text_dim,
                text_layers,
                fusion_layers if fuses else 0,
                text_heads,
                text_hidden,
                max_tokens,
                max_sentences,
                dropout,
            )
        if "report" in self.objectives:
            self.volume_projection = nn.Linear(top, projection)
            self.report_projection = nn.Linear(text_dim, projection)
            self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.regions = nn.ModuleDict(
            {name: nn.Linear(levels[name], projection) for name in LOCAL if name in objectives}
        )
        self.units = nn.ModuleDict(
            {name: nn.Linear(text_dim, projection) for name in LOCAL if name in objectives}
        )
        if "multimodal" in self.objectives:
            self.adapter = nn.Sequential(nn.Linear(top, text_dim), nn.LayerNorm(text_dim))
            self.fused_completion = _completion(text_dim, n_tokens)
            self.match = nn.Linear(text_dim, 2)
        if "text" in self.objectives:
            self.completion = _completion(text_dim, n_tokens)
        if "vision" in self.objectives:
            self.turn_head = nn.Linear(top, 4)
            self.view_projection = nn.Linear(top, projection)
            self.reconstruct = _decoder(top)
        if bert is not None and self.objectives != {"vision"}:
            self.text.load_bert(bert, self.vocabulary.index("[CLS]"))

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """What is random about a batch: views, masks, which wrong pairs."""
        drawn: Batch = {}
        if "vision" in self.objectives:
            drawn |= draw_views(batch["crop"], draws)
        if self.objectives & {"multimodal", "text"}:
            ids, kinds = batch["ids"], batch["kinds"]
            uniform = draws.uniform(0, 1, ids.shape[1], 3)
            maskable = (kinds == WORD) | (kinds == PIECE)
            # Pieces from 5 on: before them are BERT's own tokens, after them those of sentences.
            kept = (5, len(self.vocabulary))
            drawn["masked_ids"], drawn["chosen"] = mask_tokens(
                ids, maskable, uniform, self.mask_id, kept, self.mask_share
            )
        if "multimodal" in self.objectives:
            drawn["wrong"] = draws.uniform(0, 1, 2)
        return drawn

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """All chosen terms; `volume`, `ids`, `types`, `kinds` and what `draw` adds."""
        terms: dict[str, Tensor] = {}
        if self.objectives & {*LOCAL, "report", "multimodal"}:
            maps = self.vision(batch["volume"])
        mask = None
        if self.objectives != {"vision"}:
            mask = sentence_mask(batch["types"], batch["kinds"])
        if self.objectives & {*LOCAL, "report", "multimodal"}:
            states = self.text(batch["ids"], batch["types"], mask)
        if "report" in self.objectives:
            volumes, reports = self._volume(maps), self._report(states)
            scores = report_scores(volumes, reports, self.temperature)
            terms["report"] = score_contrast(scores, label_smoothing=self.label_smoothing)
            self.latest = {"features": volumes.detach()}
        if self.objectives & set(LOCAL):
            terms |= self._local_terms(maps, states, batch["kinds"])
        if self.objectives & {"multimodal", "text"}:
            masked = self.text(batch["masked_ids"], batch["types"], mask)
        if "text" in self.objectives:
            terms["completion"] = masked_language(
                masked, batch["ids"], batch["chosen"], self.completion
            )
        if "multimodal" in self.objectives:
            context = self.adapter(_tokens(maps[-1]))
            fused = self.text.fuse(masked, mask, context)
            terms["fused_completion"] = masked_language(
                fused, batch["ids"], batch["chosen"], self.fused_completion
            )
            terms["matching"] = self._matching(states, context, volumes, reports, batch)
        if "vision" in self.objectives:
            terms |= self._vision_terms(batch)
        return {"loss": torch.stack(list(terms.values())).sum()} | terms

    def _local_terms(
        self, maps: list[Tensor], states: Tensor, kinds: Int64[Tensor, "batch tokens"]
    ) -> dict[str, Tensor]:
        regions, units = self._regions(maps), self._units(states, kinds)
        return {name: local_contrast(regions[name], *units[name]) for name in regions}

    def _matching(
        self,
        states: Float[Tensor, "batch tokens dim"],
        context: Float[Tensor, "batch voxels dim"],
        volumes: Float[Tensor, "batch projection"],
        reports: Float[Tensor, "batch projection"],
        batch: Batch,
    ) -> Float[Tensor, ""]:
        """Pairs told from those with a wrong volume or a wrong report that is near to the right.

        Raises:
            DataError: there is one pair in all, which leaves no wrong one.
        """
        counts = row_counts(len(states))
        if sum(counts) < 2:
            raise DataError(
                "a batch of one pair, in which none is wrong",
                expected="two or more",
                fix="raise trainer.batch_size_global, or leave multimodal out of the objectives",
            )
        # The right pair is where it is among the rows of all processes.
        first = sum(counts[: rank()])
        with torch.no_grad():
            wrong_text = _draw_wrong(
                report_scores(volumes, reports, self.temperature), first, batch["wrong"][:, 0]
            )
            wrong_volume = _draw_wrong(
                report_scores(reports, volumes, self.temperature), first, batch["wrong"][:, 1]
            )
        types, kinds = (all_gather(batch[name], counts) for name in ("types", "kinds"))
        own = torch.arange(first, first + len(states), device=states.device)
        text = torch.cat([own, own, wrong_text])
        all_states = all_gather(states, counts)
        fused = self.text.fuse(
            all_states[text],
            sentence_mask(types[text], kinds[text]),
            torch.cat([context, all_gather(context, counts)[wrong_volume], context]),
        )
        is_pair = torch.arange(len(text), device=text.device) < len(own)
        return global_mean(_class_losses(self.match(fused[:, 0]), is_pair.long()))

    def _vision_terms(self, batch: Batch) -> dict[str, Tensor]:
        top = self.vision(batch["views"].flatten(0, 1))[-1]
        pooled = top.mean((2, 3, 4))
        errors = _errors(self.reconstruct(top), batch["uncut"].flatten(0, 1))
        views = self.view_projection(pooled).unflatten(0, (2, -1))
        return {
            "turns": global_mean(_class_losses(self.turn_head(pooled), batch["turns"].flatten())),
            "views": nt_xent(views[0], views[1], _VIEW_TEMPERATURE),
            "reconstruction": global_mean(errors),
        }

    @torch.no_grad()
    def update_teachers(self, step: int, total_steps: int) -> None:
        """Keeps the temperature away from 0, where it would change its sign."""
        if "report" in self.objectives:
            self.temperature.clamp_(min=LEAST_TEMPERATURE)

    @torch.no_grad()
    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Unit vectors in the space of the report contrast, of what the batch has of both.

        Raises:
            DataError: the system was trained without the report contrast.
        """
        self._need("report")
        vectors = {}
        if "volume" in batch:
            vectors["volume"] = self._volume(self.vision(batch["volume"]))
        if "ids" in batch:
            vectors["report"] = self._report(self.text_states(batch))
        return {name: of.float() for name, of in vectors.items()}

    def volume_parts(self, batch: Batch) -> dict[str, Tensor]:
        """`report`: unit vectors (B, D); `sentence` and `word`: regions (B, S, D), as trained."""
        maps = self.vision(batch["volume"])
        return {"report": self._volume(maps)} | self._regions(maps)

    def report_parts(self, batch: Batch) -> dict[str, Any]:
        """`report`: unit vectors (B, D); `sentence`, `word`: units (B, L, D) and which exist."""
        states = self.text_states(batch)
        return {"report": self._report(states)} | self._units(states, batch["kinds"])

    @torch.no_grad()
    def attention(self, batch: Batch, level: str) -> Float[Tensor, "batch units x y z"]:
        """Weights of every sentence's or word's regions in its own volume, with the sum 1.

        Raises:
            DataError: the system was trained without that level.
        """
        self._need(level)
        maps = self.vision(batch["volume"])
        grid = maps[-2 if level == "sentence" else -3].shape[2:]
        units, exists = self._units(self.text_states(batch), batch["kinds"])[level]
        weights = local_attention(self._regions(maps)[level], units, exists)
        return weights.unflatten(-1, grid)

    def text_states(self, batch: Batch) -> Float[Tensor, "batch tokens dim"]:
        """States of the last text layer."""
        mask = sentence_mask(batch["types"], batch["kinds"])
        states: Tensor = self.text(batch["ids"], batch["types"], mask)
        return states

    def volume_tokens(self, volume: Tensor) -> Float[Tensor, "batch voxels dim"]:
        """The top map as fusion layers are given it.

        Raises:
            DataError: the system was trained without the multi-modal objectives.
        """
        self._need("multimodal")
        tokens: Tensor = self.adapter(_tokens(self.vision(volume)[-1]))
        return tokens

    def match_scores(
        self, batch: Batch, states: Tensor, context: Tensor
    ) -> Float[Tensor, " batch"]:
        """The matching logit that report and volume of a row are a pair."""
        mask = sentence_mask(batch["types"], batch["kinds"])
        logits: Tensor = self.match(self.text.fuse(states, mask, context)[:, 0])
        return logits[:, 1].float()

    def _volume(self, maps: list[Tensor]) -> Float[Tensor, "batch projection"]:
        return unit_vectors(self.volume_projection(maps[-1].mean((2, 3, 4))))

    def _report(self, states: Tensor) -> Float[Tensor, "batch projection"]:
        return unit_vectors(self.report_projection(states[:, 0]))

    def _regions(self, maps: list[Tensor]) -> dict[str, Float[Tensor, "batch regions projection"]]:
        of = {"sentence": maps[-2], "word": maps[-3]}
        return {name: project(_tokens(of[name])) for name, project in self.regions.items()}

    def _units(
        self, states: Tensor, kinds: Int64[Tensor, "batch tokens"]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        units: TextUnits = text_units(states, kinds, self.max_sentences, states.shape[1])
        of = {
            "sentence": (units.sentences, units.has_sentence()),
            "word": (units.words, units.has_word()),
        }
        return {name: (project(of[name][0]), of[name][1]) for name, project in self.units.items()}

    def _need(self, objective: str) -> None:
        if objective not in self.objectives:
            raise DataError(
                f"the system was trained without the {objective} objective",
                expected=f"a run with {objective} in system.objectives",
            )


@full_precision
def unit_vectors(x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Rows of length 1, in float32 at least."""
    return F.normalize(x, dim=1)


@full_precision
def report_scores(
    anchors: Float[Tensor, "batch dim"],
    candidates: Float[Tensor, "batch dim"],
    temperature: Tensor,
) -> Float[Tensor, "batch candidates"]:
    """Cosines of unit vectors with those of all processes, over the temperature."""
    return anchors @ all_gather(candidates).T / temperature


@full_precision
def _class_losses(
    logits: Float[Tensor, "rows classes"], classes: Int64[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    return F.cross_entropy(logits, classes, reduction="none")


@full_precision
def _errors(
    made: Float[Tensor, "rows 1 x y z"], true: Float[Tensor, "rows 1 x y z"]
) -> Float[Tensor, " rows"]:
    return (made - true).abs().mean((1, 2, 3, 4))


def _draw_wrong(
    scores: Float[Tensor, "batch candidates"], first: int, uniform: Float[Tensor, " batch"]
) -> Int64[Tensor, " batch"]:
    """A candidate that is not the row's own, drawn from the softmax of the scores."""
    own = torch.arange(first, first + len(scores), device=scores.device)
    others = scores.double().scatter(1, own[:, None], -torch.inf)
    cumulated = others.softmax(1).cumsum(1)
    # The own one adds nothing, so that no number below the sum falls to it.
    at = uniform.double().clamp(max=1 - 1e-9)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, at, right=True)[:, 0]


def swin_transformer(
    embed_dim: int, window: int, depths: Sequence[int], heads: Sequence[int], checkpointing: bool
) -> nn.Module:
    """MONAI's encoder of SwinUNETR for one channel; five maps, at strides 2 to 32."""
    from monai.networks.nets.swin_unetr import SwinTransformer

    return SwinTransformer(
        in_chans=1,
        embed_dim=embed_dim,
        window_size=(window,) * 3,
        patch_size=(2,) * 3,
        depths=tuple(depths),
        num_heads=tuple(heads),
        downsample="merging",
        use_checkpoint=checkpointing,
        spatial_dims=3,
    )


def _completion(dim: int, n_tokens: int) -> nn.Sequential:
    head = nn.Sequential(
        nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, n_tokens)
    )
    return head.apply(initialise_bert)


def _decoder(dim: int) -> nn.Sequential:
    widths = [dim, dim // 2, dim // 4, dim // 8, dim // 16, 1]
    steps = pairwise(widths)
    return nn.Sequential(*(nn.ConvTranspose3d(i, o, kernel_size=2, stride=2) for i, o in steps))


def _tokens(maps: Float[Tensor, "batch dim x y z"]) -> Float[Tensor, "batch regions dim"]:
    return maps.flatten(2).mT


def _check(size: int, objectives: Sequence[str], temperature: float) -> None:
    if size < 32 or size % 32:
        raise DataError(f"data.size={size}", expected="a multiple of 32 voxels")
    unknown = sorted(set(objectives) - set(OBJECTIVES))
    if unknown or not objectives:
        raise DataError(
            f"system.objectives={list(objectives)}", expected=f"some of {', '.join(OBJECTIVES)}"
        )
    if "multimodal" in objectives and "report" not in objectives:
        raise DataError(
            "multimodal without report in system.objectives",
            expected="both: the report contrast says which wrong pairs are hard",
        )
    if temperature < LEAST_TEMPERATURE:
        raise DataError(
            f"system.temperature={temperature}", expected=f"at least {LEAST_TEMPERATURE}"
        )
