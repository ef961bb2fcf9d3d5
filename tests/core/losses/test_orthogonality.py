import torch

from core.losses import orthogonality


def _rows(seed: int, width: int = 4) -> torch.Tensor:
    return torch.randn(9, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_its_definition_entry_by_entry():
    a, b = _rows(0), _rows(1, 3)
    unit = []
    for x in (a, b):
        x = x - x.mean(0)
        unit.append(torch.stack([row / (row.norm() + 1e-6) for row in x]))
    total = 0.0
    for i in range(4):
        for j in range(3):
            total += float((unit[0][:, i] * unit[1][:, j]).sum()) ** 2
    torch.testing.assert_close(orthogonality(a, b).item(), total / 12)


def test_apart_is_zero_and_means_do_not_count():
    a = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    b = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert orthogonality(a, b).item() == 0
    assert orthogonality(a, a).item() > 15
    torch.testing.assert_close(orthogonality(a + 5, a - 3), orthogonality(a, a))


def test_the_length_is_no_part_of_the_gradient():
    a, b = _rows(0).requires_grad_(), _rows(1)
    orthogonality(a, b).backward()
    centred = (a - a.mean(0)).detach()
    unit = [x / (x.norm(dim=1, keepdim=True) + 1e-6) for x in (centred, b - b.mean(0))]
    overlap = 2 * unit[0].T @ unit[1] / 16
    to_rows = unit[1] @ overlap.T / (centred.norm(dim=1, keepdim=True) + 1e-6)
    torch.testing.assert_close(a.grad, to_rows - to_rows.mean(0))


def test_half_precision_computes_in_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = orthogonality(_rows(0).bfloat16(), _rows(1).bfloat16())
    assert low.dtype == torch.float32
    whole = orthogonality(_rows(0).bfloat16().float(), _rows(1).bfloat16().float())
    assert torch.equal(low, whole)
