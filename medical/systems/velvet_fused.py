"""A pre-trained VELVET-Med whose fusion layers learn a task: states of a text that saw a volume."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.checkpoints import OURS, find_checkpoint, read_checkpoint
from core.data.checks import DataError
from core.trainers.system import Batch
from medical.systems.tribert import sentence_mask
from medical.systems.velvet_med import VELVETMed

_TARGET = f"{VELVETMed.__module__}.{VELVETMed.__qualname__}"
# Needed for the states; a pre-training without the multi-modal objectives leaves them as drawn.
_FUSION = ("adapter.", "text.fusion_layers.", "fused_completion.", "match.")


def pretrained_arguments(run: str | Path) -> dict[str, Any]:
    """The constructor arguments of the VELVET-Med of a run: its sizes and its vocabulary.

    Raises:
        DataError: it cannot be read, or is of another system.
    """
    path = find_checkpoint(run)
    ours = read_checkpoint(path)[OURS]
    if ours["target"] != _TARGET:
        raise DataError(
            f"a checkpoint of {ours['target']}", path=path, expected="a run of system=velvet_med"
        )
    arguments: dict[str, Any] = ours["arguments"]
    return arguments


class FusedStates(nn.Module):
    """Frozen encoders of volume and text; the adapter and the fusion layers are trained.

    Args:
        vocabulary: word pieces.
        size: side of the cubes in voxels.
        model: further constructor arguments of VELVET-Med.

    Attributes:
        dim: width of the states.
    """

    def __init__(self, vocabulary: list[str], size: int, model: dict[str, Any]) -> None:
        super().__init__()
        sizes = {k: v for k, v in model.items() if k not in ("vocabulary", "size", "bert")}
        sizes["objectives"] = ["report", "multimodal"]
        self.velvet = VELVETMed(vocabulary, size, **sizes)
        self.dim = self.velvet.match.in_features
        self.velvet.requires_grad_(False)
        self.velvet.adapter.requires_grad_(True)
        self.velvet.text.fusion_layers.requires_grad_(True)

    def load(self, run: str | Path) -> None:
        """Takes over the weights of a run.

        Raises:
            DataError: it is of another size.
        """
        path = find_checkpoint(run)
        found = read_checkpoint(path)["state_dict"]
        own = self.velvet.state_dict()
        known = {name: weight for name, weight in found.items() if name in own}
        missing = [n for n in own if n not in known and not n.startswith(_FUSION)]
        # A pre-training without the report contrast leaves its heads out, which are not used here.
        missing = [n for n in missing if "_projection." not in n and n != "temperature"]
        other = [n for n, weight in known.items() if weight.shape != own[n].shape]
        if missing or other:
            raise DataError(
                f"{len(missing)} weights missing, {len(other)} of another shape, "
                f"such as {(missing + other)[0]}",
                path=path,
                expected="a run of system=velvet_med that learned from reports",
            )
        self.velvet.load_state_dict(known, strict=False)

    def train(self, mode: bool = True) -> "FusedStates":
        """What is frozen stays without dropout."""
        super().train(mode)
        self.velvet.eval()
        self.velvet.text.fusion_layers.train(mode)
        return self

    def forward(self, batch: Batch) -> Float[Tensor, "batch tokens dim"]:
        """States of the last fusion layer for `ids`, `types`, `kinds` and `volume`."""
        with torch.no_grad():
            top = self.velvet.vision(batch["volume"])[-1]
            states = self.velvet.text_states(batch)
        context = self.velvet.adapter(top.flatten(2).mT)
        mask = sentence_mask(batch["types"], batch["kinds"])
        fused: Tensor = self.velvet.text.fuse(states, mask, context)
        return fused
