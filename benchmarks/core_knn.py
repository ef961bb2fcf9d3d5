"""Weighted kNN of 10,000 queries among 50,000 rows of 512 numbers, against scikit-learn."""

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peak_mib
from core.evaluation.knn import knn_predict
from core.report import print_table

N, QUERIES, DIM, CLASSES, K, TEMPERATURE = 50_000, 10_000, 512, 10, 20, 0.07


def main() -> None:
    """Two interleaved repeats, and whether both say the same."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, DIM, generator=generator)
    labels = torch.randint(CLASSES, (N + QUERIES,), generator=generator)
    x = centres[labels] + 8 * torch.randn(N + QUERIES, DIM, generator=generator)
    unit = torch.nn.functional.normalize(x, dim=1)
    train, queries = unit[:N], unit[N:]
    said: dict[str, Tensor] = {}

    def ours() -> None:
        said["ours"] = knn_predict(train, labels[:N], queries, CLASSES, K, TEMPERATURE)

    def scikit_learn() -> None:
        # Of unit vectors the squared distance is 2 - 2 cos.
        classifier = KNeighborsClassifier(
            K, weights=lambda d: np.exp((1 - d**2 / 2) / TEMPERATURE), algorithm="brute"
        ).fit(train.numpy(), labels[:N].numpy())
        said["sklearn"] = torch.from_numpy(classifier.predict_proba(queries.numpy()))

    times = interleaved({"ours": ours, "scikit-learn": scikit_learn}, 2)
    rows = [
        {
            "by": name,
            "s": median_and_spread(seconds),
            "times ours": "" if name == "ours" else paired_ratio(seconds, times["ours"]),
        }
        for name, seconds in times.items()
    ]
    print_table(rows, f"kNN of {QUERIES:,} among {N:,} rows of {DIM}, k = {K}")
    differ = float((said["ours"] - said["sklearn"]).abs().max())
    print(f"largest difference of a vote {differ:.1e}; peak of the process {peak_mib():.0f} MiB")


if __name__ == "__main__":
    main()
