"""Batches whose rows share one label: the order of multistage contrastive learning."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.order import EpochOrder


class OneLabelOrder(EpochOrder):
    """Every batch holds rows of one label only; all of them full.

    An epoch has as many batches as there are whole ones in the data, whatever the labels: where
    labels leave rows out, the rest of the epoch is filled from another shuffle. The labels are
    asked for when an epoch begins, and again when one is resumed, and must then be the same.

    Args:
        n_rows: rows of the data set.
        batch_size: rows of a batch over all processes; a label with fewer is left out.
        seed: of the order.
        labels: epoch -> (n_rows,) int64 labels of the rows, on any device.
        rank: number of this process.
        world_size: processes that share a batch.

    Raises:
        DataError: there are fewer rows than a batch has.
    """

    def __init__(
        self,
        n_rows: int,
        batch_size: int,
        seed: int,
        labels: Callable[[int], Int64[Tensor, " n_rows"]],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if n_rows < batch_size:
            raise DataError(
                f"{n_rows} training rows do not fill one batch of {batch_size}",
                fix="lower trainer.batch_size_global",
            )
        super().__init__(n_rows // batch_size * batch_size, batch_size, seed, rank, world_size)
        self.labels = labels

    def permutation(self, generator: torch.Generator) -> Int64[Tensor, " rows"]:
        """The rows of the current epoch, batch after batch.

        Raises:
            DataError: no label has as many rows as a batch.
        """
        labels = self.labels(self.epoch).cpu()
        counts = labels.unique(return_counts=True)[1].tolist()
        if max(counts) < self.batch_size:
            raise DataError(
                f"no label has the {self.batch_size} rows of a batch: the largest of "
                f"{len(counts)} labels has {max(counts)}",
                fix="lower system.n_clusters or trainer.batch_size_global, "
                "or set system.merge_small=true",
            )
        rounds: list[Tensor] = []
        while sum(map(len, rounds)) < len(self):
            shuffled = torch.randperm(len(labels), generator=generator)
            by_label = shuffled[labels[shuffled].argsort(stable=True)]
            rounds.append(one_label_batches(by_label.split(counts), self.batch_size))
        return torch.cat(rounds)[: len(self)].flatten()


def one_label_batches(
    groups: Sequence[Int64[Tensor, " rows"]], batch_size: int
) -> Int64[Tensor, "batches batch_size"]:
    """Takes a batch of every group in turn, from the end of the group, until none has a whole one.

    Args:
        groups: the shuffled rows of each label.
        batch_size: rows of a batch over all processes. With W of them, process r has the rows
            W - 1 - r, 2 W - 1 - r, ... of each batch in the authors' code.
    """
    whole = [rows[: len(rows) // batch_size * batch_size].flip(0) for rows in groups]
    batches = torch.cat([rows.view(-1, batch_size) for rows in whole])
    turn = torch.cat([torch.arange(len(rows) // batch_size) for rows in whole])
    return batches[turn.argsort(stable=True)]


def compose_labels(clusters: Int64[Tensor, "stages n"], n_clusters: int) -> Int64[Tensor, " n"]:
    """One label of the clusters of all stages, the earliest stage the most significant digit."""
    label = torch.zeros(clusters.shape[1], dtype=torch.int64, device=clusters.device)
    for of_stage in clusters:
        label = label * n_clusters + of_stage
    return label


def merge_small_labels(
    label: Int64[Tensor, " n"], n_stages: int, n_clusters: int, smallest: int
) -> Int64[Tensor, " n"]:
    """Joins composed labels of fewer than `smallest` rows with others that differ later only.

    The latest stage is forgotten first. What is small even then keeps a label of its own, -1.

    Args:
        label: as `compose_labels` makes it.
        n_stages: stages it is composed of.
        n_clusters: of each stage.
        smallest: rows a label should have.

    Returns:
        Labels from 0 without a gap, in no order that means something; -1 for rows left over.
    """
    merged = torch.full_like(label, -1)
    n_labels = 0
    for stages_forgotten in range(n_stages + 1):
        left = merged < 0
        prefix = label[left] // n_clusters**stages_forgotten
        _, number, counts = prefix.unique(return_inverse=True, return_counts=True)
        large = counts >= smallest
        new = torch.where(large, large.cumsum(0) - 1 + n_labels, -1)
        merged[left] = new[number]
        n_labels += int(large.sum())
    return merged
