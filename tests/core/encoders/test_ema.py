import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.encoders.ema import EMATeacher, cosine_momentum


def _student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


def _train(student: nn.Module) -> None:
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    student(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_follows_the_student_as_the_average_of_torch_does() -> None:
    student = _student()
    teacher = EMATeacher(student)
    expected = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    expected.update_parameters(student)  # its first call copies
    for _ in range(3):
        _train(student)
        teacher.update(student, 0.9)
        expected.update_parameters(student)
    for ours, theirs in zip(teacher.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach())
    for ours, new in zip(teacher.buffers(), student.buffers(), strict=True):
        assert torch.equal(ours, new)


def test_momentum_one_stands_still_and_zero_copies() -> None:
    student = _student()
    teacher = EMATeacher(student)
    start = [parameter.clone() for parameter in teacher.parameters()]
    _train(student)
    teacher.update(student, 1.0)
    for ours, old in zip(teacher.parameters(), start, strict=True):
        assert torch.equal(ours, old)
    teacher.update(student, 0.0)
    for ours, new in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(ours, new)


def test_is_a_copy_without_gradients() -> None:
    student = _student().eval()
    teacher = EMATeacher(student)
    x = torch.randn(3, 4)
    out = teacher(x)
    assert torch.equal(out, student(x))
    assert not out.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    with torch.no_grad():
        student[0].weight.zero_()
    assert teacher.module[0].weight.abs().sum() > 0


def test_state_returns_from_a_dictionary() -> None:
    student = _student()
    teacher = EMATeacher(student)
    _train(student)
    teacher.update(student, 0.5)
    other = EMATeacher(_student())
    other.load_state_dict(teacher.state_dict())
    for one, two in zip(other.state_dict().values(), teacher.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    _train(student)
    for each in (teacher, other):
        each.update(student, 0.5)
    assert torch.equal(teacher.module[0].weight, other.module[0].weight)


def test_momentum_rises_by_half_a_cosine() -> None:
    assert cosine_momentum(0, 100) == 0.996
    assert cosine_momentum(50, 100) == pytest.approx(0.998)
    assert cosine_momentum(25, 100, start=0.9) == pytest.approx(
        1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2
    )
    assert cosine_momentum(100, 100) == cosine_momentum(120, 100) == 1.0
    assert cosine_momentum(100, 100, end=0.999) == pytest.approx(0.999)
