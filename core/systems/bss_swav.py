"""Batch Styles Standardization in SwAV: clusters that are no styles.

Scalbert, Vakalopoulou, Couzinie-Devy, ICLR 2024 (arXiv 2303.06088). The styles are made with the
views, as for `core.systems.bss`. Assignments are balanced inside each view, whose images share a
style, and predicted from the other views.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from core.encoders.prototypes import Prototypes
from core.losses import swav
from core.systems.bss import usual_encoder
from core.systems.joint_embedding import JointEmbedding
from core.trainers.system import Batch


class BSSSwAV(JointEmbedding):
    """SwAV between views of different styles: clusters are balanced inside each style.

    The assignments of a view are made from that view alone, so that no cluster can be a style.

    Args:
        shapes: modality -> shape of one sample.
        n_views: views of a batch, each in a style of its own.
        encoder: as in `core.systems.bss.BSSSimCLR`.
        hidden_dim: width inside the head.
        dim: width of the projections.
        batch_norm: in the head.
        n_prototypes: clusters.
        temperature: a divisor of the student's scores.
        epsilon: entropy weight of the assignments.
        iterations: of Sinkhorn.
        frozen_epochs: first epochs in which the prototypes stay as they were drawn.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_views: int = 2,
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 512,
        dim: int = 128,
        batch_norm: bool = False,
        n_prototypes: int = 300,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        frozen_epochs: int = 1,
    ) -> None:
        encoder = encoder or usual_encoder(next(iter(shapes.values())))
        super().__init__(shapes, n_views, encoder, hidden_dim, dim, batch_norm)
        self.prototypes = Prototypes(dim, n_prototypes)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.frozen_epochs = frozen_epochs

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The assignments of each view, predicted from each other view."""
        scores = self.prototypes(self.views(batch))
        return {
            "loss": swav(
                scores,
                self.temperature,
                assigned_views=range(self.n_views),
                epsilon=self.epsilon,
                iterations=self.iterations,
            )
        }

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keeps the prototypes in place in the first epochs."""
        if self.current_epoch < self.frozen_epochs:
            self.prototypes.weight.grad = None

    def update_teachers(self, step: int, total_steps: int) -> None:
        """Brings the prototypes back to unit length."""
        self.prototypes.normalize()
