"""The backbone of UNI: timm's vision transformer with a mask token, and weights from files."""

import pickle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from timm.layers import DropPath, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.data.checks import DataError

_ANCHOR = "patch_embed.proj.weight"
_PIXELS = "backbone weights with timm's names (cls_token, pos_embed, blocks.0.attn.qkv.weight, ...)"


class MaskedViT(VisionTransformer):
    """timm's layout of `vit_large_patch16_224` with LayerScale, for images of any size.

    Positions, that of the class token included, are learned for the size of training and
    interpolated bicubically for others. The mask token takes the place of patches before positions
    are added. Stochastic depth has the same rate in all blocks, as in DINOv2.

    Args:
        image_size: side in pixels of the images that positions are learned for.
        patch: side of a patch in pixels.
        dim: width of the tokens.
        depth: blocks.
        heads: of each block.
        layer_scale: where the scales of the residuals start.
        drop_path: how often a sample skips a block in training.
        checkpointing: keep no activations inside of blocks, compute them again in the backward.

    Attributes:
        patch: side of a patch in pixels.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch: int = 16,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        layer_scale: float = 1e-5,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            img_size=image_size,
            patch_size=patch,
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            init_values=layer_scale,
            num_classes=0,
            dynamic_img_size=True,
        )
        self.patch, self.checkpointing = patch, checkpointing
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        for block in self.blocks:
            for name in ("drop_path1", "drop_path2"):
                setattr(block, name, DropPath(drop_path) if drop_path else nn.Identity())

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        hidden: Bool[Tensor, "batch patches"] | None = None,
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch patches dim"]]:
        """The class token and those of the patches, row by row, after the last norm.

        Args:
            images: of a mean of 0 and a deviation of 1; sizes that are multiples of the patch.
            hidden: True where the mask token stands for a patch.

        Raises:
            DataError: the sizes are no such multiples.
        """
        if images.shape[-1] % self.patch or images.shape[-2] % self.patch:
            raise DataError(
                f"images of {images.shape[-2]} x {images.shape[-1]} pixels",
                expected=f"multiples of the patch, {self.patch}",
                fix="resize them: task.size=N",
            )
        tokens = self.patch_embed(images)
        if hidden is not None:
            there = hidden.unflatten(1, tokens.shape[1:3])[..., None]
            tokens = torch.where(there, self.mask_token.to(tokens.dtype), tokens)
        tokens = self._pos_embed(tokens)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        tokens = self.norm(tokens)
        return tokens[:, 0], tokens[:, 1:]

    def without_drop_path(self) -> None:
        """Ends stochastic depth for good, as a teacher has none."""
        for module in self.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0


def load_backbone(encoder: MaskedViT, path: str | Path) -> None:
    """Fills a backbone from a file, by timm's names.

    Read are released backbones of UNI and DINOv2 without registers (`pytorch_model.bin`,
    `model.safetensors`, `dinov2_vitl14_pretrain.pth`), checkpoints of DINOv2's training (their
    teacher), and checkpoints and `model.safetensors` of this project's runs. Positions of another
    grid are interpolated.

    Args:
        encoder: of the same width, depth and patch.
        path: the file.

    Raises:
        DataError: the file cannot be read, or holds other weights.
    """
    state = _named_as_timm(_read(Path(path)), Path(path))
    own = encoder.state_dict()
    state.setdefault("mask_token", own["mask_token"])
    if state["pos_embed"].shape[-1] == own["pos_embed"].shape[-1]:
        side = encoder.patch_embed.grid_size
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], list(side))
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise DataError(
            f"weights of another backbone: {' '.join(lines)[:300]}",
            path=path,
            expected=f"width {encoder.embed_dim}, {len(encoder.blocks)} blocks, patch "
            f"{encoder.patch}, LayerScale, no registers",
            fix="set system.dim, depth, heads and patch as the file has them",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise DataError(
            f"cannot be read as weights: {reason}", path=path, expected=_PIXELS
        ) from error
    for key in ("teacher", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise DataError("holds no dict of weights", path=path, expected=_PIXELS)
    return content


def _named_as_timm(state: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights of the backbone alone, without what stands before their names."""
    found = [name.removesuffix(_ANCHOR) for name in state if name.endswith(_ANCHOR)]
    if not found:
        raise DataError(f"holds no {_ANCHOR}", path=path, expected=_PIXELS)
    prefix = next((name for name in found if name.startswith("teacher")), found[0])
    named = {
        _without_chunk(name.removeprefix(prefix)): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    return {k: v for k, v in named.items() if not k.startswith(("head.", "dino_head.", "fc_norm."))}


def _without_chunk(name: str) -> str:
    # Checkpoints of DINOv2's training number blocks within chunks: blocks.0.5.norm1.weight.
    parts = name.split(".")
    if parts[0] == "blocks" and len(parts) > 2 and parts[2].isdecimal():
        parts = [parts[0], *parts[2:]]
    return ".".join(parts)
