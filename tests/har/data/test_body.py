import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from har.data.body import DOFS, REST, pose, rotation
from har.data.utd_mhad import EDGES, JOINTS

LEFT, RIGHT, UP, FORWARD = (
    np.array([-1, 0, 0]),
    np.array([1, 0, 0]),
    np.array([0, 1, 0]),
    (0, 0, -1),
)


def _joints(scale: float = 1.0, heading: float = 0.0, **angles: float) -> dict[str, np.ndarray]:
    of = REST + np.array([angles.get(dof, 0.0) for dof in DOFS])
    body = pose(of[None], np.zeros((1, 2)), scale, heading, (0.0, 2.6))
    return dict(zip(JOINTS, body.joints[0], strict=True))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rotations_are_active_and_right_handed(axis: int) -> None:
    angles = np.array([-170.0, 0.0, 35.0, 90.0])
    expected = Rotation.from_rotvec(np.outer(angles, np.eye(3)[axis]), degrees=True).as_matrix()
    np.testing.assert_allclose(rotation(axis, angles), expected, atol=1e-15)


def test_a_person_at_rest_stands_before_the_camera() -> None:
    joints = _joints(ra=-8, la=-8, re=-10, le=-10)
    height = {name: place[1] + 1.0 for name, place in joints.items()}
    assert height["left_foot"] == height["right_foot"] == pytest.approx(0)
    assert height["head"] == pytest.approx(0.06 + 0.41 + 0.42 + 0.05 + 0.10 + 0.35 + 0.20)
    assert height["right_hand"] == pytest.approx(height["shoulder_centre"] - 0.04 - 0.63)
    assert joints["right_shoulder"][0] == pytest.approx(0.18)
    assert joints["left_hip"][0] == pytest.approx(-0.09)
    # The person faces the camera, which is at z = 0.
    assert joints["right_foot"][2] == pytest.approx(2.6 - 0.13)


@pytest.mark.parametrize(
    ("dof", "joint", "degrees", "direction"),
    [
        ("rf", "right_hand", 90, FORWARD),
        ("lf", "left_hand", 90, FORWARD),
        ("ra", "right_hand", 80, RIGHT),
        ("la", "left_hand", 80, LEFT),
        ("re", "right_hand", 90, FORWARD),
        ("qf", "right_knee", 45, FORWARD),
        ("jf", "left_knee", 45, FORWARD),
        ("qk", "right_ankle", 60, (0, 0, 1)),
        ("ln", "head", 30, FORWARD),
        ("ro", "head", 20, LEFT),
        ("tw", "right_shoulder", 30, FORWARD),
    ],
)
def test_positive_angles_move_as_their_names_say(
    dof: str, joint: str, degrees: float, direction: np.ndarray
) -> None:
    way = _joints(**{dof: degrees})[joint] - _joints()[joint]
    assert way @ np.asarray(direction) > 0.5 * np.linalg.norm(way) > 0.03


def test_adduction_crosses_a_raised_arm_before_the_trunk() -> None:
    across = _joints(rf=90, rh=60)["right_hand"] - _joints(rf=90)["right_hand"]
    assert across @ LEFT > 0.4


def test_left_and_right_are_mirror_images() -> None:
    rng = np.random.default_rng(3)
    angles = dict(zip(DOFS, rng.uniform(-30, 30, len(DOFS)), strict=True)) | {"tw": 0, "ro": 0}
    swap = {"r": "l", "l": "r", "q": "j", "j": "q"}
    swapped = {
        dof if dof in ("tw", "ro", "ln") else swap[dof[0]] + dof[1]: value
        for dof, value in angles.items()
    }
    one, other = _joints(**angles), _joints(**swapped)
    for name, place in one.items():
        side = {"left": "right", "right": "left"}.get(name.partition("_")[0])
        partner = name if side is None else f"{side}_{name.partition('_')[2]}"
        np.testing.assert_allclose(place * (-1, 1, 1), other[partner], atol=1e-12)


def test_size_and_heading_change_no_shape() -> None:
    angles = {"rf": 50.0, "qk": 30.0, "tw": 20.0}
    one = np.stack(list(_joints(**angles).values()))
    other = np.stack(list(_joints(scale=1.3, heading=40, **angles).values()))
    turned = (one - one[3]) @ rotation(1, 40.0).T * 1.3
    np.testing.assert_allclose(other - other[3], turned, atol=1e-12)


def test_every_joint_hangs_on_a_bone() -> None:
    assert {joint for edge in EDGES for joint in edge} == set(range(20))
