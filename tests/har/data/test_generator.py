"""The physics of the simulated recordings, checked by other means than those that made them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid
from scipy.interpolate import make_interp_spline
from scipy.spatial.transform import Rotation

from har.data.body import FOREARM, THIGH
from har.data.generator import (
    ACCELERATION_RANGE,
    GRAVITY,
    GYRO_RANGE,
    Clip,
    clip_pose,
    draw_clip,
    generate,
    inertial,
    sensor,
)
from har.data.utd_mhad import EDGES, JOINTS

WRIST, THIGH_WORN = (3, 9, 13), (22, 26, 27)
UPWARD = np.array([0, GRAVITY, 0])


def _clip(activity: int, subject: int = 2, trial: int = 1, seed: int = 5) -> Clip:
    return draw_clip(seed, activity, subject, trial)[0]


@pytest.mark.parametrize("activity", [5, 7, 21, 22, 26])
def test_bones_keep_their_lengths(activity: int) -> None:
    clip = _clip(activity)
    joints = clip_pose(clip, clip.times(30)).joints
    a, b = np.array(EDGES).T
    lengths = np.linalg.norm(joints[:, a] - joints[:, b], axis=2)
    np.testing.assert_allclose(lengths, lengths[:1].repeat(len(lengths), axis=0), atol=1e-12)
    of = dict(zip(EDGES, lengths[0] / clip.scale, strict=True))
    assert of[9, 10] == pytest.approx(FOREARM)
    assert of[16, 17] == pytest.approx(THIGH)
    assert np.ptp(joints, axis=0).max() > 0.2


@pytest.mark.parametrize("activity", [1, 22])
def test_a_still_person_feels_gravity_alone(activity: int) -> None:
    clip = _clip(activity)
    still = replace(clip, amplitude=0.0, sway=clip.sway * np.array([0, 1, 1])[:, None, None])
    times = still.times(50)
    imu = inertial(still, times)
    np.testing.assert_allclose(np.linalg.norm(imu[:, :3], axis=1), 1, atol=1e-8)
    np.testing.assert_allclose(imu[:, 3:], 0, atol=1e-8)
    _, turned = sensor(still, times)
    np.testing.assert_allclose(imu[:, :3], turned[:, 1], atol=1e-8)


@pytest.mark.parametrize("activity", WRIST + THIGH_WORN)
def test_acceleration_is_that_of_the_path_with_gravity_in_the_axes_of_the_sensor(
    activity: int,
) -> None:
    clip = _clip(activity)
    times = np.arange(0, clip.seconds, 1 / 500)
    place, turned = sensor(clip, times)
    second = make_interp_spline(times, place, k=7).derivative(2)(times)
    expected = np.einsum("tji,tj->ti", turned, second + UPWARD) / GRAVITY
    inside = slice(50, -50)
    error = np.abs(inertial(clip, times)[:, :3] - expected)[inside].max()
    assert error < 0.01 * np.linalg.norm(expected[inside], axis=1).mean()


@pytest.mark.parametrize("activity", WRIST + THIGH_WORN)
def test_angular_rate_integrates_to_the_turning_of_the_sensor(activity: int) -> None:
    clip = _clip(activity)
    step = 1 / 2000
    times = np.arange(0, 2, step)
    _, turned = sensor(clip, times)
    between = inertial(clip, times[:-1] + step / 2)[:, 3:]
    now = Rotation.from_matrix(turned[0])
    for turn in Rotation.from_rotvec(between * step, degrees=True):
        now = now * turn
    assert (now.inv() * Rotation.from_matrix(turned[-1])).magnitude() < np.radians(0.02)
    assert Rotation.from_matrix(turned[0].T @ turned[len(times) // 2]).magnitude() > 0.1


@pytest.mark.parametrize("activity", WRIST + THIGH_WORN)
def test_acceleration_integrates_to_the_way_of_the_sensor(activity: int) -> None:
    clip = _clip(activity)
    times = np.arange(0.1, 2, 1 / 2000)
    place, turned = sensor(clip, times)
    force = np.einsum("tij,tj->ti", turned, inertial(clip, times)[:, :3]) * GRAVITY
    start = (place[1] - place[0]) * 2000 - (force[0] - UPWARD) / 4000
    speed = start + cumulative_trapezoid(force - UPWARD, times, axis=0, initial=0)
    way = cumulative_trapezoid(speed, times, axis=0, initial=0)
    np.testing.assert_allclose(way, place - place[0], atol=1e-3)
    assert np.ptp(place, axis=0).max() > 0.1


@pytest.mark.parametrize(("activity", "limb"), [(21, (9, 10)), (22, (16, 17))])
def test_the_sensor_is_worn_on_the_wrist_then_on_the_thigh(
    activity: int, limb: tuple[int, int]
) -> None:
    clip = _clip(activity)
    times = clip.times(30)
    place, _ = sensor(clip, times)
    joints = clip_pose(clip, times).joints
    ends = [np.linalg.norm(place - joints[:, end], axis=1) for end in limb]
    for distance in ends:
        np.testing.assert_allclose(distance, distance[0], atol=1e-12)
    length = np.linalg.norm(joints[0, limb[0]] - joints[0, limb[1]])
    assert length < ends[0][0] + ends[1][0] < 1.1 * length


@pytest.mark.parametrize("activity", [7, 12, 21, 24, 25, 27])
def test_feet_stay_on_the_ground_where_knees_bend(activity: int) -> None:
    clip = _clip(activity)
    body = clip_pose(clip, clip.times(30)).joints
    foot, root = body[:, JOINTS.index("right_foot")], body[:, JOINTS.index("hip_centre")]
    np.testing.assert_allclose(foot, foot[:1].repeat(len(foot), axis=0), atol=1e-12)
    assert foot[0, 1] == pytest.approx(-1)
    assert np.ptp(root[:, 1]) > 0.01


def test_persons_are_the_same_in_all_trials_and_trials_differ() -> None:
    one, again, other = _clip(4, trial=1), _clip(4, trial=1), _clip(4, trial=2)
    elsewhere, stranger = _clip(19, trial=3), _clip(4, subject=3)
    for clip in (again, other, elsewhere):
        assert (clip.scale, clip.heading) == (one.scale, one.heading)
    assert (stranger.scale, stranger.heading) != (one.scale, one.heading)
    assert again.tempo == one.tempo != other.tempo
    np.testing.assert_array_equal(again.posture, one.posture)
    assert np.abs(one.posture - other.posture).max() > 0
    assert np.abs(one.posture - other.posture).std() < np.abs(one.posture - stranger.posture).std()


def test_recordings_have_the_frames_noise_and_bias_of_their_sensors() -> None:
    clip = _clip(16)
    skeleton, imu = generate(5, 16, 2, 1)
    assert skeleton.shape == (20, 3, int(clip.seconds * 30) + 1)
    assert imu.shape == (int(clip.seconds * 50) + 1, 6)
    clean = clip_pose(clip, clip.times(30)).joints.transpose(1, 2, 0)
    assert (skeleton - clean).std() == pytest.approx(0.008, rel=0.05)
    noise = imu - inertial(clip, clip.times(50))
    sigma = np.repeat([0.015, 1.5], 3)
    assert (np.abs(noise.mean(0) - clip.bias) < 4 * sigma / np.sqrt(len(noise))).all()
    np.testing.assert_allclose(noise.std(0), sigma, rtol=0.25)


def test_the_range_of_the_imu_ends() -> None:
    clip, _ = draw_clip(0, 17, 2, 1)
    perfect = np.abs(inertial(clip, clip.times(50))).max(0)
    assert perfect[:3].max() > 14
    assert perfect[3:].max() > 1300
    reached = np.abs(generate(0, 17, 2, 1)[1]).max(0)
    assert reached[:3].max() == ACCELERATION_RANGE
    assert reached[3:].max() == GYRO_RANGE
