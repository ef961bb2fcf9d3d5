"""Mutual information between categorical variables."""

import torch
from jaxtyping import Float64, Int
from torch import Tensor


def mutual_information(codes: Int[Tensor, "rows variables"]) -> Float64[Tensor, "k k"]:
    """I(a; b) = Σ p(a, b) ln [p(a, b) / (p(a) p(b))] of all pairs of columns.

    By I(a; b) = H(a) + H(b) - H(a, b) of the empirical distributions, the joint one counted over
    the combinations that occur, so that large vocabularies cost no more than small ones.

    Args:
        codes: (n, k) integers; any values, each its own category.

    Returns:
        (k, k) float64 in nats, symmetric, the entropies on the diagonal.
    """
    columns = [column.unique(return_inverse=True)[1] for column in codes.unbind(1)]
    entropies = [_entropy(column) for column in columns]
    k = len(columns)
    information = torch.zeros(k, k, dtype=torch.float64, device=codes.device)
    for a in range(k):
        information[a, a] = entropies[a]
        for b in range(a):
            joint = columns[a] * (columns[b].max() + 1) + columns[b]
            shared = entropies[a] + entropies[b] - _entropy(joint)
            information[a, b] = information[b, a] = shared
    return information


def corrected_mutual_information(
    codes: Int[Tensor, "rows variables"], generator: torch.Generator
) -> Float64[Tensor, "k k"]:
    """Mutual information minus what finite samples show between independent variables.

    The plain estimate grows with the number of values (about (|a| - 1)(|b| - 1) / 2n), up to
    I = H(b) for an a that is different in every row. Subtracted is the estimate after the rows of
    one of the two columns were shuffled, each column by itself.

    Args:
        codes: (n, k) integers.
        generator: of the shuffles, on the CPU.

    Returns:
        (k, k) float64 in nats, symmetric; may fall a little below 0. The diagonal is the entropy.
    """
    information = mutual_information(codes)
    orders = [torch.randperm(len(codes), generator=generator) for _ in codes.unbind(1)]
    order = torch.stack(orders, 1).to(codes.device)
    chance = mutual_information(codes.gather(0, order))
    return information - chance.fill_diagonal_(0)


def _entropy(labels: Int[Tensor, " rows"]) -> Float64[Tensor, ""]:
    counts = labels.unique(return_counts=True)[1].double()
    share = counts / counts.sum()
    entropy: Tensor = -(share * share.log()).sum()
    return entropy
