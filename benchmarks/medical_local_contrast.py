"""The local contrast in blocks of volumes and reports against the usual loop over reports.

    python -m benchmarks.medical_local_contrast [--batch 10] [--words 200] [--regions 1728]

Both at equal sizes, by default those of VELVET-Med: forward and backward of the scores of all
volumes with all reports, each report with words of its own number, in float32. The loop does what
GLoRIA's code does: each report, without padding, against all volumes, all attention kept for the
backward. Seconds are taken in turn, the memory of each in a process of its own.
"""

import argparse
import subprocess
import sys

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peak_mib
from core.losses import local_similarity, score_contrast
from core.report import print_table

DIM = 512
SHARPNESS, PART_SCALE, SCALE = 4.0, 5.0, 10.0


def loop_over_reports(regions: Tensor, parts: Tensor, counts: list[int]) -> Tensor:
    """Scores (volumes, reports), one report after the other."""
    columns = []
    for number, count in enumerate(counts):
        words = parts[number, :count].expand(len(regions), -1, -1).contiguous()
        among_words = torch.bmm(regions, words.mT).softmax(-1)
        weights = (SHARPNESS * among_words.mT.contiguous()).softmax(-1)
        found = torch.bmm(weights, regions)
        cosines = cosine_similarity(words, found, dim=-1)
        columns.append(SCALE * (PART_SCALE * cosines).exp().sum(-1).log())
    return torch.stack(columns, 1)


def inputs(batch: int, words: int, regions: int) -> tuple[Tensor, Tensor, list[int]]:
    """Unit vectors of volumes' regions and of words, and how many words each report has."""
    g = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize
    of_volumes = unit(torch.randn(batch, regions, DIM, generator=g), dim=-1).requires_grad_()
    of_words = unit(torch.randn(batch, words, DIM, generator=g), dim=-1).requires_grad_()
    counts = torch.randint(words // 2, words + 1, (batch,), generator=g)
    counts[0] = words
    return of_volumes, of_words, counts.tolist()


def work(name: str, regions: Tensor, parts: Tensor, counts: list[int]) -> Tensor:
    """Forward and backward; returns the loss."""
    regions.grad = parts.grad = None
    if name == "loop":
        scores = loop_over_reports(regions, parts, counts)
    else:
        exists = torch.arange(parts.shape[1]) < torch.tensor(counts)[:, None]
        scores = local_similarity(regions, parts, exists, normalize=False)
    loss = score_contrast(scores)
    loss.backward()
    return loss.detach()


def main() -> None:
    """The table; with `--memory NAME`, one measurement for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--words", type=int, default=200)
    parser.add_argument("--regions", type=int, default=1728)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", choices=("loop", "chunks"))
    arguments = parser.parse_args()
    sizes = arguments.batch, arguments.words, arguments.regions
    given = inputs(*sizes)
    if arguments.memory:
        small = inputs(2, 4, 8)
        work(arguments.memory, *small)
        before = peak_mib()
        work(arguments.memory, *given)
        print(peak_mib() - before)
        return
    names = ("loop", "chunks")
    # Before any work here: a process starts with the most that its parent had as its own peak.
    used = {}
    for name in names:
        command = [sys.executable, "-m", "benchmarks.medical_local_contrast", "--memory", name]
        command += [f"--batch={sizes[0]}", f"--words={sizes[1]}", f"--regions={sizes[2]}"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        used[name] = float(run.stdout)
    losses = [work(name, *given) for name in ("loop", "chunks")]
    assert torch.allclose(*losses, rtol=1e-4), losses
    times = interleaved({n: lambda n=n: work(n, *given) for n in names}, arguments.repeats)
    rows = [
        {
            "scores": {"loop": "loop over reports", "chunks": "core.losses, in blocks"}[n],
            "seconds": median_and_spread(times[n]),
            "MiB beside the inputs": f"{used[n]:.0f}",
        }
        for n in names
    ]
    print_table(
        rows,
        f"local contrast, {sizes[0]} volumes of {sizes[2]} regions, reports of at most {sizes[1]} "
        f"words, width {DIM}, {torch.get_num_threads()} thread(s)",
    )
    print(f"loop over chunks: {paired_ratio(times['loop'], times['chunks'])} times the seconds")
    print(f"loop over chunks: {used['loop'] / used['chunks']:.1f} times the memory")


if __name__ == "__main__":
    main()
