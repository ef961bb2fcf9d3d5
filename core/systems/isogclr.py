"""iSogCLR: every sample learns its own temperature (ICML 2023, arXiv 2305.11965)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from core.data.samples import Samples
from core.losses import GlobalContrastiveLoss
from core.systems.joint_embedding import JointEmbedding
from core.trainers.system import Batch


class ISogCLR(JointEmbedding):
    """The robust global contrastive loss between two views (algorithm 1).

    Large temperatures should be those of frequent semantics, small ones those of rare semantics.
    With `individual=False` it is SogCLR (ICML 2022, arXiv 2202.12387): one temperature that stays.
    Unlike in the authors' code, a sample's average starts at its first visit, whatever the epoch.

    Args:
        shapes: modality -> shape of one sample.
        n_train: number of training samples: rows of the tables.
        encoder: see `core.encoders.build`.
        hidden_dim: width inside the head.
        dim: width of the projections.
        batch_norm: in the head. With an encoder that has none either, all cosines start near 1, and
            the temperatures fall and stay small for frequent and rare samples alike.
        temperature: τ at the start.
        individual: every sample learns its own τ.
        gamma: share γ of the new value in the averages of a sample's negatives.
        rho: radius ρ of the KL ball around uniform weights; larger keeps τ smaller.
        eta: learning rate η of the temperatures.
        beta: share β of the new gradient in the moving average that moves τ.
        bounds: smallest and largest τ.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_train: int,
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 128,
        dim: int = 64,
        batch_norm: bool = False,
        temperature: float = 0.1,
        individual: bool = True,
        gamma: float = 0.8,
        rho: float = 0.4,
        eta: float = 0.03,
        beta: float = 0.5,
        bounds: tuple[float, float] = (0.05, 1.0),
    ) -> None:
        super().__init__(shapes, 2, encoder, hidden_dim, dim, batch_norm)
        self.contrast = GlobalContrastiveLoss(
            n_train,
            temperature,
            individual=individual,
            gamma=gamma,
            rho=rho,
            eta=eta,
            beta=beta,
            bounds=(bounds[0], bounds[1]),
        )

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The surrogate, whose gradient alone means something, and the mean temperature."""
        first, second = self.views(batch)
        loss = self.contrast(first, second, batch["index"])
        return {"loss": loss, "temperature": self.temperatures.mean()}

    @property
    def temperatures(self) -> Float[Tensor, " n_train"]:
        """τ of every training sample."""
        return self.contrast.table.temperature

    def report(self, data: Samples) -> dict[str, float]:
        """How τ goes with how many training samples a class has, see `temperatures_of_classes`."""
        return temperatures_of_classes(self.temperatures, data)


def temperatures_of_classes(
    temperatures: Float[Tensor, " n_train"], data: Samples
) -> dict[str, float]:
    """Whether frequent classes have large temperatures, for every label of the training split.

    Args:
        temperatures: τ of the training samples, in their order.
        data: with the training split that the temperatures were learned on; nothing can be said of
            a split of another size.

    Returns:
        `temperature_spearman`, the rank correlation of a class's number of samples with its mean τ,
        0 where either does not vary; `temperature_largest` and `temperature_smallest`, the mean τ
        of the class with the most and of that with the fewest samples. Of a label NAME other than
        `label` with the ending `/NAME`.
    """
    rows = data.splits["train"]
    found: dict[str, float] = {}
    if len(rows) != len(temperatures):
        return {}
    for name, values in data.labels.items():
        counts, mean = _class_means(temperatures, values[rows], data.n_classes[name])
        if not len(counts):
            continue
        varies = len(counts.unique()) > 1 and len(mean.unique()) > 1
        ending = "" if name == "label" else f"/{name}"
        found |= {
            f"temperature_spearman{ending}": (
                float(spearmanr(counts.cpu(), mean.cpu()).statistic) if varies else 0.0
            ),
            f"temperature_largest{ending}": float(mean[counts.argmax()]),
            f"temperature_smallest{ending}": float(mean[counts.argmin()]),
        }
    return found


def _class_means(
    values: Float[Tensor, " n"], labels: Int[Tensor, " n"], n_classes: int
) -> tuple[Int[Tensor, " classes"], Float[Tensor, " classes"]]:
    """Sizes and means of the classes that have samples."""
    known = labels >= 0
    counts = torch.bincount(labels[known], minlength=n_classes)
    sums = torch.bincount(labels[known], values[known].double(), n_classes)
    return counts[counts > 0], sums[counts > 0] / counts[counts > 0]
