"""Random numbers that a system needs in its step, drawn where all processes draw alike."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from core.augment.draws import Draws
from core.trainers.system import Batch, System


@runtime_checkable
class DrawsInSteps(Protocol):
    """A system whose step depends on chance beyond the augmentation of single rows."""

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """The batch of this process with what was drawn for it, e.g. partners to mix with."""
        ...


def with_draws(
    prepare: Callable[[Batch, Draws], Batch], system: System
) -> Callable[[Batch, Draws], Batch]:
    """`prepare`, followed by `system.draw` where the system has it."""
    if not isinstance(system, DrawsInSteps):
        return prepare
    return lambda batch, draws: system.draw(prepare(batch, draws), draws)
