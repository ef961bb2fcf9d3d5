"""What reading has found so far: the same code stops at the first problem, or lists them all."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from core.data.checks import DataError


@dataclass
class Findings:
    """Problems and warnings of one reading.

    Attributes:
        strict: raise the first problem and emit warnings (loading); otherwise collect (checking).
        problems: the errors met so far, empty while strict.
        warnings: the remarks made so far.
    """

    strict: bool = True
    problems: list[DataError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def problem(self, error: DataError) -> None:
        """Raises the error when strict, keeps it otherwise."""
        if self.strict:
            raise error
        self.problems.append(error)

    def warn(self, message: str) -> None:
        """Keeps a remark; emits it as a `UserWarning` when strict."""
        if self.strict:
            warnings.warn(message, stacklevel=3)
        self.warnings.append(message)

    def note(self, message: str) -> None:
        """Keeps a remark that loading passes over in silence."""
        if not self.strict:
            self.warnings.append(message)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Turns an error raised inside into a problem, so that what follows is read as well."""
        try:
            yield
        except DataError as error:
            self.problem(error)


def few(names: list[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
