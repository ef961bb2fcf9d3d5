"""Prediction of the hidden units of masked frames."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.distributed import all_reduce_sum, global_mean, global_sum
from core.losses.precision import full_precision


@full_precision
def hubert(
    states: Float[Tensor, "batch time dim"],
    codes: Float[Tensor, "classes dim"],
    labels: Int[Tensor, "batch time"],
    frames: Bool[Tensor, "batch time"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Sum over the chosen frames of the cross entropy with logits cos(x_t, e_c)/τ.

    Hsu et al. 2021, eq. 2 and 3. The loss of the paper is that of the masked frames (weight 1); the
    unmasked ones (`~mask`) have the weight 0. The caller divides by the number of frames.

    Args:
        states: (B, T, D) projected outputs of the transformer.
        codes: (C, D) learned embeddings of the units.
        labels: (B, T) unit of each frame.
        frames: (B, T) True where the frame counts.
        temperature: divisor τ.

    Returns:
        Scalar in float32 at least, a sum.
    """
    logits = F.normalize(states, dim=-1) @ F.normalize(codes, dim=-1).T / temperature
    chosen = labels.masked_fill(~frames, 0)[..., None]
    losses = logits.logsumexp(-1) - logits.gather(-1, chosen).squeeze(-1)
    return global_sum(losses, frames)


@full_precision
def hubert_codebooks(
    states: Float[Tensor, "batch time codebooks dim"],
    codes: Float[Tensor, "codebooks classes dim"],
    labels: Int[Tensor, "batch time codebooks"],
    frames: Bool[Tensor, "batch time"],
    temperature: float = 0.1,
) -> Float[Tensor, " codebooks"]:
    """`hubert` of several codebooks, each with its own projection of the states (MERT, eq. 2).

    One batched product of the states and the codes of unit length, instead of the comparison of
    every state with a copy of all codes. Equal to the authors' contrast of the right code with all
    codes, where their copy of the right one counts as minus infinity, unless two codes are
    identical.

    Args:
        states: (B, T, K, D) projected outputs of the transformer.
        codes: (K, C, D) learned embeddings of the units of each codebook.
        labels: (B, T, K) units of each frame.
        frames: (B, T) True where the frame counts.
        temperature: divisor τ.

    Returns:
        (K,) in float32 at least, sums over the chosen frames.
    """
    unit = F.normalize(states, dim=-1).flatten(0, 1).transpose(0, 1)
    logits = torch.bmm(unit, F.normalize(codes, dim=-1).transpose(1, 2)) / temperature
    chosen = labels.masked_fill(~frames[..., None], 0).flatten(0, 1).T
    losses = logits.logsumexp(-1) - logits.gather(-1, chosen[..., None]).squeeze(-1)
    counted = frames.flatten()
    return torch.stack([global_sum(of, counted) for of in losses])


@full_precision
def feature_penalty(
    features: Float[Tensor, "batch time dim"], frames: Bool[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """Mean square of the features of the convolutions, times the number of chosen frames.

    A term of the same scale as `hubert`; its weight in the authors' code is 10.

    Args:
        features: (B, T, D) outputs of the convolutional encoder.
        frames: (B, T) the frames over which the loss is summed.

    Returns:
        Scalar in float32 at least.
    """
    return global_mean(features.square()) * all_reduce_sum(frames.sum().to(features.dtype))
