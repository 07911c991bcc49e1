"""One connection through the proxy: two directions, each read, looked at, and written."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eventsource.testing.proxy import framing
from eventsource.testing.proxy.session import FROM_CLIENT, FROM_SERVER, Session

if TYPE_CHECKING:
    from eventsource.testing.proxy.traps import Trap

    Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
    Connect = Callable[[], Awaitable[Ends]]

_CHUNK = 64 * 1024
#: A throttled direction writes about this often (seconds).
_BEAT = 0.05
#: Chunks in flight in one direction, while they are late or held back.
_IN_FLIGHT = 64
_TLS_HANDSHAKE = b"\x16"


@dataclass(slots=True)
class Conditions:
    """What the network between the two ends is like now."""

    delay: float = 0.0
    bytes_per_second: float | None = None
    swallowing: bool = False
    flowing: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.flowing.set()


class Cut(Exception):
    """The connection ends here, for both ends."""


class Relay:
    """Carries one connection between a client and the server until either is gone."""

    def __init__(self, session: Session, client: Ends, traps: list[Trap], tls: str) -> None:
        self.session = session
        self.conditions = Conditions()
        self._client = client
        self._server: Ends | None = None
        self._traps = traps
        self._tls = tls
        self._task = asyncio.current_task()
        self._losing = False

    def cut(self) -> None:
        """End it now, with a reset in both directions; what was under way is lost."""
        for ends in (self._client, self._server):
            if ends is not None:
                _reset(ends[1])
        self.session.is_open = False
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def open(self, connect: Connect) -> tuple[Ends, bytes] | None:
        """Negotiate until the session's first packet is known; None when there is no session.

        Encryption is refused, or left to the server: then nothing but bytes is seen.
        """
        reader, writer = self._client
        while True:
            first = await reader.readexactly(1)
            if first == _TLS_HANDSHAKE:
                self.session.opaque = True
                return await connect(), first
            packet = first + await reader.readexactly(3)
            packet += await reader.readexactly(int.from_bytes(packet) - 4)
            code = framing.startup_code(packet)
            await self.conditions.flowing.wait()
            if self.conditions.swallowing:
                # Silent from the first packet on, and for as long as the client has patience.
                await reader.read()
                return None
            if code == framing.CANCEL_REQUEST:
                self.session.opaque = True
                return await connect(), packet
            if code not in (framing.SSL_REQUEST, framing.GSS_REQUEST):
                self.session.parameters.update(framing.startup_parameters(packet))
                return await connect(), packet
            if code == framing.SSL_REQUEST and self._tls == "pass":
                server = await connect()
                server[1].write(packet)
                answer = await server[0].readexactly(1)
                writer.write(answer)
                if answer == b"S":
                    self.session.opaque = True
                    return server, b""
                server[1].close()
            else:
                writer.write(b"N")
            await writer.drain()

    async def run(self, server: Ends, first: bytes) -> None:
        """Carry it; ``first`` was read from the client already and opens the session."""
        self._server = server
        _at_once(self._client[1])
        _at_once(server[1])
        try:
            async with asyncio.TaskGroup() as directions:
                there, back = self._directions(first)
                directions.create_task(self._carry(there, server[1]))
                directions.create_task(self._carry(back, self._client[1]))
        except* (Cut, OSError):
            self.cut()

    def _directions(self, first: bytes) -> tuple[AsyncIterator[bytes], AsyncIterator[bytes]]:
        assert self._server is not None
        if self.session.opaque:
            return _plain(self._client[0], first), _plain(self._server[0])
        return self._from_client(first), self._from_server()

    async def _from_client(self, first: bytes) -> AsyncIterator[bytes]:
        yield first
        framer = framing.Framer(FROM_CLIENT)
        async for data in _plain(self._client[0]):
            for piece in framer.feed(data):
                if isinstance(piece, bytes):
                    yield piece
                    continue
                statement = self.session.heard_from_client(piece)
                if statement is not None:
                    await self._meet_traps(statement)
                yield piece.raw

    async def _meet_traps(self, statement: str) -> None:
        for trap in list(self._traps):
            if trap.fate == "lose" or not trap.springs(self.session, statement):
                continue
            if trap.fate == "cut":
                raise Cut
            await trap.passed()

    async def _from_server(self) -> AsyncIterator[bytes]:
        assert self._server is not None
        framer = framing.Framer(FROM_SERVER)
        async for data in _plain(self._server[0]):
            for piece in framer.feed(data):
                if isinstance(piece, bytes):
                    if not self._losing:
                        yield piece
                    continue
                tag = self.session.heard_from_server(piece)
                if tag is not None and not self._losing:
                    self._losing = self._loses(tag)
                if not self._losing:
                    yield piece.raw
                elif tag == "COMMIT" or piece.kind == "Z":
                    # Anything but COMMIT is committed only when the server is ready again.
                    raise Cut

    def _loses(self, tag: str) -> bool:
        return any(
            trap.fate == "lose" and trap.springs(self.session, tag) for trap in list(self._traps)
        )

    async def _carry(self, pieces: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
        """Write what one end said to the other, as late and as slowly as the conditions are."""
        queue: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue(_IN_FLIGHT)

        async def read() -> None:
            async for piece in pieces:
                await queue.put((time.monotonic() + self.conditions.delay, piece))
            await queue.put(None)

        async with asyncio.TaskGroup() as both:
            both.create_task(read())
            while (item := await queue.get()) is not None:
                await self._write(*item, writer)
            await self._deliver_end(writer)

    async def _write(self, due: float, piece: bytes, writer: asyncio.StreamWriter) -> None:
        conditions = self.conditions
        if (early := due - time.monotonic()) > 0:
            await asyncio.sleep(early)
        view = memoryview(piece)
        while view:
            await conditions.flowing.wait()
            if conditions.swallowing:
                return
            rate = conditions.bytes_per_second
            part = len(view) if rate is None else max(1, int(rate * _BEAT))
            writer.write(view[:part])
            await writer.drain()
            if rate is not None:
                await asyncio.sleep(min(part, len(view)) / rate)
            view = view[part:]

    async def _deliver_end(self, writer: asyncio.StreamWriter) -> None:
        await self.conditions.flowing.wait()
        if self.conditions.swallowing:
            # Neither end hears of the other any more, not even that it is gone.
            return
        writer.close()


async def _plain(reader: asyncio.StreamReader, first: bytes = b"") -> AsyncIterator[bytes]:
    if first:
        yield first
    while data := await reader.read(_CHUNK):
        yield data


def _at_once(writer: asyncio.StreamWriter) -> None:
    """Send small messages when they are written: the proxy must not be slow by itself."""
    connected = writer.get_extra_info("socket")
    if connected is not None and connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    connected = writer.get_extra_info("socket")
    if connected is not None:
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
