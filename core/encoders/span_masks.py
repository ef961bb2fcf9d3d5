"""Spans of frames to be predicted, drawn on the device for a whole batch."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.augment.draws import Draws


def span_masks(
    n_frames: int,
    draws: Draws,
    probability: float = 0.8,
    length: int = 5,
    at_least: int = 2,
    frames: Int[Tensor, " batch"] | None = None,
) -> Bool[Tensor, "batch time"]:
    """Spans as in wav2vec 2.0 and its kin: many, of one length, that may overlap.

    A wave of T frames gets int(p T / length + u) spans, u uniform in [0, 1), and `at_least` so
    many; their first frames are drawn without replacement from the first T - length. So a
    share of about 1 - (1 - p / length)^length is masked.

    Args:
        n_frames: T of the batch.
        draws: random numbers for its rows.
        probability: p.
        length: frames of a span.
        at_least: spans of a wave.
        frames: (B,) how many frames of each row are no padding; None: all.

    Returns:
        (B, T), True where the frame is to be predicted.
    """
    chance, order = draws.uniform(0, 1, 1), draws.uniform(0, 1, n_frames)
    return spans(chance, order, probability, length, at_least, frames)


def spans(
    chance: Float[Tensor, "batch 1"],
    order: Float[Tensor, "batch time"],
    probability: float,
    length: int,
    at_least: int,
    frames: Int[Tensor, " batch"] | None = None,
) -> Bool[Tensor, "batch time"]:
    """`span_masks` of given random numbers in [0, 1): u, and by which the starts are ordered."""
    time = torch.arange(order.shape[1], device=order.device)
    size = order.new_full((len(order), 1), order.shape[1])
    size = size if frames is None else frames[:, None].to(order)
    count = (probability * size / length + chance).floor().clamp(min=at_least)
    # A wave that is no longer than a span has one start.
    starts = time < (size - length).clamp(min=1)
    rank = order.masked_fill(~starts, 2.0).argsort(1).argsort(1)
    begins = (rank < count) & starts
    # A frame is in a span that began at most `length` - 1 frames before.
    begun = begins.long().cumsum(1)
    earlier = torch.nn.functional.pad(begun, (length, 0))[:, : order.shape[1]]
    return (begun > earlier) & (time < size)
