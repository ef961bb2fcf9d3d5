import pytest
import torch
from torch import Tensor

from core.data.checks import DataError
from core.data.samples import Samples
from core.tasks.domain_probing import DomainProbing
from core.trainers.system import System


class Raw(System):
    def embed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": batch["x"]}


def data(leak: float, unseen_shift: float = 0.0) -> Samples:
    """Three clusters; `leak` is how far the seen domains stand apart."""
    n = 300
    label, domain = torch.arange(n) % 3, torch.arange(n) // 3 % 2
    splits = dict(zip(("train", "valid", "test"), torch.arange(n).tensor_split(3), strict=True))
    x = 6 * torch.eye(3)[label] + torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    side = leak * domain[:, None] + 0.1 * torch.randn(
        n, 1, generator=torch.Generator().manual_seed(1)
    )
    x = torch.cat([x, side], 1)
    x[splits["test"]] = x[splits["test"]].roll(1, 1) * unseen_shift + x[splits["test"]] * (
        1 - unseen_shift
    )
    domain[splits["test"]] = -1
    return Samples({"x": x}, {"label": label, "domain": domain}, splits, [str(i) for i in range(n)])


def test_measures_the_unseen_the_seen_and_what_is_left_of_the_domain() -> None:
    task = DomainProbing(monitor="linear_accuracy", k=5)
    alike = task.evaluate(Raw(), data(leak=0.0), "test").metrics
    assert alike["linear_accuracy"] > 0.95 and alike["seen_accuracy"] > 0.95
    assert alike["domain_accuracy"] < 0.65
    apart = task.evaluate(Raw(), data(leak=3.0, unseen_shift=1.0), "test").metrics
    assert apart["domain_accuracy"] > 0.99
    assert apart["seen_accuracy"] > 0.95 > 0.5 > apart["linear_accuracy"]
    assert not any(name.endswith("/domain") for name in apart)


def test_says_which_label_it_needs() -> None:
    one = data(0.0)
    less = Samples(one.inputs, {"label": one.labels["label"]}, one.splits, one.ids)
    with pytest.raises(DataError, match="label_domain"):
        DomainProbing(monitor="linear_accuracy").evaluate(Raw(), less, "test")
