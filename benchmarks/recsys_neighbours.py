"""The ten nearest of 200,000 items by cosine, 128-d: exact in blocks, plain, and by FAISS.

The vectors lie around 1,000 centres in 32 dimensions, mapped to 128 and with noise in all of them:
of vectors without any structure no approximate index finds the neighbours.
"""

import statistics

import numpy as np
import torch
from torch.nn.functional import normalize

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peak_mib, timed
from core.encoders.neighbours import nearest
from core.evaluation.index import NeighbourIndex

N, DIM, K = 200_000, 128, 10
SOME, REPEATS = 8_192, 3


def vectors() -> torch.Tensor:
    """(N, DIM) rows of unit length."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    centre = torch.randint(1_000, (N,), generator=generator)
    latent = normal(1_000, 32)[centre] + 0.6 * normal(N, 32)
    return normalize(latent @ normal(32, DIM) / 32**0.5 + 0.3 * normal(N, DIM), dim=1)


def race(threads: int) -> tuple[list[dict[str, object]], list[str]]:
    """All ways: rows of the table, and what is to be said beside it."""
    import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    unit = vectors()
    start = peak_mib()
    some, array = unit[:SOME], unit.numpy()
    exact = nearest(some, unit, K)[1].numpy()
    notes = [f"exact: {peak_mib() - start:.0f} MiB beside the {start:.0f} of vectors and libraries"]
    flat = NeighbourIndex({"item": array}, "", "exact")

    def plain() -> None:
        for block in some.split(1024):
            (block @ unit.T).topk(K)

    times = interleaved(
        {
            "ours": lambda: nearest(some, unit, K),
            "plain": plain,
            "FAISS flat": lambda: flat.search("item", array[:SOME], K),
        },
        REPEATS,
    )
    rows: list[dict[str, object]] = []
    for name, values in times.items():
        row = {"threads": threads, "graph": f"{name}, exact"}
        row |= {f"s of {SOME:,} rows": median_and_spread(values)}
        row["/ ours"] = None if name == "ours" else paired_ratio(values, times["ours"])
        row[f"s of all {N:,}"] = f"{statistics.median(values) * N / SOME:.0f}"
        rows.append(row | {"recall@10": 1.0})
    build, index = timed(lambda: NeighbourIndex({"item": array}, "", "ivf"))
    ask, (_, found) = timed(lambda: index.search("item", array[:SOME], K))
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])
    row = {"threads": threads, "graph": "FAISS IVF", f"s of {SOME:,} rows": f"{ask:.2f}"}
    row[f"s of all {N:,}"] = f"{build + ask * N / SOME:.0f}, of it {build:.0f} to build"
    rows.append(row | {"recall@10": float(recall)})
    notes.append(f"the seconds of all {N:,} follow from those of {SOME:,}: cost is linear in rows")
    return rows, notes
