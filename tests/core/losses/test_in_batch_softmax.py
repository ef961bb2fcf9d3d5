import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from core.losses import in_batch_softmax


@pytest.fixture
def batch() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    query, item = torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    return query, item, torch.rand(6, dtype=torch.float64, generator=generator).log()


@pytest.mark.parametrize("tile", [None, 4])
def test_columns_are_corrected_the_diagonal_too(batch, tile):
    query, item, log_probability = batch
    query.requires_grad_()
    scores = normalize(query, dim=1) @ normalize(item, dim=1).T / 0.2 - log_probability
    expected = cross_entropy(scores, torch.arange(6))
    (by_hand,) = torch.autograd.grad(expected, query)
    loss = in_batch_softmax(query, item, log_probability, 0.2, tile=tile)
    (gradient,) = torch.autograd.grad(loss, query)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, by_hand)


def test_a_common_factor_of_the_probabilities_is_lost(batch):
    query, item, log_probability = batch
    loss = in_batch_softmax(query, item, log_probability)
    torch.testing.assert_close(in_batch_softmax(query, item, log_probability + 3.0), loss)
    assert (in_batch_softmax(query, item, -log_probability) - loss).abs() > 1e-3


def test_accidental_hits_leave_the_sum_only_where_ids_are_given(batch):
    query, item, log_probability = batch
    ids = torch.tensor([0, 1, 2, 0, 4, 5])
    scores = normalize(query, dim=1) @ normalize(item, dim=1).T / 0.1 - log_probability
    scores[0, 3] = scores[3, 0] = -torch.inf
    expected = cross_entropy(scores, torch.arange(6))
    torch.testing.assert_close(in_batch_softmax(query, item, log_probability, ids=ids), expected)
    assert in_batch_softmax(query, item, log_probability) > expected


def test_sampled_softmax_is_the_full_softmax_in_expectation():
    """The correction undoes a skewed sampling of items: the gradient points the same way."""
    generator = torch.Generator().manual_seed(1)
    n, dim = 40, 5
    items = torch.randn(n, dim, generator=generator)
    query = torch.randn(1, dim, generator=generator).requires_grad_()
    probability = torch.softmax(2 * torch.randn(n, generator=generator), 0)
    scores = normalize(query, dim=1) @ normalize(items, dim=1).T / 0.5
    (full,) = torch.autograd.grad(-scores.logsumexp(1).sum(), query)
    drawn = torch.multinomial(probability, 200_000, replacement=True, generator=generator)

    def gradient(log_probability: torch.Tensor) -> torch.Tensor:
        sampled = scores_of(query, items[drawn]) - log_probability[drawn]
        return torch.autograd.grad(-sampled.logsumexp(1).sum(), query)[0]

    def scores_of(query: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return normalize(query, dim=1) @ normalize(items, dim=1).T / 0.5

    torch.testing.assert_close(gradient(probability.log()), full, atol=0.03, rtol=0.05)
    assert (gradient(torch.zeros(n)) - full).norm() > 5 * (
        gradient(probability.log()) - full
    ).norm()
