"""Layer-wise decay of the learning rate: the earlier a layer, the smaller its steps."""

from typing import Any

from torch import nn

from core.data.checks import DataError


def layer_decay(
    groups: list[dict[str, Any]], encoder: nn.Module, decay: float
) -> list[dict[str, Any]]:
    """Splits parameter groups by depth and gives every part its share of the learning rate.

    The rule of BEiT (arXiv 2106.08254) and MAE's fine-tuning: with n blocks, layer 0 is what comes
    before them, layer i the i-th block, layer n + 1 all that comes after, heads included, and the
    rate of layer i is decay^(n + 1 - i) times the optimizer's. A system asks for it so:

        def parameter_groups(self) -> list[dict[str, Any]]:
            return layer_decay(super().parameter_groups(), self.encoder, self.layer_decay)

    Args:
        groups: what `System.parameter_groups` returns; other options of a group are kept.
        encoder: has its layers in `blocks`, as ours and timm's ViT do. Its own parameters, its
            `nn.Embedding`s (tokens, positions) and the modules registered before `blocks` are
            layer 0; other modules are layer n + 1, as is everything outside the encoder.
        decay: factor from a layer to the one before it, in (0, 1]; 1 changes no rate.

    Returns:
        Groups with their `"lr_scale"`, which `System.configure_optimizers` multiplies the rate by.

    Raises:
        DataError: the decay is out of its range.
        TypeError: the encoder has no `blocks`.
    """
    if not 0 < decay <= 1:
        raise DataError(f"layer_decay={decay}", expected="a factor in (0, 1]")
    children = dict(encoder.named_children())
    blocks = children.get("blocks")
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)):
        raise TypeError(f"{type(encoder).__name__} has no list of layers named blocks")
    last = len(blocks) + 1
    layers = dict.fromkeys(encoder.parameters(recurse=False), 0)
    order = list(children)
    for place, child in enumerate(children.values()):
        if place < order.index("blocks") or isinstance(child, nn.Embedding):
            layers |= dict.fromkeys(child.parameters(), 0)
    for layer, block in enumerate(blocks, start=1):
        layers |= dict.fromkeys(block.parameters(), layer)

    split: list[dict[str, Any]] = []
    for group in groups:
        for layer in range(last + 1):
            params = [p for p in group["params"] if layers.get(p, last) == layer]
            if params:
                split.append(group | {"params": params, "lr_scale": decay ** (last - layer)})
    return split
