from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from har.data.animation import animate
from har.data.figures import LEFT, RIGHT
from har.data.generator import generate
from har.data.pictures import Shown, draw_activities, draw_search
from har.data.recordings import IMU, SKELETON, Recording, Recordings, Stream
from har.data.utd_mhad import CHANNELS, CLASSES, EDGES, JOINTS

SKELETONS = (JOINTS, EDGES, CHANNELS)
STRIPS = slice(0, 700)


def _recordings(*activities: int, modalities: tuple[str, ...] = (SKELETON, IMU)) -> Recordings:
    recordings = []
    for activity in activities:
        skeleton, imu = generate(0, activity, 1, 1)
        streams = {SKELETON: Stream(skeleton.transpose(2, 0, 1), 30), IMU: Stream(imu, 50)}
        streams = {name: streams[name] for name in modalities}
        recordings.append(Recording(f"a{activity}_s1_t1", "1", activity - 1, streams))
    return Recordings(recordings, CLASSES, JOINTS, EDGES, CHANNELS)


def _shown(activity: int, **more: float) -> Shown:
    skeleton, imu = generate(0, activity, 1, 1)
    skeleton = skeleton.transpose(1, 2, 0)
    return Shown(f"a{activity}", CLASSES[activity - 1], "1", skeleton, imu.T, **more)


def _pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def _columns(pixels: np.ndarray, color: str) -> np.ndarray:
    """Abscissas of all pixels of a colour."""
    wanted = np.round(np.array(to_rgb(color)) * 255)
    return np.nonzero((pixels == wanted).all(2))[1]


def test_strips_show_the_right_side_on_the_left(tmp_path: Path) -> None:
    draw_activities(_recordings(23), tmp_path / "walk.png")
    pixels = _pixels(tmp_path / "walk.png")
    assert pixels.shape[1] == 1200
    strip = pixels[60:, STRIPS]
    right, left = _columns(strip, RIGHT), _columns(strip, LEFT)
    assert min(len(right), len(left)) > 500
    assert right.min() < left.min()
    assert right.max() < left.max()
    assert right.mean() < left.mean() - 10


def test_activities_are_spread_over_those_that_occur(tmp_path: Path) -> None:
    draw_activities(_recordings(1, 2, 3, 4), tmp_path / "four.png", count=9)
    draw_activities(_recordings(1, 2, 3, 4), tmp_path / "two.png", count=2)
    draw_activities(_recordings(1, 4), tmp_path / "ends.png")
    four, two, ends = (_pixels(tmp_path / f"{name}.png") for name in ("four", "two", "ends"))
    np.testing.assert_array_equal(two, ends)
    assert four.shape[0] > 1.8 * two.shape[0]


@pytest.mark.parametrize("modality", [SKELETON, IMU])
def test_recordings_of_one_sensor_fill_the_picture(modality: str, tmp_path: Path) -> None:
    draw_activities(_recordings(3, modalities=(modality,)), tmp_path / "one.png")
    pixels = _pixels(tmp_path / "one.png")
    drawn = len(_columns(pixels[60:, STRIPS], LEFT))
    assert drawn > 100 if modality == SKELETON else drawn == 0
    assert (pixels[80:-80, 800:1100] < 200).any()


def test_a_search_shows_a_row_for_the_query_and_each_hit(tmp_path: Path) -> None:
    query, hits = _shown(3), [_shown(3, cosine=0.9), _shown(4, cosine=0.5)]
    heights = []
    for n in (0, 1, 2):
        draw_search(query, hits[:n], tmp_path / "search.png", *SKELETONS)
        pixels = _pixels(tmp_path / "search.png")
        assert pixels.shape[1] == 1200
        heights.append(pixels.shape[0])
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=2)
    assert heights[1] - heights[0] > 100


def test_a_hit_of_another_activity_stands_out(tmp_path: Path) -> None:
    titles = {}
    for name, hit in (("same", _shown(3)), ("other", replace(_shown(3), activity="clap"))):
        draw_search(_shown(3), [hit], tmp_path / f"{name}.png", *SKELETONS)
        pixels = _pixels(tmp_path / f"{name}.png")
        half = pixels.shape[0] // 2
        titles[name] = len(_columns(pixels[half : half + 45], RIGHT))
    assert titles["other"] > titles["same"] + 50


@pytest.mark.parametrize("missing", ["skeleton", "imu"])
def test_what_the_search_was_not_given_is_not_drawn(missing: str, tmp_path: Path) -> None:
    query = replace(_shown(3), **{missing: None})
    draw_search(query, [_shown(3, cosine=0.9)], tmp_path / "search.png", *SKELETONS)
    pixels = _pixels(tmp_path / "search.png")
    of_query, of_hit = pixels[70 : len(pixels) // 2 - 10], pixels[len(pixels) // 2 :]
    strips = [len(_columns(part[:, STRIPS], LEFT)) for part in (of_query, of_hit)]
    traces = [len(_columns(part[:, 750:], "#009E73")) for part in (of_query, of_hit)]
    assert strips[1] > 200
    assert traces[1] > 100
    assert (strips if missing == "skeleton" else traces)[0] == 0


def test_a_file_of_windows_without_clock_or_labels_is_drawn(tmp_path: Path) -> None:
    hit = Shown("x", skeleton=_shown(7).skeleton, imu=_shown(7).imu)
    draw_search(hit, [hit], tmp_path / "percent.png", *SKELETONS, unit="spine lengths")
    timed = replace(hit, seconds=2.5)
    draw_search(timed, [timed], tmp_path / "seconds.png", *SKELETONS, unit="spine lengths")
    percent, seconds = (_pixels(tmp_path / f"{name}.png") for name in ("percent", "seconds"))
    assert percent.shape == seconds.shape
    assert (percent != seconds).any()


@pytest.mark.parametrize("modalities", [(SKELETON,), (SKELETON, IMU)])
def test_an_animation_runs_at_the_speed_of_the_recording(
    modalities: tuple[str, ...], tmp_path: Path
) -> None:
    recordings = _recordings(1, 27, modalities=modalities)
    animate(recordings, 1, tmp_path / "squat.gif")
    seconds = recordings.recordings[1].streams[SKELETON].seconds
    with Image.open(tmp_path / "squat.gif") as picture:
        assert picture.size[0] == 600
        assert picture.n_frames * picture.info["duration"] / 1000 == pytest.approx(seconds, abs=0.1)
        frames = []
        for number in (0, picture.n_frames // 2):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("L"), dtype=float))
    standing, squatting = ((frame[100:200] < 100).sum() for frame in frames)
    assert squatting < 0.6 * standing
