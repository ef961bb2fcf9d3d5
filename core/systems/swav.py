"""SwAV: the cluster of one view is predicted from the others (NeurIPS 2020, arXiv 2006.09882).

With multi-crop: clusters are assigned to the views of full size alone, and predicted from these and
from small local ones. No queue: batches should be well above the number of prototypes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from core.encoders.prototypes import Prototypes
from core.losses import swav
from core.systems.joint_embedding import JointEmbedding
from core.trainers.system import Batch


class SwAV(JointEmbedding):
    """Balanced assignments of two views, predicted from each other and from local views.

    Args:
        shapes: modality -> shape of one sample; images.
        n_local_views: smaller views of a sample, which give no assignments.
        encoder: see `core.encoders.build`; it has to take images of any size. None: a ResNet-18 for
            small images.
        hidden_dim: width inside the head.
        dim: width of the projections.
        batch_norm: in the head.
        n_prototypes: clusters.
        temperature: a divisor of the scores that predict.
        epsilon: entropy weight of the assignments.
        iterations: of Sinkhorn.
        frozen_epochs: first epochs in which the prototypes stay as they were drawn.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_local_views: int = 6,
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 512,
        dim: int = 128,
        batch_norm: bool = True,
        n_prototypes: int = 100,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        frozen_epochs: int = 1,
    ) -> None:
        channels = next(iter(shapes.values()))[0]
        usual = {"_target_": "core.encoders.resnet.SmallImageResNet", "channels": channels}
        super().__init__(shapes, 2, encoder or usual, hidden_dim, dim, batch_norm)
        self.n_local_views = n_local_views
        self.prototypes = Prototypes(dim, n_prototypes)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.frozen_epochs = frozen_epochs

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The assignments of both full views, predicted from every other view."""
        projections = self.views(batch)
        if self.n_local_views:
            local = batch["local_views"]
            small = self.head(self.encoder(local.flatten(0, 1)))
            projections = torch.cat([projections, small.unflatten(0, (len(local), -1))])
        scores = self.prototypes(projections)
        loss = swav(scores, self.temperature, epsilon=self.epsilon, iterations=self.iterations)
        return {"loss": loss}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keeps the prototypes in place in the first epochs."""
        if self.current_epoch < self.frozen_epochs:
            self.prototypes.weight.grad = None

    def update_teachers(self, step: int, total_steps: int) -> None:
        """Brings the prototypes back to unit length."""
        self.prototypes.normalize()
