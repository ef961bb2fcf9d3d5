"""Contrast of any number of modalities by their multilinear inner product."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, unit, zero_invalid


@full_precision
def symile(
    embeddings: Sequence[Float[Tensor, "batch dim"]],
    logit_scale: float | Tensor,
    *,
    negatives: Literal["n", "all"] = "n",
    permutations: Int[Tensor, "anchors others N"] | None = None,
    generator: torch.Generator | None = None,
    normalize: bool = False,
    valid: Bool[Tensor, " batch"] | None = None,
    gather: Gather = "full",
    tile: int = 16,
) -> Float[Tensor, ""]:
    """Mean over modalities, as anchors, of the cross entropy of s Σ_k Π_m x^m_k.

    Saporta et al. 2024, eq. 3 and section 3.2.

    Args:
        embeddings: M >= 2 tensors (B, D), one a modality; rows of one number belong together.
        logit_scale: multiplier s, learned in the paper.
        negatives: "n": for every anchor each other modality is shuffled on its own, which gives
            N - 1 negatives; "all": all N^(M-1) combinations, in tiles.
        permutations: (M, M - 1, N) what to shuffle with, else drawn at every call.
        generator: draws the permutations; with the same state on every rank, all ranks shuffle
            alike.
        normalize: bring the rows to unit length first (the paper's encoders end in a LayerNorm
            and are not normalised, save in its XOR experiment).
        valid: (B,) False where a sample does not count.
        gather: candidates are this rank's rows or those of all ranks.
        tile: for "all", rows of a modality that are combined with the anchors at a time.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(embeddings[0], gather, valid)
    own = [unit(zero_invalid(x, valid), normalize) for x in embeddings]
    everyone = [rows.everywhere(x) for x in own]
    positive = _product(own).sum(1) * logit_scale
    terms = []
    for number, anchors in enumerate(own):
        others = [x for other, x in enumerate(everyone) if other != number]
        if negatives == "all":
            log_sums = _all_combinations(anchors * logit_scale, others, rows.valid, tile)
        else:
            given = None if permutations is None else permutations[number]
            shuffles = _shuffles(rows.total, len(others), given, generator, anchors.device)
            log_sums = _shuffled(anchors * logit_scale, others, shuffles, positive, rows)
        terms.append(global_mean(log_sums - positive, valid))
    return torch.stack(terms).mean()


@full_precision
def multilinear_scores(
    candidates: Float[Tensor, "candidates dim"], *queries: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch candidates"]:
    """Σ_k of the product of the queries' and the candidate's k-th entries, without scale.

    For the retrieval of one modality given all others.
    """
    return _product(queries) @ candidates.T


@full_precision
def pairwise_scores(
    candidates: Float[Tensor, "candidates dim"], *queries: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch candidates"]:
    """Sum of the dot products of all pairs among the queries and the candidate, without scale.

    What a model of pairwise contrast ranks by; the pairs of queries add a constant to a row.
    """
    total = sum(queries[1:], queries[0]) @ candidates.T
    for first in range(len(queries)):
        for second in range(first + 1, len(queries)):
            total = total + (queries[first] * queries[second]).sum(1, keepdim=True)
    return total


def _product(factors: Sequence[Tensor]) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product


def _shuffles(
    total: int,
    others: int,
    given: Tensor | None,
    generator: torch.Generator | None,
    device: torch.device,
) -> Int[Tensor, "others N"]:
    if given is not None:
        return given
    drawn_on = torch.device("cpu") if generator is None else generator.device
    drawn = [torch.randperm(total, generator=generator, device=drawn_on) for _ in range(others)]
    return torch.stack(drawn).to(device, non_blocking=True)


def _shuffled(
    anchors: Tensor, others: Sequence[Tensor], shuffles: Tensor, positive: Tensor, rows: Rows
) -> Float[Tensor, " n"]:
    """Log-sums over shuffled rows of the others, the anchor's own column being the true product."""
    mixed = [x[order] for x, order in zip(others, shuffles, strict=True)]
    scores = anchors @ _product(mixed).T
    if rows.valid is not None:
        whole = torch.stack([rows.valid[order] for order in shuffles]).all(0)
        scores = scores.masked_fill(~whole, -torch.inf)
    return torch.where(rows.pairs(anchors.device), positive[:, None], scores).logsumexp(1)


def _all_combinations(
    anchors: Float[Tensor, "n dim"],
    others: Sequence[Float[Tensor, "N dim"]],
    valid: Bool[Tensor, " N"] | None,
    tile: int,
) -> Float[Tensor, " n"]:
    """Log-sums over all combinations of one row of each other; no two tiles are kept at a time."""
    if len(others) == 1:
        scores = anchors @ others[0].T
        if valid is not None:
            scores = scores.masked_fill(~valid, -torch.inf)
        return scores.logsumexp(1)

    def of_block(anchors: Tensor, block: Tensor, *rest: Tensor) -> Tensor:
        products = (anchors[:, None] * block).flatten(0, 1)
        return _all_combinations(products, rest, valid, tile).view(len(anchors), len(block))

    parts = [
        checkpoint(of_block, anchors, block, *others[1:], use_reentrant=False)
        for block in others[0].split(tile)
    ]
    log_sums = torch.cat(parts, dim=1)
    if valid is not None:
        log_sums = log_sums.masked_fill(~valid, -torch.inf)
    return log_sums.logsumexp(1)
