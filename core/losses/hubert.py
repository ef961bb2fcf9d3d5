"""Prediction of the hidden units of masked frames."""

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
