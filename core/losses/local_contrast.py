"""Similarity of an image and a text by their parts: every word looks for its region."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.distributed import all_gather
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, unit, zero_invalid
from core.losses.score_contrast import score_contrast

# Attention weights held at a time: 4 MiB of float32, near a CPU's caches, 64 MiB elsewhere.
_HELD = {"cpu": 1 << 20, "other": 1 << 24}


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
    held: int | None = None,
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
    held: int | None = None,
) -> Float[Tensor, "images texts"]:
    """How well the parts of each text are found in each image.

    GLoRIA (Huang et al. 2021, section 3.2.2) as VELVET-Med has it (arXiv 2508.12108). Of image b
    and text i, with unit vectors v_s of regions and t_l of parts:

        A_sl = softmax over parts l of v_s·t_l,  w_ls = softmax over regions s of γ1 A_sl,
        c_l = Σ_s w_ls v_s,                      S_bi = γ3 log Σ_l exp(γ2 cos(t_l, c_l)).

    γ1 multiplies a probability, so that the weights of a text of one part are uniform. It is a sum
    over the parts, not a mean: longer texts have larger scores.

    Some texts are scored against some images at a time, and attention is computed again in the
    backward. Beside gradients only c_l of all texts and images is kept, and three times `held`
    numbers for a while: of S regions of width D that is D / S of one of the attention maps.

    Args:
        regions: (B, S, D), of volumes: voxels.
        parts: (R, L, D), e.g. words or sentences, of texts.
        valid: (R, L) False for padding; a text without any part has the score 0.
        sharpness: γ1.
        part_scale: γ2.
        scale: γ3.
        normalize: bring the rows to unit length first.
        held: attention weights that may be held at a time, of one image and text at least; None
            suits the device.

    Returns:
        (B, R) in float32 at least.
    """
    regions, parts = unit(regions, normalize), unit(parts, normalize)
    if held is None:
        held = _HELD["cpu" if regions.device.type == "cpu" else "other"]
    pooled: Tensor = _Pooled.apply(regions, parts, valid, sharpness, part_scale, held)
    return scale * pooled


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
    return (sharpness * _among_parts(scores, valid)).softmax(-1)


def _among_parts(
    scores: Float[Tensor, "... parts regions"], valid: Bool[Tensor, "... parts 1"]
) -> Float[Tensor, "... parts regions"]:
    # A text without parts has no softmax; any finite number does, as its score is replaced.
    valid = valid | ~valid.any(-2, keepdim=True)
    return scores.masked_fill(~valid, -torch.inf).softmax(-2)


class _Pooled(torch.autograd.Function):
    """The pooled cosines log Σ_l exp(γ2 cos(t_l, c_l)) of images and texts; 0 without parts."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        regions: Tensor,
        parts: Tensor,
        valid: Tensor,
        sharpness: float,
        part_scale: float,
        held: int,
    ) -> Tensor:
        pooled = regions.new_zeros(len(regions), len(parts))
        kept = regions.new_empty(len(regions) if ctx.needs_input_grad[0] else 0, *parts.shape)
        for block in _blocks(regions, parts, valid, held):
            scores = _products(block.parts, block.regions)
            found = _weights(scores, block.valid[..., None], sharpness) @ block.regions[:, None]
            cosines, _ = _cosines(found, block.parts)
            logits = _logits(cosines, block.valid, part_scale)
            pooled[block.images, block.texts] = logits.logsumexp(-1).masked_fill(block.empty, 0)
            if len(kept):
                kept[block.images, block.texts, : found.shape[2]] = found
        ctx.save_for_backward(regions, parts, valid, kept)
        ctx.constants = sharpness, part_scale, held
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        regions, parts, valid, kept = ctx.saved_tensors
        sharpness, part_scale, held = ctx.constants
        of_regions, of_parts = torch.zeros_like(regions), torch.zeros_like(parts)
        for block in _blocks(regions, parts, valid, held):
            v, t = block.regions, block.parts
            among = _among_parts(_products(t, v), block.valid[..., None])
            weights = (sharpness * among).softmax(-1)
            found = kept[block.images, block.texts, : t.shape[1]]
            cosines, lengths = _cosines(found, t)
            shares = _logits(cosines, block.valid, part_scale).softmax(-1)
            shares = shares.masked_fill(~block.valid, 0)
            slope = grad[block.images, block.texts, None] * part_scale * shares / lengths
            of_found = slope[..., None] * (t - (cosines / lengths)[..., None] * found)
            to_regions, to_parts = of_regions[block.images], of_parts[block.texts, : t.shape[1]]
            to_regions.baddbmm_(weights.flatten(1, 2).mT, of_found.flatten(1, 2))
            # Through both softmaxes in place; of the first, Σ_s w_ls ∂w_ls is ∂c_l · c_l.
            of_scores = _products(of_found, v)
            of_scores -= (of_found * found).sum(-1, keepdim=True)
            of_scores.mul_(weights).mul_(sharpness).mul_(among)
            of_scores -= among.mul_(of_scores.sum(-2, keepdim=True))
            to_regions.baddbmm_(of_scores.flatten(1, 2).mT, t.flatten(0, 1).expand(len(v), -1, -1))
            to_parts += (slope[..., None] * found).sum(0) + (of_scores @ v[:, None]).sum(0)
        return of_regions, of_parts, None, None, None, None


