"""The one exception for bad input, and the report of a data check."""

from dataclasses import dataclass
from pathlib import Path


class DataError(Exception):
    """Input that cannot be used; commands print its message alone and exit with 2.

    Args:
        found: what is wrong, as found in the file.
        path: the file or folder at fault.
        line: its line, counted from 1, for text files.
        expected: what should have been there.
        fix: what to do about it.
    """

    def __init__(
        self,
        found: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.found, self.path, self.line = found, path, line
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        parts = [where + found]
        if expected is not None:
            parts.append(f"  expected: {expected}")
        if fix is not None:
            parts.append(f"  to do:    {fix}")
        super().__init__("\n".join(parts))


@dataclass(frozen=True)
class CheckReport:
    """What a domain's `data check` found.

    Attributes:
        facts: name -> value of what was read, e.g. the number of users.
        problems: one error for every unusable thing; the data are usable when it is empty.
        warnings: what is usable but unlikely to be meant.
    """

    facts: dict[str, str | int | float]
    problems: list[DataError]
    warnings: list[str]
