"""UNI: a vision transformer of pathology patches, learned by DINOv2 (arXiv 2308.15474).

"Towards a General-Purpose Foundation Model for Computational Pathology", Nature Medicine 2024: a
ViT-L on 100 million patches of 100,426 slides, by the recipe of DINOv2 (arXiv 2304.07193). A
student sees two large crops of a patch, half of them masked, and eight small ones; an exponential
moving average of it, the teacher, sees the large ones whole. The student predicts the prototypes
that the teacher's class token of another crop falls to (DINO), and those that its tokens of the
masked patches fall to (iBOT); KoLeo spreads the class tokens of each large crop. Features are the
teacher's class token after the last norm.

What the paper leaves open is as DINOv2's code has it or its authors would choose: targets are
balanced by Sinkhorn-Knopp, heads are not shared, drop path is 0.4. Different from that code:
KoLeo seeks neighbours in the whole batch, not on each GPU alone; a gradient is clipped as a whole,
not for backbone and heads apart; the gain of the weight-normalised last layer is fixed at 1, not
trained.
"""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from core.augment.block_masks import BlockMasks
from core.augment.draws import Draws
from core.encoders.dino_head import DINOHead
from core.encoders.ema import EMATeacher, cosine_momentum
from core.losses import DINOLoss, IBOTLoss, koleo
from core.trainers.layer_decay import layer_decay
from core.trainers.system import Batch, System
from medical.systems.uni_encoder import MaskedViT, load_backbone

