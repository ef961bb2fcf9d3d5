"""Reports: one HTML file that needs nothing beside it, its plots, and tables for the terminal."""

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import isfinite
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from core.data.checks import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from core.evaluation.statistics import Interval

# Okabe and Ito's palette: told apart with every common colour blindness, and in grey.
METHOD, BASELINE, OTHER = "#0072B2", "#D55E00", "#7A7A7A"
_CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A")
_INK, _FAINT = "#222222", "#D9D9D9"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _INK,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "axes.labelcolor": _INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": _FAINT,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "consilience",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "ytick.major.size": 0,
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #62666d; --line: #dcdee2;
  --page: #ffffff; --shade: #f5f6f8; --link: #0060a0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e8; --soft: #9da3ad; --line: #3a3d43;
  --page: #17181b; --shade: #212327; --link: #6db8ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 50rem; padding: 2.5rem 1.25rem 4rem; color: var(--ink);
  background: var(--page); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.25; letter-spacing: -.01em; margin: 0 0 1.5rem;
  text-wrap: balance; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
a { color: var(--link); }
code { font: .9em ui-monospace, Menlo, Consolas, monospace; background: var(--shade);
  border-radius: .25rem; padding: .1em .3em; }
pre { background: var(--shade); border-radius: .5rem; padding: .75rem 1rem; overflow-x: auto; }
pre code { padding: 0; background: none; }
figure { margin: 1.75rem 0; }
figcaption { color: var(--soft); font-size: .9rem; line-height: 1.45; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); white-space: nowrap;
  border-bottom: 2px solid var(--line); }
th, td { padding: .4rem 1rem .4rem 0; vertical-align: baseline; }
th:last-child, td:last-child { padding-right: 0; }
td { border-bottom: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; }
.picture img { display: block; width: 100%; min-width: 32rem; height: auto; background: #fff;
  border-radius: .5rem; }
