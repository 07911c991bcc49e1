"""Libraries of which a tenant appends, and all that it has in their tables, by plain SQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from eventsource.migration.layouts.declaration import Layout
from eventsource.migration.layouts.presets import presets
from tests.support import marten, others

#: A stream that is there before everything.
OLD = UUID(int=1)


async def to_marten(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    [event] = await marten.append(connection, tenant, OLD if stream == "old" else UUID(stream))
    return str(event)


@dataclass(frozen=True)
class Library:
    """``events`` are the ids of a tenant's events; ``rows`` all that it has, by table.

    A new event of an old stream changes the rows of ``rewritten``.
    """

    preset: str
    make: Callable[[asyncpg.Connection], Awaitable[None]]
    append: others.Append
    events: str
    rows: dict[str, str]
    rewritten: tuple[str, ...] = ()

    @property
    def layout(self) -> Layout:
        return presets()[self.preset]

    def __str__(self) -> str:
        return self.preset

    async def ids(self, connection: asyncpg.Connection, tenant: str = "acme") -> set[str]:
        return {row[0] for row in await connection.fetch(self.events, tenant)}

    async def all_rows(self, connection: asyncpg.Connection, tenant: str = "acme") -> list[str]:
        return sorted(
            [f"{table} {row[0]}" for table, query in self.rows.items()
             for row in await connection.fetch(query, tenant)]
        )  # fmt: skip


def _of(tables: str) -> Callable[[asyncpg.Connection], Awaitable[None]]:
    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(tables)

    return make


MARTEN = Library(
    "marten", marten.make, to_marten,
    "select id::text from mt_events where tenant_id = $1",
    {
        "mt_events": "select (to_jsonb(t) - 'seq_id')::text from mt_events t where tenant_id = $1",
        "mt_streams": "select to_jsonb(t)::text from mt_streams t where tenant_id = $1",
    },
    ("mt_streams",),
)  # fmt: skip
MESSAGE_DB = Library(
    "message-db", _of(others.MESSAGE_DB), others.to_message_db,
    "select id::text from message_store.messages where stream_name like $1 || ':%'",
    {
        "messages": "select to_jsonb(t)::text from message_store.messages t"
        " where stream_name like $1 || ':%'",
    },
)  # fmt: skip
RAILS = Library(
    "rails-event-store", _of(others.RAILS), others.to_rails,
    "select event_id::text from event_store_events where metadata ->> 'tenant_id' = $1",
    {
        "event_store_events": "select to_jsonb(t)::text from event_store_events t"
        " where metadata ->> 'tenant_id' = $1",
        "event_store_events_in_streams": "select to_jsonb(s)::text from"
        " event_store_events_in_streams s join event_store_events t using (event_id)"
        " where metadata ->> 'tenant_id' = $1",
    },
)  # fmt: skip
