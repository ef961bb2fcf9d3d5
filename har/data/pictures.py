"""Pictures of recordings: strips of stick figures beside the traces of the IMU.

The person's right is on the viewer's left, who stands before the person, a little to one side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from har.data.figures import (
    HALF_LEFT,
    INK,
    RIGHT,
    STYLE,
    Body,
    channel_groups,
    draw_figure,
    draw_traces,
    grounded,
    name_channels,
    name_sides,
    projected,
    times_of,
)
from har.data.recordings import IMU, SKELETON, Recording, Recordings, Stream

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FIGURES = 9
# Inches: of the picture, of its margins, and of what stands around the panels of a row.
_WIDTH, _LEFT_EDGE, _RIGHT_EDGE, _LEGEND, _FOOT = 12.0, 0.75, 0.25, 0.45, 0.3
_GAP, _ABOVE, _BELOW = 0.8, 0.36, 0.34
_HIGH_ALONE = 1.4
_SHADE, _GREY = "#EEF2F6", "#7A7A7A"


@dataclass(frozen=True)
class Shown:
    """One recording or window to be shown.

    Attributes:
        name: of the recording.
        activity: what it is, or "".
        subject: whose it is, or "".
        skeleton: (3, time, joints), not standardised: in metres or in lengths of a bone.
        imu: (channels, time), not standardised.
        seconds: how long it is; None where clips were stretched to a common length.
        cosine: similarity to the query.
    """

    name: str
    activity: str = ""
    subject: str = ""
    skeleton: Float[np.ndarray, "3 time joints"] | None = None
    imu: Float[np.ndarray, "channels time"] | None = None
    seconds: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class _Row:
    title: str
    skeleton: Stream | None
    imu: Stream | None
    color: str = INK
    is_query: bool = False


def draw_search(
    query: Shown,
    found: Sequence[Shown],
    file: str | Path,
    joints: Sequence[str],
    edges: Sequence[tuple[int, int]],
    channels: Sequence[str],
    unit: str = "m",
) -> None:
    """A query above what was found, each a strip of stick figures next to its IMU traces.

    Args:
        query: with the modalities that the search was given.
        found: the nearest first.
        file: the PNG to write, 1200 pixels wide.
        joints: names of the skeleton's joints; "left" and "right" in them decide the colours.
        edges: pairs of joints that a bone connects.
        channels: names of the IMU's channels with units, e.g. `acc_x [g]`.
        unit: of the skeletons, `m`, or e.g. `spine lengths`.
    """
    rows = [_row_of(query, f"Query: {_title(query)}", is_query=True)]
    for rank, hit in enumerate(found, start=1):
        title, color = f"{rank}. {_title(hit)}", INK
        if hit.activity and query.activity:
            same = hit.activity == query.activity
            title += "  (same activity)" if same else "  (another activity)"
            color = INK if same else RIGHT
        rows.append(_row_of(hit, title, color))
    clock = "time [s]" if query.seconds else "time [% of the clip]"
    _draw_rows(rows, file, Body(joints, edges, unit), channels, clock)


def draw_activities(recordings: Recordings, file: str | Path, count: int = 6) -> None:
    """The first recording of each of some activities, one a row.

    Args:
        recordings: as they were read; activities are taken at even steps from those that occur.
        file: the PNG to write, 1200 pixels wide.
        count: how many activities.
    """
    first: dict[int, Recording] = {}
    for recording in recordings.recordings:
        first.setdefault(recording.label, recording)
    labels = sorted(first)
    steps = np.linspace(0, len(labels) - 1, min(count, len(labels)))
    rows = []
    for recording in (first[labels[int(step)]] for step in steps):
        activity = recordings.classes[recording.label] if recording.label >= 0 else ""
        title = _title(Shown(recording.name, activity, recording.subject))
        rows.append(_Row(title, recording.streams.get(SKELETON), recording.streams.get(IMU)))
    body = Body(recordings.joints, recordings.edges, "m")
    _draw_rows(rows, file, body, recordings.channels, "time [s]")


def _title(shown: Shown) -> str:
    parts = [
        shown.activity.replace("_", " "),
        f"subject {shown.subject}" if shown.subject else "",
        shown.name,
        "" if shown.cosine is None else f"cosine {shown.cosine:.2f}",
    ]
    return "  \N{MIDDLE DOT}  ".join(filter(None, parts))


def _row_of(shown: Shown, title: str, color: str = INK, is_query: bool = False) -> _Row:
    def stream(values: np.ndarray | None) -> Stream | None:
        # Without a duration the clock counts percents.
        return None if values is None else Stream(values, len(values) / (shown.seconds or 100.0))

    skeleton = None if shown.skeleton is None else shown.skeleton.transpose(1, 2, 0)
    imu = None if shown.imu is None else shown.imu.T
    return _Row(title, stream(skeleton), stream(imu), color, is_query)


def _draw_rows(
    rows: Sequence[_Row], file: str | Path, body: Body, channels: Sequence[str], clock: str
) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    skeletons = [grounded(row.skeleton.values) for row in rows if row.skeleton is not None]
    groups = channel_groups(channels) if any(row.imu is not None for row in rows) else []
    room = _WIDTH - _LEFT_EDGE - _RIGHT_EDGE
    strip = 0.0 if not skeletons else 0.56 * room if groups else room
    pitch, height, high = 1.0, 1.0, _HIGH_ALONE
    if skeletons:
        pitch, height = _extent(skeletons)
        high = float(np.clip(strip * height / (_FIGURES * pitch), 1.0, 2.4))
    each = (room - strip + (0 if skeletons else _GAP)) / max(len(groups), 1)
    row_high = _ABOVE + high + _BELOW
    tall = _LEGEND + len(rows) * row_high + _FOOT

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, tall))
        for number, row in enumerate(rows):
            top = tall - _LEGEND - number * row_high
            bottom = top - _ABOVE - high
            label = clock if number == len(rows) - 1 else ""

            def panel(left: float, width: float, bottom: float = bottom) -> "Axes":
                return figure.add_axes((left / _WIDTH, bottom / tall, width / _WIDTH, high / tall))

            if row.is_query:
                _shade(figure, (top - row_high) / tall, row_high / tall)
            place = (0.02, (top - 0.1) / tall)
            figure.text(*place, row.title, va="top", weight="bold", color=row.color)
            if skeletons:
                axes = panel(_LEFT_EDGE, strip)
                if row.skeleton is None:
                    _say(axes, "the search was given the IMU alone")
                else:
                    _strip(axes, row.skeleton, body, pitch, height)
                    axes.set_xlabel(label)
            for i, (quantity, members) in enumerate(groups):
                left = _LEFT_EDGE + strip + (_GAP if skeletons else 0) + i * each
                axes = panel(left, each - _GAP)
                if row.imu is None:
                    _say(axes, "" if i else "the search was given the skeleton alone")
                else:
                    draw_traces(axes, row.imu.values.T[members], times_of(row.imu))
                    axes.set_ylabel(quantity)
                    axes.yaxis.set_label_coords(-0.52 / (each - _GAP), 0.5)
                    axes.set_xlabel(label)
        if skeletons:
            name_sides(figure, 1 - 0.05 / tall, " (all seen from the front)")
        if groups:
            name_channels(figure, channels, groups, 1 - 0.05 / tall)
        figure.savefig(file, dpi=100)


def _extent(skeletons: Sequence[Float[np.ndarray, "time joints 3"]]) -> tuple[float, float]:
    """How far apart figures are drawn, and how high their strip is."""
    height = 1.06 * max(skeleton[:, :, 1].max() for skeleton in skeletons)
    across = [projected(skeleton, HALF_LEFT)[0] for skeleton in skeletons]
    width = max(np.ptp(figures, axis=1).max() for figures in across)
    return float(np.clip(1.05 * width, 0.4 * height, 0.6 * height)), float(height)


def _strip(
    axes: "Axes",
    skeleton: Stream,
    body: Body,
    pitch: float,
    height: float,
) -> None:
    """Figures at even times, side by side, each centred."""
    joints, times = grounded(skeleton.values), times_of(skeleton)
    frames = np.unique(np.linspace(0, len(joints) - 1, _FIGURES).round().astype(int))
    for position, frame in enumerate(frames):
        draw_figure(axes, joints[frame], body, place=(position + 0.5) * pitch)
    axes.set_xlim(0, _FIGURES * pitch)
    axes.set_ylim(-0.03 * height, height)
    digits = 0 if times[-1] > 20 else 1
    labels = [f"{times[frame]:.{digits}f}" for frame in frames]
    axes.set_xticks([(i + 0.5) * pitch for i in range(len(frames))], labels)
    axes.set_ylabel(f"height [{body.unit}]")


def _say(axes: "Axes", text: str) -> None:
    axes.set_axis_off()
    axes.text(0, 0.5, text, transform=axes.transAxes, color=_GREY, va="center")


def _shade(figure: "Figure", bottom: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    shade = Rectangle((0, bottom), 1, height, transform=figure.transFigure, color=_SHADE, zorder=-1)
    figure.add_artist(shade)