figcaption.above { margin-bottom: .5rem; }
figcaption.below { margin-top: .5rem; }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb;
  --page: #fff; --shade: #f2f2f2; --link: #000; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  figure, pre, tr { break-inside: avoid; }
  h1, h2, h3 { break-after: avoid; }
  .wide { overflow: visible; }
  .picture img { min-width: 0; } }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% for part in parts %}{{ part }}
{% endfor %}</main>
</body>
</html>
"""

_TABLE = """<figure>
{% if caption %}<figcaption class="above">{{ caption }}</figcaption>
{% endif %}<div class="wide"><table>
<thead><tr>{% for column in columns %}<th scope="col"
{%- if numeric[column] %} class="number"{% endif %}>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in cells %}<tr>{% for column in columns %}<td
{%- if numeric[column] %} class="number"{% endif %}>{{ row[column] }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
</figure>"""

_FIGURE = """<figure>
<div class="wide picture"><img alt="{{ caption }}" src="data:image/svg+xml;base64,{{ data }}"></div>
<figcaption class="below">{{ caption }}</figcaption>
</figure>"""


class Report:
    """A page of text, tables and figures, in the order they were added.

    Args:
        title: of the page; says the finding, e.g. "BM3 beats LightGCN by 0.012 recall@20".
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    def text(self, markdown: str) -> None:
        """Add CommonMark text; HTML in it is shown as it is written, images are left out."""
        from markdown_it import MarkdownIt

        parser = MarkdownIt("commonmark", {"html": False}).disable("image")
        self._parts.append(parser.render(markdown))

    def table(self, rows: Sequence[Mapping[str, object]], caption: str = "") -> None:
        """Add a table, one line a row; columns in the order of their first appearance."""
        columns, numeric = _columns(rows)
        cells = [{column: format_cell(row.get(column)) for column in columns} for row in rows]
        self._parts.append(
            _render(_TABLE, columns=columns, numeric=numeric, cells=cells, caption=caption)
        )

    def figure(self, figure: "Figure", caption: str) -> None:
        """Add a figure as an embedded vector picture; the caption is also its alternative text."""
        import matplotlib as mpl

        buffer = BytesIO()
        with mpl.rc_context(_STYLE):
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        data = b64encode(buffer.getvalue()).decode("ascii")
        self._parts.append(_render(_FIGURE, caption=caption, data=data))

    def write(self, path: str | Path) -> Path:
        """Write the page as one HTML file, whole or not at all, and return its path."""
        from markupsafe import Markup

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        page = _render(_PAGE, title=self.title, parts=[Markup(part) for part in self._parts])
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
        return path


def print_table(rows: Sequence[Mapping[str, object]], title: str = "") -> None:
    """Print rows as a table on the terminal; numbers are aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns, numeric = _columns(rows)
    table = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(Text(column), justify="right" if numeric[column] else "left")
    for row in rows:
        table.add_row(*(Text(format_cell(row.get(column))) for column in columns))
    console = Console()
    if not console.is_terminal:
        # A file has no edge to wrap at: no number is cut off in a log.
        unbounded = console.options.update_width(10_000)
        console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)


def format_cell(value: object) -> str:
    """A value as a table shows it: four decimals, a dash for what is missing."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value == 0 or 1e-3 <= abs(value) < 1e4:
            return f"{value:.4f}"
        return f"{value:.3g}".replace("inf", "∞").replace("nan", "\N{EN DASH}")
    return str(value)


def finding(
    method: str, baseline: str, metric: str, interval: "Interval", higher_is_better: bool = True
) -> str:
    """One sentence for a title: what the interval of method - baseline says of the method."""
    says = _conclusion(method, baseline, metric, interval, higher_is_better)
    return f"{says}: {_with_ends(interval)}"


def plot_arms(
    arms: Mapping[str, Sequence[float]],
    metric: str,
    over_seeds: "Interval",
    over_units: "Interval | None" = None,
    unit: str = "test unit",
    higher_is_better: bool = True,
) -> "Figure":
    """Draw every arm of a comparison, and below it the paired difference with its intervals.

    Args:
        arms: name -> metric of each seed. The first is the method, the second its baseline with
            the same seeds in the same order; the others (ablations, untrained, raw features)
            may have any number of seeds.
        metric: its name, with the unit if it has one; labels the axes.
        over_seeds: t interval of method - baseline; decides the title.
        over_units: bootstrap interval of the same difference over test units.
        unit: what a test unit is: user, patient, chip, subject.
        higher_is_better: whether a larger metric is the better one.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from core.evaluation.statistics import paired_t_interval, verdict

    method, baseline = list(arms)[:2]
    confidence = over_seeds.confidence
    means = [sum(values) / len(values) for values in arms.values()]
    colors = [METHOD, BASELINE] + [OTHER] * (len(arms) - 2)
    decided = {"better": METHOD, "worse": BASELINE, "undecided": OTHER}
    rows = (len(arms), 1 if over_units is None else 2)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 0.34 * sum(rows) + 2.9), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.09)  # type: ignore[call-arg,union-attr]
        _title(figure, _conclusion(method, baseline, metric, over_seeds, higher_is_better))
        above, below = figure.subplots(2, 1, height_ratios=[n + 0.5 for n in rows])

        for row, (values, color) in enumerate(zip(arms.values(), colors, strict=True)):
            _draw_row(above, row, paired_t_interval(values, confidence), color, values)
        _name_rows(above, list(arms), [format_cell(mean) for mean in means])
        key = f"dot: seed, line: mean, bar: {confidence:.0%} t interval over seeds"
        above.set_xlabel(f"{metric}\n({key})")

        differences = [a - b for a, b in zip(arms[method], arms[baseline], strict=True)]
        color = decided[verdict(over_seeds, higher_is_better)]
        _draw_row(below, 0, over_seeds, color, differences)
        names, notes = [f"over {_count(over_seeds.n, 'seed')}"], [_with_ends(over_seeds, "\n")]
        if over_units is not None:
            _draw_row(below, 1, over_units, OTHER)
            names.append(f"over {_count(over_units.n, unit)}")
            notes.append(_with_ends(over_units, "\n"))
        _name_rows(below, names, notes)
        _mark_zero(below, *((baseline, method) if higher_is_better else (method, baseline)))
        below.set_xlabel(f"difference in {metric}, {method} \N{MINUS SIGN} {baseline}")
    return figure


def plot_training_curves(rows: Sequence[Mapping[str, Any]], title: str) -> "Figure":
    """Draw the log of a training, one panel for each loss group and each family of metrics.

    Args:
        rows: lines of the log; "step" or "epoch" is the abscissa, every other number a curve.
            Names share a panel by what stands before their "@" ("valid/recall@20"), else by what
            stands before their "/" ("train/loss"). Missing values may be None, "" or NaN.
        title: says what to see, e.g. "bm3: best validation recall@20 at epoch 31".

    Raises:
        DataError: no curve in the rows.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns, _ = _columns(rows)
    abscissa = "step" if "step" in columns else "epoch"
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in columns:
        points = [
            (_number(row.get(abscissa)), _number(row.get(name)))
            for row in rows
            if isfinite(_number(row.get(abscissa))) and isfinite(_number(row.get(name)))
        ]
        if points and name not in ("step", "epoch"):
            panel = name.split("@")[0] if "@" in name else name.rpartition("/")[0]
            panels.setdefault(panel, {})[name] = points

    if not panels:
        raise DataError("the training log holds no numbers to draw", expected='"step", "loss", ...')
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    with mpl.rc_context(_STYLE | {"axes.grid.axis": "both", "axes.spines.left": True}):
        figure = Figure(figsize=(7.6, 2.5 * down + 0.4), layout="constrained")
        _title(figure, title)
        for position, (panel, curves) in enumerate(panels.items()):
            axes = figure.add_subplot(down, across, position + 1)
            # The legend lists the curves as they end, from the top down.
            names = sorted(curves, key=lambda name: curves[name][-1][1], reverse=True)
            for name, color in zip(names, _CYCLE * len(names), strict=False):
                points, label = curves[name], name.removeprefix(panel).lstrip("/")
                marker = "o" if len(points) == 1 else None
                axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker)
            axes.set_title(panel)
            axes.set_xlabel(abscissa)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.legend(fontsize=8.5)
    return figure


