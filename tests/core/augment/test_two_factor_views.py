import torch

from core.augment.draws import Draws
from core.augment.small_images import SmallImageViews
from core.augment.two_factors import TwoFactorViews

CPU = torch.device("cpu")


def draws(n: int, own: slice | None = None) -> Draws:
    return Draws(7, n, own or slice(0, n), CPU)


def test_the_pattern_gets_noise_and_the_image_the_views_of_images() -> None:
    x = torch.rand(500, 88, generator=torch.Generator().manual_seed(0))
    views = TwoFactorViews(noise=0.1)(x, draws(500))
    noise = views[:, 64:] - x[:, 64:]
    assert abs(float(noise.std()) - 0.1) < 0.003
    assert abs(float(noise.mean())) < 0.003
    image = SmallImageViews()(x[:, :64].view(-1, 1, 8, 8), draws(500))
    assert torch.equal(views[:, :64], image.flatten(1))


def test_two_processes_make_the_views_of_one() -> None:
    x = torch.rand(6, 40, generator=torch.Generator().manual_seed(0))
    augment = TwoFactorViews(side=4, image=SmallImageViews(erase=2))
    whole = augment(x, draws(6))
    parts = [augment(x[own], draws(6, own)) for own in (slice(0, 2), slice(2, 6))]
    assert torch.equal(torch.cat(parts), whole)
