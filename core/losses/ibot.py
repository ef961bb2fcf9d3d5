"""Self-distillation of masked patches."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.distributed import global_sum
from core.losses.dino import Centre
from core.losses.precision import full_precision
from core.losses.sinkhorn import sinkhorn
from core.losses.statistics import row_count


class IBOTLoss(nn.Module):
    """Cross entropy of the teacher's with the student's shares at masked patches.

    Zhou et al. 2022, eq. 2: the mean within an image, divided by the number of all images, also
    those without a masked patch.

    Args:
        dim: number of prototypes K.
        student_temperature: divisor of the student's logits.
        centre_momentum: share of the old centre.
        balance: a moving centre, or `sinkhorn` with the teacher temperature as its ε (DINOv2).
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
        student: Float[Tensor, "masked dim"],
        teacher: Float[Tensor, "masked dim"],
        mask: Bool[Tensor, "images ..."],
        teacher_temperature: float = 0.07,
    ) -> Float[Tensor, ""]:
        """Loss of the masked patches of a batch.

        Args:
            student: (M, K) logits at the masked patches, in the order of `mask`. There may be more
                rows than masked patches, so that their number need not be known: those at the end
                count for nothing.
            teacher: (M, K) logits of the unmasked image at the same patches, without gradient.
            mask: (B, ...) True where a patch is masked; M entries are True at most.
            teacher_temperature: divisor τ_t.

        Returns:
            Scalar in float32 at least.
        """
        logits = teacher.detach()
        masked = mask.flatten(1).sum(1)
        ends = masked.cumsum(0)
        rows = torch.arange(len(logits), device=logits.device)
        valid = rows < masked.sum()
        if self.balance == "centre":
            shares = self.centre(logits, teacher_temperature, valid)
        else:
            shares = sinkhorn(logits, teacher_temperature, valid=valid)
        log_shares = F.log_softmax(student / self.student_temperature, dim=-1)
        losses = -(shares * log_shares).sum(-1)
        image = torch.searchsorted(ends, rows, right=True).clamp(max=max(0, len(ends) - 1))
        weights = 1 / masked.clamp(min=1).to(losses.dtype)
        return global_sum(losses * weights[image], valid) / row_count(masked.to(losses.dtype))
