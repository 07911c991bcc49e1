"""Runs within eventsource-py's own environment: its tables, its appends, its reading."""

import asyncio
import json
import sys
from uuid import UUID, uuid4

import asyncpg
from eventsource.adapters.postgresql import PostgreSQLEventStore
from eventsource.domain import StreamId
from eventsource.domain.event_registry import register_event
from eventsource.migrations import get_schema
from eventsource.ports import ExpectedVersion, FeedReadOptions
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from eventsource import DomainEvent


@register_event
class Placed(DomainEvent):
    aggregate_type: str = "Order"
    event_type: str = "Placed"
    text: str = ""


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def make(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    # Not "all": parts of it are refused by the server, in this version of the library.
    for name in ("events", "snapshots"):
        await connection.execute(get_schema(name))
    await connection.close()


async def write(dsn: str, tenants: list[str], tasks: int) -> None:
    """Until the line `stop` comes, or a tenant is sent on."""
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    store = PostgreSQLEventStore(engine)
    stopping = asyncio.Event()

    async def listen() -> None:
        await asyncio.to_thread(sys.stdin.readline)
        stopping.set()

    async def append(tenant: str) -> None:
        streams = [uuid4() for _ in range(5)]
        number = 0
        while not stopping.is_set():
            number += 1
            stream = streams[number % 5] if number % 7 else uuid4()
            events = [
                Placed(aggregate_id=stream, tenant_id=UUID(tenant), text="x" * 50)
                for _ in range(1 + number % 3)
            ]
            try:
                await store.append(StreamId(stream, "Order"), events, ExpectedVersion.any_())
            except DBAPIError as error:
                state = getattr(error.orig, "sqlstate", None) or str(error)
                say(tenant=tenant, refused=state)
                if state == "EVF01":
                    return
                continue
            say(tenant=tenant, stored=[str(event.event_id) for event in events])
            await asyncio.sleep(0.002)

    listening = asyncio.create_task(listen())
    say(ready=True)
    await asyncio.gather(*(append(tenant) for tenant in tenants for _ in range(tasks)))
    await listening
    await engine.dispose()


async def read(dsn: str) -> None:
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    store = PostgreSQLEventStore(engine)
    found = [str(each.event.event_id) async for each in store.read_all(None, FeedReadOptions())]
    say(read=found)
    await engine.dispose()


def main() -> None:
    verb, dsn, *rest = sys.argv[1:]
    if verb == "make":
        asyncio.run(make(dsn))
    elif verb == "write":
        asyncio.run(write(dsn, json.loads(rest[0]), int(rest[1])))
    else:
        asyncio.run(read(dsn))


main()
