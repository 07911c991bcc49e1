"""What a subscription does while a database is away: it waits, says so once, and goes on."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
import time
from collections.abc import Iterator

import asyncpg

from eventsource.connections import brief
from eventsource.sqlstates import ENDED_BY_THE_SERVER, PASSING_CLASSES

_log = logging.getLogger("eventsource.subscriptions")

#: Waits between two attempts, in seconds; each is shortened at random by up to a half, so that
#: the processes that one restart has cut off do not all come back at the same moment.
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 10.0

#: What the operating system says about networks, and never about an application's files.
_OF_NETWORKS = frozenset(
    {
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
    }
)

#: Connection, resources, operator intervention: what a handler's server says of itself.
_OF_SERVERS = ("08", "53", "57P")

#: How PEP 249 calls what is not the fault of a statement.
_OF_CLIENTS = frozenset({"OperationalError", "InterfaceError"})


def of_a_store(error: BaseException) -> bool:
    """Whether reading a store or keeping a checkpoint failed for a reason that time heals.

    A pool that the application has closed is no such reason.
    """
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = str(error.sqlstate or "")
        return sqlstate[:2] in PASSING_CLASSES or sqlstate in ENDED_BY_THE_SERVER
    if isinstance(error, asyncpg.InterfaceError):
        return "connection is closed" in str(error)
    return isinstance(error, (OSError, asyncpg.InternalClientError))


def of_a_handler(error: BaseException) -> bool:
    """Whether a handler failed because it lost a connection, and not for a reason of its own.

    Narrower than `of_a_store`: a handler also has files, deadlines and statements that fail. What a
    task group of the handler raises is a lost connection if all that it holds is.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(of_a_handler(each) for each in error.exceptions)
    if isinstance(error, asyncpg.InterfaceError):
        return found_closed(error)
    if isinstance(error, asyncpg.InternalClientError):
        return True
    return any(_of_a_network(each) or _of_a_client(each) for each in _as_clients_wrap(error))


def found_closed(error: BaseException) -> bool:
    """Whether it is asyncpg's about a connection that was closed before.

    A block ``async with connection.transaction()`` ends so when its connection is lost within.
    """
    if isinstance(error, BaseExceptionGroup):
        return any(found_closed(each) for each in error.exceptions)
    return isinstance(error, asyncpg.InterfaceError) and "connection is closed" in str(error)


def _of_a_network(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, socket.gaierror)):
        return True
    if not isinstance(error, OSError) or error.filename is not None:
        return False
    if error.errno is None:
        # What asyncio raises when a name stands for several addresses and none of them answers.
        return type(error) is OSError and str(error).startswith("Multiple exceptions")
    # A server's unix socket is not there while it restarts; a file that is missing has a name.
    return error.errno in _OF_NETWORKS or error.errno == errno.ENOENT


def _of_a_client(error: BaseException) -> bool:
    """What asyncpg, psycopg and psycopg2 say of a server that ends or that is not there."""
    if getattr(error, "connection_invalidated", False) is True:
        return True  # what SQLAlchemy says of any of them
    sqlstate = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if sqlstate is not None:
        return str(sqlstate).startswith(_OF_SERVERS)
    # Without a server's answer: it was not there, or went away. SQLite has no such attribute.
    return hasattr(error, "diag") and not _OF_CLIENTS.isdisjoint(_names(error))


def _as_clients_wrap(error: BaseException) -> Iterator[BaseException]:
    """The error, and the client's own one where SQLAlchemy or Django has wrapped it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        within = getattr(seen, "orig", None)
        if within is None and not _OF_CLIENTS.isdisjoint(_names(seen)):
            within = seen.__cause__
        seen = within


def _names(error: BaseException) -> set[str]:
    return {each.__name__ for each in type(error).__mro__}


class DeliveryError(Exception):
    """What a handler raised, kept apart from what reading the store and the checkpoints does.

    ``lost`` says that it lost a connection: then the event is to come again.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error
        self.lost = of_a_handler(error)


class Outage:
    """The outages of one reader: each is one WARNING when it begins and one INFO when it ends.

    Args:
        reader: names the reader in what is logged.
    """

    def __init__(self, reader: str) -> None:
        self._reader = reader
        self._began: float | None = None
        self._backoff = FIRST_BACKOFF

    def over(self) -> None:
        """An attempt succeeded."""
        if self._began is None:
            return
        lasted = time.monotonic() - self._began
        _log.info("%s goes on; the outage lasted %.1f s", self._reader, lasted)
        self._began, self._backoff = None, FIRST_BACKOFF

    async def sit_out(self, error: Exception, stop: asyncio.Event) -> None:
        """Wait before the next attempt, at most until ``stop``; raise what no waiting heals.

        That a handler raised it is kept: a group of its own errors is not one of our tasks'.
        """
        raised, passing = error, of_a_store(error)
        if isinstance(error, DeliveryError):
            passing, error = error.lost, error.error
        if not passing:
            raise raised
        if self._began is None:
            self._began = time.monotonic()
            _log.warning(
                "%s waits for its database and tries again: %s", self._reader, brief(_first(error))
            )
        wait, self._backoff = self._backoff, min(self._backoff * 2, LONGEST_BACKOFF)
        await pause(wait * random.uniform(0.5, 1), stop)


def _first(error: BaseException) -> BaseException:
    """A group of errors says less than one of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def pause(seconds: float, stop: asyncio.Event) -> None:
    """Sleep, at most until ``stop``."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
