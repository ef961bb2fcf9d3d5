import math

import pytest
import torch
from torch import Tensor, nn

from core.data.checks import DataError
from core.trainers.lars import LARS


def _norm(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def _by_hand(
    weight: list[float],
    gradients: list[list[float]],
    rates: list[float],
    *,
    is_matrix: bool,
    weight_decay: float,
    momentum: float = 0.9,
    trust: float = 0.02,
) -> list[float]:
    """Algorithm 1 of the paper, a number at a time."""
    speed = [0.0] * len(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        ratio = 1.0
        if is_matrix:
            gradient = [g + weight_decay * w for g, w in zip(gradient, weight, strict=True)]
            if _norm(weight) > 0 and _norm(gradient) > 0:
                ratio = trust * _norm(weight) / _norm(gradient)
        speed = [momentum * v + rate * ratio * g for v, g in zip(speed, gradient, strict=True)]
        weight = [w - v for w, v in zip(weight, speed, strict=True)]
    return weight


def _weights() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

    zero = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    return {"a": draw(3, 4), "b": draw(2, 2, 3), "table": draw(5, 2), "bias": draw(4), "zero": zero}


def _gradients(weights: dict[str, nn.Parameter], steps: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [
        {
            name: 0.5 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            for name, weight in weights.items()
        }
        for _ in range(steps)
    ]


def _run(optimizer: LARS, weights: dict[str, nn.Parameter], gradients: list, rates: list) -> None:
    for step, rate in zip(gradients, rates, strict=True):
        for name, weight in weights.items():
            weight.grad = step[name].clone()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def test_the_steps_of_the_paper() -> None:
    weights = _weights()
    start = {name: weight.detach().flatten().tolist() for name, weight in weights.items()}
    gradients, rates = _gradients(weights, 4), [0.1, 0.4, 0.3, 0.05]
    # Groups as a system makes them: what does not decay may still be a matrix.
    groups = [
        {"params": [weights["a"], weights["b"], weights["zero"], weights["bias"]]},
        {"params": [weights["table"]], "weight_decay": 0.0},
    ]
    _run(LARS(groups, weight_decay=0.3, trust=0.02), weights, gradients, rates)
    for name, weight in weights.items():
        expected = _by_hand(
            start[name],
            [step[name].flatten().tolist() for step in gradients],
            rates,
            is_matrix=name != "bias",
            weight_decay=0.0 if name == "table" else 0.3,
        )
        assert weight.flatten().tolist() == pytest.approx(expected, rel=1e-12), name
        assert expected != start[name]


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_matrices_move_the_same_whatever_the_size_of_the_gradient(scale: float) -> None:
    results = []
    for factor in (1.0, scale):
        weights = _weights()
        gradients = [
            {name: factor * g for name, g in step.items()} for step in _gradients(weights, 3)
        ]
        _run(LARS(weights.values(), weight_decay=0.0), weights, gradients, [0.2, 0.3, 0.1])
        results.append(weights)
    plain, scaled = results
    for name in ("a", "b", "table"):
        torch.testing.assert_close(scaled[name], plain[name], rtol=1e-12, atol=0)
    assert not torch.allclose(scaled["bias"], plain["bias"])


def test_the_first_step_has_the_length_that_the_trust_allows() -> None:
    weights = _weights()
    before = weights["a"].detach().clone()
    _run(LARS(weights.values(), trust=0.01), weights, _gradients(weights, 1), [0.5])
    moved = (weights["a"].detach() - before).norm()
    assert float(moved) == pytest.approx(0.5 * 0.01 * float(before.norm()))


def test_goes_on_from_its_state() -> None:
    weights, rates = _weights(), [0.3, 0.2, 0.1, 0.1]
    gradients = _gradients(weights, 4)
    _run(LARS(weights.values()), weights, gradients, rates)

    resumed = _weights()
    first = LARS(resumed.values())
    _run(first, resumed, gradients[:2], rates[:2])
    second = LARS(resumed.values(), lr=7.0)
    second.load_state_dict(first.state_dict())
    _run(second, resumed, gradients[2:], rates[2:])
    for name, weight in weights.items():
        assert torch.equal(resumed[name], weight), name


def test_without_a_gradient_nothing_moves() -> None:
    weights = _weights()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    weights["a"].grad = torch.ones_like(weights["a"])
    optimizer = LARS(weights.values())
    assert optimizer.step(lambda: 4.5) == 4.5
    assert {n for n, w in weights.items() if not torch.equal(w, before[n])} == {"a"}


@pytest.mark.parametrize(
    "option", [{"lr": -0.1}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"trust": -0.1}]
)
def test_numbers_out_of_range_are_refused(option: dict[str, float]) -> None:
    ((name, value),) = option.items()
    with pytest.raises(DataError, match=rf"optimizer\.{name}={value}"):
        LARS(_weights().values(), **option)
