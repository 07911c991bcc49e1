"""What the commands print: for people, or one JSON document for programs."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.cli.files import OutputClosedError
from eventsource.cli.fitting import aligned, folded, table
from eventsource.commands import with_config
from eventsource.connections import redact
from eventsource.migration.models import Migration

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import Console
    from rich.text import Text

# Wide enough for two ids and a sentence where there is no terminal whose width counts.
_WIDTH_OF_A_FILE = 200


@dataclass(frozen=True, slots=True)
class Step:
    """Something that can be done next: what for, and the command."""

    what: str
    command: str


def _console(**options: Any) -> Console:
    """One that leaves a closed pipe to the command."""
    # Loaded here: who asks for JSON waits for no colours.
    from rich.console import Console

    class Unbroken(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return Unbroken(highlight=False, markup=False, emoji=False, **options)


@contextlib.contextmanager
def _written() -> Iterator[None]:
    """Errors in the block are those of standard output or of standard error."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputClosedError(f"cannot write the output: {reason}") from error


class Output:
    """Where a command prints.

    With ``as_json`` standard output holds exactly one JSON document (``status --watch``: one per
    line) and everything said on the way goes to standard error.

    Args:
        config: a configuration that was named for this command alone: commands that are printed
            name it, too.

    Attributes:
        is_live: standard output is a terminal that may be redrawn.
    """

    def __init__(self, as_json: bool, *, quiet: bool = False, config: str | None = None) -> None:
        if sys.stdout is None:
            # The next file or connection that is opened would take its place.
            raise OutputClosedError("standard output is closed; redirect it, if to /dev/null")
        self.as_json = as_json
        self.is_quiet = quiet
        self._is_closed = False
        self._config = config

    def _runnable(self, text: str, *, as_json: bool = False) -> str:
        return text if self._config is None else with_config(text, self._config, as_json=as_json)

    @cached_property
    def console(self) -> Console:
        """Standard output."""
        return _console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)

    @cached_property
    def _aside(self) -> Console:
        at_terminal = sys.stderr is not None and sys.stderr.isatty()
        return _console(stderr=True, width=None if at_terminal else _WIDTH_OF_A_FILE)

    @property
    def is_live(self) -> bool:
        return not self.as_json and not self.is_quiet and self.console.is_terminal

    @property
    def width(self) -> int:
        """Columns that a line may have."""
        return self.console.width

    @property
    def screen(self) -> int | None:
        """Columns of the terminal; None where output is none, and every line stays whole."""
        return _screen_of(self.console)

    def answer(self, document: object, *shown: str) -> None:
        """Print the result: ``document`` as JSON, or what is ``shown`` to people."""
        with _written():
            if self.as_json:
                print(self._runnable(to_json(document), as_json=True), flush=True)
                return
            for part in shown:
                self.console.print(painted(self._runnable(part), self.screen), soft_wrap=True)

    def write(self, text: str) -> None:
        """Print a text as it is, whatever was asked for: its last byte counts."""
        with _written():
            sys.stdout.flush()
            # In UTF-8 whatever the locale says, as a file of it is.
            sys.stdout.buffer.write(text.encode())
            sys.stdout.buffer.flush()

    def say(self, text: str) -> None:
        """Print a line on the way to the result, unless it was asked to be quiet."""
        if self.is_quiet:
            return
        with _written():
            where = self._aside if self.as_json else self.console
            said = redact(localised(self._runnable(text)))
            where.print(_fitted(said, where), soft_wrap=True)
            sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Print a line that needs attention, to standard error.

        Where a bar is being redrawn it goes above the bar, which only its own console can do.
        """
        where = self.console if self.is_live else self._aside
        said = _begun(("warning: ", "magenta"), redact(self._runnable(text)), where)
        with _written():
            where.print(said, soft_wrap=True)

    def wait(self, text: str) -> None:
        """Print what is waited for, to standard error."""
        if self.is_quiet:
            return
        with _written():
            said = redact(localised(self._runnable(text)))
            self._aside.print(_begun(("waiting ", "magenta"), said, self._aside), soft_wrap=True)

    def fail(
        self,
        code: str,
        message: str,
        exit_code: int,
        steps: Sequence[Step] = (),
        *,
        show_steps: bool = False,
        **details: object,
    ) -> None:
        """Print why the command failed, to standard error; with JSON also as the document.

        To people the steps are shown where the message does not name a command itself.
        """
        message = redact(message)
        # Where neither can be written to, the exit code is left.
        with contextlib.suppress(OSError):
            if self.as_json and not self._is_closed:
                error = {"code": code, "message": message, "exit_code": exit_code, "next": steps}
                document = to_json({"error": {**error, **details}})
                print(self._runnable(document, as_json=True), flush=True)
                return
            message = localised(self._runnable(message))
            said = _begun(("error: ", "bold red"), message, self._aside)
            self._aside.print(said, soft_wrap=True)
            if show_steps and "eventsource-migrate " not in message:
                for step in steps:
                    line = labelled(step.what, self._runnable(step.command))
                    line = _fitted(line, self._aside)
                    self._aside.print(line, soft_wrap=True)

    def close(self) -> None:
        """Standard output takes nothing any more: what is still in its buffer goes nowhere."""
        self._is_closed = True
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


#: States and what they mean to somebody who looks over a screen. Red is for what is wrong, and no
#: colour is pale on a light background.
_STYLES = {
    "migrated": "green",
    "failed": "bold red",
    "cutover_paused": "bold magenta",
    "paused": "magenta",
    "nobody": "bold magenta",
    "pending": "bold",
    "bulk_copy": "bold",
    "dual_write": "bold",
    "NOT consistent": "bold red",
}
_STYLED = re.compile(rf"(?<![\w'-])(?:{'|'.join(_STYLES)})(?![\w'-])")


def painted(text: str, screen: int | None = None) -> Text:
    """The text with its times as they are here, and its states in their colours, where there are
    colours; in lines that fit a terminal of so many columns."""
    from rich.text import Text

    text = localised(text)
    if screen is not None:
        text = folded(text, screen)
    shown = Text(text)
    for found in _STYLED.finditer(text):
        shown.stylize(_STYLES[found[0]], *found.span())
    return shown


def _begun(beginning: tuple[str, str], text: str, where: Console) -> Text:
    """A line that begins with a word in a colour."""
    from rich.text import Text

    word, _ = beginning
    return Text.assemble(beginning, _fitted(word + text, where)[len(word) :])


def _screen_of(console: Console) -> int | None:
    return console.width if console.file.isatty() else None


def _fitted(text: str, where: Console) -> str:
    screen = _screen_of(where)
    return text if screen is None else folded(text, screen)


def labelled(label: str, text: str) -> str:
    """A line with its label in a column of its own."""
    return f"{label:<9} {text}"


def to_json(document: object) -> str:
    """One line of JSON; ids and times as text, records as objects."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(_plain(document), ensure_ascii="utf" not in encoding.lower())


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(record(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Iterable):
        return [_plain(inner) for inner in value]
    # Records of the data plane: read-only attributes, no dataclass.
    return {
        name: _plain(getattr(value, name))
        for name in dir(value)
        if not name.startswith("_") and not callable(getattr(value, name))
    }


def grid(*rows: tuple[str, object]) -> str:
    """Names on the left, values on the right; rows whose value is None are left out."""
    # A server's message may have lines of its own, which would break the columns.
    return aligned(
        [(name, " ".join(str(value).split())) for name, value in rows if value is not None]
    )


def columns(
    headings: Sequence[str], rows: Iterable[Sequence[object]], screen: int | None = None
) -> str:
    """A table with headings; None is an empty cell.

    On a screen of fewer columns the sentence at the end of a row takes several lines, and where
    there is no room for that each row is shown by itself, a cell in a line.
    """
    cells = [["" if cell is None else visible(cell) for cell in row] for row in rows]
    if (shown := table([headings, *cells], screen)) is not None:
        return shown
    return "\n\n".join(
        grid(*((name, cell or None) for name, cell in zip(headings, row, strict=True)))
        for row in cells
    )


def visible(value: object) -> str:
    """In one line, with nothing in it that a terminal would obey: a tenant may have any name."""
    text = str(value)
    if text.isprintable():
        return text
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


def record(value: DataclassInstance) -> dict[str, object]:
    """The fields of a record by name."""
    return {each.name: getattr(value, each.name) for each in fields(value)}


def described(migration: Migration) -> dict[str, object]:
    """A migration as the JSON of every command shows it."""
    document = record(migration)
    document["config"] = json.loads(migration.config.to_json())
    document["is_waiting"] = migration.is_waiting
    return document


def clock(moment: datetime | None = None) -> str:
    """A time of day for the beginning of a line, in the local time of who looks."""
    return (moment or datetime.now()).astimezone().strftime("%H:%M:%S")


def amount(number: float) -> str:
    """A number of events with thousands separated."""
    return f"{number:,.0f}"


def number(name: str, value: int) -> str:
    """A whole number of a row of the audit log: positions are names of places, all else counts."""
    return str(value) if name.endswith(("position", "offset")) else amount(value)


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"


def megabytes(size: float) -> str:
    """A number of bytes."""
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


def brief(details: Mapping[str, Any]) -> str:
    """The details of an audit row in one line: numbers rounded, lists counted, no ids."""
    parts = []
    for name, value in details.items():
        if value in (None, [], {}) or name in ("request", "token"):
            continue
        if isinstance(value, bool):
            shown = "yes" if value else "no"
        elif isinstance(value, float):
            shown = f"{value:.1f}"
        elif isinstance(value, int):
            shown = number(name, value)
        elif isinstance(value, (list, dict)):
            shown = str(len(value))
        else:
            shown = str(value) if len(str(value)) <= 90 else f"{str(value)[:89]}…"
        parts.append(f"{name}={shown}")
    return ", ".join(parts)


#: Who waits says since when in UTC: it may be read anywhere.
_UTC = re.compile(r"\b(\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?) UTC\b")


def localised(text: str) -> str:
    """A message with its times as they are here."""
    return _UTC.sub(lambda found: local(datetime.fromisoformat(f"{found[1]}+00:00")), text)


def local(at: datetime) -> str:
    """A time as it is here, with its distance from UTC."""
    return at.astimezone().isoformat(sep=" ", timespec="seconds")
