"""CMC-CMKM: contrastive multiview coding with cross-modal knowledge mining.

Brinzea, Khaertdinov, Asteriadis, IJCNN 2022 (arXiv 2205.10071). In each modality a guide, an
encoder that SimCLR has trained and that is frozen then, says which clips are alike. The clip most
like an anchor's in the guide of one modality is a further positive for anchors of the other; clips
of the anchor's own modality join the negatives. See `core.losses.cmkm`.
Decided here: the guides are trained in `prepare`, before the first step; what they say of the
training windows, without augmentation and after the projection, is kept as one vector a window.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.augment.draws import Draws
from core.build import build_part
from core.data.resident import ResidentLoader
from core.losses import cmkm
from core.trainers.system import Batch
from har.data.recordings import IMU, SKELETON
from har.data.windows import Windows, along_time, repeated
from har.systems.cmc import CMC
from har.systems.simclr import SimCLR

_VIEWS = {
    SKELETON: {"_target_": "core.augment.skeletons.SkeletonViews"},
    IMU: {"_target_": "core.augment.series.InertialViews"},
}
_ROWS = 1024  # that a guide looks at together


class CMCCMKM(CMC):
    """CMC with positives that frozen guides have mined, and intra-modality negatives.

    Args:
        shapes: modality -> shape of one window, two modalities.
        n_train: number of training windows.
        encoder: see `CMC`; the guides have the same.
        hidden_dim: see `CMC`.
        dim: see `CMC`.
        temperature: a divisor of the cosines.
        intra_weight: of the negatives of an anchor's own modality.
        guide_epochs: passes over the training windows of each guide.
        guide_batch_size: windows of a guide's step.
        guide_lr: learning rate of Adam.
        guide_views: modality -> `_target_` and arguments of what makes the guides' views; None:
            the published augmentation.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_train: int,
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 256,
        dim: int = 128,
        temperature: float = 0.1,
        intra_weight: float = 1.0,
        guide_epochs: int = 100,
        guide_batch_size: int = 64,
        guide_lr: float = 0.001,
        guide_views: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(shapes, encoder, hidden_dim, dim, temperature)
        self.intra_weight = intra_weight
        self.guide_epochs, self.guide_batch_size = guide_epochs, guide_batch_size
        self.guide_lr, self.guide_views = guide_lr, guide_views or _VIEWS
        self.guide_of = {
            name: {"encoder": encoder, "hidden_dim": hidden_dim, "dim": dim} for name in shapes
        }
        for name in shapes:
            self.register_buffer(f"guide_{name}", torch.zeros(n_train, dim))

    def prepare(self, data: Windows) -> None:
        """Trains a guide for each modality and keeps its view of every training window."""
        for name, shape in self.shapes.items():
            guide = SimCLR({name: shape}, **self.guide_of[name])
            columns = data.columns("train")
            columns = {key: columns[key] for key in (name, "mask") if key in columns}
            vectors = self._guided(guide.to(columns[name].device), columns, name)
            self.get_buffer(f"guide_{name}").copy_(vectors)

    def _guided(
        self, guide: SimCLR, columns: dict[str, Tensor], name: str
    ) -> Float[Tensor, "n dim"]:
        augment = build_part(self.guide_views[name])

        def two_views(batch: Batch, draws: Draws) -> Batch:
            x, mask = batch[name], batch.get("mask")
            x = x if mask is None else repeated(x, mask)
            views = torch.stack([augment(x, draws) for _ in range(2)])
            if mask is not None:  # padding is zero, also after jitter
                views = views * along_time(mask, name)
            return batch | {f"views/{name}": views}

        seed = int(torch.randint(2**31, ()))
        loader = ResidentLoader(
            columns, self.guide_batch_size, seed, prepare=two_views, drop_last=True
        )
        optimizer = torch.optim.Adam(guide.parameters(), self.guide_lr)
        for _ in range(self.guide_epochs):
            for batch in loader:
                optimizer.zero_grad()
                guide.objective(batch)["loss"].backward()
                optimizer.step()
        guide.eval()
        with torch.no_grad():
            return torch.cat(
                [guide.project({name: some})[name] for some in columns[name].split(_ROWS)]
            )

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of both directions, with the positives that the guides mine in the batch."""
        first, second = self.projections(batch)
        guides = [self.get_buffer(f"guide_{name}")[batch["index"]] for name in self.shapes]
        loss = cmkm(
            first, second, *guides, temperature=self.temperature, intra_weight=self.intra_weight
        )
        return {"loss": loss}