def _title(figure: "Figure", text: str) -> None:
    lines = fill(text, 66)  # as many bold letters as the figure is wide
    figure.suptitle(lines, x=0.02, ha="left", fontsize=13, fontweight="bold")


def _draw_row(
    axes: "Axes", row: int, interval: "Interval", color: str, values: Sequence[float] = ()
) -> None:
    if isfinite(interval.low):
        ends = [interval.low, interval.high]
        axes.plot(ends, [row, row], color=color, alpha=0.3, linewidth=9, solid_capstyle="butt")
    axes.plot([interval.mean] * 2, [row - 0.28, row + 0.28], color=color, linewidth=2.4)
    axes.plot(
        values, [row] * len(values), "o", color=color, markersize=5.5, markeredgecolor="white"
    )


def _name_rows(axes: "Axes", names: Sequence[str], notes: Sequence[str]) -> None:
    """Names to the left of the rows, numbers to the right, first row on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for row, note in enumerate(notes):
        axes.annotate(
            note,
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )


def _mark_zero(axes: "Axes", better_below: str, better_above: str) -> None:
    """The line of no difference in the middle, and who is better on its sides."""
    reach = max(abs(end) for end in axes.get_xlim())
    axes.set_xlim(-1.05 * reach, 1.05 * reach)
    axes.locator_params(axis="x", nbins=5)
    axes.axvline(0, color=_INK, linewidth=1.2, zorder=1)
    sides = ((-8, "right", f"← {better_below} better"), (8, "left", f"{better_above} better →"))
    for shift, align, label in sides:
        axes.annotate(
            label,
            (0, 1),
            xycoords=("data", "axes fraction"),
            xytext=(shift, 4),
            textcoords="offset points",
            ha=align,
            fontsize=9,
        )


def _conclusion(
    method: str, baseline: str, metric: str, interval: "Interval", higher_is_better: bool
) -> str:
    from core.evaluation.statistics import verdict

    return {
        "better": f"{method} is better than {baseline} in {metric}",
        "worse": f"{method} is worse than {baseline} in {metric}",
        "undecided": f"{metric} does not decide between {method} and {baseline}",
    }[verdict(interval, higher_is_better)]


def _with_ends(interval: "Interval", gap: str = " ") -> str:
    def signed(value: float) -> str:
        return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")

    ends = "(no interval)"
    if isfinite(interval.low):
        ends = f"[{signed(interval.low)}, {signed(interval.high)}]"
    return f"{signed(interval.mean)}{gap}{ends}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _number(value: object) -> float:
    """The value of a log's cell, NaN where there is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _columns(rows: Sequence[Mapping[str, object]]) -> tuple[list[str], dict[str, bool]]:
    """Column names in the order of their first appearance, and which hold numbers only."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {}
    for column in columns:
        values = [row[column] for row in rows if row.get(column) is not None]
        numeric[column] = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in values
        )
    return columns, numeric


def _render(template: str, **values: object) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(template).render(**values)
