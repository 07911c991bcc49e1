"""What a command writes, and the files that somebody has named for it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from eventsource.cli.config import ConfigError
from eventsource.errors import EventSourceError


class OutputClosedError(EventSourceError):
    """What a command prints cannot be written: a pipe that is closed, a full disk.

    Attributes:
        file: the one that was named for it; None is standard output or standard error.
    """

    def __init__(self, message: str, file: Path | None = None) -> None:
        super().__init__(message)
        self.file = file


def refuse_unwritable(file: Path | None, option: str) -> None:
    """Before anything is done: whether the file could be written; what it holds stays.

    Raises:
        ConfigError: it cannot.
    """
    if file is None:
        return
    was_there = file.exists()
    try:
        file.open("a").close()
    except OSError as error:
        raise ConfigError(f"{option}: {file} cannot be written: {_reason(error)}") from None
    if not was_there:
        with contextlib.suppress(OSError):
            file.unlink()


def write(file: Path, text: str) -> None:
    """The whole text, byte by byte as it is, in UTF-8.

    Raises:
        OutputClosedError: it cannot be written, such as to a full disk.
    """
    try:
        file.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise OutputClosedError(f"cannot write {file}: {_reason(error)}", file) from error


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
