"""CLIP over any number of modalities: the pairs are contrasted (ICML 2021, arXiv 2103.00020).

For two modalities this is CLIP; for more, the pairwise objective that Symile is compared with: the
sum of the symmetric InfoNCE losses of all pairs, with one learned scale.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.losses import LogitScale, info_nce, pairwise_scores
from core.systems.towers import Towers
from core.trainers.system import Batch


class CLIP(Towers):
    """Towers that are trained on the pairs of their embeddings.

    Args:
        shapes: modality -> shape of one sample, two modalities or more.
        encoder: see `core.systems.towers.Towers`.
        dim: width of the embeddings.
        layer_norm: end each tower in a LayerNorm.
        normalize: bring the embeddings to unit length.
        logit_scale: multiplier of the products at the start of the training; never above 100.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        encoder: dict[str, Any] | None = None,
        dim: int = 512,
        layer_norm: bool = False,
        normalize: bool = True,
        logit_scale: float = 14.29,
    ) -> None:
        super().__init__(shapes, encoder, dim, layer_norm, normalize)
        self.scale = LogitScale(logit_scale)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The sum over pairs, and each pair's own loss."""
        vectors = dict(zip(self.towers, self.encode(batch), strict=True))
        temperature = 1 / self.scale()
        pairs = {
            f"{first}_{second}": info_nce(
                vectors[first], vectors[second], temperature, normalize=False
            )
            for first, second in combinations(vectors, 2)
        }
        return {"loss": torch.stack(list(pairs.values())).sum()} | pairs

    def score(
        self, candidates: Float[Tensor, "m dim"], queries: Sequence[Float[Tensor, "n dim"]]
    ) -> Float[Tensor, "n m"]:
        """Scaled sums of the products of all pairs of a candidate and a query's modalities."""
        scores: Tensor = self.scale() * pairwise_scores(candidates, *queries)
        return scores
