import pytest
import torch

from core.data.checks import DataError
from core.encoders.residual_quantizer import ResidualQuantizer


def _blobs(n: int = 2000) -> torch.Tensor:
    """Four far clusters, each of four near ones."""
    torch.manual_seed(0)
    far = torch.tensor([[8.0, 8.0], [8.0, -8.0], [-8.0, 8.0], [-8.0, -8.0]])
    near = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    return far[torch.randint(4, (n,))] + near[torch.randint(4, (n,))] + 0.05 * torch.randn(n, 2)


def test_each_level_quantises_what_is_left() -> None:
    rows = _blobs()
    quantizer = ResidualQuantizer(2, 2, 4)
    quantizer.fit(rows)
    codes = quantizer.encode(rows)
    assert codes.shape == (2000, 2)
    first = quantizer.centres[0]
    torch.testing.assert_close(first.abs(), torch.full((4, 2), 8.0), atol=0.2, rtol=0)
    distances = torch.cdist(rows, first)
    assert torch.equal(codes[:, 0], distances.argmin(1))
    left = rows - first[codes[:, 0]]
    assert torch.equal(codes[:, 1], torch.cdist(left, quantizer.centres[1]).argmin(1))
    # The far centres alone leave a distance of 1, with the near ones 0.05 is left.
    assert (rows - quantizer.decode(codes)).square().sum(1).mean() < 0.02
    assert torch.equal(quantizer.encode(rows.view(50, 40, 2)), codes.view(50, 40, 2))


def test_codes_follow_the_rows() -> None:
    rows = _blobs()
    quantizer = ResidualQuantizer(2, 2, 4, decay=0.8)
    for _ in range(60):
        quantizer(rows)
    # The far centres alone leave 1.
    assert (rows - quantizer.decode(quantizer.encode(rows))).square().sum(1).mean() < 0.7
    kept = quantizer.centres.clone()
    quantizer.eval()(rows)
    assert torch.equal(quantizer.centres, kept)


def test_one_step_is_the_moving_average() -> None:
    rows = torch.tensor([[1.0], [3.0], [10.0]])
    quantizer = ResidualQuantizer(1, 1, 2, decay=0.5, least_use=0.0)
    quantizer.centres.copy_(torch.tensor([[[0.0], [9.0]]]))
    quantizer.sums.copy_(torch.tensor([[[0.0], [9.0]]]))
    quantizer(rows)
    # Counts (1 + 2) / 2 and (1 + 1) / 2, sums (0 + 4) / 2 and (9 + 10) / 2.
    torch.testing.assert_close(quantizer.centres, torch.tensor([[[4 / 3], [9.5]]]))


def test_the_gradient_passes_to_the_rows() -> None:
    rows = torch.randn(6, 3, requires_grad=True)
    quantizer = ResidualQuantizer(3, 2, 4).eval()
    quantized = quantizer(rows)
    torch.testing.assert_close(quantized.rows, quantizer.decode(quantizer.encode(rows)))
    quantized.rows.sum().backward()
    torch.testing.assert_close(rows.grad, torch.ones(6, 3))
    rows.grad = None
    quantized = quantizer(rows)
    quantized.commitment.backward()
    codes = quantizer.encode(rows)
    first = rows - quantizer.centres[0][codes[:, 0]]
    second = first - quantizer.centres[1][codes[:, 1]]
    torch.testing.assert_close(rows.grad, 2 * (first + second).detach() / rows.numel())


def test_fewer_rows_than_codes() -> None:
    with pytest.raises(DataError, match="3 frames for 4 codes"):
        ResidualQuantizer(2, 1, 4).fit(torch.randn(3, 2))
