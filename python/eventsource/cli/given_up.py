"""Connections that a command has given up, and what its loop says of them: nothing."""

from __future__ import annotations

import asyncio
from typing import Any


def without_given_up_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A loop's exception handler for a process with an operator at its terminal.

    Where connecting is cancelled, asyncpg forgets a future, which then has the end of the
    connection, and asyncio says of each that nobody has asked for it.
    """
    left, error = context.get("future"), context.get("exception")
    if isinstance(left, asyncio.Task) or not isinstance(error, ConnectionError):
        loop.default_exception_handler(context)
