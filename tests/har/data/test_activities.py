import numpy as np
import pytest

from har.data.activities import ACTIVITIES, Activity, smooth_step
from har.data.body import DOFS
from har.data.utd_mhad import CLASSES

PHASE = np.linspace(-0.1, 1.1, 241)
BY_NAME = {activity.name: activity for activity in ACTIVITIES}


def test_the_table_has_the_classes_of_utd_mhad() -> None:
    assert [activity.name for activity in ACTIVITIES] == CLASSES


def test_a_smooth_step_stops_at_both_ends() -> None:
    x = np.array([-1.0, 0.0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(smooth_step(x), [0, 0, 0.5, 1, 1])
    near = np.array([1e-3, 1 - 1e-3])
    np.testing.assert_allclose(smooth_step(near), [1e-8, 1 - 1e-8], atol=2e-10)


def test_keyframes_are_met_and_shared() -> None:
    activity = Activity("bow", 2.0, {"rf lf": ((0.2, 0), (0.4, 60), (0.6, -10))})
    offsets = activity.offsets(np.array([0.0, 0.2, 0.3, 0.4, 0.6, 1.0]))
    np.testing.assert_allclose(offsets["rf"], [0, 0, 30, 60, -10, -10], atol=1e-12)
    np.testing.assert_array_equal(offsets["rf"], offsets["lf"])


@pytest.mark.parametrize("activity", ACTIVITIES, ids=lambda activity: activity.name)
def test_activities_move_known_angles_and_end_where_they_should(activity: Activity) -> None:
    offsets = activity.offsets(PHASE)
    assert set(offsets) <= {*DOFS, "dy", "dz"}
    assert any(np.ptp(offset) > 10 for offset in offsets.values())
    for name, offset in offsets.items():
        knees_bent_at = {"sit2stand": 0, "stand2sit": -1}.get(activity.name)
        ends = {0, -1} - ({knees_bent_at} if name in ("qk", "jk", "qf", "jf") else set())
        assert all(abs(offset[end]) < 1e-9 for end in ends), name


def test_the_two_circles_are_mirror_images() -> None:
    one, other = (BY_NAME[f"draw_circle_{way}"].offsets(PHASE) for way in ("cw", "ccw"))
    assert set(one) == set(other)
    assert np.abs(one["rh"]).max() > 20
    for dof in one:
        np.testing.assert_allclose(one[dof], -other[dof] if dof == "rh" else other[dof])


@pytest.mark.parametrize(("name", "strides"), [("jog", 5), ("walk", 3)])
def test_gait_swings_the_legs_in_turn(name: str, strides: int) -> None:
    offsets = BY_NAME[name].offsets(np.linspace(0.1, 0.9, 801))
    difference = offsets["qf"] - offsets["jf"]
    upward = np.sum((difference[:-1] < 0) & (difference[1:] >= 0))
    assert upward in (strides - 1, strides)
    np.testing.assert_allclose(offsets["rf"], -offsets["lf"])
    assert np.corrcoef(offsets["rf"], offsets["qf"])[0, 1] < -0.9
