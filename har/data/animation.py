"""Recordings as moving stick figures."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from har.data.figures import (
    FROM_RIGHT,
    FRONT,
    STYLE,
    Body,
    channel_groups,
    draw_figure,
    draw_traces,
    grounded,
    name_channels,
    name_sides,
    times_of,
)
from har.data.recordings import IMU, SKELETON, Recordings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _TITLE, _VIEWS, _PANELS = 6.0, 0.75, 2.9, 1.4  # inches
_GREY = "#8A8A8A"
_MILLISECONDS = 80  # a picture; GIF counts in tens


def animate(recordings: Recordings, number: int, file: str | Path) -> None:
    """One recording as a GIF: the figure from the front and from its right, above the IMU.

    Args:
        recordings: as they were read.
        number: which of them; it needs a skeleton, an IMU is drawn where there is one.
        file: the GIF to write, 600 pixels wide, at the speed of the recording.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    recording = recordings.recordings[number]
    skeleton, imu = recording.streams[SKELETON], recording.streams.get(IMU)
    groups = [] if imu is None else channel_groups(recordings.channels)
    body = Body(recordings.joints, recordings.edges, "m")
    joints, times = _centred(skeleton.values), times_of(skeleton)
    activity = recordings.classes[recording.label] if recording.label >= 0 else ""
    parts = [activity.replace("_", " "), f"subject {recording.subject}", recording.name]
    tall = _TITLE + _VIEWS + (0.2 if imu is None else _PANELS + 0.7)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, tall))
        title = "  \N{MIDDLE DOT}  ".join(filter(None, parts))
        figure.text(0.02, 1 - 0.12 / tall, title, va="top", weight="bold")
        name_sides(figure, 1 - 0.3 / tall)

        def axes_at(column: int, columns: int, bottom: float, height: float) -> "Axes":
            width = (_WIDTH - 0.2) / columns
            left = 0.15 + 0.6 + column * width
            size = ((width - 0.7) / _WIDTH, height / tall)
            return figure.add_axes((left / _WIDTH, bottom / tall, *size))

        views = []
        for column, (turn, name) in enumerate(((FRONT, "front"), (FROM_RIGHT, "person's right"))):
            axes = axes_at(column, 2, tall - _TITLE - _VIEWS, _VIEWS - 0.25)
            _look_from(axes, joints, f"from the {name}")
            views.append((axes, turn))
        panels = []
        for column, (label, members) in enumerate(groups):
            axes = axes_at(column, len(groups), 0.5, _PANELS)
            draw_traces(axes, imu.values.T[members], times_of(imu))
            axes.set_ylabel(label)
            axes.set_xlabel("time [s]")
            panels.append(axes)
        if groups:
            name_channels(figure, recordings.channels, groups, (_PANELS + 0.8) / tall)

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        # Axes and traces do not move: only figures and cursors are drawn for each picture.
        background = canvas.copy_from_bbox(figure.bbox)
        pictures = []
        for instant in np.arange(times[0], times[-1], _MILLISECONDS / 1000):
            canvas.restore_region(background)
            pose = joints[np.argmin(np.abs(times - instant))]
            for axes, turn in views:
                for artist in draw_figure(axes, pose, body, turn=turn, width=3):
                    axes.draw_artist(artist)
                    artist.remove()
            for axes in panels:
                cursor = axes.axvline(instant, color=_GREY, linewidth=2)
                axes.draw_artist(cursor)
                cursor.remove()
            pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    palette = pictures[0].quantize(64)
    first, *others = [picture.quantize(palette=palette, dither=0) for picture in pictures]
    first.save(file, save_all=True, append_images=others, duration=_MILLISECONDS, loop=0)


def _centred(joints: Float[np.ndarray, "time joints 3"]) -> Float[np.ndarray, "time joints 3"]:
    middle = np.median(joints, axis=(0, 1)) * (1, 0, 1)
    return grounded(joints - middle)


def _look_from(axes: "Axes", joints: Float[np.ndarray, "time joints 3"], title: str) -> None:
    reach = float(np.abs(joints[:, :, [0, 2]]).max()) + 0.1
    axes.set_title(title, fontsize=9.5)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-0.05, float(joints[:, :, 1].max()) + 0.1)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_ylabel("height [m]")
