"""Counts round trips to a server: a relay on the wire, so that nothing has to be believed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit


@dataclass(slots=True)
class RoundTrips:
    """``count`` rises when a client speaks and the server spoke last, on any connection.

    Several messages that a client sends without waiting for an answer are one round trip.
    ``log_ins`` are the connections that were opened.
    """

    dsn: str
    count: int = 0
    log_ins: int = 0


@contextlib.asynccontextmanager
async def counted(dsn: str) -> AsyncIterator[RoundTrips]:
    """A DSN that leads to the same database through the relay."""
    parts = urlsplit(dsn)
    seen = RoundTrips(dsn)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client_speaks = False
        seen.log_ins += 1

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter,
                          from_client: bool) -> None:  # fmt: skip
            nonlocal client_speaks
            while data := await source.read(65536):
                if from_client and not client_speaks:
                    seen.count += 1
                client_speaks = from_client
                sink.write(data)
                await sink.drain()
            sink.close()

        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(
                pass_on(reader, server_writer, True), pass_on(server_reader, writer, False)
            )

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    address = parts.netloc.rpartition("@")[0] + f"@127.0.0.1:{port}"
    seen.dsn = urlunsplit(parts._replace(netloc=address))
    try:
        yield seen
    finally:
        server.close()
