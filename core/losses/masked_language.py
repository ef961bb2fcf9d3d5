"""Masked language modelling, the objective of BERT."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from core.distributed import global_mean
from core.losses.precision import full_precision


def mask_tokens(
    ids: Int64[Tensor, "batch tokens"],
    maskable: Bool[Tensor, "batch tokens"],
    uniform: Float[Tensor, "batch tokens 3"],
    mask_id: int,
    replacements: tuple[int, int],
    share: float = 0.15,
) -> tuple[Int64[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Chooses tokens to predict; of them 80 % are masked, 10 % replaced, 10 % left as they are.

    Devlin et al. 2019, section 3.1.

    Args:
        ids: (B, T).
        maskable: (B, T) True where a token may be chosen.
        uniform: (B, T, 3) numbers in [0, 1) that decide what is chosen, its fate, its replacement.
        mask_id: of [MASK].
        replacements: from which id on, below which id, replacements are drawn.
        share: of the tokens that are chosen.

    Returns:
        The changed ids, and True where a token was chosen.
    """
    chosen = maskable & (uniform[..., 0] < share)
    low, high = replacements
    other = low + (uniform[..., 2] * (high - low)).long().clamp(max=high - low - 1)
    fate = uniform[..., 1]
    changed = torch.where(fate < 0.8, mask_id, torch.where(fate < 0.9, other, ids))
    return torch.where(chosen, changed, ids), chosen


def masked_language(
    states: Float[Tensor, "batch tokens dim"],
    ids: Int64[Tensor, "batch tokens"],
    chosen: Bool[Tensor, "batch tokens"],
    head: Callable[[Tensor], Tensor],
) -> Float[Tensor, ""]:
    """Cross entropy of the chosen tokens, of which there are about 15 % a text.

    The head sees only as many tokens of a text as a quarter and eight: the logits of all would be
    the largest tensor of a step. More are chosen once in millions of texts; those are left out.

    Args:
        states: (B, T, D) of the text with masks.
        ids: (B, T) of the text without.
        chosen: (B, T) True for tokens to predict.
        head: states -> logits of the vocabulary.

    Returns:
        Scalar in float32 at least; 0 where nothing was chosen.
    """
    most = min(ids.shape[1], ids.shape[1] // 4 + 8)
    # On ties topk may take any: what was not chosen is left out of the mean.
    places = chosen.to(torch.uint8).topk(most, dim=1).indices
    picked = states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
    return _cross_entropy(head(picked), ids.gather(1, places), chosen.gather(1, places))


@full_precision
def _cross_entropy(
    logits: Float[Tensor, "batch tokens vocabulary"],
    targets: Int64[Tensor, "batch tokens"],
    counted: Bool[Tensor, "batch tokens"],
) -> Float[Tensor, ""]:
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return global_mean(losses, counted.flatten())
