"""Symile: contrast of any number of modalities at once (NeurIPS 2024, arXiv 2411.01053).

The multilinear inner product of all modalities of a sample (section 3) is contrasted with that of
one modality and shuffled rows of the others, each modality being the anchor once (eq. 3): a lower
bound of log N minus the loss on their total correlation, which no set of pairs of modalities sees.
As in the authors' code, the true product takes the place of the diagonal, the shuffles are fresh
for every anchor and step, and the learned scale has no upper bound.
"""

from collections.abc import Sequence
from math import inf, log
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.augment.draws import Draws
from core.distributed import row_counts
from core.losses import LogitScale, multilinear_scores, symile
from core.systems.towers import Towers
from core.trainers.system import Batch


class Symile(Towers):
    """Towers that are trained on the product of all their embeddings.

    Args:
        shapes: modality -> shape of one sample, two modalities or more.
        encoder: see `core.systems.towers.Towers`.
        dim: width of the embeddings.
        layer_norm: end each tower in a LayerNorm, which keeps the products finite.
        normalize: bring the embeddings to unit length, as the paper does for binary vectors.
        logit_scale: multiplier of the products at the start of the training.
        negatives: "n": N - 1 shuffled combinations for each anchor; "all": all N^(M-1).
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        encoder: dict[str, Any] | None = None,
        dim: int = 8192,
        layer_norm: bool = True,
        normalize: bool = False,
        logit_scale: float = 14.29,
        negatives: Literal["n", "all"] = "n",
    ) -> None:
        super().__init__(shapes, encoder, dim, layer_norm, normalize)
        self.negatives = negatives
        self.scale = LogitScale(logit_scale, maximum=inf)

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """`permutations` (M, M - 1, N): what each anchor shuffles the others with."""
        m = len(self.shapes)
        drawn = [
            torch.randperm(draws.n_rows, generator=draws.generator, device=draws.device)
            for _ in range(m * (m - 1))
        ]
        return {"permutations": torch.stack(drawn).unflatten(0, (m, m - 1))}

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The cross entropy of eq. 3, and the bound on the total correlation that follows."""
        vectors = self.encode(batch)
        # A task without draws leaves the shuffles to the loss.
        order = batch.get("permutations")
        loss = symile(vectors, self.scale(), negatives=self.negatives, permutations=order)
        n = sum(row_counts(len(vectors[0]))) ** (len(vectors) - 1 if self.negatives == "all" else 1)
        return {"loss": loss, "total_correlation": log(n) - loss.detach(), "scale": self.scale()}

    def score(
        self, candidates: Float[Tensor, "m dim"], queries: Sequence[Float[Tensor, "n dim"]]
    ) -> Float[Tensor, "n m"]:
        """Scaled products of the candidates with all other modalities of each query."""
        scores: Tensor = self.scale() * multilinear_scores(candidates, *queries)
        return scores
