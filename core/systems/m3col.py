"""M3CoL: mixup contrast between modalities beside supervised fusion (TMLR 2025, arXiv 2409.17777).

Samples of one modality are mixed in pairs and aligned with the partners of both sources in the
next modality (M3Co, eq. 3 and 4); after a third of the epochs SoftClip (eq. 5) takes its place.
Each modality has a classifier of its own while training; the prediction is that of the fusion
classifier on all embeddings side by side.

The paper is followed where the authors' code differs: raw inputs are mixed and pass through the
encoder a second time, the clean embeddings stay clean (the code mixes in place, and embeddings),
and a sample that is its own partner keeps its whole target. Each modality draws its own partners
and weights. The dropout that the code builds and never applies is left out.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.augment.draws import Draws
from core.data.checks import DataError
from core.distributed import global_mean
from core.encoders.build import build_encoder
from core.encoders.mlp import MLP
from core.losses import draw_mixup, m3co, mix, soft_clip
from core.losses.rows import Rows
from core.systems.towers import encoder_of_each
from core.trainers.system import Batch, System


class M3CoL(System):
    """CE of the fusion + Σ_m CE of modality m + λ_c (M3Co, later SoftClip) over a cycle of pairs.

    Args:
        shapes: modality -> shape of one sample, two modalities or more.
        n_classes: name of a label -> number of its classes; the label `label` is learned, and
            samples where it is negative take part in the contrast only.
        encoder: `_target_` and arguments of the encoders, or modality -> such; all of one width.
            None: Linear-ReLU-Linear of width `dim` for vectors, by the shape for others, see
            `core.encoders.build`.
        dim: width E of the encoders of vectors.
        hidden_dim: width P inside the classifiers.
        unimodal_weight: of the classifiers of single modalities.
        contrast_weight: λ_c; 0 does without contrast.
        temperature: τ of M3Co.
        soft_temperature: τ of SoftClip.
        beta: mixing weights are drawn from Beta(β, β).
        mix_probability: how often a sample is mixed at all; at 0 M3Co is the loss of CLIP.
        switch: share of the epochs with M3Co, rounded down; the others have SoftClip.

    Raises:
        DataError: fewer than two modalities, no label, or encoders of different widths.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_classes: dict[str, int],
        encoder: dict[str, Any] | None = None,
        dim: int = 1000,
        hidden_dim: int = 1000,
        unimodal_weight: float = 1.0,
        contrast_weight: float = 0.1,
        temperature: float = 0.1,
        soft_temperature: float = 0.125,
        beta: float = 0.15,
        mix_probability: float = 0.5,
        switch: float = 0.33,
    ) -> None:
        super().__init__()
        if len(shapes) < 2:
            raise DataError(f"M3CoL of one modality, {', '.join(shapes)}", expected="two or more")
        if "label" not in n_classes:
            raise DataError("M3CoL learns classes and the data have no `label`")
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.unimodal_weight, self.contrast_weight = unimodal_weight, contrast_weight
        self.temperature, self.soft_temperature = temperature, soft_temperature
        self.beta, self.mix_probability, self.switch = beta, mix_probability, switch
        self.mixes = switch > 0

        self.encoders = nn.ModuleDict()
        for name, own in encoder_of_each(encoder, shapes).items():
            plain = own is None and len(shapes[name]) == 1
            self.encoders[name] = (
                _xavier(MLP(shapes[name], [dim], dim))
                if plain
                else build_encoder(own, shapes[name])
            )
        widths = {name: int(trunk.dim) for name, trunk in self.encoders.items()}  # type: ignore[arg-type]
        if len(set(widths.values())) > 1:
            found = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise DataError(f"encoders of widths {found}", expected="one width for all modalities")
        width, n = next(iter(widths.values())), n_classes["label"]
        self.heads = nn.ModuleDict(
            {name: _xavier(MLP([width], [hidden_dim], n)) for name in shapes}
        )
        self.fusion = _xavier(MLP([width * len(shapes)], [hidden_dim], n))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Chooses between M3Co and SoftClip by the epoch."""
        # Not at the start of the epoch: that is not called where a run goes on inside one.
        max_epochs: int = self.trainer.max_epochs  # type: ignore[assignment]
        self.mixes = self.current_epoch < int(self.switch * max_epochs)

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """`partner` and `mix_weight` (M, N): whom each row of the whole batch is mixed with.

        Drawn on the CPU from the batch's own seed, so that all processes and devices agree.
        """
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the accelerators too.
            torch.default_generator.manual_seed(draws.generator.initial_seed())
            drawn = [draw_mixup(draws.n_rows, self.beta, self.mix_probability) for _ in self.shapes]
        partner, weight = (torch.stack(part) for part in zip(*drawn, strict=True))
        here = draws.device
        return {
            "partner": partner.to(here, non_blocking=True),
            "mix_weight": weight.to(here, non_blocking=True),
        }

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The three terms; `unimodal` and `contrast` are sums over modalities and over pairs."""
        clean = self.encode(batch)
        label = batch["label"]
        fusion = _cross_entropy(self.fusion(torch.cat(clean, dim=1)), label)
        unimodal = torch.stack(
            [
                _cross_entropy(head(z), label)
                for head, z in zip(self.heads.values(), clean, strict=True)
            ]
        ).sum()
        terms = {"loss": fusion + self.unimodal_weight * unimodal}
        terms |= {"fusion": fusion, "unimodal": unimodal}
        if self.contrast_weight:
            contrast = (
                self.mixup_contrast(batch, clean) if self.mixes else self.soft_contrast(clean)
            )
            terms |= {"loss": terms["loss"] + self.contrast_weight * contrast, "contrast": contrast}
        return terms

    def encode(self, batch: Batch) -> list[Float[Tensor, "batch dim"]]:
        """The clean embeddings in the order of the modalities."""
        return [encoder(batch[name]) for name, encoder in self.encoders.items()]

    def mixup_contrast(
        self, batch: Batch, clean: list[Float[Tensor, "batch dim"]]
    ) -> Float[Tensor, ""]:
        """M3Co of every mixed modality with the clean next one, over the rows of all processes.

        Raises:
            DataError: the batch does not say what to mix with what.
        """
        if "partner" not in batch:
            raise DataError(
                "M3CoL got a batch without partners to mix with",
                fix="train it on data=table_classification or data=digit_parts_demo",
            )
        rows = Rows.of(clean[0], "full")
        whole = [rows.everywhere(z) for z in clean]
        terms = []
        for place, (name, encoder) in enumerate(self.encoders.items()):
            partner, weight = batch["partner"][place], batch["mix_weight"][place]
            # A partner may be another process's row.
            mixed = encoder(rows.own(mix(rows.everywhere(batch[name]), partner, weight)))
            target = whole[(place + 1) % len(whole)]
            everyone = rows.everywhere(mixed)
            terms.append(m3co(everyone, target, partner, weight, self.temperature, gather="none"))
        return torch.stack(terms).sum()

    def soft_contrast(self, clean: list[Float[Tensor, "batch dim"]]) -> Float[Tensor, ""]:
        """SoftClip of every modality with the next one, whose similarities are the targets."""
        following = [*clean[1:], clean[0]]
        pairs = zip(clean, following, strict=True)
        return torch.stack(
            [soft_clip(z, target, self.soft_temperature) for z, target in pairs]
        ).sum()

    def predict(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Logits of the fusion classifier; those of single modalities are for training."""
        logits: Tensor = self.fusion(torch.cat(self.encode(batch), dim=1))
        return logits

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Each modality's embedding, not of unit length, and `joint`: all side by side."""
        vectors = [z.float() for z in self.encode(batch)]
        return dict(zip(self.encoders, vectors, strict=True)) | {"joint": torch.cat(vectors, 1)}


def _xavier(module: MLP) -> MLP:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return module


def _cross_entropy(logits: Float[Tensor, "batch classes"], label: Tensor) -> Float[Tensor, ""]:
    known = label >= 0
    costs = F.cross_entropy(logits, label.clamp(min=0), reduction="none")
    return global_mean(costs, known)
