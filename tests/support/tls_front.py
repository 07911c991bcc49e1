"""Puts TLS before a server that has none, and refuses connections as `pg_hba.conf` can."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

CERTIFICATES = Path(__file__).parent / "certificates"
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def refuse(message: str) -> bytes:
    """An ErrorResponse with the SQLSTATE that a server gives when no entry matches."""
    fields = b"SFATAL\0VFATAL\0C28000\0M" + message.encode() + b"\0\0"
    return b"E" + struct.pack("!i", len(fields) + 4) + fields


@dataclass
class TlsFront:
    port: int
    certificate: str
    access: Literal["any", "tls only", "plain only"] = "any"
    client_authority: bool = False
    address: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[TlsFront]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            CERTIFICATES / f"{self.certificate}.pem", CERTIFICATES / f"{self.certificate}.key"
        )
        if self.client_authority:
            context.load_verify_locations(CERTIFICATES / "ca.pem")
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self.tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._negotiate(reader, writer)
        writer.close()

    async def _negotiate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        if first == SSL_REQUEST:
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(self._context())
            first = b""
        encrypted = first == b""
        if self.access == "tls only" and not encrypted:
            writer.write(refuse("no pg_hba.conf entry for the host, no encryption"))
        elif self.access == "plain only" and encrypted:
            writer.write(refuse("no pg_hba.conf entry for the host, SSL encryption"))
        else:
            await self._relay(first, reader, writer)
            return
        await writer.drain()

    async def _relay(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port)
        server_writer.write(first)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
