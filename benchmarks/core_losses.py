"""Forward and backward of contrastive losses against the plain matrix and against peers."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peer
from core.losses import barlow_twins, dcl, info_nce, koleo, nt_xent, siglip, supcon, vicreg
from core.report import print_table

DIM, TEMPERATURE = 256, 0.1
Loss = Callable[[Tensor, Tensor], Tensor]


# It holds every positive beside every negative pair: 8 GiB at 1,024 rows, 34 GiB for one at 4,096.
_LARGEST_OF_ALL_PAIRS = 256


def plain_info_nce(a: Tensor, b: Tensor) -> Tensor:
    """The symmetric loss as it is usually written: the whole matrix, twice a cross entropy."""
    scores = normalize(a, dim=1) @ normalize(b, dim=1).T / TEMPERATURE
    target = torch.arange(len(a))
    return (cross_entropy(scores, target) + cross_entropy(scores.T, target)) / 2


def plain_nt_xent(a: Tensor, b: Tensor) -> Tensor:
    """All 2B rows against all, the own one masked."""
    z = normalize(torch.cat([a, b]), dim=1)
    scores = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return cross_entropy(scores, torch.arange(len(z)).roll(len(a)))


def info_nce_peers() -> dict[str, Loss]:
    """What CLIP's loss is called elsewhere."""
    open_clip = peer("open_clip")
    if open_clip is None:
        return {}
    loss = open_clip.ClipLoss()
    return {
        "open_clip": lambda a, b: loss(normalize(a, dim=1), normalize(b, dim=1), 1 / TEMPERATURE)
    }


def nt_xent_peers() -> dict[str, Loss]:
    """What SimCLR's loss is called elsewhere."""
    found: dict[str, Loss] = {}
    lightly, metric = peer("lightly.loss"), peer("pytorch_metric_learning.losses")
    if lightly is not None:
        found["lightly"] = lightly.NTXentLoss(temperature=TEMPERATURE)
    if metric is not None:
        paired = metric.SelfSupervisedLoss(metric.NTXentLoss(temperature=TEMPERATURE))
        found["pytorch-metric-learning"] = paired
    return found


def step(loss: Loss, a: Tensor, b: Tensor) -> Callable[[], None]:
    """One forward and backward."""

    def run() -> None:
        a.grad = b.grad = None
        loss(a, b).backward()

    return run


def race(
    name: str, ours: dict[str, Loss], others: dict[str, Loss], largest: int, smallest: int = 1
) -> None:
    """Prints the seconds of all, and how much slower than ours the others are."""
    rows = []
    for batch in (b for b in (256, 1024, 4096, 32768) if smallest <= b <= largest):
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, batch, DIM, generator=generator).unbind()
        a, b = a.requires_grad_(), b.requires_grad_()
        # 32,768 rows squared are 4 GiB, of which plain versions hold several.
        racing = {**ours, **(others if batch < 32768 else {})}
        if name == "NT-Xent" and batch > _LARGEST_OF_ALL_PAIRS:
            racing.pop("pytorch-metric-learning", None)
        values = {n: float(loss(a, b).detach()) for n, loss in racing.items()}
        reference = next(iter(values.values()))
        wrong = {n for n, v in values.items() if abs(v - reference) > 1e-3 * abs(reference)}
        repeats = 15 if batch <= 1024 else 5 if batch < 32768 else 1
        times = interleaved({n: step(loss, a, b) for n, loss in racing.items()}, repeats)
        first = next(iter(times))
        rows += [
            {
                "loss": name,
                "batch": batch,
                "by": other + (" (another value)" if other in wrong else ""),
                "ms": median_and_spread([1000 * t for t in times[other]]),
                "times ours": "" if other == first else paired_ratio(times[other], times[first]),
            }
            for other in times
        ]
    print_table(rows, f"{name}, forward and backward, {DIM}-d float32, median (least to most)")


def race_others() -> None:
    """What else peers have, at 1,024 rows."""
    lightly, metric = peer("lightly.loss"), peer("pytorch_metric_learning.losses")
    open_clip = peer("open_clip.loss")
    labels = torch.arange(1024) % 100
    races: dict[str, tuple[Loss, dict[str, Loss]]] = {
        "SigLIP": (lambda a, b: siglip(a, b), {}),
        "DCL": (lambda a, b: dcl(a, b, TEMPERATURE), {}),
        "SupCon, 100 classes": (
            lambda a, b: supcon(
                torch.stack([a, b]), labels, TEMPERATURE, base_temperature=TEMPERATURE
            ),
            {},
        ),
        "Barlow Twins": (lambda a, b: barlow_twins(a, b), {}),
        "VICReg": (lambda a, b: vicreg(a, b), {}),
        "KoLeo": (lambda a, b: koleo(a) + koleo(b), {}),
    }
    if open_clip is not None:
        pairs = open_clip.SigLipLoss()
        races["SigLIP"][1]["open_clip"] = lambda a, b: pairs(
            normalize(a, dim=1), normalize(b, dim=1), 10.0, -10.0
        )
    if metric is not None:
        classes = metric.SupConLoss(TEMPERATURE)
        races["SupCon, 100 classes"][1]["pytorch-metric-learning"] = lambda a, b: classes(
            torch.cat([a, b]), labels.repeat(2)
        )
    if lightly is not None:
        spread = lightly.KoLeoLoss()
        races["DCL"][1]["lightly"] = lightly.DCLLoss(TEMPERATURE)
        races["Barlow Twins"][1]["lightly"] = lightly.BarlowTwinsLoss()
        races["VICReg"][1]["lightly"] = lightly.VICRegLoss()
        races["KoLeo"][1]["lightly"] = lambda a, b: spread(a) + spread(b)
    for name, (ours, others) in races.items():
        if others:
            race(name, {"ours": ours}, others, 1024, smallest=1024)


def main() -> None:
    """Races InfoNCE and NT-Xent up to the batch of the command line, others at 1,024 rows."""
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    ours: dict[str, Loss] = {
        "ours": lambda a, b: info_nce(a, b, temperature=TEMPERATURE),
        "ours, tiled": lambda a, b: info_nce(a, b, temperature=TEMPERATURE, tile=1024),
    }
    race("InfoNCE", ours, {"plain matrix": plain_info_nce, **info_nce_peers()}, largest)
    ours = {"ours": lambda a, b: nt_xent(a, b, temperature=TEMPERATURE)}
    small = min(largest, 4096)
    race("NT-Xent", ours, {"plain matrix": plain_nt_xent, **nt_xent_peers()}, small)
    race_others()


if __name__ == "__main__":
    main()
