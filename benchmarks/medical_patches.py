"""Patches and slides: reading and embedding, the losses of DINOv2, episodes of SimpleShot.

Slides race a `DataLoader` that reads a patch at a time; losses race those of `lightly` where it is
installed, at equal sizes, forward and backward; episodes race the loop that fits and classifies one
at a time.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import openslide
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peer
from core.data.findings import Findings
from core.evaluation.prototypes import sample_episodes
from core.evaluation.simpleshot import SimpleShot, simpleshot_episodes
from core.losses import DINOLoss, IBOTLoss, koleo
from core.report import print_table
from medical.data.slide_files import MPP_TIMES_MAGNIFICATION, Grid
from medical.data.slides import Slide, list_slides, load_slides, tissue_corners
from medical.data.slides_demo import write_slides
from medical.patch_task import embed_images
from medical.systems.uni import UNI

REPEATS = 3


def slides(magnification: int = 10, size: int = 64) -> None:
    """Patches a second from slides to features: here, and a patch at a time by a `DataLoader`."""
    grid = Grid(size, MPP_TIMES_MAGNIFICATION / magnification)
    system = tiny_uni().eval()

    def here(path: Path) -> torch.Tensor:
        data = load_slides(path, magnification=magnification, size=size)
        return embed_images(system, data, torch.arange(len(data.ids)))

    @torch.no_grad()
    def usual(path: Path) -> torch.Tensor:
        # The same tissue, and the same level of the pyramid.
        listed, _ = list_slides(path, None, (1.0, 0.0, 0.0), 0.0, 0, Findings())
        patches = [(s, xy) for s in listed for xy in tissue_corners(s, grid, 0.5).tolist()]
        loader = DataLoader(OnePatch(patches, grid), batch_size=64)
        return torch.cat([system.embed({"image": images})["image"] for images in loader])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slides"
        write_slides(path, train=2, valid=1, test=1, n_classes=2)
        found = {name: work(path) for name, work in (("here", here), ("usual", usual))}
        difference = (found["here"] - found["usual"]).abs().max()
        print(f"largest difference of a feature: {difference:.1e}")
        times = interleaved({"here": lambda: here(path), "usual": lambda: usual(path)}, REPEATS)
    n = len(found["here"])
    about = f"from 8 slides of 1280 x 1024 to {n} features, patches of {size}"
    names = {"here": "load_slides, embed_images", "usual": "read_region, transform, DataLoader"}
    print_table(
        [
            {about: names[name], "patches a second": rate_and_spread(n, of)}
            for name, of in times.items()
        ]
        + [{about: "ratio", "patches a second": paired_ratio(times["usual"], times["here"])}]
    )


class OnePatch(Dataset[torch.Tensor]):
    """What is usual: a patch is read from its slide and made a tensor when it is asked for."""

    def __init__(self, patches: list[tuple[Slide, list[int]]], grid: Grid) -> None:
        self.patches, self.grid = patches, grid
        self.opened = {of.path: openslide.OpenSlide(of.path) for of, _ in patches}
        side = (grid.size, grid.size)
        bicubic = transforms.InterpolationMode.BICUBIC
        self.to_tensor = transforms.Compose(
            [transforms.Resize(side, bicubic), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, number: int) -> torch.Tensor:
        slide, corner = self.patches[number]
        opened = self.opened[slide.path]
        shrink = self.grid.mpp / slide.mpp
        level = opened.get_best_level_for_downsample(shrink * 1.01)
        side = round(self.grid.size * shrink / opened.level_downsamples[level])
        return self.to_tensor(opened.read_region(corner, level, (side, side)).convert("RGB"))


def rate_and_spread(n: int, times: list[float]) -> str:
    """`median (least to most)` of n over the seconds."""
    rates = [n / t for t in times]
    return f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"


def tiny_uni(**changes: Any) -> UNI:  # noqa: ANN401
    """UNI of the size for a CPU, without random depth."""
    torch.manual_seed(0)
    sizes = {"image_size": 64, "patch": 8, "dim": 96, "depth": 4, "heads": 3, "drop_path": 0.0}
    heads = {"n_prototypes": 256, "hidden_dim": 256, "bottleneck_dim": 64}
    return UNI(**sizes | heads | changes)


def losses(batch: int = 32, prototypes: int = 8192, local: int = 8, patches: int = 196) -> None:
    """DINO, iBOT and KoLeo on the same logits; targets by a centre, which both have."""
    theirs = peer("lightly.loss")
    if theirs is None:
        return
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    teacher = drawn(2, batch, prototypes)
    mask = torch.rand(2 * batch, patches, generator=generator) < 0.15
    grid = mask.unflatten(1, (round(patches**0.5), -1))
    masked = int(mask.sum())
    teacher_patches = drawn(masked, prototypes)
    own = (DINOLoss(prototypes), IBOTLoss(prototypes))
    other = (
        theirs.DINOLoss(output_dim=prototypes, teacher_temp=0.07, warmup_teacher_temp=0.07),
        theirs.IBOTPatchLoss(output_dim=prototypes, teacher_temp=0.07),
        theirs.KoLeoLoss(),
    )
    inputs = [
        x.requires_grad_()
        for x in (drawn(2 + local, batch, prototypes), drawn(masked, prototypes), drawn(batch, 384))
    ]

    def of_ours() -> torch.Tensor:
        student, student_patches, features = inputs
        loss = own[0](student, teacher) + own[1](student_patches, teacher_patches, mask)
        loss = loss + 0.1 * koleo(features)
        loss.backward()
        return loss.detach()

    def of_lightly() -> torch.Tensor:
        student, student_patches, features = inputs
        loss = other[0](list(teacher), list(student), teacher_temp=0.07)
        loss = loss + other[1](teacher_patches, student_patches, grid, teacher_temp=0.07)
        loss = loss + 0.1 * other[2](features)
        loss.backward()
        return loss.detach()

    # The first call of each starts from a centre of 0: it must say the same.
    print(f"first loss {of_ours():.5f}, by lightly {of_lightly():.5f}")
    times = interleaved({"here": of_ours, "lightly": of_lightly}, REPEATS)
    about = f"batch {batch}, {local} small crops, {prototypes} prototypes, {masked} masked"
    print_table(
        [{about: name, "seconds": median_and_spread(of)} for name, of in times.items()]
        + [{about: "lightly / here", "seconds": paired_ratio(times["lightly"], times["here"])}]
    )


def episodes(n_classes: int = 9, dim: int = 1024, queries: int = 2000, n: int = 100) -> None:
    """Balanced accuracy of episodes with 4 labelled rows a class, all queries in each."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200 * n_classes) % n_classes
    centres = torch.randn(n_classes, dim, generator=generator)
    rows = centres[labels] + 4 * torch.randn(len(labels), dim, generator=generator)
    truth = torch.arange(queries) % n_classes
    asked = centres[truth] + 4 * torch.randn(queries, dim, generator=generator)

    def at_once() -> torch.Tensor:
        return simpleshot_episodes(rows, labels, asked, truth, 4, n)

    def one_by_one() -> torch.Tensor:
        found = []
        for support in sample_episodes(labels, n_classes, 4, 0, n).flatten(1):
            fitted = SimpleShot.fit(rows[support], labels[support], n_classes)
            hits = (fitted.predict(asked) == truth).double()
            recall = [hits[truth == c].mean() for c in range(n_classes)]
            found.append(torch.stack(recall).mean())
        return torch.stack(found)

    difference = (at_once() - one_by_one()).abs().max()
    print(f"largest difference of an episode's accuracy: {difference:.1e}")
    times = interleaved({"all episodes at once": at_once, "one by one": one_by_one}, REPEATS)
    about = f"{n} episodes, {n_classes} classes, {queries} queries of width {dim}"
    slow, fast = times["one by one"], times["all episodes at once"]
    print_table(
        [{about: name, "seconds": median_and_spread(of)} for name, of in times.items()]
        + [{about: "ratio", "seconds": paired_ratio(slow, fast)}]
    )


def main() -> None:
    """All races."""
    slides()
    losses()
    episodes()


if __name__ == "__main__":
    main()
