"""Self-distillation without labels."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.distributed import all_reduce_sum, global_mean
from core.losses.precision import full_precision
from core.losses.rows import zero_invalid
from core.losses.sinkhorn import sinkhorn
from core.losses.statistics import row_count


class Centre(nn.Module):
    """Moving average of the teacher's logits, subtracted before its softmax.

    Args:
        dim: number of prototypes.
        momentum: share of the old centre.

    Attributes:
        centre: (dim,) zero at the start.
    """

    centre: Tensor

    def __init__(self, dim: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(dim))

    @torch.no_grad()
    def forward(
        self,
        logits: Float[Tensor, "batch dim"],
        temperature: float,
        valid: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Shares softmax((logits - centre)/τ); in training mode the centre moves afterwards.

        Rows whose `valid` is False do not move it.
        """
        shares = F.softmax((logits - self.centre) / temperature, dim=-1)
        if self.training:
            total = all_reduce_sum(zero_invalid(logits, valid).sum(0))
            mean = total / row_count(logits, valid)
            self.centre.lerp_(mean.to(self.centre.dtype), 1 - self.momentum)
        return shares


def cross_view_entropies(
    student: Float[Tensor, "views batch dim"],
    shares: Float[Tensor, "global_views batch dim"],
    temperature: float = 0.1,
) -> Float[Tensor, "global_views views"]:
    """Mean over the batch of the cross entropy of every teacher view with every student view.

    Args:
        student: (V, B, K) logits.
        shares: (G, B, K) of the teacher, which sum to 1.
        temperature: divisor of the student's logits.
    """
    log_shares = F.log_softmax(student / temperature, dim=-1)
    terms = [
        torch.stack([global_mean(-(target * guess).sum(-1)) for guess in log_shares])
        for target in shares
    ]
    return torch.stack(terms)


class DINOLoss(nn.Module):
    """Cross entropy of the teacher's shares with the student's, over different views.

    Caron et al. 2021, eq. 3 and 4.

    Args:
        dim: number of prototypes K.
        student_temperature: divisor of the student's logits.
        centre_momentum: share of the old centre.
        balance: how the teacher is kept from collapse: a moving centre, or `sinkhorn` with the
            teacher temperature as its ε (DINOv2).
    """

    def __init__(
        self,
        dim: int,
        student_temperature: float = 0.1,
        centre_momentum: float = 0.9,
        balance: Literal["centre", "sinkhorn"] = "centre",
    ) -> None:
        super().__init__()
        self.student_temperature = student_temperature
        self.balance = balance
        self.centre = Centre(dim, centre_momentum)

    @full_precision
    def forward(
        self,
        student: Float[Tensor, "views batch dim"],
        teacher: Float[Tensor, "global_views batch dim"],
        teacher_temperature: float = 0.07,
    ) -> Float[Tensor, ""]:
        """Mean over pairs (teacher view, another student view) of the cross entropy.

        Args:
            student: (V, B, K) logits; the first views are those of the teacher, in the same order.
            teacher: (G, B, K) logits, no gradient flows to them.
            teacher_temperature: divisor τ_t, 0.04 warmed up to 0.07 in the paper.

        Returns:
            Scalar in float32 at least.
        """
        logits = teacher.detach().flatten(0, 1)
        if self.balance == "centre":
            shares = self.centre(logits, teacher_temperature)
        else:
            shares = sinkhorn(logits, teacher_temperature)
        shares = shares.view_as(teacher)
        entropies = cross_view_entropies(student, shares, self.student_temperature)
        other = ~torch.eye(*entropies.shape, dtype=torch.bool, device=entropies.device)
        return (entropies * other).sum() / (len(teacher) * (len(student) - 1))