class _Block(NamedTuple):
    """Some images and some texts, without the padding that none of these texts needs."""

    images: slice
    texts: slice
    regions: Float[Tensor, "images regions dim"]
    parts: Float[Tensor, "texts parts dim"]
    valid: Bool[Tensor, "texts parts"]
    empty: Bool[Tensor, " texts"]


def _blocks(regions: Tensor, parts: Tensor, valid: Tensor, held: int) -> Iterator[_Block]:
    """All pairs of images and texts, at most `held` of their attention weights in a block."""
    of_pair = max(1, regions.shape[1] * parts.shape[1])
    texts = max(1, min(len(parts), held // of_pair))
    images = max(1, held // (of_pair * texts))
    for first in range(0, len(parts), texts):
        some, exist = parts[first : first + texts], valid[first : first + texts]
        if exist.device.type == "cpu":  # an accelerator would have to be waited for
            n_parts = int((exist.any(0) * torch.arange(1, exist.shape[1] + 1)).max())
            some, exist = some[:, : max(1, n_parts)], exist[:, : max(1, n_parts)]
        for image in range(0, len(regions), images):
            rows = slice(image, image + images)
            columns = slice(first, first + texts)
            yield _Block(rows, columns, regions[rows], some, exist, ~exist.any(1))


def _products(
    parts: Float[Tensor, "*images texts parts dim"], regions: Float[Tensor, "images regions dim"]
) -> Float[Tensor, "images texts parts regions"]:
    """One matrix product an image for the parts of all texts."""
    products = parts.flatten(-3, -2) @ regions.mT
    return products.view(len(regions), *parts.shape[-3:-1], regions.shape[1])


def _cosines(
    found: Float[Tensor, "images texts parts dim"], parts: Float[Tensor, "texts parts dim"]
) -> tuple[Float[Tensor, "images texts parts"], Float[Tensor, "images texts parts"]]:
    """Of what was found with the parts, which count as they are, and the lengths of the former."""
    lengths = found.norm(dim=-1).clamp(min=1e-12)
    return (found * parts).sum(-1) / lengths, lengths


def _logits(
    cosines: Float[Tensor, "images texts parts"], valid: Bool[Tensor, "texts parts"], scale: float
) -> Float[Tensor, "images texts parts"]:
    kept = valid | ~valid.any(1, keepdim=True)
    return (scale * cosines).masked_fill(~kept, -torch.inf)
