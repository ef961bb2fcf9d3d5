"""A gallery of what a search found: slices of each volume and its report."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import torch

from medical.data.cases import Cases

_WIDTH, _HEIGHT = 11.0, 2.3  # inches of a row
_LETTERS, _LINES = 74, 11
_ASKED, _FOUND = "#1B7837", "#222222"


def draw_gallery(
    data: Cases, query: int | str, found: Sequence[tuple[int, float]], file: str | Path
) -> None:
    """Middle slices of what was found with its report, the query first.

    Args:
        data: the cases.
        query: row of the case that the search was given, or a sentence.
        found: row and cosine, the nearest first.
        file: the PNG to write.
    """
    rows: list[tuple[int | None, str, str]] = []
    if isinstance(query, str):
        rows.append((None, "looked for", query))
    else:
        rows.append((query, f"query: {data.ids[query]}", data.reports[query]))
    for row, cosine in found:
        own = " (its own)" if row == query else ""
        rows.append((row, f"{data.ids[row]}, cosine {cosine:.3f}{own}", data.reports[row]))
    _draw_rows(data, rows, file)


def draw_written(data: Cases, cases: Sequence[int], written: Sequence[str], file: Path) -> None:
    """Slices of cases, each with the report that a system wrote and the one of a person.

    Args:
        data: the cases.
        cases: their rows.
        written: what was written for each.
        file: the PNG to write.
    """
    rows: list[tuple[int | None, str, str]] = []
    for row, text in zip(cases, written, strict=True):
        rows.append((row, f"{data.ids[row]}, as reported", data.reports[row]))
        rows.append((None, "as written by the system", text))
    _draw_rows(data, rows, file)


def _draw_rows(data: Cases, rows: Sequence[tuple[int | None, str, str]], file: str | Path) -> None:
    """Two slices of a case, where there is one, its title and its text; the first is the query."""
    from matplotlib.figure import Figure

    wrapped = [fill(" ".join(text.split()), _LETTERS).splitlines() for _, _, text in rows]
    heights = [
        _HEIGHT if row is not None else 0.45 + 0.14 * min(len(lines), _LINES)
        for (row, _, _), lines in zip(rows, wrapped, strict=True)
    ]
    figure = Figure(figsize=(_WIDTH, sum(heights)), facecolor="white")
    grid = figure.add_gridspec(
        len(rows), 3, width_ratios=(1, 1, 2.6), height_ratios=heights, wspace=0.04, hspace=0.25
    )
    for place, (row, title, _) in enumerate(rows):
        color = _ASKED if place == 0 else _FOUND
        if row is not None:
            volume = data.whole(torch.tensor([row], device=data.splits["train"].device))
            values = volume[0, 0].cpu().numpy()
            middle = data.size // 2
            for column, plane in enumerate((values[:, :, middle], values[:, middle])):
                axes = figure.add_subplot(grid[place, column])
                axes.imshow(plane.T[:, ::-1], cmap="gray", vmin=0, vmax=1, origin="lower")
                axes.set_xticks([])
                axes.set_yticks([])
        axes = figure.add_subplot(grid[place, 2])
        axes.axis("off")
        below = 0.3 / heights[place]
        axes.text(0.0, 1.0, title, fontsize=9, color=color, va="top", weight="bold")
        lines = wrapped[place]
        text = "\n".join(lines[:_LINES]) + (" ..." if len(lines) > _LINES else "")
        axes.text(0.0, 1.0 - below, text, fontsize=7.5, color=color, va="top")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100, bbox_inches="tight")
