"""The log of a command on standard error: as lines for people, or as JSON for a collector."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TextIO

from eventsource.cli.fitting import folded
from eventsource.connections import redact

#: What a record may carry beside its text, each a field of its own in JSON.
FIELDS = ("migration_id", "tenant_id", "source", "target", "state", "driver", "store_id")


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever standard error is at that moment."""

    def __init__(self, formatter: logging.Formatter) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(formatter)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        raise AttributeError("it follows sys.stderr")


class _LineFormatter(logging.Formatter):
    """One record in a line; at a terminal with times as they are here, in lines that fit."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if sys.stderr is None or not sys.stderr.isatty():
            return text
        # Loaded here: most commands log nothing.
        from eventsource.cli.output import localised

        return folded(localised(text), shutil.get_terminal_size().columns)


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message, and what the record carries."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        for name in FIELDS:
            if (value := getattr(record, name, None)) is not None:
                line[name] = str(value)
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


@contextlib.contextmanager
def waits_said_elsewhere() -> Iterator[None]:
    """Within the block the command itself says what a driver waits for.

    At a terminal the log then leaves it out, unless somebody has asked for the log.
    """

    def is_news(record: logging.LogRecord) -> bool:
        return not (getattr(record, "is_wait", False) and sys.stderr.isatty())

    logger = logging.getLogger("eventsource")
    handlers = [
        each
        for each in logger.handlers
        if isinstance(each, _StandardError) and each.level == logging.WARNING
    ]
    for handler in handlers:
        handler.addFilter(is_news)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_news)


def set_up(verbosity: int, *, as_json: bool) -> None:
    """Print the package's log: warnings only, with 1 what changes, with 2 all of it.

    JSON is for a collector, which wants what changes in any case.
    """
    logger = logging.getLogger("eventsource")
    for handler in [each for each in logger.handlers if isinstance(each, _StandardError)]:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    plain = _LineFormatter("%(asctime)s  %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
    handler = _StandardError(JsonFormatter() if as_json else plain)
    logger.addHandler(handler)
    if verbosity or as_json:
        logger.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    else:
        handler.setLevel(logging.WARNING)
