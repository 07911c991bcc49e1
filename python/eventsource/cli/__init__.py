"""The console command ``eventsource-migrate``."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventsource.cli.application import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and exit with its code."""
    _say_and_hear_everything()
    try:
        _run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # What a verb prints is looked after there; help and the version have no verb.
        if error.errno not in _OF_WRITING:
            raise
        _leave_out_what_is_not_written()
        sys.exit(f"error: cannot write the output: {error.strerror}")


#: What a file or a pipe says that takes nothing more.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE}


def _run() -> None:
    if sys.argv[1:] == ["--version"]:
        # What scripts ask often does not wait for the libraries that a move needs.
        from eventsource import __version__

        print(__version__)
        return
    from eventsource.cli.application import app

    app(prog_name="eventsource-migrate")


def _leave_out_what_is_not_written() -> None:
    """Python tries once more at its end, and would say so in its own words."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_and_hear_everything() -> None:
    """A tenant may have a name that the locale of this terminal has no letters for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.argv[1:] = map(_as_typed, sys.argv[1:])


def _as_typed(word: str) -> str:
    """An argument in UTF-8, as it is stored; another one stays as Python has read it."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word


def __getattr__(name: str) -> Any:
    if name == "app":
        from eventsource.cli.application import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
