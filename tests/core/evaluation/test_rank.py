import pytest
import torch
from torch import Tensor

from core.distributed import rank
from core.evaluation.rank import (
    Spectrum,
    alpha_req,
    participation_ratio,
    rankme,
    rankme_of_spectrum,
)
from tests.core.gloo import run_gloo


def _embeddings(rows: int = 60) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(rows, 8, generator=g) * torch.arange(1, 9) + 2


def test_known_ranks() -> None:
    orthonormal = torch.linalg.qr(_embeddings()).Q
    assert rankme(orthonormal).item() == pytest.approx(8, rel=1e-4)
    assert rankme(torch.ones(50, 8)).item() == pytest.approx(1, rel=1e-4)
    assert rankme(torch.zeros(50, 8)).item() == 0
    half = torch.cat([orthonormal[:, :4], torch.zeros(60, 4)], dim=1)
    assert rankme(half).item() == pytest.approx(4, rel=1e-4)


def test_invariances() -> None:
    z = _embeddings()
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    for same in (z * 1000, z @ turn, z.flip(0)):
        torch.testing.assert_close(rankme(same), rankme(z), rtol=1e-4, atol=0)
    far = z + 500
    assert rankme(far) < 0.8 * rankme(z)
    torch.testing.assert_close(rankme(far, centre=True), rankme(z, centre=True), rtol=1e-4, atol=0)


def test_alpha_is_the_slope_of_a_power_law() -> None:
    basis = torch.linalg.qr(_embeddings().double() - _embeddings().double().mean(0)).Q
    z = basis * torch.arange(1, 9).double().pow(-0.75)
    assert alpha_req(z).item() == pytest.approx(1.5, rel=1e-6)
    bent = basis * torch.tensor([50.0, 1, *torch.arange(1, 7).double().pow(-0.5).tolist()])
    assert alpha_req(bent, first=3, last=8).item() != pytest.approx(
        alpha_req(bent).item(), rel=0.05
    )
    assert participation_ratio(basis).item() == pytest.approx(8, rel=1e-6)


def test_fewer_rows_than_columns() -> None:
    z = torch.randn(5, 8)
    assert 1 < rankme(z).item() <= 5
    assert torch.isfinite(alpha_req(z))


def _of_a_rank() -> Tensor:
    spectrum = Spectrum(8)
    mine = _embeddings()[:20] if rank() == 0 else _embeddings()[20:]
    for batch in mine.split(7):
        spectrum.update(batch)
    return rankme_of_spectrum(spectrum.singular_values())


def test_batches_of_all_ranks_give_the_rank_of_the_whole() -> None:
    for found in run_gloo(2, _of_a_rank):
        torch.testing.assert_close(found, rankme(_embeddings()), rtol=1e-9, atol=0)
