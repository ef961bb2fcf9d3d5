"""Similarity of an image and a text by their parts: every word looks for its region."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from core.distributed import all_gather
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, unit, zero_invalid
from core.losses.score_contrast import score_contrast

# Attention weights that are held at a time: 64 MiB of float32.
_HELD = 1 << 24


@full_precision
def local_contrast(
    regions: Float[Tensor, "batch regions dim"],
    parts: Float[Tensor, "batch parts dim"],
    has_part: Bool[Tensor, "batch parts"],
    *,
    sharpness: float = 4.0,
    part_scale: float = 5.0,
    scale: float = 10.0,
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    gather: Gather = "full",
    held: int = _HELD,
) -> Float[Tensor, ""]:
    """Cross entropy of `local_similarity`, from image to text and back.

    Only the parts travel between the ranks, which are fewer than the regions: each rank scores its
    own images with all texts, and the column sums are merged.

    Args:
        regions: as in `local_similarity`, a row for every image of this rank.
        parts: a row for every text of this rank; as many parts on every rank.
        has_part: (B, L) False for padding.
        sharpness: as in `local_similarity`, as are the next.
        part_scale: γ2.
        scale: γ3.
        normalize: bring the rows to unit length first.
        valid: (B,) False where a pair is missing; texts without any part are missing too.
        gather: whether the texts of all ranks are candidates.
        held: see `local_similarity`.

    Returns:
        Scalar in float32 at least; 0 where no pair is valid.
    """
    exists = has_part.any(1) if valid is None else valid & has_part.any(1)
    rows = Rows.of(parts, gather)
    regions, parts = zero_invalid(regions, exists), zero_invalid(parts, exists)
    if rows.shared:
        has_part = all_gather(has_part.to(torch.uint8), rows.counts).bool()
    scores = local_similarity(
        regions,
        rows.everywhere(parts),
        has_part,
        sharpness=sharpness,
        part_scale=part_scale,
        scale=scale,
        normalize=normalize,
        held=held,
    )
    return score_contrast(scores, valid=exists, gather=gather)


@full_precision
def local_similarity(
    regions: Float[Tensor, "images regions dim"],
    parts: Float[Tensor, "texts parts dim"],
    valid: Bool[Tensor, "texts parts"],
    *,
    sharpness: float = 4.0,
    part_scale: float = 5.0,
    scale: float = 10.0,
    normalize: bool = True,
    held: int = _HELD,
) -> Float[Tensor, "images texts"]:
    """How well the parts of each text are found in each image.

    GLoRIA (Huang et al. 2021, section 3.2.2) as VELVET-Med has it (arXiv 2508.12108). Of image b
    and text i, with unit vectors v_s of regions and t_l of parts:

        A_sl = softmax over parts l of v_s·t_l,  w_ls = softmax over regions s of γ1 A_sl,
        c_l = Σ_s w_ls v_s,                      S_bi = γ3 log Σ_l exp(γ2 cos(t_l, c_l)).

    γ1 multiplies a probability, so that the weights of a text of one part are uniform. It is a sum
    over the parts, not a mean: longer texts have larger scores.

    Some texts at a time are scored against all images, and scored again in the backward: beside
    the inputs only a few times `held` numbers are kept, however many texts there are.

    Args:
        regions: (B, S, D), of volumes: voxels.
        parts: (R, L, D), e.g. words or sentences, of texts.
        valid: (R, L) False for padding; a text without any part has the score 0.
        sharpness: γ1.
        part_scale: γ2.
        scale: γ3.
        normalize: bring the rows to unit length first.
        held: attention weights that may be held at a time, of one text at least.

    Returns:
        (B, R) in float32 at least.
    """
    regions, parts = unit(regions, normalize), unit(parts, normalize)
    chunk = max(1, held // max(1, regions.shape[0] * regions.shape[1] * parts.shape[1]))
    columns = []
    for some, exist in zip(parts.split(chunk), valid.split(chunk), strict=True):
        arguments = (regions, some, exist, sharpness, part_scale)
        if torch.is_grad_enabled() and chunk < len(parts):
            pooled = checkpoint(_pool, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            pooled = _pool(*arguments)
        columns.append(scale * pooled)
    if not columns:
        return regions.new_zeros(len(regions), 0)
    return torch.cat(columns, 1)


def local_attention(
    regions: Float[Tensor, "batch regions dim"],
    parts: Float[Tensor, "batch parts dim"],
    valid: Bool[Tensor, "batch parts"],
    *,
    sharpness: float = 4.0,
    normalize: bool = True,
) -> Float[Tensor, "batch parts regions"]:
    """w_ls of every text in its own image; see `local_similarity`. 0 for parts of padding."""
    regions, parts = unit(regions, normalize), unit(parts, normalize)
    weights = _weights(parts @ regions.mT, valid[:, :, None], sharpness)
    return weights.masked_fill(~valid[:, :, None], 0)


def _weights(
    scores: Float[Tensor, "... parts regions"], valid: Bool[Tensor, "... parts 1"], sharpness: float
) -> Float[Tensor, "... parts regions"]:
    # A text without parts has no softmax; any finite number does, as its score is replaced.
    valid = valid | ~valid.any(-2, keepdim=True)
    among_parts = scores.masked_fill(~valid, -torch.inf).softmax(-2)
    return (sharpness * among_parts).softmax(-1)


def _pool(
    regions: Float[Tensor, "images regions dim"],
    parts: Float[Tensor, "texts parts dim"],
    valid: Bool[Tensor, "texts parts"],
    sharpness: float,
    part_scale: float,
) -> Float[Tensor, "images texts"]:
    """The pooled cosines log Σ_l exp(γ2 cos(t_l, c_l)); 0 for a text without parts."""
    if valid.device.type == "cpu":
        # Padding that no text of the chunk needs; an accelerator would have to be waited for.
        needed = valid.any(0)
        needed[0] = True
        parts, valid = parts[:, needed], valid[:, needed]
    n_texts, n_parts = valid.shape
    # One matrix product an image for the parts of all these texts.
    scores = (parts.flatten(0, 1) @ regions.mT).unflatten(1, (n_texts, n_parts))
    weights = _weights(scores, valid[None, :, :, None], sharpness)
    found = (weights.flatten(1, 2) @ regions).unflatten(1, (n_texts, n_parts))
    cosines = (unit(found, True) * parts).sum(-1)
    empty = ~valid.any(1)
    logits = (part_scale * cosines).masked_fill(~(valid | empty[:, None]), -torch.inf)
    return logits.logsumexp(-1).masked_fill(empty, 0)
