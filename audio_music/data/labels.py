"""Labels of recordings: classes, tags, numbers, times; told apart by what the files hold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from core.data.checks import DataError

Kind = Literal["classes", "tags", "value", "times"]


@dataclass(frozen=True)
class Label:
    """One label of all recordings.

    Attributes:
        kind: `classes`, one a recording; `tags`, any number; `value`, a number; `times`, seconds
            from the start.
        names: of classes or tags.
        numbers: of classes (n,), -1 where unknown.
        present: of tags (n, tags).
        values: of a value (n,), NaN where unknown.
        times: of times, one ascending array a recording, None where unknown.
        known: (n,) which recordings have the label.
    """

    kind: Kind
    known: Bool[Tensor, " n"]
    names: tuple[str, ...] = ()
    numbers: Int64[Tensor, " n"] | None = None
    present: Bool[Tensor, "n tags"] | None = None
    values: Float[Tensor, " n"] | None = None
    times: tuple[Float[np.ndarray, " times"] | None, ...] = ()

    def take(self, rows: Int64[Tensor, " k"]) -> "Label":
        """The label of some recordings."""
        rows = rows.to(self.known.device)

        def of(column: Tensor | None) -> Tensor | None:
            return None if column is None else column[rows]

        return replace(
            self,
            known=self.known[rows],
            numbers=of(self.numbers),
            present=of(self.present),
            values=of(self.values),
            times=tuple(self.times[row] for row in rows.tolist()) if self.times else (),
        )

    def to(self, device: torch.device) -> "Label":
        """The label on a device; times stay where they are."""

        def moved(column: Tensor | None) -> Tensor | None:
            return None if column is None else column.to(device)

        return replace(
            self,
            known=self.known.to(device),
            numbers=moved(self.numbers),
            present=moved(self.present),
            values=moved(self.values),
        )

    def describe(self, row: int) -> str:
        """The label of one recording, for a table."""
        if not bool(self.known[row]):
            return ""
        if self.numbers is not None:
            return self.names[int(self.numbers[row])]
        if self.present is not None:
            return ", ".join(
                n for n, on in zip(self.names, self.present[row].tolist(), strict=True) if on
            )
        if self.values is not None:
            return f"{float(self.values[row]):.4g}"
        times = self.times[row]
        return "" if times is None else f"{len(times)} times"


def make_label(name: str, given: Sequence[Any], place: str) -> Label:
    """A label from what the files say of each recording, None where they say nothing.

    Strings, whole numbers and truth values are classes, lists of strings are tags, other numbers
    are values, and lists of numbers are times.

    Args:
        name: of the label.
        given: one entry a recording.
        place: file that says so, for messages.

    Raises:
        DataError: entries of different kinds, or of none of these; times that do not ascend.
    """
    known = torch.tensor([value is not None for value in given])
    kinds = {_kind(value) for value in given if value is not None}
    if kinds == {"classes", "value"} and not _any_text(given):
        kinds = {"value"}  # 120 beside 119.5
    if "tags" in kinds and kinds <= {"tags", "empty"}:
        kinds = {"tags"}
    if kinds <= {"times", "empty"}:
        kinds = {"times"}
    if len(kinds) != 1 or None in kinds:
        raise DataError(
            f"the label {name} is "
            + ("no label" if None in kinds else "a number here and a text or a list there"),
            path=place,
            expected="of every recording a class, a number, a list of tags or a list of times",
        )
    kind: Any = kinds.pop()
    if kind == "classes":
        said = [None if value is None else str(value) for value in given]
        names = tuple(sorted({text for text in said if text is not None}, key=_in_order))
        number = {text: place for place, text in enumerate(names)}
        numbers = torch.tensor([-1 if text is None else number[text] for text in said])
        return Label(kind, known, names, numbers=numbers)
    if kind == "tags":
        names = tuple(sorted({tag for tags in given if tags is not None for tag in tags}))
        column = {tag: place for place, tag in enumerate(names)}
        present = torch.zeros(len(given), len(names), dtype=torch.bool)
        for row, tags in enumerate(given):
            present[row, [column[tag] for tag in tags or ()]] = True
        return Label(kind, known, names, present=present)
    if kind == "value":
        values = torch.tensor([np.nan if value is None else float(value) for value in given])
        return Label(kind, known, values=values)
    times = tuple(None if of is None else np.asarray(of, np.float64) for of in given)
    for of in times:
        if of is not None and (np.diff(of) < 0).any():
            raise DataError(
                f"times of {name} that do not ascend",
                path=place,
                expected="seconds: a list of numbers says when something happens",
                fix="values have a name each, as arousal and valence do",
            )
    return Label("times", known, times=times)


def _kind(value: Any) -> str | None:  # noqa: ANN401 - whatever a JSON file holds
    if isinstance(value, str | bool | int):
        return "classes"
    if isinstance(value, float):
        return "value"
    if isinstance(value, list):
        if not value:
            return "empty"
        if all(isinstance(item, str) for item in value):
            return "tags"
        if all(isinstance(item, int | float) for item in value):
            return "times"
    return None


def _any_text(given: Sequence[Any]) -> bool:
    return any(isinstance(value, str | bool) for value in given)


def _in_order(text: str) -> tuple[int, float, str]:
    """Numbers by their size, before texts."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
