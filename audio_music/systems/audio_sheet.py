"""Audio-to-sheet-music retrieval with self-supervised pre-training (ACM MMSys 2023).

Carvalho, Washüttl, Widmer, "Self-Supervised Contrastive Learning for Robust Audio-Sheet Music
Retrieval Systems"; recipe of their code, `luisfvc/ucasr`. Two convolutional encoders, each
pre-trained on unpaired snippets of its own modality (`audio_sheet_pretraining`), are fine-tuned on
pairs: a projection, a differentiable CCA layer, and a hinge that ranks the audio of a batch for
every snippet of a score.

Where this differs: the authors stop fine-tuning after 30 epochs of 32,768 pairs without a better
validation and then halve the rate five times, each time from the best weights; here an epoch is all
pairs once, and the rate falls as `schedule` says while the best checkpoint is kept. They refine
the CCA once after training; here whatever evaluates does it (`refine`), from the training pairs, so
that no result depends on the last batch. Weight decay spares biases and norms.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, normalize

from audio_music.data.scores import SheetMusic
from audio_music.data.snippet_views import AudioViews, SheetViews
from audio_music.data.snippets import AUDIO, SHEET
from audio_music.systems.audio_sheet_pretraining import pretrain, stage_of
from core.data.checks import DataError
from core.encoders.cca import CCALayer
from core.losses import hinge_ranking
from core.trainers.system import Batch, System

Pretraining = Literal["both", "audio", "sheet", "mixed", "none"]
_MODALITIES = {"both": (AUDIO, SHEET), "audio": (AUDIO,), "sheet": (SHEET,), "none": ()}


class SnippetEncoder(nn.Module):
    """Four blocks of two 3x3 convolutions with batch norm, ELU and pooling, then a 1x1 convolution.

    Args:
        shape: (1, height, width) of a snippet.
        width: f; the blocks have f, 2f, 4f, 4f channels.
        channels: of the last convolution.
        pool: side of the squares that are averaged before anything else; 1: none.
    """

    def __init__(
        self, shape: Sequence[int], width: int = 24, channels: int = 32, pool: int = 1
    ) -> None:
        super().__init__()
        self.pool = pool
        self.blocks = _blocks(width)
        self.last = nn.Sequential(
            nn.Conv2d(4 * width, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.Flatten()
        )
        places = (shape[1] // pool // 16) * (shape[2] // pool // 16)
        self.dim = channels * places
        if places == 0:
            raise DataError(
                f"snippets of {shape[1]} x {shape[2]} averaged over {pool}",
                expected="16 x 16 or more: the encoder halves them four times",
                fix="lower system.pool",
            )
        self.apply(_initialize)

    def forward(
        self, snippets: Float[Tensor, "batch 1 height width"]
    ) -> Float[Tensor, "batch dim"]:
        """Features of every snippet."""
        if self.pool > 1:
            snippets = avg_pool2d(snippets, self.pool)
        return self.last(self.blocks(snippets))


class FrameAttention(nn.Module):
    """Weighs the frames of a spectrogram by what it sounds like, so that tempi may differ.

    The same blocks as an encoder, a map for every frame, averaged; the softmax over frames times
    their number multiplies the spectrogram.

    Args:
        frames: of a snippet.
        width: see `SnippetEncoder`.
    """

    def __init__(self, frames: int, width: int = 24) -> None:
        super().__init__()
        self.frames = frames
        self.blocks = nn.Sequential(_blocks(width), nn.Conv2d(4 * width, frames, 1))
        self.apply(_initialize)

    def forward(
        self, snippets: Float[Tensor, "batch 1 bands frames"]
    ) -> Float[Tensor, "batch 1 bands frames"]:
        """Spectrograms with weighted frames; even weights change nothing."""
        weights = self.blocks(snippets).mean((2, 3)).softmax(1) * self.frames
        return snippets * weights[:, None, None]


class AudioSheet(System):
    """Two pre-trained encoders, CCA, and a ranking loss.

    Args:
        shapes: modality -> shape of one snippet.
        width: channels of the encoders' first block.
        channels: of their last convolution.
        dim: of the common space.
        pool: average snippets over squares of this side first.
        cca: project by canonical correlation; False: by the linear layers alone.
        margin: of the ranking, in cosines.
        attention: weigh the frames of the audio.
        pretrain: which encoders learn from unpaired data first: `both`, each by itself; `audio` or
            `sheet`; `mixed`, together, in one contrastive loss; `none`, the supervised baseline.
        audio: changes to the published pre-training of the audio encoder, e.g. {epochs: 10}; see
            `audio_sheet_pretraining.Stage`.
        sheet: likewise of the score's.
        mixed: likewise of both together.

    Raises:
        DataError: a setting is unknown.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        width: int = 24,
        channels: int = 32,
        dim: int = 32,
        pool: int = 1,
        cca: bool = True,
        margin: float = 0.6,
        attention: bool = False,
        pretrain: Pretraining = "both",
        audio: dict[str, Any] | None = None,
        sheet: dict[str, Any] | None = None,
        mixed: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pretrain not in (*_MODALITIES, "mixed"):
            raise DataError(
                f"system.pretrain={pretrain}", expected="both, audio, sheet, mixed or none"
            )
        self.shapes, self.margin, self.pretrain = shapes, margin, pretrain
        changes = {AUDIO: audio, SHEET: sheet, "mixed": mixed}
        self.stages = {kind: stage_of(kind, of) for kind, of in changes.items()}
        self.encoders = nn.ModuleDict(
            {name: SnippetEncoder(shapes[name], width, channels, pool) for name in (SHEET, AUDIO)}
        )
        if attention:
            weigh = FrameAttention(shapes[AUDIO][2], width)
            self.encoders[AUDIO] = _WithAttention(weigh, self.encoders[AUDIO])
        self.heads = nn.ModuleDict(
            {name: nn.Linear(encoder.dim, dim) for name, encoder in self.encoders.items()}
        )
        self.heads.apply(_initialize)
        self.cca = CCALayer(dim) if cca else None

    # -- stage 1 -----------------------------------------------------------------------------------

    def prepare(self, data: SheetMusic) -> None:
        """Pre-trains the encoders on what the data have without pairs.

        Raises:
            DataError: there is nothing of that kind to learn from.
        """
        groups = [_MODALITIES["both"]] if self.pretrain == "mixed" else []
        groups += [(name,) for name in _MODALITIES.get(self.pretrain, ())]
        seed = int(torch.randint(2**31, ()))
        digest = data.digest() if groups else ""
        for group in groups:
            encoders = {name: (self.encoders[name], self.encoders[name].dim) for name in group}
            views = {name: self._views(data, name) for name in group}
            kind = group[0] if len(group) == 1 else "mixed"
            mrr, was_there = pretrain(encoders, views, self.stages[kind], seed, digest)
            source = "from the cache" if was_there else f"{self.stages[kind].epochs} epochs"
            # There is no process group yet.
            rank_zero_only(print)(
                f"pre-trained {' and '.join(group)}: MRR between two views {mrr:.3f}, {source}"
            )

    def _views(
        self, data: SheetMusic, name: str
    ) -> tuple[AudioViews | SheetViews, AudioViews | SheetViews]:
        """What makes the views of training and of held-out snippets."""
        if name not in data.unpaired:
            raise DataError(
                f"nothing to pre-train the {name} encoder on",
                path=data.folder,
                expected=f"pretraining/{'audio' if name == AUDIO else 'scores'}",
                fix=f"add it, name it by data.pretraining_{'audio' if name == AUDIO else 'scores'}"
                "=DIR, or train without: system.pretrain=none",
            )
        lines, judges = data.unpaired[name], data.held_out[name]
        # With few items, all learn and all judge.
        parts = [~judges, judges] if bool(judges.any()) else [~judges, ~judges]
        items = [part.nonzero()[:, 0] for part in parts]
        if name == SHEET:
            made = [SheetViews(lines, some) for some in items]
        else:
            made = [AudioViews(lines, some, data.frames) for some in items]
        if not len(made[0]):
            raise DataError(f"unpaired {name} is shorter than a snippet", path=data.folder)
        return made[0], made[1] if len(made[1]) else made[0]

    # -- stage 2 -----------------------------------------------------------------------------------

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The hinge with snippets of scores as anchors, all audio of the batch as candidates."""
        sheet, audio = self._latent(batch)
        terms = {}
        if self.cca is not None:
            terms["correlation"] = self.cca.correlations(sheet.detach(), audio.detach()).mean()
            sheet, audio = self.cca(sheet, audio)
        self.latest = {"features": torch.cat([sheet, audio], 1).detach()}
        return {"loss": hinge_ranking(sheet, audio, self.margin), **terms}

    def _latent(self, batch: Batch) -> Iterator[Float[Tensor, "batch dim"]]:
        for name in (SHEET, AUDIO):
            yield self.heads[name](self.encoders[name](batch[name])).float()

    @torch.no_grad()
    def refine(self, batches: Iterator[Mapping[str, Tensor]]) -> None:
        """Takes the statistics of the CCA from many pairs in place of the last batch's.

        Args:
            batches: pairs of snippets without augmentation; the authors take 25,000 pairs.
        """
        if self.cca is None:
            return
        pairs = [tuple(self._latent(dict(batch))) for batch in batches]
        if pairs:
            self.cca.refine(*(torch.cat(of) for of in zip(*pairs, strict=True)))

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Modality -> places in the common space, of unit length; of either modality alone too."""
        found = {}
        for name in (SHEET, AUDIO):
            if name in batch:
                latent = self.heads[name](self.encoders[name](batch[name])).float()
                if self.cca is not None:
                    project = self.cca.project_a if name == SHEET else self.cca.project_b
                    latent = project(latent)
                found[name] = normalize(latent, dim=1)
        return found


class _WithAttention(nn.Module):
    def __init__(self, attention: FrameAttention, encoder: nn.Module) -> None:
        super().__init__()
        self.attention, self.encoder, self.dim = attention, encoder, encoder.dim

    def forward(self, snippets: Tensor) -> Tensor:
        return self.encoder(self.attention(snippets))


def _blocks(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 1
    for channels in (width, 2 * width, 4 * width, 4 * width):
        for _ in range(2):
            layers += [
                nn.Conv2d(before, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ELU(),
            ]
            before = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
