"""SwinUNETR: segmentation by the Swin transformer that VELVET-Med pre-trains (arXiv 2201.01266).

The encoder's five maps and the volume itself go through residual blocks into a decoder that
doubles the resolution step by step. All of it is fine-tuned with Dice and cross-entropy, from
random weights or from a pre-trained encoder, whose every weight must be there. Recipe of MONAI's
tutorial: AdamW, cubes that are flipped and shifted in intensity.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from core.augment.draws import Draws
from core.checkpoints import OURS, find_checkpoint, read_checkpoint
from core.data.checks import DataError
from core.distributed import global_mean
from core.trainers.system import Batch, System
from medical.data.cases import Cases

_STAGES = ("patch_embed", "layers1", "layers2", "layers3", "layers4")
_GROUPS = 4
_P_FLIP, _P_SHIFT, _SHIFT = 0.1, 0.5, 0.1


class SwinUNETR(System):
    """MONAI's SwinUNETR for volumes of one channel.

    Args:
        n_classes: with the background.
        size: side of the cubes in voxels, a multiple of 32.
        embed_dim: channels at stride 2, a multiple of 12.
        window: side of the windows of attention, in tokens.
        depths: blocks of the encoder's stages.
        heads: of their attention.
        norm: of the decoder: `instance`, which needs cubes of 64 voxels or more, or `group`.
        pretrained: a run folder or checkpoint of `velvet_med`, or a `.pt` file of weights of
            MONAI's Swin transformer, to start the encoder from; None starts from random weights.
        checkpointing: compute the encoder again in the backward pass, for less memory.

    Raises:
        DataError: the cube does not suit the network.
    """

    def __init__(
        self,
        n_classes: int,
        size: int,
        embed_dim: int = 48,
        window: int = 7,
        depths: Sequence[int] = (2, 8, 8, 8),
        heads: Sequence[int] = (4, 8, 16, 32),
        norm: Literal["instance", "group"] = "instance",
        pretrained: str | None = None,
        checkpointing: bool = True,
    ) -> None:
        from monai.losses import DiceLoss
        from monai.networks.nets import SwinUNETR as Network

        super().__init__()
        if size % 32 or (norm == "instance" and size < 64):
            raise DataError(
                f"data.size={size}",
                expected="a multiple of 32, and 64 or more with system.norm=instance",
                fix="system.norm=group for cubes of 32 voxels",
            )
        self.n_classes, self.size, self.pretrained = n_classes, size, pretrained
        self.network = Network(
            in_channels=1,
            out_channels=n_classes,
            feature_size=embed_dim,
            depths=tuple(depths),
            num_heads=tuple(heads),
            window_size=window,
            norm_name="instance" if norm == "instance" else ("group", {"num_groups": _GROUPS}),
            use_checkpoint=checkpointing,
        )
        self.dice = DiceLoss(to_onehot_y=True, softmax=True, reduction="none")

    def prepare(self, data: Cases) -> None:
        """Starts the encoder from the pre-trained one, before the first step alone."""
        if self.pretrained is not None:
            load_encoder(self.network.swinViT, self.pretrained)

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Cubes and classes flipped alike; one number added to all of a cube."""
        crop, label = batch["crop"], batch["label"]
        for axis in (2, 3, 4):
            flips = draws.happens(_P_FLIP)[:, None, None, None, None]
            crop, label = (torch.where(flips, x.flip(axis), x) for x in (crop, label))
        shift = draws.uniform(-_SHIFT, _SHIFT) * draws.happens(_P_SHIFT)
        return {"crop": crop + shift[:, None, None, None, None], "label": label}

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Soft Dice, the background among its classes, and cross-entropy, of equal weight."""
        scores, label = self.network(batch["crop"]).float(), batch["label"]
        dice = global_mean(self.dice(scores, label))
        entropy = global_mean(cross_entropy(scores, label[:, 0], reduction="none"))
        return {"loss": dice + entropy, "dice": dice, "entropy": entropy}

    def scores(
        self, volume: Float[Tensor, "batch 1 x y z"]
    ) -> Float[Tensor, "batch classes x y z"]:
        """Class scores of cubes, sides a multiple of 32."""
        found: Float[Tensor, "batch classes x y z"] = self.network(volume).float()
        return found

    @torch.no_grad()
    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`volume`: mean of the encoder's last map."""
        return {"volume": self.network.swinViT(batch["volume"])[-1].float().mean((2, 3, 4))}


def load_encoder(encoder: nn.Module, path: str | Path) -> None:
    """Gives MONAI's Swin transformer the weights of a pre-trained one, all of them.

    Names of old checkpoints are understood: the prefixes `module.` and `swinViT.`, and `fc1`, `fc2`
    in place of `linear1`, `linear2`. What else a checkpoint holds, such as heads, is left out.

    Raises:
        DataError: a weight is missing, or the encoder is of another size.
    """
    if not Path(path).exists():
        raise DataError(
            "no such file or folder",
            path=path,
            expected="a run of velvet_med, or weights of MONAI's Swin transformer",
            fix=f"train one first: medical train system=velvet_med hydra.run.dir={path}",
        )
    file = find_checkpoint(path)
    found: dict[str, Tensor] = {}
    for name, values in _weights(file).items():
        parts = [part for part in name.split(".") if part not in ("module", "swinViT", "vision")]
        if parts[0] in _STAGES:
            renamed = ".".join(parts).replace(".fc1.", ".linear1.").replace(".fc2.", ".linear2.")
            found[renamed] = values
    try:
        encoder.load_state_dict(found, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise DataError(
            f"not the encoder of this network: {reason[:160]}",
            path=file,
            expected="a Swin transformer of the same embed_dim, window, depths and heads",
            fix="set system.embed_dim, window, depths and heads as in its training",
        ) from None


def _weights(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".ckpt":
        checkpoint = read_checkpoint(file)
        if "velvet_med" not in checkpoint[OURS]["target"]:
            raise DataError(
                f"a checkpoint of {checkpoint[OURS]['target']}",
                path=file,
                expected="one of velvet_med",
            )
        weights: dict[str, Tensor] = checkpoint["state_dict"]
        return weights
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"cannot be read ({str(error).splitlines()[0][:120]})",
            path=file,
            expected="tensors by name, as torch.save writes a state dict",
        ) from None
    weights = content.get("state_dict", content)
    return weights
