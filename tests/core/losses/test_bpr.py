import math

import pytest
import torch

from core.losses import bpr, embedding_penalty


def test_equal_scores_give_log_2() -> None:
    assert bpr(torch.ones(4), torch.ones(4)).item() == pytest.approx(math.log(2), rel=1e-6)


def test_one_positive_against_many_negatives() -> None:
    positive, negatives = torch.randn(5, 1), torch.randn(5, 3)
    expected = (1 + (negatives - positive).exp()).log().mean()
    torch.testing.assert_close(bpr(positive, negatives), expected)


def test_penalty_is_the_sum_of_squares_over_the_batch() -> None:
    users, items = torch.full((4, 3), 2.0), torch.full((4, 5), 1.0)
    assert embedding_penalty(users, items).item() == 3 * 4 + 5
