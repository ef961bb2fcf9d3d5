import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from core.augment.compose import Augmentation, Compose
from core.augment.draws import Draws
from core.augment.series import (
    ChannelShuffle,
    CropAndResize,
    Gain,
    InertialViews,
    Jitter,
    NoiseAndGain,
    Permutation,
    Scaling,
    SensorRotation,
)
from core.augment.skeletons import (
    AboutJoint,
    AxisScaling,
    AxisTurns,
    Shear,
    SkeletonViews,
)
from core.data.checks import DataError

ROWS = 200


def draws(n: int = ROWS, seed: int = 0, own: slice | None = None) -> Draws:
    return Draws(seed, n, own or slice(0, n), torch.device("cpu"))


def series(n: int = ROWS) -> Tensor:
    return torch.randn(n, 6, 50, generator=torch.Generator().manual_seed(1))


def skeletons(n: int = ROWS) -> Tensor:
    return torch.randn(n, 3, 50, 20, generator=torch.Generator().manual_seed(2))


def ramp(n: int = ROWS) -> Tensor:
    """Channel c at step t is 100 c + t."""
    return (100 * torch.arange(6.0)[:, None] + torch.arange(50.0)).expand(n, 6, 50)


SERIES: dict[str, Augmentation] = {
    "jitter": Jitter(0.5),
    "scaling": Scaling(0.5),
    "gain": Gain(0.5),
    "noise_and_gain": NoiseAndGain(),
    "crop": CropAndResize(),
    "permutation": Permutation(5),
    "shuffle": ChannelShuffle(),
    "rotation": SensorRotation(),
    "inertial": InertialViews(),
    "compat": InertialViews(compat_axes=True),
}
SKELETONS: dict[str, Augmentation] = {
    "jitter": Jitter(0.5),
    "noise_and_gain": NoiseAndGain(),
    "crop": CropAndResize(),
    "permutation": Permutation(5),
    "scaling": AboutJoint([AxisScaling()]),
    "turns": AboutJoint([AxisTurns()]),
    "shear": AboutJoint([Shear()]),
    "skeleton": SkeletonViews(),
}
CASES = [(name, a, series) for name, a in SERIES.items()]
CASES += [(f"skeleton-{name}", a, skeletons) for name, a in SKELETONS.items()]
each = pytest.mark.parametrize(
    ("augment", "samples"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)


@each
def test_rows_differ_and_shapes_stay(augment: Augmentation, samples: object) -> None:
    x = samples(1).expand(ROWS, *samples(1).shape[1:])
    views = augment(x, draws())
    assert views.shape == x.shape and views.dtype == x.dtype
    assert views.isfinite().all()
    assert len({row.numpy().tobytes() for row in views}) > ROWS / 2
    again = augment(x, draws())
    assert torch.equal(views, again)
    assert not torch.equal(augment(x, draws(seed=1)), views)


@each
def test_processes_draw_for_their_own_rows(augment: Augmentation, samples: object) -> None:
    x = samples(12)
    whole = augment(x, draws(12))
    parts = [augment(x[own], draws(12, own=own)) for own in (slice(0, 5), slice(5, 12))]
    torch.testing.assert_close(torch.cat(parts), whole)


NOTHING = [
    Jitter(0.0),
    Scaling(0.0),
    Gain(0.0),
    NoiseAndGain(0.0, 0.0),
    CropAndResize(1.0, 1.0),
    Permutation(1),
    *(kind(p=0.0) for kind in (Jitter, Scaling, Gain, CropAndResize, Permutation)),
]


@pytest.mark.parametrize("augment", [*NOTHING, ChannelShuffle(0.0), SensorRotation(0.0)])
def test_nothing_changes_at_zero_strength(augment: Augmentation) -> None:
    torch.testing.assert_close(augment(series(), draws()), series())


@pytest.mark.parametrize(
    "augment",
    [
        *NOTHING,
        AboutJoint([AxisScaling(1.0, 1.0), AxisTurns(0.0), Shear(0.0)]),
        SkeletonViews(jitter=0.0, p=0.0),
        SkeletonViews(0.0, (1.0, 1.0), (1.0, 1.0), 0.0, 0.0),
    ],
)
def test_nothing_changes_skeletons_at_zero_strength(augment: Augmentation) -> None:
    torch.testing.assert_close(augment(skeletons(), draws()), skeletons(), atol=1e-5, rtol=1e-5)


def test_p_is_how_often_a_row_changes() -> None:
    crop = CropAndResize(0.5, 0.8, 0.75)
    noise = (Jitter(0.5, 0.75), Scaling(0.5, 0.75), Gain(0.5, 0.75))
    for augment in (*noise, crop, ChannelShuffle(0.75), SensorRotation(180.0, 0.75)):
        same = (augment(series(2000), draws(2000)) == series(2000)).flatten(1).all(1)
        assert same.float().mean() == pytest.approx(0.25, abs=0.04)


def test_strengths_are_standard_deviations() -> None:
    x = torch.full((ROWS, 6, 50), 2.0)
    assert (Jitter(0.3)(x, draws()) - x).std() == pytest.approx(0.3, rel=0.02)
    assert (Scaling(0.3)(x, draws()) / x).std() == pytest.approx(0.3, rel=0.02)
    gains = Gain(0.3)(x, draws()) / x
    assert torch.equal(gains, gains[..., :1].expand_as(gains))
    assert gains[..., 0].std() == pytest.approx(0.3, rel=0.1)
    assert gains.mean() == pytest.approx(1, abs=0.05)


def test_the_gain_of_a_skeleton_is_one_of_each_coordinate_of_each_joint() -> None:
    gains = Gain(0.3)(torch.ones(2, 3, 50, 20), draws(2))
    assert torch.equal(gains, gains[:, :, :1].expand_as(gains))
    assert gains[0, :, 0].unique().numel() == 60


def test_a_crop_of_a_ramp_is_a_slower_ramp() -> None:
    views = CropAndResize(0.5, 0.8)(ramp(), draws())
    slopes = views.diff(dim=2)
    torch.testing.assert_close(slopes, slopes[:, :1, :1].expand_as(slopes), atol=1e-3, rtol=0)
    shares = slopes[:, 0].mean(1)
    assert 0.5 <= shares.min() < 0.55 and 0.75 < shares.max() <= 0.801
    time = views[:, 0]
    assert time.min() >= 0 and time.max() <= 49 and time[:, 0].std() > 3


def test_a_crop_is_a_range_of_shares() -> None:
    with pytest.raises(DataError, match="0 < low"):
        CropAndResize(0.9, 0.8)


def test_permutation_of_time_keeps_the_steps_and_swaps_whole_parts() -> None:
    views = Permutation(4)(ramp(2000), draws(2000))
    torch.testing.assert_close(views.sort(2).values, ramp(2000))  # every value, in its channel
    torch.testing.assert_close(views - ramp(1)[:, :, :1], views[:, :1].expand_as(views))
    breaks = (views[:, 0].diff(dim=1) != 1).sum(1)
    assert breaks.max() == 3
    # Of 1 to 4 parts: unbroken if there is one part, or if the order came out as it was.
    unbroken = (1 + 1 / 2 + 1 / 6 + 1 / 24) / 4
    assert (breaks == 0).float().mean() == pytest.approx(unbroken, abs=0.04)


def test_two_parts_swap_anywhere() -> None:
    first = Permutation(2)(ramp(2000), draws(2000))[:, 0, 0]
    assert first.unique().numel() == 50  # begins with any step: cut there and swapped
    assert (first == 0).float().mean() == pytest.approx(0.75, abs=0.04)


def test_shuffling_channels_keeps_each_whole() -> None:
    views = ChannelShuffle()(ramp(), draws())
    torch.testing.assert_close(views.sort(1).values, ramp())
    assert (views.diff(dim=2) == 1).all()
    orders = {tuple(order) for order in (views[..., 0] / 100).long().tolist()}
    assert len(orders) > 150  # 174 of the 720 are expected


def _time_is_in_order(views: Tensor) -> Tensor:
    return (views.diff(dim=2) == 1).flatten(1).all(1)


def test_the_axes_of_the_inertial_views_and_of_the_authors_code() -> None:
    still = {"jitter": 0.0, "scaling": 0.0, "p": 1.0}
    ours = InertialViews(**still)(ramp(), draws())
    theirs = InertialViews(**still, compat_axes=True)(ramp(), draws())
    # Ours cuts time once: at most one break, at the same place in all channels.
    assert ((ours.diff(dim=2) != 1).sum(2) <= 1).all()
    assert not _time_is_in_order(ours).all()
    # Theirs shuffles time all over, and swaps two parts of the channels.
    assert ((theirs.diff(dim=2) != 1).sum(2) > 30).all()
    channels = (theirs[:, :, 0] / 100).floor()
    assert ((channels.diff(dim=1) != 1).sum(1) <= 1).all()
    assert not (channels == torch.arange(6.0)).all()
    for views in (ours, theirs):
        torch.testing.assert_close(views.flatten(1).sort(1).values, ramp().flatten(1))


def test_a_turned_sensor_measures_the_same_lengths_and_angles() -> None:
    x = series().double()
    before = x.unflatten(1, (2, 3))
    views = SensorRotation()(x, draws()).unflatten(1, (2, 3))
    torch.testing.assert_close(views.norm(dim=2), before.norm(dim=2), rtol=1e-5, atol=1e-6)
    inner, turned = ((v[:, 0] * v[:, 1]).sum(1) for v in (before, views))
    torch.testing.assert_close(turned, inner, rtol=1e-4, atol=1e-5)  # both sensors turn together
    triple = torch.linalg.det(before[:, 0, :, :3])
    torch.testing.assert_close(
        torch.linalg.det(views[:, 0, :, :3]), triple, rtol=1e-3, atol=1e-4
    )  # no mirror
    up = torch.tensor([0.0, 0, 1]).view(1, 3, 1).expand(2000, 3, 1)
    angles = torch.rad2deg(SensorRotation(30.0)(up, draws(2000))[:, 2, 0].clamp(-1, 1).acos())
    assert 25 < angles.max() <= 30.1
    with pytest.raises(DataError, match="x, y and z"):
        SensorRotation()(torch.randn(2, 4, 10), draws(2))


def _distances(x: Tensor) -> Tensor:
    joints = x.permute(0, 2, 3, 1).double()
    return (joints[:, :, :, None] - joints[:, :, None]).norm(dim=-1)


def test_a_turned_skeleton_keeps_the_distances_between_its_joints() -> None:
    x = skeletons(16)
    views = AboutJoint([AxisTurns(30.0)], pivot=7)(x, draws(16))
    torch.testing.assert_close(_distances(views), _distances(x), rtol=1e-4, atol=1e-5)
    assert (views - x).abs().amax((1, 2, 3)).min() > 0.05


def test_an_axis_turns_by_no_more_than_its_degrees() -> None:
    matrices = AxisTurns(10.0).matrices(draws(5000))
    # z y x: the last row is -sin(y), then cos(y) sin(x), cos(y) cos(x)
    y = torch.rad2deg((-matrices[:, 2, 0]).asin())
    x = torch.rad2deg(torch.atan2(matrices[:, 2, 1], matrices[:, 2, 2]))
    z = torch.rad2deg(torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    for angle in (x, y, z):
        assert -10.01 <= angle.min() < -9.9 and 9.9 < angle.max() <= 10.01


@pytest.mark.parametrize("pivot", [0, 2, 13])
def test_the_pivot_stays_where_it_is(pivot: int) -> None:
    x = skeletons(16)
    views = SkeletonViews(jitter=0.0, crop=(1.0, 1.0), p=1.0, pivot=pivot)(x, draws(16))
    torch.testing.assert_close(views[..., pivot], x[..., pivot])
    others = [joint for joint in range(20) if joint != pivot]
    assert ((views - x)[..., others].abs().amax((1, 2)) > 1e-3).all()


def test_scaling_and_shear_are_what_they_say() -> None:
    scales = AxisScaling(0.7, 1.2).matrices(draws(5000))
    factors = scales.diagonal(dim1=1, dim2=2)
    assert torch.equal(torch.diag_embed(factors), scales)
    assert 0.7 <= factors.min() < 0.71 and 1.19 < factors.max() <= 1.2
    shears = Shear(0.2).matrices(draws(5000))
    assert (shears.diagonal(dim1=1, dim2=2) == 1).all()
    slopes = shears[:, ~torch.eye(3, dtype=torch.bool)]
    torch.testing.assert_close(slopes.std(0), torch.full((6,), 0.2), rtol=0.05, atol=0)


def test_maps_are_applied_in_turn() -> None:
    x = skeletons(8)
    maps = [AxisScaling(), AxisTurns(90.0), Shear()]
    at_once = AboutJoint(maps, 3)(x, draws(8))
    numbers = draws(8)
    for each_map in maps:
        x = AboutJoint([each_map], 3)(x, numbers)
    torch.testing.assert_close(at_once, x, rtol=1e-4, atol=1e-5)


def test_what_is_no_skeleton_is_refused() -> None:
    for shape, pivot in (((2, 50, 20), 2), ((3, 50, 20), 20)):
        with pytest.raises(DataError, match="joint"):
            SkeletonViews(pivot=pivot)(torch.randn(2, *shape), draws(2))


def test_a_recipe_is_listed_in_a_config() -> None:
    """Scaling, noise and permutation, as SimCLR has them for series."""
    where = "core.augment.series."
    recipe = instantiate(
        {
            "_target_": "core.augment.compose.Compose",
            "augmentations": [
                {"_target_": where + "Gain", "sigma": 0.3},
                {"_target_": where + "Jitter", "sigma": 0.1},
                {"_target_": where + "Permutation", "max_segments": 4},
            ],
        },
        _convert_="all",
    )
    assert isinstance(recipe, Compose)
    numbers, x = draws(), series()
    for augment in (Gain(0.3), Jitter(0.1), Permutation(4)):
        x = augment(x, numbers)
    torch.testing.assert_close(recipe(series(), draws()), x)
