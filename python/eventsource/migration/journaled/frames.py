"""The rows of a binary COPY, for the few that are looked at one by one."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_HEADER = 19
_SIZE = struct.Struct("!i")
_COUNT = struct.Struct("!h")


def rows(data: bytes) -> Iterator[bytes]:
    """Each row as it stands there, without the header and the end."""
    at = _HEADER
    while True:
        (fields,) = _COUNT.unpack_from(data, at)
        if fields < 0:
            return
        start, at = at, at + 2
        for _ in range(fields):
            (size,) = _SIZE.unpack_from(data, at)
            at += 4 + max(size, 0)
        yield data[start:at]


def fields(row: bytes) -> list[bytes | None]:
    """The values of a row in their binary form."""
    (count,) = _COUNT.unpack_from(row)
    at, found = 2, []
    for _ in range(count):
        (size,) = _SIZE.unpack_from(row, at)
        at += 4
        found.append(None if size < 0 else row[at : at + size])
        at += max(size, 0)
    return found
