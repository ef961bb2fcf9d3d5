from pathlib import Path

import numpy as np
from matplotlib.image import imread

from medical.data.volume_pictures import Overlay, draw_overlays


def _near(file: Path, grey: float) -> np.ndarray:
    return np.abs(imread(file)[..., :3] - grey).max(-1) < 0.1


def test_the_patients_right_is_on_the_viewers_left_and_the_head_is_up(tmp_path: Path) -> None:
    values, file = np.full((40, 40, 40), 0.5, np.float32), tmp_path / "a.png"
    shown = Overlay("a", values, (1.0, 1.0, 1.0), (30, 28, 33))
    draw_overlays([shown], file)
    panels = _near(file, 0.5)
    columns = np.flatnonzero(panels.sum(0) > 100)
    middles = [part.mean() for part in np.split(columns, np.flatnonzero(np.diff(columns) > 5) + 1)]
    height = np.flatnonzero(panels.sum(1) > 100).mean()
    assert len(middles) == 3
    places = {}
    for name, block in (("right", np.s_[26:34]), ("front", np.s_[24:32]), ("head", np.s_[29:37])):
        values[:] = 0.5
        axis = ("right", "front", "head").index(name)
        at = [slice(None)] * 3
        at[axis] = block
        values[tuple(at)] = 1
        draw_overlays([shown], file)
        white = np.argwhere(_near(file, 1.0) & panels)
        nearest = np.abs(white[:, 1:] - middles).argmin(1)
        places[name] = [np.median(white[nearest == panel], axis=0) for panel in range(3)]
    axial, coronal, _ = places["right"]
    assert axial[1] < middles[0] - 10
    assert coronal[1] < middles[1] - 10
    axial, _, sagittal = places["front"]
    assert axial[0] < height - 10  # the patient lies on the back
    assert sagittal[1] < middles[2] - 10
    _, coronal, sagittal = places["head"]
    assert coronal[0] < height - 10
    assert sagittal[0] < height - 10


def test_predictions_are_filled_and_truth_is_outlined(tmp_path: Path) -> None:
    values = np.zeros((30, 30, 30), np.float32)
    labels = np.zeros((30, 30, 30), int)
    labels[5:20, 5:20, 5:20] = 1
    counts = []
    for options in ({}, {"labels": labels}, {"truth": labels}, {"heat": labels / 1.0}):
        file = tmp_path / "a.png"
        draw_overlays([Overlay("a", values, (1, 1, 2), (10, 10, 10), **options)], str(file))
        image = imread(file)[..., :3]
        counts.append(int(((image.max(-1) - image.min(-1)) > 0.2).sum()))
    none, filled, outlined, heated = counts
    assert none == 0
    assert outlined > 100
    assert filled > 5 * outlined
    assert heated > 0
