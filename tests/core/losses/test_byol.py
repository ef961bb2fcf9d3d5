import torch

from core.losses import byol, simsiam


def test_range_and_scale() -> None:
    x = torch.randn(5, 3)
    for loss, agree, oppose in ((byol, 0.0, 4.0), (simsiam, -1.0, 1.0)):
        torch.testing.assert_close(loss(x, 3 * x), torch.tensor(agree), atol=1e-6, rtol=0)
        torch.testing.assert_close(loss(x, -x / 7), torch.tensor(oppose), atol=1e-6, rtol=0)
