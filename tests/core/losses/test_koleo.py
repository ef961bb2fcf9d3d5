import math

import pytest
import torch

from core.losses import koleo


def test_the_definition() -> None:
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]], dtype=torch.float64)
    first, last = math.sqrt(0.16 + 0.64), math.sqrt(1.6**2 + 0.64)
    expected = -(2 * math.log(first) + math.log(last)) / 3
    assert koleo(x).item() == pytest.approx(expected, abs=1e-6)
    assert koleo(x * 4).item() == pytest.approx(expected, abs=1e-6)


def test_equal_rows_are_bounded() -> None:
    x = torch.ones(3, 4, requires_grad=True)
    loss = koleo(x)
    loss.backward()
    assert 0 < loss.item() < -math.log(1e-8) + 1
    assert torch.isfinite(x.grad).all()
