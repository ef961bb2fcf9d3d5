import torch
from torch import Tensor

from core.losses.precision import full_precision


@full_precision
def _product(x: Tensor, *, y: Tensor, label: Tensor, name: str = "") -> tuple[Tensor, Tensor]:
    return x @ y, label


def test_half_precision_is_widened_and_nothing_else() -> None:
    label = torch.tensor([1, 2])
    for dtype, wide in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        x = torch.randn(3, 4, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product, same = _product(x, y=x.T, label=label)
        assert product.dtype == wide
        torch.testing.assert_close(product, x.to(wide) @ x.to(wide).T)
        assert same is label


def test_gradients_come_back_in_the_dtype_of_the_input() -> None:
    x = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    _product(x, y=torch.ones(4, 1), label=x)[0].sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert (x.grad == 1).all()
