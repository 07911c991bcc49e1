"""Bytes that change on their way: what the data plane says of an answer that no server gives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import pytest

from eventsource.connections import TableAddress
from eventsource.dataplane import DataPlaneError, PassSpec
from tests.support.worlds.rows_by_hand import (
    COLUMNS,
    World,
    bare_world,  # noqa: F401 - the fixture "world"
)


@contextlib.asynccontextmanager
async def damaging(dsn: str, damage: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """A way to the server that changes what it answers."""
    parts = urlsplit(dsn)

    async def carry(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        change: Callable[[bytes], bytes],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 20):
                writer.write(change(data))
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(
            carry(reader, server_writer, bytes), carry(server_reader, writer, damage)
        )

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        place = parts.netloc.rpartition("@")[0]
        yield parts._replace(netloc=f"{place}@127.0.0.1:{port}", query="sslmode=disable").geturl()


def fewer(count: int) -> Callable[[bytes], bytes]:
    """Tuples say that they have so many fields."""
    start = b"\x00\x00\x00\x08"
    before = len(COLUMNS).to_bytes(2, "big") + start
    return lambda data: data.replace(before, count.to_bytes(2, "big") + start)


@pytest.mark.parametrize("count", [0, 1, 11])
@pytest.mark.parametrize("staged", [False, True], ids=["first", "later"])
async def test_a_tuple_with_too_few_fields_is_an_error(
    world: World, staged: bool, count: int
) -> None:
    """It was a panic, of which nothing says which database it is about."""
    await world.append(5)
    spec = await world.start_pass(PassSpec(0, None, await world.snapshot(), staged))
    target = world.config.target
    async with damaging(str(target.dsn), fewer(count)) as dsn:
        session = await world.open(target=TableAddress(dsn, target.schema, target.table))
        with pytest.raises(DataPlaneError) as caught:
            await session.run(spec)
    assert caught.value.kind == "protocol"
    assert "panic" not in str(caught.value)
