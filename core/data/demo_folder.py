"""A folder of generated data: complete or not there, and never over files of somebody else."""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.data.checks import DataError

_MARKER = "demo.json"


@contextmanager
def demo_folder(path: Path, own: set[str], about: dict[str, Any]) -> Iterator[Path]:
    """Gives a folder to write into, which takes the place of `path` at the end.

    Args:
        path: where the data set is to be; an earlier demo there is replaced.
        own: names of the files that the demo consists of.
        about: what made it, for the file that marks a demo.

    Raises:
        DataError: `path` is something other than an empty folder or a demo, or unwritable.
    """
    path = path.resolve()
    _refuse_foreign(path, own)
    unique = uuid.uuid4().hex[:8]
    temporary, old = path.with_name(f".{path.name}.{unique}"), path.with_name(f".{unique}.old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        (temporary / _MARKER).write_text(json.dumps(about))
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        raise DataError(
            f"the demo cannot be written ({error.strerror})", path=path, fix="choose another path"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _refuse_foreign(path: Path, own: set[str]) -> None:
    if not path.exists():
        return
    names = {file.name for file in path.iterdir()} if path.is_dir() else {path.name}
    foreign = {name for name in names if name not in (own | {_MARKER}) and ".split-" not in name}
    if foreign or (names and _MARKER not in names):
        raise DataError(
            f"already exists and holds other files ({sorted(foreign or names)[0]})",
            path=path,
            expected="a new path, an empty folder, or an earlier demo",
            fix="choose another path",
        )
