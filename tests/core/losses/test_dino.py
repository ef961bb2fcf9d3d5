import pytest
import torch

from core.losses import DINOLoss, IBOTLoss, sinkhorn
from core.losses.dino import cross_view_entropies


def test_the_centre_moves_after_its_use_in_training_only() -> None:
    dino = DINOLoss(5, centre_momentum=0.9)
    student, teacher = torch.randn(3, 4, 5), torch.randn(2, 4, 5)
    still = dino.eval()(student, teacher)
    assert (dino.centre.centre == 0).all()
    first = dino.train()(student, teacher)
    assert first == still
    torch.testing.assert_close(dino.centre.centre, 0.1 * teacher.mean((0, 1)))
    assert dino(student, teacher) != first


def test_views_meet_other_views_only() -> None:
    dino = DINOLoss(5).eval()
    student, teacher = torch.randn(3, 4, 5), torch.randn(2, 4, 5)
    shares, log_shares = (teacher / 0.07).softmax(-1), (student / 0.1).log_softmax(-1)
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2)]
    terms = [-(shares[t] * log_shares[s]).sum(-1).mean() for t, s in pairs]
    torch.testing.assert_close(dino(student, teacher), torch.stack(terms).mean())


def test_balance_by_sinkhorn_has_no_centre() -> None:
    dino = DINOLoss(5, balance="sinkhorn")
    student, teacher = torch.randn(2, 4, 5), torch.randn(1, 4, 5)
    expected = -(sinkhorn(teacher[0], 0.07) * (student[1] / 0.1).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(dino(student, teacher), expected)
    assert (dino.centre.centre == 0).all()


def test_ibot_averages_in_an_image_and_divides_by_all_images() -> None:
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    for balance, shares in (
        ("centre", (teacher / 0.07).softmax(-1)),
        ("sinkhorn", sinkhorn(teacher, 0.07)),
    ):
        ibot = IBOTLoss(5, balance=balance)
        terms = -(shares * (student / 0.1).log_softmax(-1)).sum(-1)
        expected = (terms[:3].mean() + terms[3]) / 3
        torch.testing.assert_close(ibot(student, teacher, mask), expected)
        torch.testing.assert_close(
            ibot.eval()(student, teacher, mask.view(3, 2, 2)), ibot(student, teacher, mask)
        )


def test_ibot_without_masked_patches_is_zero() -> None:
    ibot = IBOTLoss(5)
    loss = ibot(torch.randn(0, 5), torch.randn(0, 5), torch.zeros(2, 4, dtype=torch.bool))
    assert loss.item() == 0
    assert torch.isfinite(ibot.centre.centre).all()


def test_entropies_of_all_pairs() -> None:
    student, teacher = torch.randn(3, 4, 5), torch.randn(2, 4, 5).softmax(-1)
    found = cross_view_entropies(student, teacher, 0.2)
    assert found.shape == (2, 3)
    expected = -(teacher[1] * (student[2] / 0.2).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(found[1, 2], expected)


@pytest.mark.parametrize("balance", ["centre", "sinkhorn"])
def test_rows_beyond_the_masked_patches_count_for_nothing(balance: str) -> None:
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()
    student, teacher = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
    exact, longer = (IBOTLoss(5, balance=balance) for _ in range(2))
    loss = longer(student, teacher, mask)
    torch.testing.assert_close(loss, exact(student[:4], teacher[:4], mask))
    torch.testing.assert_close(longer.centre.centre, exact.centre.centre)
    loss.backward()
    assert (student.grad[4:] == 0).all()
    assert (student.grad[:4] != 0).any(1).all()
