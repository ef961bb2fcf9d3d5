"""Yes or no to questions about a volume, from a pre-trained VELVET-Med (arXiv 2508.12108).

The question goes through all layers of TriBERT with the volume; the state of its first token is
classified. Encoders are frozen, adapter and fusion layers learn.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.trainers.system import Batch, System
from medical.systems.tribert import initialise_bert
from medical.systems.velvet_fused import FusedStates


class VelvetVQA(System):
    """States of a question that saw a volume, and a classifier.

    Args:
        vocabulary: word pieces.
        size: side of the cubes in voxels.
        model: further constructor arguments of VELVET-Med.
        pretrained: run of system=velvet_med to start from; None starts from random weights.
    """

    def __init__(
        self, vocabulary: list[str], size: int, model: dict[str, Any], pretrained: str | None
    ) -> None:
        super().__init__()
        self.vocabulary, self.size, self.pretrained = list(vocabulary), size, pretrained
        self.states = FusedStates(vocabulary, size, model)
        self.max_tokens = self.states.velvet.max_tokens
        self.max_sentences = self.states.velvet.max_sentences
        dim = self.states.dim
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, 1)
        ).apply(initialise_bert)

    def prepare(self, data: Any) -> None:  # noqa: ANN401
        """Loads the pre-trained weights, before the first step alone."""
        if self.pretrained is not None:
            self.states.load(self.pretrained)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Binary cross entropy of `answer`, 1 for yes."""
        first = self.states(batch)[:, 0]
        self.latest = {"features": first.detach()}
        return {"loss": global_mean(_losses(self.head(first)[:, 0], batch["answer"]))}

    @torch.no_grad()
    def scores(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Logit that the answer is yes."""
        logits: Tensor = self.head(self.states(batch)[:, 0])[:, 0]
        return logits.float()

    @torch.no_grad()
    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`joint`: the state of the question's first token."""
        return {"joint": self.states(batch)[:, 0].float()}


@full_precision
def _losses(
    logits: Float[Tensor, " batch"], answers: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    return binary_cross_entropy_with_logits(logits, answers.to(logits), reduction="none")
