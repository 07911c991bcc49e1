"""Which hosts a pool or a DSN names, and whether anything answers there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg
from asyncpg.pool import Pool

from eventsource.connections import Secret, pairs_of_pool, parameters_of_pool
from eventsource.dsn.reading import read
from eventsource.dsn.spelling import pairs_of
from eventsource.errors import ConnectionDetailsError


def hosts_of(pool: Pool[Any] | None, dsn: Secret | None = None) -> list[tuple[str, int]]:
    """The TCP addresses that the pool, or the dsn, would try.

    Empty when that is not known: a unix socket, a function, or a pool that connects in a way of its
    own.
    """
    if dsn is None and pool is not None and (ours := parameters_of_pool(pool)):
        dsn = ours.dsn
    if callable(dsn):
        return []
    try:
        pairs = pairs_of(dsn) if dsn else {}
        if dsn is None and pool is not None:
            if getattr(pool, "_connect", asyncpg.connect) is not asyncpg.connect:
                return []
            pairs, _ = pairs_of_pool(pool)
        if not pairs.keys() & _NAMING and not os.environ.get("PGHOST"):
            return []
        found = read(pairs, os.environ).hosts
    except ConnectionDetailsError:
        return []  # the connect that follows says better what is wrong with it
    return [(host.target, host.port) for host in found if not host.is_socket]


_NAMING = {"host", "hostaddr", "service"}


T = TypeVar("T")


class SilentHostsError(Exception):
    """Hosts that do not answer at all; ``names`` is what they were called."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        super().__init__(f"no answer from {', '.join(names)}")


async def unless_silent(work: Awaitable[T], hosts: Mapping[str, Sequence[tuple[str, int]]]) -> T:
    """What the work returns. It is given up when a host turns out to say nothing at all.

    That is asked only where the work takes long: to ask costs each server a process.

    Raises:
        SilentHostsError: the work had not ended when that was known.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=SOON_SECONDS)
        if not task.done():
            silent = await asyncio.gather(
                *(is_silent(each, SILENCE_SECONDS) for each in hosts.values())
            )
            if any(silent) and not task.done():
                raise SilentHostsError([n for n, no in zip(hosts, silent, strict=True) if no])
        return await task
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def is_silent(hosts: Sequence[tuple[str, int]], seconds: float) -> bool:
    """Whether none of these addresses accepts or refuses a connection within the time.

    This is asked of the operating system there and not of PostgreSQL: a server under any load
    answers the first packet at once, also one lost packet later, which is sent again after a
    second. Only a host that is not there, or a firewall that drops packets, stays silent. How long
    the name service takes does not count.
    """
    addresses = []
    loop = asyncio.get_running_loop()
    for host, port in hosts:
        try:
            addresses += await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, OverflowError):
            return False  # connecting gives the better error
    if not addresses:
        return False
    attempts = [
        asyncio.create_task(_answers(family, kind, address))
        for family, kind, _, _, address in addresses
    ]
    try:
        async with asyncio.timeout(seconds):
            for attempt in asyncio.as_completed(attempts):
                if await attempt:
                    break
    except TimeoutError:
        return True
    finally:
        for each in attempts:
            each.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
    return False


async def _answers(family: int, kind: int, address: Any) -> bool:
    """Whether anybody is there; False when there is no way to the address at all."""
    with socket.socket(family, kind) as probe:
        probe.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(probe, address)
        except ConnectionError:
            return True
        except OSError:
            return False
        return True


#: A host that says nothing for so long is not there (seconds). Only connecting is measured, which
#: no load delays; what a server is asked afterwards may take longer.
SILENCE_SECONDS = 1.25

#: What has ended within this time has met no silent host (seconds).
SOON_SECONDS = 0.4
