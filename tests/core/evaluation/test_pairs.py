import torch
from torch.nn.functional import normalize

from core.evaluation.pairs import pair_probabilities, pairs_told_apart


def test_a_pair_is_right_if_both_statements_choose_their_image() -> None:
    axes = torch.eye(4)
    images = torch.stack([axes[:2], axes[:2], axes[:2]])
    texts = torch.stack([axes[:2], axes[[1, 0]], axes[[0, 0]]])
    probabilities = pair_probabilities(images, texts)
    assert pairs_told_apart(probabilities).tolist() == [True, False, False]
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3, 2))


def test_one_half_is_not_enough() -> None:
    images = normalize(torch.ones(1, 2, 3), dim=-1)
    probabilities = pair_probabilities(images, images)
    assert torch.equal(probabilities, torch.full((1, 2, 2), 0.5))
    assert pairs_told_apart(probabilities).tolist() == [False]
