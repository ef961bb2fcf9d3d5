"""VBPR: matrix factorisation that also sees the items (AAAI 2016, arXiv 1510.01784)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError
from core.losses import bpr, embedding_penalty
from recsys.data.interactions import Interactions
from recsys.systems.recommender import Recommender


class VBPR(Recommender):
    """Score(u, i) = b_i + p_u . q_i + t_u . (E f_i) + b' . f_i (eq. 4, without the constants).

    The paper has one visual feature f_i; here f_i is the row of all modalities side by side, each
    divided by its mean norm so that none drowns the others. The features stay as they are.

    Args:
        n_users: number of users.
        n_items: number of items.
        n_interactions: number of training pairs.
        feature_dims: modality -> width of the items' features.
        dim: width of the latent factors p, q.
        feature_dim: width of the visual factors t.
        reg_weight: weight of half the squared norms of what a pair touches.

    Raises:
        DataError: the data have no features.
    """

    needs_negatives = True

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_interactions: int,
        feature_dims: dict[str, int],
        dim: int = 64,
        feature_dim: int = 64,
        reg_weight: float = 1e-4,
    ) -> None:
        super().__init__(n_users, n_items, n_interactions)
        if not feature_dims:
            raise DataError(
                "vbpr needs item features and the data have none",
                expected="image_feat.npy or text_feat.npy beside the interactions",
            )
        width = sum(feature_dims.values())
        self.reg_weight, self.modalities = reg_weight, list(feature_dims)
        self.features: Tensor
        self.register_buffer("features", torch.zeros(n_items, width))
        self.user_latent = nn.Embedding(n_users, dim)
        self.item_latent = nn.Embedding(n_items, dim)
        self.user_visual = nn.Embedding(n_users, feature_dim)
        self.project = nn.Linear(width, feature_dim, bias=False)
        self.item_bias = nn.Embedding(n_items, 1)
        self.visual_bias = nn.Linear(width, 1, bias=False)
        for table in (self.user_latent, self.item_latent, self.user_visual):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.item_bias.weight)
        nn.init.zeros_(self.visual_bias.weight)

    def prepare(self, data: Interactions) -> None:
        """Copies the training pairs and the scaled features."""
        super().prepare(data)
        tables = [data.features[name] for name in self.modalities]
        self.features.copy_(
            torch.cat([table / table.norm(dim=1).mean().clamp_min(1e-12) for table in tables], 1)
        )

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """BPR of the pairs against their sampled negatives, plus the penalty of what they touch."""
        latent, visual = self.user_latent(batch["user"]), self.user_visual(batch["user"])
        positive, positive_norm = self._score(latent, visual, batch["item"])
        negative, negative_norm = self._score(latent, visual, batch["negative"])
        ranking = bpr(positive, negative)
        penalty = 0.5 * embedding_penalty(latent, visual, positive_norm, negative_norm)
        return {
            "loss": ranking + self.reg_weight * penalty,
            "bpr": ranking,
            "penalty": penalty,
        }

    def _score(
        self, latent: Tensor, visual: Tensor, items: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch parts"]]:
        q, bias, features = self.item_latent(items), self.item_bias(items), self.features[items]
        score = (
            bias.squeeze(1)
            + (latent * q).sum(1)
            + (visual * self.project(features)).sum(1)
            + self.visual_bias(features).squeeze(1)
        )
        return score, torch.cat([q, bias], 1)

    def tables(self) -> dict[str, Float[Tensor, "n dim"]]:
        """The factors side by side; a last column of ones for users meets the items' biases."""
        bias = self.item_bias.weight + self.visual_bias(self.features)
        ones = self.user_latent.weight.new_ones(self.n_users, 1)
        return {
            "user": torch.cat([self.user_latent.weight, self.user_visual.weight, ones], 1),
            "item": torch.cat([self.item_latent.weight, self.project(self.features), bias], 1),
        }
