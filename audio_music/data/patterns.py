"""Regular expressions that a user gives."""

import re

from core.data.checks import DataError


def compiled(key: str, pattern: str) -> re.Pattern[str]:
    """The expression of a setting.

    Args:
        key: of the setting, for the message.
        pattern: what was given.

    Raises:
        DataError: it is none, as `*.wav`.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"{key}={pattern} is no regular expression: {error}",
            expected='"(?P<instrument>[a-z]+)_.*" for names, ".*" for anything',
        ) from None
