"""Several augmentations, one after the other."""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from core.augment.draws import Draws


class Augmentation(Protocol):
    """A random change of every sample of a batch."""

    def __call__(self, x: Float[Tensor, "batch ..."], draws: Draws) -> Float[Tensor, "batch ..."]:
        """One view of every sample."""
        ...


class Compose:
    """Augmentations in turn.

    Args:
        augmentations: the first is applied first.
    """

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        self.augmentations = augmentations

    def __call__(self, x: Float[Tensor, "batch ..."], draws: Draws) -> Float[Tensor, "batch ..."]:
        """One view of every sample."""
        for augmentation in self.augmentations:
            x = augmentation(x, draws)
        return x
