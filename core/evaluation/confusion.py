"""Which classes were taken for which, as counts and as a picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int64

_LONGEST_NAME = 22


@dataclass(frozen=True)
class Confusion:
    """Counts of true and predicted classes.

    Attributes:
        counts: (classes, classes), true class by predicted class.
        classes: their names.
    """

    counts: Int64[np.ndarray, "classes classes"]
    classes: list[str]

    @classmethod
    def of(
        cls, truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], classes: list[str]
    ) -> "Confusion":
        """Counts the pairs of n rows."""
        n = len(classes)
        counts = np.bincount(truth * n + predicted, minlength=n * n).reshape(n, n)
        return cls(counts.astype(np.int64), classes)

    def draw(self, file: Path, title: str) -> None:
        """Writes a PNG: every row is the shares, in per cent, of one true class."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        n = len(self.classes)
        shares = 100 * self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)
        side = 2.6 + 0.27 * max(n, 6)
        figure = Figure(figsize=(side, side), layout="constrained", dpi=120)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
            dark = shares[row, column] > 55
            axes.text(
                column,
                row,
                f"{shares[row, column]:.0f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "#222222",
            )
        names = [
            c if len(c) <= _LONGEST_NAME else f"{c[: _LONGEST_NAME - 1]}…" for c in self.classes
        ]
        axes.set_xticks(range(n), names, rotation=90, fontsize=8)
        axes.set_yticks(range(n), names, fontsize=8)
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#E8E8E8", linewidth=0.6)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        bar = figure.colorbar(image, ax=axes, shrink=0.4, aspect=18)
        bar.set_label("% of the true class", fontsize=8)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, length=0)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, bbox_inches="tight", pad_inches=0.15)
