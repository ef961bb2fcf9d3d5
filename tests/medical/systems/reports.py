"""Reports, and a VELVET-Med that needs no second to be imported."""

from unittest.mock import patch

import torch
from torch import Tensor, nn

from core.augment.draws import Draws
from core.trainers.system import Batch
from medical.data.report_tokens import ReportTokenizer, train_vocabulary
from medical.systems import velvet_med
from medical.systems.velvet_med import VELVETMed

REPORTS = [
    "Findings: The liver is normal. A 12 mm nodule in the right upper lobe.",
    "There is a cyst of the left kidney, 1.5 cm. No nodule. The lungs are clear.",
    "Normal examination.",
    "Pleural effusion on the left! Is there pneumonia?",
    "",
    "A nodule and a cyst. The heart is not enlarged.",
]
VOCABULARY = train_vocabulary(REPORTS, 200)
SIZE = 32
SMALL = {
    "embed_dim": 3,
    "text_dim": 12,
    "text_layers": 2,
    "fusion_layers": 1,
    "text_heads": 2,
    "text_hidden": 16,
    "max_tokens": 48,
    "max_sentences": 6,
    "projection": 8,
    "dropout": 0.0,
}


class Pyramid(nn.Module):
    """Maps of the sizes of a Swin transformer's, from convolutions of patches."""

    def __init__(self, embed_dim: int, *_: object) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Conv3d(embed_dim * 2 ** max(n - 1, 0) if n else 1, embed_dim * 2**n, 2, stride=2)
            for n in range(5)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for step in self.steps:
            x = step(x).tanh()
            maps.append(x)
        return maps


def small_velvet(seed: int = 0, **arguments) -> VELVETMed:
    """With a pyramid of convolutions in place of the Swin transformer."""
    torch.manual_seed(seed)
    with patch.object(velvet_med, "swin_transformer", Pyramid):
        return VELVETMed(VOCABULARY, SIZE, **SMALL | arguments)


def batch_of(system: VELVETMed, n: int = 6, own: slice = slice(None)) -> Batch:
    """Volumes, reports and all that is drawn, for some rows of a batch of n."""
    g = torch.Generator().manual_seed(3)
    cubes = torch.rand(2, n, 1, SIZE, SIZE, SIZE, generator=g)
    tokenizer = ReportTokenizer(VOCABULARY, system.max_tokens, system.max_sentences)
    batch = tokenizer((REPORTS * n)[:n]).rows(torch.arange(n))
    batch |= {"volume": cubes[0], "crop": cubes[1]}
    dtype = next(system.parameters()).dtype
    batch |= system.draw(batch, Draws(5, n, slice(0, n), torch.device("cpu")))
    rows = {
        name: values[:, own] if name in ("views", "uncut", "turns") else values[own]
        for name, values in batch.items()
    }
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in rows.items()}
