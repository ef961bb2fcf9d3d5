"""Full ranking of 50,000 to 200,000 users over 60,000 items, 64-d: seconds and memory.

On 8,192 of the users against a plain evaluation: blocks of 4,096 users, metrics in Python lists.
"""

import statistics

import torch

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peak_mib, seconds
from benchmarks.recsys_race import TOPK, evaluate_in_lists
from core.evaluation.ranking import full_ranking
from recsys.data.interactions import Interactions

USERS, N_ITEMS, DIM = (50_000, 100_000, 200_000), 60_000, 64
SOME, REPEATS, N_TRAIN, N_HELD_OUT = 8_192, 3, 10, 2


def race(threads: int) -> tuple[list[dict[str, object]], list[str]]:
    """Both ways: rows of the table, and what is to be said beside it."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    n = max(USERS)
    users = torch.randn(n, DIM, generator=generator)
    items = torch.randn(N_ITEMS, DIM, generator=generator)
    # Ten and two of the items in a row, from a random one on: no pair stands in both.
    first = torch.randint(N_ITEMS, (n, 1), generator=generator)
    taken = (first + torch.arange(N_TRAIN + N_HELD_OUT)) % N_ITEMS
    everyone = torch.arange(n)[:, None].expand_as(taken)
    pairs = torch.stack([everyone, taken])
    train, held_out = pairs[:, :, :N_TRAIN], pairs[:, :, N_TRAIN:]

    def of(count: int, part: torch.Tensor) -> torch.Tensor:
        return part[:, :count].flatten(1)

    rows: list[dict[str, object]] = []
    for count in USERS:
        before = peak_mib()
        taking = [
            seconds(
                lambda count=count: full_ranking(
                    users[:count], items, of(count, train), of(count, held_out), TOPK
                )
            )
            for _ in range(2 if count < n else 1)
        ]
        row = {"threads": threads, "users": f"{count:,}", "seconds": median_and_spread(taking)}
        row["ms a user"] = f"{1e3 * statistics.median(taking) / count:.3f}"
        rows.append(row | {"MiB added": f"{peak_mib() - before:.0f}"})

    some = Interactions(
        n_users=SOME,
        n_items=N_ITEMS,
        train=of(SOME, train),
        valid=of(SOME, held_out),
        test=held_out[:, :0].flatten(1),
        features={},
        user_ids=[],
        item_ids=[],
    )
    found: dict[str, float] = {}

    def ours() -> None:
        found["ours"] = full_ranking(users[:SOME], items, some.train, some.valid, TOPK).metrics[
            "ndcg@50"
        ]

    def plain() -> None:
        found["plain"] = evaluate_in_lists(some, lambda: (users[:SOME], items))["ndcg@50"]

    times = interleaved({"ours": ours, "plain": plain}, REPEATS)
    notes = [
        f"{SOME:,} users: ours {median_and_spread(times['ours'])} s, plain "
        f"{median_and_spread(times['plain'])} s, plain / ours "
        f"{paired_ratio(times['plain'], times['ours'])}",
        f"ndcg@50 of both {found['ours']:.6f} and {found['plain']:.6f}",
        f"peak memory {peak_mib():.0f} MiB; the scores of all users would take "
        f"{n * N_ITEMS * 4 / 2**20:.0f}",
    ]
    return rows, notes
