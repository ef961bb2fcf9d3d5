import math
import re
import subprocess
import sys
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.colors import to_hex

from core.data.checks import DataError
from core.evaluation.statistics import bootstrap_units, paired_t_interval
from core.report import (
    BASELINE,
    METHOD,
    Report,
    finding,
    format_cell,
    plot_arms,
    plot_training_curves,
    print_table,
)

VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on a tag that is not closed."""

    def __init__(self, source):
        super().__init__()
        self.open, self.attributes, self.cells, self.tags = [], [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture
def comparison():
    arms = {
        "bm3": [0.36, 0.35, 0.37],
        "lightgcn": [0.335, 0.33, 0.347],
        "untrained": [0.02, 0.03, 0.02],
        "popularity": [0.04],
    }
    over_seeds = paired_t_interval(np.subtract(arms["bm3"], arms["lightgcn"]))
    bm3, lightgcn = np.random.default_rng(0).random((2, 3, 40))
    return {
        "arms": arms,
        "metric": "recall@20",
        "over_seeds": over_seeds,
        "over_units": bootstrap_units(bm3, lightgcn),
        "unit": "user",
    }


def texts(figure):
    """Every text that would be drawn."""
    figure.canvas.draw()
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_xlabel(), axes.get_title("left")]
        found += [label.get_text() for label in axes.get_yticklabels() + axes.texts]
    return found


def test_a_report_is_one_file_that_needs_nothing_else(tmp_path, comparison):
    report = Report("bm3 is better than lightgcn")
    report.text("# Data\n\nThe **demo** data, see [the paper](https://arxiv.org/abs/2207.05969).")
    report.table([{"arm": "bm3", "recall@20": 0.36}], "Means over seeds")
    report.figure(plot_arms(**comparison), "Every arm")
    path = report.write(tmp_path / "runs" / "demo" / "report.html")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)
    assert "url(" not in source
    assert "@import" not in source
    sources = [value for name, value in page.attributes if name in ("src", "srcset")]
    assert len(sources) == 1
    assert sources[0].startswith("data:image/svg+xml;base64,")
    assert ("alt", "Every arm") in page.attributes
    assert ("name", "viewport") in page.attributes
    picture = b64decode(sources[0].partition(",")[2]).decode()
    assert picture.rstrip().endswith("</svg>")
    assert "<strong>demo</strong>" in source
    assert source.count("bm3 is better than lightgcn") == 2


def test_parts_keep_their_order(tmp_path):
    report = Report("order")
    report.text("first")
    report.table([{"a": "second"}])
    report.text("third")
    source = report.write(tmp_path / "report.html").read_text()
    assert source.index("first") < source.index("second") < source.index("third")


def test_what_looks_like_html_is_shown_and_not_run(tmp_path):
    evil = "<script>alert(1)</script>"
    report = Report(evil)
    report.text(f"{evil} ![x](https://example.org/x.png) [y](javascript:alert(1))")
    report.table([{evil: evil}], evil)
    source = report.write(tmp_path / "report.html").read_text()
    page = Page(source)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not any(name == "href" and "javascript" in value for name, value in page.attributes)
    assert page.cells == [evil, evil]


def test_table_has_all_columns_and_aligns_numbers(tmp_path):
    report = Report("table")
    report.table([{"arm": "bm3", "seeds": 5}, {"arm": "raw", "recall@20": 0.08123}])
    source = report.write(tmp_path / "report.html").read_text()
    cells = Page(source).cells
    dash = "\N{EN DASH}"
    assert cells == ["arm", "seeds", "recall@20", "bm3", "5", dash, "raw", dash, "0.0812"]
    assert '<td class="number">0.0812</td>' in source
    assert "<td>bm3</td>" in source


def test_equal_reports_are_equal_files(tmp_path, comparison):
    def write(name):
        report = Report("same")
        report.figure(plot_arms(**comparison), "Every arm")
        return report.write(tmp_path / name).read_bytes()

    assert write("a.html") == write("b.html")


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    path = Report("old").write(tmp_path / "report.html")

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        Report("new").write(path)
    assert "old" in path.read_text()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "\N{EN DASH}"),
        (math.nan, "\N{EN DASH}"),
        (True, "yes"),
        (12345, "12345"),
        (0.08123, "0.0812"),
        (0.0, "0.0000"),
        (-0.5, "-0.5000"),
        (1.23456e-5, "1.23e-05"),
        (123456.7, "1.23e+05"),
        (-math.inf, "-∞"),
        ("text", "text"),
    ],
)
def test_format_cell(value, shown):
    assert format_cell(value) == shown


def test_print_table_cuts_nothing_off_where_there_is_no_terminal(capsys):
    row = {f"metric_number_{i}@20": 0.1 + i / 100 for i in range(20)} | {"note": "[bold] stays"}
    print_table([row], "Wide")
    printed = capsys.readouterr().out
    assert "Wide" in printed
    assert all(name in printed for name in row)
    assert re.findall(r"0\.\d{4}", printed) == [f"{0.1 + i / 100:.4f}" for i in range(20)]
    assert "[bold] stays" in printed


def test_print_table_wraps_words_before_numbers_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "36")
    print_table([{"arm": "a name of many words " * 3, "recall@20": 0.5, "ndcg@20": 0.25}])
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(len(line) for line in printed.splitlines()) <= 36
    assert printed.count("many") == 3
    assert "0.5000" in printed
    assert "0.2500" in printed


def test_finding_names_who_is_better():
    up, down = paired_t_interval([0.02, 0.021, 0.022]), paired_t_interval([-1, -1.1, -0.9])
    said = finding("bm3", "lightgcn", "recall@20", up)
    assert said.startswith("bm3 is better than lightgcn in recall@20: +0.0210 [+0.0185, +0.0235]")
    assert "worse" in finding("a", "b", "accuracy", down)
    assert "better" in finding("a", "b", "error", down, higher_is_better=False)
    assert "does not decide" in finding("a", "b", "error", paired_t_interval([0, 0]))
    assert "(no interval)" in finding("a", "b", "error", paired_t_interval([0.5]))


def test_plot_of_arms_says_the_finding_and_shows_every_number(comparison):
    figure = plot_arms(**comparison)
    shown = texts(figure)
    assert shown[0] == "bm3 is better than lightgcn in recall@20"
    assert {"bm3", "lightgcn", "untrained", "popularity", "0.3600", "0.0400"} <= set(shown)
    assert {"over 3 seeds", "over 40 users", "← lightgcn better", "bm3 better →"} <= set(shown)
    assert "+0.0227\n[+0.0164, +0.0289]" in shown
    above, below = figure.axes
    dots = [line for line in above.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == list(comparison["arms"].values())
    assert [to_hex(line.get_color()).upper() for line in dots[:2]] == [METHOD, BASELINE]
    bars = [list(line.get_xdata()) for line in below.lines if line.get_alpha()]
    seeds, units = comparison["over_seeds"], comparison["over_units"]
    assert bars == [[seeds.low, seeds.high], [units.low, units.high]]
    low, high = below.get_xlim()
    assert low == -high
    assert low < min(seeds.low, units.low)


def test_plot_of_arms_turns_round_where_lower_is_better(comparison):
    figure = plot_arms(**(comparison | {"higher_is_better": False, "over_units": None}))
    shown = texts(figure)
    assert shown[0] == "bm3 is worse than lightgcn in recall@20"
    assert {"← bm3 better", "lightgcn better →"} <= set(shown)
    assert not any("users" in text for text in shown)


def test_plot_of_one_seed_and_of_no_difference():
    one = plot_arms({"a": [0.3], "b": [0.2]}, "accuracy", paired_t_interval([0.1]))
    assert {"over 1 seed", "+0.1000\n(no interval)"} <= set(texts(one))
    assert all(math.isfinite(end) for axes in one.axes for end in axes.get_xlim())
    same = plot_arms({"a": [0.3, 0.2], "b": [0.3, 0.2]}, "accuracy", paired_t_interval([0, 0]))
    assert texts(same)[0] == "accuracy does not decide between a and b"


def test_plot_refuses_arms_that_are_not_paired():
    with pytest.raises(ValueError, match="shorter"):
        plot_arms({"a": [0.3, 0.2], "b": [0.3]}, "accuracy", paired_t_interval([0, 0]))


def test_training_curves_are_grouped_and_skip_missing_values():
    rows = [
        {"epoch": "0", "step": "9", "train/loss": "2.5", "valid/recall@10": "", "lr": None},
        {"epoch": "0", "step": "9", "train/loss": "", "valid/recall@10": "0.1"},
        {"epoch": "1", "step": "19", "train/loss": "1.5", "valid/recall@20": math.nan},
        {"epoch": "1", "step": "19", "valid/recall@10": "0.2", "valid/recall@20": 0.3},
    ]
    figure = plot_training_curves(rows, "recall still rises")
    assert figure.get_suptitle() == "recall still rises"
    panels = {axes.get_title("left"): axes for axes in figure.axes}
    assert panels.keys() == {"train", "valid/recall"}
    (loss,) = panels["train"].lines
    assert (list(loss.get_xdata()), list(loss.get_ydata())) == ([9, 19], [2.5, 1.5])
    at20, at10 = panels["valid/recall"].lines
    assert (at20.get_label(), list(at20.get_ydata())) == ("@20", [0.3])
    assert (at10.get_label(), list(at10.get_ydata())) == ("@10", [0.1, 0.2])
    assert panels["train"].get_xlabel() == "step"


def test_training_curves_of_nothing_are_refused():
    with pytest.raises(DataError, match="no numbers to draw"):
        plot_training_curves([{"epoch": 0, "train/loss": ""}], "empty")


def test_importing_the_report_loads_no_drawing_library():
    heavy = "matplotlib", "jinja2", "rich", "markdown_it", "numpy", "torch"
    code = f"import sys, core.report; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
