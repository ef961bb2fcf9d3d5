"""What pictures of recordings are made of: stick figures, the traces of an IMU, their legends.

Skeletons are in the axes of the recordings: +x the person's right when facing the camera, +y up, +z
away from the camera. A viewer in front of a person has the person's right on the left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from har.data.recordings import Stream

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito's palette: told apart with every common colour blindness.
RIGHT, LEFT, INK = "#D55E00", "#0072B2", "#222222"
_CHANNELS = ("#009E73", "#CC79A7", "#222222", "#E69F00", "#56B4E9", "#7A7A7A")
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8A8A8A",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}
# Degrees by which the viewer has walked round the person, towards the person's left. From straight
# ahead, arms stretched to the viewer and bent knees look like hanging arms and short legs.
FRONT, HALF_LEFT, FROM_RIGHT = 0.0, 25.0, -90.0


@dataclass(frozen=True)
class Body:
    """Names of the joints, pairs of them that a bone connects, and the unit of length."""

    joints: Sequence[str]
    edges: Sequence[tuple[int, int]]
    unit: str

    def colors(self) -> list[str]:
        """Of each edge, by the names of its joints."""
        names = [f"{self.joints[a]} {self.joints[b]}".lower() for a, b in self.edges]
        return [RIGHT if "right" in n else LEFT if "left" in n else INK for n in names]


def times_of(stream: Stream) -> Float[np.ndarray, " time"]:
    """Seconds of the samples."""
    return stream.start + np.arange(len(stream.values)) / stream.rate


def grounded(skeleton: Float[np.ndarray, "time joints 3"]) -> Float[np.ndarray, "time joints 3"]:
    """With the lowest joint of all at height 0."""
    return skeleton - np.array([0, skeleton[:, :, 1].min(), 0])


def channel_groups(channels: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The label of each panel's axis, and the channels in it: those of one sensor and unit."""
    words = {"acc": "acceleration", "gyro": "angular rate"}
    groups: dict[str, list[int]] = {}
    for number, channel in enumerate(channels):
        name, _, unit = channel.partition(" ")
        sensor = name.rpartition("_")[0] or name
        groups.setdefault(f"{words.get(sensor, sensor)} {unit}".strip(), []).append(number)
    return list(groups.items())


def projected(
    skeleton: Float[np.ndarray, "... 3"], turn: float
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """To the right and away from a viewer, who looks along +z (so that +x is left) and turns."""
    x, z = skeleton[..., 0], skeleton[..., 2]
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    return z * sin - x * cos, z * cos + x * sin


def draw_figure(
    axes: "Axes",
    joints: Float[np.ndarray, "joints 3"],
    body: Body,
    place: float | None = None,
    turn: float = HALF_LEFT,
    width: float = 2.2,
) -> list["Artist"]:
    """A stick figure, what is nearer to the viewer above the rest; centred at `place` if given.

    Where no bones are named, only the joints.
    """
    from matplotlib.collections import LineCollection

    across, depth = projected(joints, turn)
    if place is not None:
        across = across - np.median(across) + place
    points = np.stack([across, joints[:, 1]], axis=1)
    edges = np.asarray(body.edges, dtype=np.int64).reshape(-1, 2)
    order = np.argsort(-depth[edges].mean(1), kind="stable")
    colors = [body.colors()[number] for number in order]
    lines = LineCollection(points[edges[order]], colors=colors, linewidths=width, capstyle="round")
    axes.add_collection(lines)
    names = enumerate(body.joints)
    heads = [i for i, name in names if not len(edges) or name.lower() in ("head", "nose")]
    dots = axes.scatter(*points[heads].T, s=12 * width**1.5, color=INK, zorder=3)
    return [lines, dots]


def draw_traces(
    axes: "Axes", values: Float[np.ndarray, "channels time"], times: Float[np.ndarray, " time"]
) -> None:
    """Channels of one sensor over time."""
    for channel, color in zip(values, cycle(_CHANNELS), strict=False):
        axes.plot(times, channel, color=color, linewidth=1.2)
    axes.set_xlim(times[0], times[-1])
    reach = max(1.05 * float(np.abs(values).max()), 1e-6)
    axes.set_ylim(-reach, reach)


def name_sides(figure: "Figure", top: float, view: str = "") -> None:
    """A legend of the limbs' colours, at the left below `top`, as a share of the height."""
    names = ("right arm and leg", "left arm and leg", f"head and trunk{view}")
    _legend(figure, names, (RIGHT, LEFT, INK), "upper left", (0.01, top))


def name_channels(
    figure: "Figure", channels: Sequence[str], groups: Sequence[tuple[str, list[int]]], top: float
) -> None:
    """A legend of the traces' colours, at the right below `top`."""
    widest = max((members for _, members in groups), key=len)
    names = [channels[i].partition(" ")[0].rpartition("_")[2] for i in widest]
    _legend(figure, names, _CHANNELS, "upper right", (0.99, top))


def _legend(
    figure: "Figure",
    names: Sequence[str],
    colors: Sequence[str],
    place: str,
    corner: tuple[float, float],
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, linewidth=2.5, label=name)
        for name, color in zip(names, cycle(colors), strict=False)
    ]
    look = {"ncols": len(handles), "fontsize": 9, "handlelength": 1.3, "columnspacing": 1.5}
    figure.legend(handles=handles, loc=place, bbox_to_anchor=corner, **look)
