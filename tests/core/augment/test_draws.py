import torch

from core.augment.draws import Draws
from core.augment.images import SimCLRViews
from core.augment.small_images import SmallImageViews
from core.data.resident import ResidentLoader

CPU = torch.device("cpu")


def test_two_processes_draw_what_one_draws() -> None:
    def drawn(own: slice) -> list[torch.Tensor]:
        draws = Draws(3, 10, own, CPU)
        return [draws.uniform(-1, 2, 2), draws.normal(4), draws.happens(0.5), draws.shared(0, 1)]

    whole, first, second = drawn(slice(0, 10)), drawn(slice(0, 4)), drawn(slice(4, 10))
    for all_rows, upper, lower in zip(whole[:3], first[:3], second[:3], strict=True):
        assert torch.equal(all_rows, torch.cat([upper, lower]))
    assert whole[3] == first[3] == second[3]


def test_ranges_and_frequencies() -> None:
    draws = Draws(0, 20_000, slice(0, 20_000), CPU)
    uniform, happened = draws.uniform(-1, 3), draws.happens(0.2)
    assert uniform.min() >= -1 and uniform.max() < 3
    assert abs(uniform.mean() - 1) < 0.05
    assert abs(happened.float().mean() - 0.2) < 0.02
    assert abs(draws.normal().std() - 1) < 0.02


def loader(rank: int, world_size: int, views: SimCLRViews | SmallImageViews) -> ResidentLoader:
    images = torch.rand(21, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    columns = {"x": images, "row": torch.arange(21)}
    return ResidentLoader(
        columns, 8, 5, rank, world_size, prepare=lambda b, draws: b | {"v": views(b["x"], draws)}
    )


def test_the_views_of_a_batch_do_not_depend_on_the_number_of_processes() -> None:
    for views in (SimCLRViews(blur_p=0.5), SmallImageViews()):
        whole = loader(0, 1, views)
        shares = [loader(rank, 3, views) for rank in range(3)]
        for _ in range(2):
            for batch, *parts in zip(whole, *shares, strict=True):
                assert torch.equal(batch["row"], torch.cat([part["row"] for part in parts]))
                torch.testing.assert_close(batch["v"], torch.cat([part["v"] for part in parts]))


def test_every_batch_and_epoch_has_its_own_views_and_resuming_repeats_none() -> None:
    whole = loader(0, 1, SmallImageViews())
    batches = [batch for _ in range(2) for batch in whole]
    same_rows = [batch["v"][batch["row"] == 4] for batch in batches if (batch["row"] == 4).any()]
    assert len(same_rows) == 2 and not torch.equal(*same_rows)
    resumed = loader(0, 1, SmallImageViews())
    resumed.load_state_dict(whole.state_dict() | {"batches_given": 4})
    assert torch.equal(next(iter(resumed))["v"], batches[4]["v"])


def test_places_are_one_order_of_the_whole_batch() -> None:
    def draw(own: slice) -> torch.Tensor:
        return Draws(5, 6, own, torch.device("cpu")).places(2)

    whole = draw(slice(0, 6))
    assert whole.flatten().sort().values.tolist() == list(range(12))
    torch.testing.assert_close(torch.cat([draw(slice(0, 4)), draw(slice(4, 6))]), whole)
