"""Symmetric cross entropy on a matrix of scores, however they were made."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.distributed import all_reduce_sum, global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows


@full_precision
def score_contrast(
    scores: Float[Tensor, "batch candidates"],
    *,
    label_smoothing: float = 0.0,
    valid: Bool[Tensor, " batch"] | None = None,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """½ [cross entropy of the rows + cross entropy of the columns], pair i on the diagonal.

    What `info_nce` is to cosines, for scores that are no product of two embeddings. The targets are
    smoothed as in Szegedy et al. 2016: 1 - ε on the pair, ε spread evenly over all candidates.

    Args:
        scores: (B, N) of this rank's rows with the candidates of all ranks (of its own where gather
            is "none"), already divided by a temperature.
        label_smoothing: ε in [0, 1).
        valid: (B,) False where a pair is missing; its scores must be finite all the same, as no
            gradient of a product with NaN is 0.
        gather: whether the candidates are those of all ranks.

    Returns:
        Scalar in float32 at least; 0 where no pair is valid.
    """
    rows = Rows.of(scores, gather, valid)
    excluded = rows.excluded()
    counts = torch.full((), rows.total, device=scores.device)
    if excluded is not None:
        assert rows.valid is not None and valid is not None
        scores = scores.masked_fill(excluded | ~valid[:, None], 0)
        counts = rows.valid.sum().clamp(min=1)
    kept = scores if excluded is None else scores.masked_fill(excluded, -torch.inf)
    row_sums = kept.logsumexp(1)
    column_sums = rows.own(rows.log_sum_columns(kept.logsumexp(0)))
    own = torch.arange(rows.start, rows.start + rows.size, device=scores.device)
    target = scores.gather(1, own[:, None])[:, 0]
    loss = (row_sums + column_sums) / 2 - (1 - label_smoothing) * target
    if label_smoothing:
        columns = scores.sum(0)
        columns = rows.own(all_reduce_sum(columns) if rows.shared else columns)
        loss = loss - label_smoothing * (scores.sum(1) + columns) / (2 * counts)
    return global_mean(loss, valid)
