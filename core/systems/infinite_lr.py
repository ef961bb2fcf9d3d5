"""Continual pre-training with an infinite learning-rate schedule (CoLLAs 2025, arXiv 2503.02844).

A rate that stays constant for as long as tasks come, and is annealed on a side branch whenever the
model is to be used. The baseline of the paper repeats warm-up and cosine in every task: here
`schedule=cosine system.pre_anneal=null`.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.augment.draws import Draws
from core.data.checks import DataError
from core.losses.mae import mae, patchify, random_masking
from core.trainers.continual import ContinualSystem
from core.trainers.system import Batch


class InfiniteLR(ContinualSystem):
    """A masked autoencoder of two perceptrons, trained on one task after the other.

    The paper trains a ViT (ViT-Tiny, patches of 2, on 32 x 32 pixels) by the same objective: the
    mean squared error of the raw pixels of the removed patches. Its schedule is the config's, see
    `core.trainers.schedules.infinite`; what else the method asks for is in
    `core.trainers.continual.ContinualSystem`.

    Args:
        shapes: modality -> shape of one sample; the first modality is images.
        n_classes: name of a label -> number of its classes; those of `task` are the tasks, in
            their order. Without such a label all is one task.
        patch: side of a patch in pixels.
        mask_ratio: share of the patches that is removed.
        hidden: widths of the encoder's hidden layers; the decoder has the last of them.
        dim: width of the code.
        pre_anneal: where in a task the model is kept that the next task goes on from; must be
            where the schedule's constant rate ends. None goes on from the end of the task.
        restore_moments: with Adam's moments of then; False as in the authors' code.

    Raises:
        DataError: the samples are no images of whole patches.
    """

    model: "MaskedMLP"

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_classes: dict[str, int],
        patch: int = 2,
        mask_ratio: float = 0.75,
        hidden: Sequence[int] = (128, 128),
        dim: int = 32,
        pre_anneal: float | None = 0.8,
        restore_moments: bool = True,
    ) -> None:
        modality, shape = next(iter(shapes.items()))
        if len(shape) != 3 or shape[1] % patch or shape[2] % patch:
            raise DataError(
                f"{modality} of shape {list(shape)} has no whole patches of {patch} x {patch}",
                expected="images (channels, height, width)",
                fix="choose system.patch so that it divides height and width",
            )
        n_patches = (shape[1] // patch) * (shape[2] // patch)
        model = MaskedMLP(n_patches, prod(shape) // n_patches, hidden, dim)
        super().__init__(model, n_classes.get("task", 1), pre_anneal, restore_moments)
        self.shapes = {name: list(of) for name, of in shapes.items()}
        self.modality, self.patch, self.mask_ratio = modality, patch, mask_ratio
        self.n_patches = n_patches

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """`noise` (B, patches): which patches of a row are removed."""
        return {"noise": draws.uniform(0, 1, self.n_patches)}

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the removed pixels."""
        patches = patchify(batch[self.modality], self.patch)
        _, mask, _ = random_masking(batch["noise"], self.mask_ratio)
        code = self.model.encode(patches, mask)
        self.latest = {"features": code.detach()}
        return {"loss": mae(self.model.decode(code), patches, mask, normalize_target=False)}

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The code of the whole image, nothing removed, not of unit length."""
        patches = patchify(batch[self.modality], self.patch)
        return {
            self.modality: self.model.encode(patches, torch.zeros_like(patches[..., 0])).float()
        }

    @torch.no_grad()
    def errors(self, batch: Batch) -> Float[Tensor, "models batch"]:
        """The objective of every row, by the model now and as it was after each task but the last.

        The second of two rows is by the model after the first task.
        """
        patches = patchify(batch[self.modality], self.patch)
        _, mask, _ = random_masking(batch["noise"], self.mask_ratio)
        found = []
        for model in (self.model, *self.as_learned):
            prediction = model.decode(model.encode(patches, mask))
            error = (prediction - patches).square().mean(-1)
            found.append((error * mask).sum(1) / mask.sum(1))
        return torch.stack(found)


class MaskedMLP(nn.Module):
    """Encoder of an image with removed patches and of which they are; decoder of all patches.

    Args:
        n_patches: patches of an image.
        patch_dim: values of a patch.
        hidden: widths of the encoder's hidden layers, with GELU.
        dim: width of the code.
    """

    def __init__(self, n_patches: int, patch_dim: int, hidden: Sequence[int], dim: int) -> None:
        super().__init__()
        self.n_patches = n_patches
        widths = [n_patches * (patch_dim + 1), *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.encoder = nn.Sequential(*layers, nn.Linear(widths[-1], dim))
        self.decoder = nn.Sequential(
            nn.Linear(dim, widths[-1]), nn.GELU(), nn.Linear(widths[-1], n_patches * patch_dim)
        )

    def encode(
        self, patches: Float[Tensor, "batch patches values"], mask: Float[Tensor, "batch patches"]
    ) -> Float[Tensor, "batch dim"]:
        """The code of what is left; 1 in the mask is removed."""
        left = patches * (1 - mask[..., None])
        code: Tensor = self.encoder(torch.cat([left.flatten(1), mask], dim=1))
        return code

    def decode(self, code: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch patches values"]:
        """All patches, those that were seen too."""
        pixels: Tensor = self.decoder(code)
        patches: Tensor = pixels.unflatten(1, (self.n_patches, -1))
        return patches
