import pytest
import torch
from torch import Tensor, nn

from core.evaluation.readout import Readout, fit_readout, label_budget, readout_scores

N = 90


def rows(noise: float = 0.5) -> tuple[dict[str, Tensor], Tensor]:
    g = torch.Generator().manual_seed(0)
    label = torch.arange(N) % 3
    features = {
        name: torch.nn.functional.one_hot((label + shift) % 3, 3)
        + noise * torch.randn(N, 3, generator=g)
        for name, shift in (("a", 0), ("b", 1))
    }
    return features, label


def fitted(noise: float = 0.5, encoder: nn.Module | None = None, **options):
    features, label = rows(noise)
    torch.manual_seed(0)
    readout = Readout({"a": 3, "b": 3}, 3, hidden=8)

    def encode(some: Tensor) -> dict[str, Tensor]:
        encoded = {name: of[some] for name, of in features.items()}
        return encoded if encoder is None else {k: encoder(v) for k, v in encoded.items()}

    train, valid = torch.arange(60), torch.arange(60, 75)
    fit_readout(
        readout,
        encode,
        (train, label[train]),
        (valid, label[valid]),
        encoder=encoder,
        **{"max_epochs": 15, "lr": 0.02, "batch_size": 16} | options,
    )
    return readout, encode, label


def accuracy(readout: Readout, encode, label: Tensor, some: Tensor) -> float:
    scores = readout_scores(readout, encode, some)
    return float((scores.argmax(1) == label[some]).double().mean())


def test_it_learns_and_ends_ready_for_use() -> None:
    readout, encode, label = fitted(0.3)
    assert not readout.training
    assert accuracy(readout, encode, label, torch.arange(75, 90)) > 0.9
    scores = readout({name: of[:4] for name, of in rows(0.3)[0].items()})
    torch.testing.assert_close(scores, readout_scores(readout, encode, torch.arange(4)))


def test_the_epoch_of_highest_validation_accuracy_is_kept() -> None:
    """Trained longer it is never worse on validation, and training stops where nothing improves."""
    valid = torch.arange(60, 75)
    reached = [accuracy(*fitted(1.5, max_epochs=n, lr=0.2), valid) for n in (1, 3, 6, 12)]
    assert reached == sorted(reached)
    state = [fitted(max_epochs=n, patience=0, lr=5.0)[0].state_dict() for n in (30, 60)]
    assert all(torch.equal(state[0][name], state[1][name]) for name in state[0])


def test_chance_is_its_own_and_follows_from_the_seed() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    dropout = nn.Dropout(0.3)
    features, label = rows()
    readouts = []
    for seed in (1, 1, 2):
        readout = Readout({"a": 3, "b": 3}, 3, hidden=4)
        for weight in readout.parameters():
            nn.init.constant_(weight, 0.1)
        torch.set_rng_state(before)
        everything = torch.arange(N)
        fit_readout(
            readout,
            lambda some: {name: dropout(of[some]) for name, of in features.items()},
            (everything, label),
            (everything, label),
            encoder=dropout,
            max_epochs=3,
            seed=seed,
        )
        assert torch.equal(torch.get_rng_state(), before)
        readouts.append(readout.head.bias.detach())
    assert torch.equal(readouts[0], readouts[1])
    assert not torch.equal(readouts[0], readouts[2])


@pytest.mark.parametrize("tuned", [False, True])
def test_the_encoder_learns_where_it_is_given(tuned: bool) -> None:
    torch.manual_seed(1)
    encoder = nn.Linear(3, 3)
    before = encoder.weight.clone()
    if tuned:
        fitted(encoder=encoder)
    else:
        with torch.no_grad():  # as where systems are evaluated
            readout = fitted()[0]
        assert readout.head.weight.grad is not None
    assert torch.equal(encoder.weight, before) != tuned


def test_a_last_batch_of_one_row_is_left_out() -> None:
    """Batch norm could not take it."""
    features, label = rows()
    readout, some = Readout({"a": 3, "b": 3}, 3, hidden=4), torch.arange(17)
    rows_of = (some, label[some])

    def encode(some: Tensor) -> dict[str, Tensor]:
        return {name: of[some] for name, of in features.items()}

    fit_readout(readout, encode, rows_of, rows_of, batch_size=16)
    assert readout_scores(readout, encode, some).isfinite().all()


def test_one_modality_has_two_hidden_layers_and_no_batch_norm() -> None:
    """As published; a sample's scores do not depend on those it is trained beside."""
    readout = Readout({"imu": 10}, 5).train()
    widths = [tuple(m.weight.shape) for m in readout.modules() if isinstance(m, nn.Linear)]
    assert widths == [(256, 10), (128, 256), (5, 128)]
    x = torch.randn(6, 10)
    torch.testing.assert_close(readout({"imu": x})[:2], readout({"imu": x[:2]}))
    both = Readout({"skeleton": 4, "imu": 10}, 5).train()
    two = {"skeleton": torch.randn(6, 4), "imu": x}
    widths = [tuple(m.weight.shape) for m in both.modules() if isinstance(m, nn.Linear)]
    assert widths == [(256, 4), (256, 10), (5, 512)]
    assert not torch.allclose(both(two)[:2], both({k: v[:2] for k, v in two.items()}))


class TestLabelBudget:
    LABELS = torch.tensor([0] * 40 + [1] * 19 + [2] * 3 + [-1] * 20)[torch.randperm(82)]

    @pytest.mark.parametrize(
        ("size", "counts"),
        [
            ({"share": 0.05, "per_class": None}, [2, 1, 1]),
            ({"share": 0.5, "per_class": None}, [20, 9, 1]),
            ({"share": 1.0, "per_class": None}, [40, 19, 3]),
            ({"share": None, "per_class": 1}, [1, 1, 1]),
            ({"share": None, "per_class": 5}, [5, 5, 3]),
        ],
    )
    def test_each_class_gives_its_share(self, size, counts) -> None:
        chosen = label_budget(self.LABELS, **size, seed=4)
        assert self.LABELS[chosen].bincount().tolist() == counts
        assert chosen.tolist() == sorted(set(chosen.tolist()))

    def test_the_draw_is_of_the_seed_alone(self) -> None:
        draws = [
            label_budget(self.LABELS, share=0.3, per_class=None, seed=seed) for seed in (1, 1, 2)
        ]
        torch.manual_seed(9)
        again = label_budget(self.LABELS, share=0.3, per_class=None, seed=1)
        assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], again)
        assert not torch.equal(draws[0], draws[2])
        more = label_budget(self.LABELS, share=0.6, per_class=None, seed=1)
        assert set(draws[0].tolist()) < set(more.tolist())
