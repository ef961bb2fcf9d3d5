"""Steps of SimCLR with a ResNet-18 on images of 32 x 32, with the views' making."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import ToPILImage

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peer
from core.augment.draws import Draws
from core.augment.images import SimCLRViews
from core.losses import nt_xent
from core.report import print_table
from core.systems.simclr import SimCLR

BATCH, TEMPERATURE = 64, 0.5


def trainer(system: SimCLR, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], None]:
    """Forward, backward and the optimizer's step on two views; every arm has its own weights."""
    system = copy.deepcopy(system)
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3)

    def step(views: Tensor) -> None:
        first, second = system.views({"views": views})
        optimizer.zero_grad()
        loss(first, second).backward()
        optimizer.step()

    return step


def main() -> None:
    """Step alone with each loss, and the making of the views."""
    torch.manual_seed(0)
    images = (255 * torch.rand(BATCH, 3, 32, 32)).byte()
    system = SimCLR({"image": [3, 32, 32]})
    augment, number = SimCLRViews(), iter(range(10**9))

    def ours_views() -> Tensor:
        draws = Draws(next(number), BATCH, slice(0, BATCH), torch.device("cpu"))
        clean = images.float() / 255
        return torch.stack([augment(clean, draws) for _ in range(2)])

    makers: dict[str, Callable[[], Tensor]] = {"ours, a batch at a time": ours_views}
    lightly_transforms, pretraining = peer("lightly.transforms"), peer("stable_pretraining.losses")
    pictures = [ToPILImage()(image) for image in images]
    if lightly_transforms is not None:
        transform = lightly_transforms.SimCLRTransform(
            input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=None
        )

        def lightly_views() -> Tensor:
            pairs = [transform(picture) for picture in pictures]
            return torch.stack([torch.stack(views) for views in zip(*pairs, strict=True)])

        makers["lightly, an image at a time"] = lightly_views
    views = ours_views()
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "ours": lambda a, b: nt_xent(a, b, temperature=TEMPERATURE)
    }
    lightly_loss = peer("lightly.loss")
    if lightly_loss is not None:
        losses["lightly"] = lightly_loss.NTXentLoss(temperature=TEMPERATURE)
    if pretraining is not None:
        losses["stable-pretraining"] = pretraining.NTXEntLoss(temperature=TEMPERATURE)
    steps = {name: trainer(system, loss) for name, loss in losses.items()}
    for what, works in (
        (f"two views of {BATCH} images", makers),
        ("step of the same network", {n: (lambda s=s: s(views)) for n, s in steps.items()}),
    ):
        for work in works.values():
            work()
        times = interleaved(works, 5)
        first = next(iter(times))
        rows = [
            {
                "by": name,
                "ms": median_and_spread([1000 * t for t in seconds]),
                "times ours": "" if name == first else paired_ratio(seconds, times[first]),
            }
            for name, seconds in times.items()
        ]
        print_table(rows, f"{what}, median (least to most)")


if __name__ == "__main__":
    main()
