"""Self-distillation kept from collapse by the coding rate."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.distributed import all_reduce_sum, global_mean
from core.losses.precision import full_precision
from core.losses.rows import unit
from core.losses.statistics import row_count


@full_precision
def simdino(
    student: Float[Tensor, "views batch dim"],
    teacher: Float[Tensor, "global_views batch dim"],
    *,
    eps: float = 0.5,
    expansion_weight: float = 1.0,
    expanded: Literal["student", "mean"] = "student",
    normalize: bool = True,
) -> Float[Tensor, ""]:
    """Minus mean cos(teacher_v, student_w), w ≠ v, minus the coding rate of the global views.

    Wu et al. 2025 (SimDINO), eq. 7 to 9.

    Args:
        student: (V, B, D) embeddings; the first views are those of the teacher, in the same order.
        teacher: (G, B, D) embeddings, without gradient.
        eps: ε of `coding_rate`.
        expansion_weight: weight of the coding rate.
        expanded: rate of the student's global views, or of their mean with the teacher's.
        normalize: bring the rows to unit length first.

    Returns:
        Scalar in float32 at least.
    """
    student, teacher = unit(student, normalize), unit(teacher.detach(), normalize)
    views = len(teacher)
    agreement = [
        global_mean(F.cosine_similarity(teacher[view], student[other], dim=-1))
        for view in range(views)
        for other in range(len(student))
        if other != view
    ]
    spread = student[:views] if expanded == "student" else (student[:views] + teacher) / 2
    rates = torch.stack([coding_rate(z, eps) for z in spread])
    return -torch.stack(agreement).mean() - expansion_weight * rates.mean()


@full_precision
def coding_rate(z: Float[Tensor, "batch dim"], eps: float = 0.5) -> Float[Tensor, ""]:
    """γ ½ log det(I + D/(B ε) ZᵀZ), γ = (D + B)/(D B), over the rows of all ranks.

    Args:
        z: (B, D) unit rows.
        eps: ε; it stands for the squared precision of the rate.

    Returns:
        Scalar in float32 at least, the same on all ranks.
    """
    dim = z.shape[1]
    count = row_count(z)
    gram = all_reduce_sum(z.T @ z) * (dim / (count * eps))
    # The matrix is positive definite; to check it, the device would have to be waited for.
    factor = torch.linalg.cholesky_ex(gram + torch.eye(dim, dtype=z.dtype, device=z.device)).L
    rate: Tensor = (dim + count) / (dim * count) * factor.diagonal().log().sum()
    return rate
