"""Contrast of a mixed modality with both of its sources in another one."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, unit


def draw_mixup(
    batch: int, beta: float = 0.15, probability: float = 0.5, device: torch.device | None = None
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """A partner of each sample, and the weight λ of the sample itself.

    Kumar et al. 2025 (M3CoL), section 3.1.

    Args:
        batch: B.
        beta: λ is drawn from Beta(β, β).
        probability: share of samples that are mixed at all; λ is 1 for the others.
        device: where to draw.

    Returns:
        (B,) partners, a random permutation, and (B,) weights in [0, 1].
    """
    partner = torch.randperm(batch, device=device)
    chosen = torch.rand(batch, device=device) < probability
    concentration = torch.full((batch,), beta, device=device)
    weight = torch.distributions.Beta(concentration, concentration).sample()
    return partner, weight.masked_fill(~chosen, 1.0)


def mix(
    x: Float[Tensor, "batch ..."], partner: Int[Tensor, " batch"], weight: Float[Tensor, " batch"]
) -> Float[Tensor, "batch ..."]:
    """λ x + (1 - λ) x[partner], a new tensor."""
    share = weight.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
    return share * x + (1 - share) * x[partner]


@full_precision
def m3co(
    mixed: Float[Tensor, "batch dim"],
    clean: Float[Tensor, "batch dim"],
    partner: Int[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
    temperature: float = 0.1,
    *,
    symmetric: bool = True,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """½ [-mean_i Σ_j P_ij log softmax_row(S)_ij - mean_j Σ_i P_ij log softmax_column(S)_ij].

    Kumar et al. 2025 (M3CoL), eq. 3 and 4; P_ij = λ_i [j = i] + (1 - λ_i) [j = partner of i]. A
    sample that is its own partner has the whole mass 1 (the authors' code leaves it 1 - λ).

    Args:
        mixed: (B, D) embeddings of the mixed modality.
        clean: (B, D) embeddings of the other modality, unmixed.
        partner: (B,) with whom each sample was mixed, a row of this rank.
        weight: (B,) λ, the sample's own share.
        temperature: divisor.
        symmetric: both directions; otherwise from mixed to clean.
        gather: candidates are this rank's rows or those of all ranks.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(mixed, gather)
    mixed, clean = unit(mixed, normalize=True) / temperature, unit(clean, normalize=True)
    scores = mixed @ rows.everywhere(clean).T
    log_sums = scores.logsumexp(1)
    own, others = (mixed * clean).sum(1), (mixed * clean[partner]).sum(1)
    cost_own, cost_others = log_sums - own, log_sums - others
    if symmetric:
        columns = rows.own(rows.log_sum_columns(scores.logsumexp(0)))
        cost_own = (cost_own + columns - own) / 2
        cost_others = (cost_others + columns[partner] - others) / 2
    return global_mean(weight * cost_own + (1 - weight) * cost_others)


@full_precision
def soft_clip(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    temperature: float = 0.125,
    *,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """InfoNCE in both directions with the targets softmax(cos(b, b)/τ).

    Gao et al. 2023 (SoftCLIP) in the form of M3CoL (Kumar et al. 2025, eq. 5): the gradient also
    flows through the targets.

    Args:
        a: (B, D) embeddings of the predicting modality.
        b: (B, D) embeddings of the modality whose own similarities are the targets.
        temperature: divisor of all three similarities.
        gather: candidates are this rank's rows or those of all ranks.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(a, gather)
    a, b = unit(a, normalize=True), unit(b, normalize=True)
    all_a, all_b = rows.everywhere(a), rows.everywhere(b)
    targets = F.softmax(b @ all_b.T / temperature, dim=1)
    there = F.log_softmax(a @ all_b.T / temperature, dim=1)
    back = F.log_softmax(b @ all_a.T / temperature, dim=1)
    return global_mean(-(targets * (there + back)).sum(1) / 2)
