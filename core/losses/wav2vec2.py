"""Contrast of masked frames with their quantised targets."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.distributed import all_reduce_sum, global_sum
from core.losses.precision import full_precision


@full_precision
def wav2vec2(
    context: Float[Tensor, "batch time dim"],
    quantized: Float[Tensor, "batch time dim"],
    mask: Bool[Tensor, "batch time"],
    distractors: Int[Tensor, "batch time negatives"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Sum over masked frames of the cross entropy of cos(c_t, q)/τ over q_t and K distractors.

    Baevski et al. 2020, eq. 3. A distractor equal to q_t is left out. The loss of the paper adds
    `code_diversity` with the weight 0.1; both are sums over the masked frames.

    Args:
        context: (B, T, D) projected outputs of the transformer.
        quantized: (B, T, D) quantised targets.
        mask: (B, T) True where the frame was masked.
        distractors: (B, T, K) indices b T + t of other frames, see `sample_distractors`; those at
            unmasked frames are not used.
        temperature: divisor τ.

    Returns:
        Scalar in float32 at least, a sum.
    """
    usable = distractors.clamp(0, quantized.shape[0] * quantized.shape[1] - 1)
    negatives = quantized.flatten(0, 1)[usable]
    candidates = torch.cat([quantized[:, :, None], negatives], dim=2)
    logits = F.cosine_similarity(context[:, :, None], candidates, dim=-1) / temperature
    equal = (negatives == quantized[:, :, None]).all(-1)
    logits = torch.cat([logits[..., :1], logits[..., 1:].masked_fill(equal, -torch.inf)], dim=2)
    return global_sum(logits.logsumexp(-1) - logits[..., 0], mask)


@full_precision
def code_diversity(
    probabilities: Float[Tensor, "batch time groups codes"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """(G V - Σ_g perplexity_g) / (G V) times the number of masked frames.

    Baevski et al. 2020, eq. 4 in its form with the perplexity. The perplexity is that of the
    probabilities averaged over the masked frames of all ranks.

    Args:
        probabilities: (B, T, G, V) of the V codes of each of the G groups.
        mask: (B, T) True where the frame was masked.

    Returns:
        Scalar in float32 at least, a sum over frames.
    """
    entries = probabilities.shape[2] * probabilities.shape[3]
    frames = all_reduce_sum(mask.sum().to(probabilities.dtype))
    return (entries - code_perplexity(probabilities, mask)) / entries * frames


@full_precision
def code_perplexity(
    probabilities: Float[Tensor, "batch time groups codes"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """Sum over groups of the exponential entropy of the mean code probabilities, in [G, G V]."""
    frames = all_reduce_sum(mask.sum().to(probabilities.dtype))
    kept = probabilities.masked_fill(~mask[..., None, None], 0)
    mean = all_reduce_sum(kept.sum((0, 1))) / frames.clamp(min=1)
    perplexity: Tensor = torch.special.entr(mean).sum(-1).exp().sum()
    return perplexity


@torch.no_grad()
def sample_distractors(
    mask: Bool[Tensor, "batch time"], count: int = 100, generator: torch.Generator | None = None
) -> Int[Tensor, "batch time negatives"]:
    """Draws distractors of each masked frame from the other masked frames of its utterance.

    Args:
        mask: (B, T) True where the frame was masked.
        count: K, drawn with replacement.
        generator: on the device of the mask.

    Returns:
        (B, T, K) indices b T + t. A frame that is the only masked one of its utterance gets itself
        (and `wav2vec2` leaves it out); the entries at unmasked frames mean nothing.
    """
    batch, time = mask.shape
    masked = mask.sum(1)[:, None, None]
    shape = (batch, time, count)
    drawn = torch.rand(shape, generator=generator, device=mask.device)
    others = (drawn * (masked - 1).clamp(min=1)).long()
    # Numbers from the frame's own on are shifted by one, so that it is never drawn.
    number = (mask.cumsum(1) - 1)[..., None]
    others = torch.minimum(others + (others >= number), (masked - 1).clamp(min=0))
    positions = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    chosen = positions[:, None].expand(batch, time, time).gather(2, others)
    return chosen + torch.arange(batch, device=mask.device)[:, None, None] * time
