"""Where the members of a tar file lie, for those who read a part of one."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from core.data.checks import DataError


class TarMember(NamedTuple):
    """A file in an archive without compression.

    Attributes:
        name: as in the archive.
        offset: its first byte in the archive.
        size: its bytes.
    """

    name: str
    offset: int
    size: int


def tar_members(archive: Path) -> Iterator[TarMember]:
    """The files of an archive in their order, nothing of them read.

    Raises:
        DataError: the archive is compressed, damaged or cut off.
    """
    try:
        with tarfile.open(archive, "r:") as opened:
            end = 0
            for member in opened:
                end = member.offset_data + -(-member.size // 512) * 512
                if member.isfile():
                    yield TarMember(member.name, member.offset_data, member.size)
            # A cut between two members ends the iteration as an intact archive does.
            assert opened.fileobj is not None
            opened.fileobj.seek(end)
            if opened.fileobj.read(512) != bytes(512):
                raise tarfile.ReadError("its end is missing")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(
            f"truncated or damaged ({error})",
            path=archive,
            expected="a complete .tar without compression",
            fix="copy or write it again",
        ) from None
