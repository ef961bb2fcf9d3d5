import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from har.data.body import DOFS, REST, pose
from har.data.figures import (
    FROM_RIGHT,
    FRONT,
    HALF_LEFT,
    LEFT,
    RIGHT,
    Body,
    channel_groups,
    draw_figure,
    draw_traces,
    grounded,
    projected,
    times_of,
)
from har.data.recordings import Stream
from har.data.utd_mhad import CHANNELS, EDGES, JOINTS

BODY = Body(JOINTS, EDGES, "m")


def _standing(**angles: float) -> np.ndarray:
    of = REST + np.array([angles.get(dof, 0.0) for dof in DOFS])
    return pose(of[None], np.zeros((1, 2)), 1.0, 0.0, (0.0, 2.6)).joints[0]


def _drawn(turn: float, **angles: float) -> tuple[np.ndarray, list[str]]:
    """Bones as drawn, the last on top: their ends (bones, 2, 2) and colours."""
    axes: Axes = Figure().add_subplot()
    draw_figure(axes, _standing(**angles), BODY, turn=turn)
    (lines,) = [c for c in axes.collections if hasattr(c, "get_segments")]
    return np.array(lines.get_segments()), [to_hex(c).upper() for c in lines.get_colors()]


@pytest.mark.parametrize("turn", [FRONT, HALF_LEFT])
def test_seen_from_the_front_the_right_is_on_the_left(turn: float) -> None:
    bones, colors = _drawn(turn)
    across = {
        side: bones[[color == side for color in colors], :, 0].mean() for side in (RIGHT, LEFT)
    }
    assert across[RIGHT] < across[LEFT] - 0.1
    assert colors.count(RIGHT) == colors.count(LEFT) == 8
    heights = bones[:, :, 1]
    assert heights.min() == pytest.approx(-1)


def test_seen_from_the_right_the_person_looks_to_the_right() -> None:
    joints = _standing(rf=90)
    across, away = projected(joints, FROM_RIGHT)
    hand, shoulder = JOINTS.index("right_hand"), JOINTS.index("right_shoulder")
    assert across[hand] > across[shoulder] + 0.5
    assert away[JOINTS.index("right_hip")] < away[JOINTS.index("left_hip")]


def test_from_half_left_an_arm_towards_the_viewer_leaves_the_trunk() -> None:
    joints = _standing(rf=90)
    hand, shoulder = JOINTS.index("right_hand"), JOINTS.index("right_shoulder")
    across, away = projected(joints, HALF_LEFT)
    assert across[hand] < across[shoulder] - 0.2
    assert away[hand] < away[shoulder]


def test_what_is_nearer_covers_what_is_farther() -> None:
    assert _drawn(FROM_RIGHT)[1][-8:] == [RIGHT] * 8
    assert _drawn(FROM_RIGHT)[1][:8] == [LEFT] * 8
    assert set(_drawn(FRONT, rf=90)[1][-2:]) == {RIGHT}
    assert set(_drawn(FRONT, lf=90)[1][-2:]) == {LEFT}


def test_a_figure_is_centred_at_its_place() -> None:
    axes = Figure().add_subplot()
    lines, _ = draw_figure(axes, _standing() + np.array([5, 0, 0]), BODY, place=2.0)
    bones = np.array(lines.get_segments())
    assert abs((bones[:, :, 0].min() + bones[:, :, 0].max()) / 2 - 2.0) < 0.1


def test_without_bones_the_joints_are_drawn() -> None:
    axes = Figure().add_subplot()
    for edges, count in ((EDGES, 1), ([], len(JOINTS))):
        _, dots = draw_figure(axes, _standing(), Body(JOINTS, edges, "m"))
        assert len(dots.get_offsets()) == count


def test_the_ground_is_where_the_lowest_joint_is() -> None:
    path = np.stack([_standing(), _standing() + np.array([0, 0.5, 0])])
    assert grounded(path)[:, :, 1].min(1) == pytest.approx([0, 0.5])


def test_channels_of_one_sensor_share_a_panel() -> None:
    assert channel_groups(CHANNELS) == [
        ("acceleration [g]", [0, 1, 2]),
        ("angular rate [deg/s]", [3, 4, 5]),
    ]
    names = ["acc_phone_x [g]", "acc_watch_x [g]", "acc_phone_y [g]", "pressure [hPa]"]
    assert channel_groups(names) == [
        ("acc_phone [g]", [0, 2]),
        ("acc_watch [g]", [1]),
        ("pressure [hPa]", [3]),
    ]


def test_traces_are_drawn_to_scale_and_all_of_them() -> None:
    axes = Figure().add_subplot()
    values = np.linspace(-1, 2, 8)[:, None] * np.ones(10)
    draw_traces(axes, values, times_of(Stream(values.T, rate=5.0, start=1.0)))
    assert len(axes.lines) == 8
    np.testing.assert_array_equal(axes.lines[7].get_ydata(), values[7])
    np.testing.assert_allclose(axes.lines[0].get_xdata(), 1 + np.arange(10) / 5)
    assert axes.get_ylim()[1] > 2
