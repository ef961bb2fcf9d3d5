"""Cases without any file: cubes of noise in which findings shine, and reports that name them."""

import torch

from medical.data.cases import Cases, Finding
from medical.data.prepared import Prepared, ResidentVolumes

SIZE = 32
_NAMED = [
    ("nodule", "right upper lobe"),
    ("cyst", "left kidney"),
    ("stone", "right kidney"),
    ("nodule", "left lower lobe"),
]


def generated_cases(n_train: int = 5, n_valid: int = 2, n_test: int = 4) -> Cases:
    """One finding a case, its centre in the middle of a region of 8 voxels."""
    g = torch.Generator().manual_seed(0)
    n = n_train + n_valid + n_test
    prepared, reports, findings = [], [], []
    for number in range(n):
        kind, site = _NAMED[number % len(_NAMED)]
        centre = torch.randint(4, (3,), generator=g) * 8 + 4
        voxels = torch.randint(100, (SIZE,) * 3, generator=g).to(torch.uint8)
        x, y, z = centre.tolist()
        voxels[x - 2 : x + 2, y - 2 : y + 2, z - 2 : z + 2] = 250
        prepared.append(Prepared(voxels, voxels, torch.eye(4, dtype=torch.float64)))
        reports.append(f"CT number {number}. There is a {kind} in the {site}. The heart is normal.")
        findings.append((Finding(kind, site, 10.0, (float(x), float(y), float(z))),))
    parts = torch.arange(n).split([n_train, n_valid, n_test])
    return Cases(
        ids=[f"c{number}" for number in range(n)],
        patients=[f"p{number}" for number in range(n)],
        splits=dict(zip(("train", "valid", "test"), parts, strict=True)),
        reports=reports,
        store=ResidentVolumes.of(prepared),
        size=SIZE,
        classes=[],
        findings=findings,
        source=[str(number) for number in range(n)],
        workers=0,
    )
