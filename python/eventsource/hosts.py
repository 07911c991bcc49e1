"""Which hosts a pool or a DSN names, and whether anything answers there."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
from asyncpg.pool import Pool


def hosts_of(pool: Pool[Any] | None, dsn: str | None = None) -> list[tuple[str, int]]:
    """The TCP addresses that the pool, or the dsn, would try.

    Empty when that is not known: a unix socket, a service file, or a pool that connects in a way
    of its own.
    """
    options: dict[str, Any] = {}
    if dsn is None and pool is not None:
        if getattr(pool, "_connect", asyncpg.connect) is not asyncpg.connect:
            return []
        arguments: list[Any] = list(getattr(pool, "_connect_args", ()))
        options = dict(getattr(pool, "_connect_kwargs", {}))
        dsn = arguments[0] if arguments else options.get("dsn")
    try:
        return [
            (host, port)
            for host, port in _addresses(dsn or "", options)
            if host and not host.startswith("/")
        ]
    except ValueError:
        return []  # connecting gives the better error


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


def _addresses(dsn: str, options: Mapping[str, Any]) -> list[tuple[str, int]]:
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    if "service" in query or options.get("service") or "PGSERVICE" in os.environ:
        return []
    hosts = options.get("host") or query.get("host") or os.environ.get("PGHOST") or ""
    listed = hosts.split(",") if isinstance(hosts, str) else list(hosts)
    named: list[tuple[str, int | None]] = [(str(host), None) for host in listed if host]
    if given := parts.netloc.rpartition("@")[2]:
        named = [_host_and_port(each) for each in given.split(",")]
    port = options.get("port") or query.get("port") or os.environ.get("PGPORT") or 5432
    ports = [int(each) for each in (str(port).split(",") if isinstance(port, (int, str)) else port)]
    if len(ports) == 1:
        ports *= len(named)
    return [(host, own or each) for (host, own), each in zip(named, ports, strict=True)]


def _host_and_port(text: str) -> tuple[str, int | None]:
    """Host and port of ``host:port``, ``[::1]:port`` or either without a port."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    return unquote(host).strip("[]"), int(port) if port.isdigit() else None


#: A host that says nothing for so long is not there (seconds). Only connecting is measured, which
#: no load delays; what a server is asked afterwards may take longer.
SILENCE_SECONDS = 1.25