IMAGE = "image"
# Of ImageNet, as the released models expect.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(nn.Module):
    """What student and teacher are: backbone, and a head each for crops and for patches."""

    def __init__(self, encoder: MaskedViT, head: dict[str, int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = DINOHead(encoder.embed_dim, **head)
        self.patch_head = DINOHead(encoder.embed_dim, **head)

    def forward(
        self,
        crops: Float[Tensor, "views batch 3 height width"],
        hidden: Bool[Tensor, "views batch patches"] | None = None,
    ) -> tuple[Float[Tensor, "views batch dim"], Float[Tensor, "places dim"]]:
        """Class tokens, and the tokens of all patches in one row."""
        masks = None if hidden is None else hidden.flatten(0, 1)
        classes, patches = self.encoder(crops.flatten(0, 1), masks)
        return classes.unflatten(0, crops.shape[:2]), patches.flatten(0, 1)


class UNI(System):
    """Self-distillation of crops and masked patches.

    Args:
        image_size: side of the large crops in pixels, for which positions are learned.
        patch: side of a patch in pixels.
        dim: width of the backbone and of the features.
        depth: blocks.
        heads: of the attention.
        layer_scale: where the scales of residuals start.
        drop_path: how often a sample skips a block of the student.
        n_prototypes: K of each head.
        hidden_dim: width inside the heads.
        bottleneck_dim: width of what is compared with prototypes.
        balance: how the teacher is kept from collapse, `sinkhorn` or a moving `centre`.
        student_temperature: divisor of the student's cosines.
        teacher_temperature: of the teacher's, at the start and after the warm-up.
        temperature_warmup: share of the training in which it rises.
        patch_weight: of iBOT.
        koleo_weight: of KoLeo, for each large crop.
        mask_share: of the large crops that are masked.
        mask_ratios: range of the share of patches that are.
        momentum: of the teacher at the start; it rises to 1 by half a cosine.
        final_weight_decay: to which `optimizer.weight_decay` moves by half a cosine.
        layer_decay: factor of the learning rate from a block to the one before.
        patch_embed_rate: further factor of the patches' embedding.
        frozen_epochs: first epochs in which the prototypes stay as they were drawn.
        checkpointing: trade time for memory in the student's blocks.
        weights: file that the backbone starts from, see `load_backbone`.
    """

    n_views = 2

    def __init__(
        self,
        image_size: int = 224,
        patch: int = 16,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        layer_scale: float = 1e-5,
        drop_path: float = 0.4,
        n_prototypes: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        balance: Literal["centre", "sinkhorn"] = "sinkhorn",
        student_temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        temperature_warmup: float = 0.3,
        patch_weight: float = 1.0,
        koleo_weight: float = 0.1,
        mask_share: float = 0.5,
        mask_ratios: tuple[float, float] = (0.1, 0.5),
        momentum: float = 0.992,
        final_weight_decay: float = 0.4,
        layer_decay: float = 0.9,
        patch_embed_rate: float = 0.2,
        frozen_epochs: int = 1,
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        encoder = MaskedViT(
            image_size, patch, dim, depth, heads, layer_scale, drop_path, checkpointing
        )
        head = {"n_prototypes": n_prototypes, "hidden_dim": hidden_dim}
        self.student = Network(encoder, head | {"bottleneck_dim": bottleneck_dim})
        self.teacher = EMATeacher(self.student)
        self.teacher.module.encoder.without_drop_path()
        self.dino = DINOLoss(n_prototypes, student_temperature, balance=balance)
        self.ibot = IBOTLoss(n_prototypes, student_temperature, balance=balance)
        self.masks = BlockMasks(mask_share, tuple(mask_ratios))
        self.teacher_temperature = tuple(teacher_temperature)
        self.temperature_warmup = temperature_warmup
        self.patch_weight, self.koleo_weight = patch_weight, koleo_weight
        self.momentum, self.final_weight_decay = momentum, final_weight_decay
        self.layer_decay, self.patch_embed_rate = layer_decay, patch_embed_rate
        self.frozen_epochs, self.weights = frozen_epochs, weights
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def prepare(self, data: Any) -> None:  # noqa: ANN401
        """Starts student and teacher from the weights of a file, where there is one."""
        if self.weights is not None:
            load_backbone(self.student.encoder, self.weights)
            self.teacher.update(self.student, momentum=0.0)

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Which patches of the large crops are hidden; needs `views`, (2, B, 3, height, width)."""
        height, width = batch["views"].shape[-2:]
        grid = (height // self.student.encoder.patch, width // self.student.encoder.patch)
        masks = self.masks(self.n_views, grid, draws)
        return {"hidden": masks.hidden, "masked_places": masks.places}

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """DINO over all pairs of crops, iBOT on masked patches, KoLeo on each large crop.

        Args:
            batch: `views` (2, B, 3, H, W) and `local_views` (L, B, 3, h, w), pixels in [0, 1], and
                what `draw` gives.
        """
        large, small = self._standardised(batch["views"]), self._standardised(batch["local_views"])
        hidden, places = batch["hidden"], batch["masked_places"]
        temperature = self._teacher_temperature()
        targets, patch_targets = self._teacher_logits(large, places)

        classes, patches = self.student(large, hidden)
        logits = [self.student.head(classes)]
        if len(small):
            logits.append(self.student.head(self.student(small)[0]))
        patch_logits = self.student.patch_head(patches.index_select(0, places))

        terms = {
            "dino": self.dino(torch.cat(logits), targets, temperature),
            "ibot": self.ibot(patch_logits, patch_targets, hidden.flatten(0, 1), temperature),
            "koleo": torch.stack([koleo(crop) for crop in classes]).sum(),
        }
        loss = terms["dino"] + self.patch_weight * terms["ibot"]
        self.latest = {"features": classes[0].detach()}
        return {"loss": loss + self.koleo_weight * terms["koleo"], **terms}

    @torch.no_grad()
    def _teacher_logits(
        self, large: Float[Tensor, "2 batch 3 height width"], places: Int64[Tensor, " masked"]
    ) -> tuple[Float[Tensor, "2 batch prototypes"], Float[Tensor, "masked prototypes"]]:
        teacher: Network = self.teacher.module
        classes, patches = teacher(large)
        return teacher.head(classes), teacher.patch_head(patches.index_select(0, places))

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The teacher's class token, not of unit length; pixels in [0, 1]."""
        classes, _ = self.teacher.module.encoder(self._standardised(batch[IMAGE]))
        return {IMAGE: classes.float()}

    def _standardised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def _progress(self) -> tuple[int, int]:
        """Optimizer steps taken, and those of the whole training; (0, 1) outside of one."""
        if self._trainer is None:
            return 0, 1
        return self.trainer.global_step, int(self.trainer.estimated_stepping_batches)

    def _teacher_temperature(self) -> float:
        step, total = self._progress()
        start, end = self.teacher_temperature
        warmup = self.temperature_warmup * total
        return end if step >= warmup else start + (end - start) * step / warmup

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Earlier blocks take smaller steps, the embedding of patches still smaller ones."""
        encoder = self.student.encoder
        of_patches = set(encoder.patch_embed.parameters())
        groups = []
        for group in layer_decay(super().parameter_groups(), encoder, self.layer_decay):
            for inside, rate in ((False, 1.0), (True, self.patch_embed_rate)):
                params = [p for p in group["params"] if (p in of_patches) == inside]
                if params:
                    groups.append(group | {"params": params, "lr_scale": group["lr_scale"] * rate})
        return groups

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Moves the weight decay, and keeps the prototypes still in the first epochs."""
        # The same half cosine that the teacher's momentum follows.
        decay = cosine_momentum(
            *self._progress(), optimizer.defaults["weight_decay"], self.final_weight_decay
        )
        for group in optimizer.param_groups:
            if group["weight_decay"] > 0:
                group["weight_decay"] = decay
        if self.current_epoch < self.frozen_epochs:
            for head in (self.student.head, self.student.patch_head):
                head.prototypes.grad = None

    def update_teachers(self, step: int, total_steps: int) -> None:
        """The teacher follows the student."""
        self.teacher.update(self.student, cosine_momentum(step, total_steps, self.momentum))
