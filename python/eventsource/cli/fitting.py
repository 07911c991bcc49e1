"""Lines that fit a terminal: broken between words, and never within what somebody copies."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

#: Below this many columns nothing is broken: there would be a word in each line.
_FEWEST = 28

#: A value begins at the same column in every line that it takes, if that is not further right.
_FURTHEST = 20

#: Stands for a blank at which no line ends.
_HELD = "\0"

#: A word in quotes, as a shell takes it, has blanks that are its own.
_QUOTED = r"(?:'[^']*'|\"'\")+"
_COMMAND = rf"eventsource-migrate(?: (?:{_QUOTED}|[^\s`]*[^\s`.,;:)]))*"
#: What is read or copied as one: commands, times, numbers with their units, sessions.
_WHOLE = re.compile(
    rf"{_COMMAND}|\bselect pg_terminate_backend\(\d+\)|\b\d{{4}}-\d\d-\d\d \d\d:\d\d\S*"
    r"|'[^\s']+ pid \d+'|\bpid \d+|(?<!\S)\d[\d,.]* (?:s|ms|min|h|%|MB|GB)(?![\w])"
)
_LABEL = re.compile(r"\s*\S.*?\s{2,}(?=\S)")


def folded(text: str, width: int) -> str:
    """The text with every line broken that is wider than so many columns.

    What follows the first line of a value is below the value. A command that is too long for a
    line is continued as a shell takes it, so that a copy of it still runs.
    """
    if width < _FEWEST:
        return text
    return "\n".join(
        line if len(line) <= width else _broken(line, width) for line in text.split("\n")
    )


def _broken(line: str, width: int) -> str:
    label = _LABEL.match(line)
    indent = label.end() if label is not None and label.end() <= _FURTHEST else 0
    held = _WHOLE.sub(lambda found: found[0].replace(" ", _HELD), line[indent:])
    pieces = textwrap.wrap(
        held,
        width,
        initial_indent=line[:indent],
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(_squeezed(piece.replace(_HELD, " "), width) for piece in pieces)


def _squeezed(line: str, width: int) -> str:
    """The line; one of a single long thing begins further to the left, or is continued."""
    if len(line) <= width:
        return line
    bare = line.lstrip()
    if len(bare) <= width:
        return bare.rjust(width)
    begin, command, rest = line.partition("eventsource-migrate")
    if not command:
        return line
    held = re.sub(_QUOTED, lambda found: found[0].replace(" ", _HELD), command + rest)
    continued = textwrap.wrap(
        held,
        width - len(" \\"),
        initial_indent=begin,
        subsequent_indent=" " * min(len(begin) + 2, _FURTHEST),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return " \\\n".join(continued).replace(_HELD, " ")


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells below each other, a row in a line."""
    # Plain text and never cut: an id that a person wants to copy has to be whole.
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def table(lines: Sequence[Sequence[str]], screen: int | None) -> str | None:
    """The same within so many columns, by the last cells in several lines; None is no room."""
    shown = aligned(lines)
    if screen is None or _fits(shown, screen):
        return shown
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    room = screen - sum(width + len("  ") for width in widths[:-1])
    if room < _FEWEST:
        return None
    shown = aligned([line for row in lines for line in _with_last_folded(row, room)])
    return shown if _fits(shown, screen) else None


def _fits(shown: str, screen: int) -> bool:
    return all(len(line) <= screen for line in shown.splitlines())


def _with_last_folded(row: Sequence[str], room: int) -> list[list[str]]:
    first, *others = folded(row[-1], room).split("\n")
    return [[*row[:-1], first], *([*("" for _ in row[:-1]), other] for other in others)]
