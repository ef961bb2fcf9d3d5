"""Pictures of chips: true colour, backscatter, and what a search found."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from remote_sensing.data.bands import RADAR
from remote_sensing.data.chips import Chips

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRUE_COLOUR = ("B04", "B03", "B02")
_SIDE, _TEXT = 1.9, 0.55  # inches
_SAME, _OTHER = "#1B7837", "#B2182B"


def picture(data: Chips, sensor: str, row: int) -> Float[np.ndarray, "height width 3"]:
    """A chip as a person sees it, 0 to 1: stretched from mean - 2 to mean + 2 deviations.

    Optical is red, green and blue where these bands are there, else the third, second and first
    band; radar is its first two, such as VV and VH, and their ratio.
    """
    seen = data.batch(torch.tensor([row], device=data.inputs[sensor].device))
    shown = rendered(seen[sensor][0].cpu().numpy(), data.bands[sensor], sensor)
    if "valid" in seen:
        shown[~seen["valid"][0].cpu().numpy()] = 1.0
    return shown


def rendered(
    values: Float[np.ndarray, "bands height width"], names: Sequence[str], sensor: str
) -> Float[np.ndarray, "height width 3"]:
    """Bands as red, green and blue; see `picture`."""
    shown = [values[names.index(band)] for band in _shown(names, sensor)]
    if sensor == RADAR:
        shown.append(np.clip(0.5 + (shown[0] - shown[1]) / 2, 0, 1))
    return np.stack(shown, -1)


def title_of(names: Sequence[str], sensor: str) -> str:
    """The sensor, and which bands are red, green and blue."""
    shown = _shown(names, sensor)
    return f"{sensor}, {' '.join(shown)}" + (f" {'/'.join(shown)}" if sensor == RADAR else "")


def _shown(names: Sequence[str], sensor: str) -> list[str]:
    """The bands that a picture is made of; radar has their ratio beside them."""
    if sensor == RADAR:
        return [names[0], names[min(1, len(names) - 1)]]
    if all(band in names for band in _TRUE_COLOUR):
        return list(_TRUE_COLOUR)
    return [names[min(n, len(names) - 1)] for n in (2, 1, 0)]


def draw_gallery(
    data: Chips,
    query: tuple[str, int],
    target: str,
    found: Sequence[tuple[int, float]],
    file: str | Path,
) -> None:
    """The query on the left, what was found beside it; below each chip, the other sensor.

    Args:
        data: the chips.
        query: sensor and row that the search was given.
        target: the sensor that was searched.
        found: row and cosine, the nearest first.
        file: the PNG to write.
    """
    from matplotlib.figure import Figure

    kind, asked = query
    sensors = [s for s in (target, *data.inputs) if s in data.inputs]
    sensors = list(dict.fromkeys(sensors))
    n_columns, n_rows = len(found) + 1, len(sensors)
    size = (_SIDE * n_columns + 0.3, (_SIDE + 0.12) * n_rows + _TEXT + 0.35)
    figure = Figure(figsize=size)
    for column, (row, cosine) in enumerate([(asked, float("nan")), *found]):
        for place, sensor in enumerate(sensors):
            axes: Axes = figure.add_axes(
                (
                    (0.3 + _SIDE * column + 0.05) / size[0],
                    (0.1 + (_SIDE + 0.12) * (n_rows - 1 - place)) / size[1],
                    (_SIDE - 0.1) / size[0],
                    _SIDE / size[1],
                )
            )
            axes.imshow(picture(data, sensor, row), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            given = column == 0 and sensor == kind
            searched = column > 0 and sensor == target
            for spine in axes.spines.values():
                spine.set_linewidth(2.5 if given or searched else 0.5)
                spine.set_color("black" if given or searched else "#BBBBBB")
            if column == 0:
                axes.set_ylabel(title_of(data.bands[sensor], sensor), fontsize=8)
        middle = (0.3 + _SIDE * (column + 0.5)) / size[0]
        top = 1 - 0.3 / size[1]
        title = "query" if column == 0 else f"{column}.  cosine {cosine:.2f}"
        title += "\nthe same chip" if column and row == asked else ""
        cover = _covers(data, row)
        figure.text(middle, top, f"{title}\n{data.ids[row]}\n{cover}", **_style(data, asked, row))
    figure.text(
        0.3 / size[0],
        1 - 0.05 / size[1],
        f"asked by {kind}, answered by {target} (black frames); the other sensor is only shown",
        va="top",
        fontsize=8,
    )
    figure.savefig(file, dpi=110)


def _style(data: Chips, asked: int, row: int) -> dict[str, object]:
    colour = "black"
    if row != asked and "label" in data.labels:
        one, other = (int(data.labels["label"][i]) for i in (asked, row))
        if min(one, other) >= 0:
            colour = _SAME if one == other else _OTHER
    return {"ha": "center", "va": "top", "fontsize": 7, "color": colour}


def _covers(data: Chips, row: int) -> str:
    """The classes that cover most of a chip, with their shares."""
    if data.targets is None or bool(data.targets[row, 0].isnan()):
        return ""
    shares = data.targets[row].cpu()
    largest = shares.topk(min(2, len(shares)))
    named = zip(largest.indices.tolist(), largest.values.tolist(), strict=True)
    names = data.classes["label"]
    return "\n".join(f"{names[number]} {100 * share:.0f} %" for number, share in named if share)
