"""What the torture knows of each library: tables, statements, and what has to be true of them.

Every append has ids that its writer chose before, so that it is known what a lost answer was about.
A stream whose rows change, or go, belongs to one task of one writer: it knows what they have to be.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from tests.support import marten, others

Connection = asyncpg.Connection

#: Of tenant and stream, with the ids of the new events.
Append = Callable[[Connection, str, str, list[str]], Awaitable[None]]

#: Of all events of a tenant's stream; a number that grows is the writer's.
Change = Callable[[Connection, str, str, int], Awaitable[None]]


@dataclass(frozen=True)
class Rows:
    """Rows of a table by plain SQL.

    Attributes:
        query: of $1, the tenant, gives `id`, `stream`, `number` (or null) and `rest`.
        grows: an append changes a row that is there.
    """

    name: str
    query: str
    grows: bool = False


@dataclass(frozen=True)
class Library:
    """``rows`` begins with the events. ``values`` gives `id` and `value` of $1's events, and
    ``wrong`` one line for each stream that no sequence of appends makes."""

    preset: str
    tables: str
    append: Append
    rows: tuple[Rows, ...]
    wrong: str
    burst: str
    values: str = "select id, '' as value from (select $1::text as id) none where false"
    change: Change | None = None
    #: What events have that no change has touched, and after a change by its number.
    unchanged: str = ""
    changed: Callable[[int], str] = lambda number: "true"
    #: Readers of the target go by these, in this order.
    order: str = "number"
    newcomer: tuple[str, ...] = ()
    #: The tenants that move, stay, and live at the target before.
    tenants: tuple[str, str, str] = ("acme", "umbrella", "initech")

    def __str__(self) -> str:
        return self.preset


async def _to_marten(connection: Connection, tenant: str, stream: str, ids: list[str]) -> None:
    await connection.execute(
        "select mt_quick_append_events($1, 'order', $2, $3, $4, $5, $6::text[]::jsonb[])",
        UUID(stream), tenant, list(map(UUID, ids)), ["placed"] * len(ids),
        ["Shop.Placed"] * len(ids), ['{"a": 1}'] * len(ids),
    )  # fmt: skip


async def _archive_in_marten(connection: Connection, tenant: str, stream: str, number: int) -> None:
    await connection.execute("select mt_archive_stream($1, $2)", UUID(stream), tenant)


MARTEN = Library(
    "marten", marten.TABLES.replace("{s}", "public"), _to_marten,
    (
        Rows("mt_events", "select id::text, stream_id::text as stream, seq_id as number,"
             " (to_jsonb(t) - 'seq_id')::text as rest from mt_events t where tenant_id = $1"),
        Rows("mt_streams", "select id::text, id::text as stream, null::bigint as number,"
             " to_jsonb(t)::text as rest from mt_streams t where tenant_id = $1", grows=True),
    ),
    wrong="""
select format('stream %s: version %s, %s events up to %s', s.id, s.version, count(e.id),
              max(e.version))
from mt_streams s left join mt_events e on (e.tenant_id, e.stream_id) = (s.tenant_id, s.id)
where s.tenant_id = $1 group by s.id, s.version
having s.version <> count(e.id) or s.version <> coalesce(max(e.version), 0)
""",
    burst="update mt_events set data = data || '{\"burst\": 1}' where tenant_id = $1",
    values="select id::text, is_archived::text as value from mt_events where tenant_id = $1",
    change=_archive_in_marten, unchanged="false",
)  # fmt: skip


async def _to_message_db(connection: Connection, tenant: str, stream: str, ids: list[str]) -> None:
    async with connection.transaction():
        for message in ids:
            await connection.execute(
                "select message_store.write_message($1, $2, 'placed', '{}')",
                message, f"{tenant}:order-{stream}",
            )  # fmt: skip


MESSAGE_DB = Library(
    "message-db", others.MESSAGE_DB, _to_message_db,
    (
        Rows("messages", "select id::text, split_part(stream_name, ':order-', 2) as stream,"
             " global_position as number, (to_jsonb(t) - 'global_position')::text as rest"
             " from message_store.messages t where stream_name like $1 || ':%'"),
    ),
    wrong="""
select format('stream %s: %s messages, %s to %s', stream_name, count(*), min(position),
              max(position))
from message_store.messages where stream_name like $1 || ':%' group by stream_name
having min(position) <> 0 or max(position) <> count(*) - 1
""",
    burst="update message_store.messages set metadata = '{\"burst\": 1}'"
    " where stream_name like $1 || ':%'",
)  # fmt: skip


async def _to_rails(connection: Connection, tenant: str, stream: str, ids: list[str]) -> None:
    async with connection.transaction():
        for event in map(UUID, ids):
            await connection.execute(
                "insert into event_store_events (event_id, event_type, metadata, data, created_at)"
                " values ($1, 'Placed', $2, $3, clock_timestamp())",
                event, json.dumps({"tenant_id": tenant}), json.dumps({"stream": stream, "n": 0}),
            )  # fmt: skip
            await connection.execute(
                "insert into event_store_events_in_streams (stream, position, event_id, created_at)"
                " select $1::varchar, coalesce(max(position), -1) + 1, $2, clock_timestamp()"
                " from event_store_events_in_streams where stream = $1",
                f"Order${tenant}${stream}", event,
            )  # fmt: skip
            await connection.execute(
                "insert into event_store_events_in_streams (stream, event_id, created_at)"
                " values ($1, $2, clock_timestamp())",
                f"$by_type_Placed_{tenant}", event,
            )  # fmt: skip


async def _change_in_rails(connection: Connection, tenant: str, stream: str, number: int) -> None:
    """Its events are overwritten; every other time they are taken out of their stream as well."""
    async with connection.transaction():
        await connection.execute(
            "update event_store_events set data = data || jsonb_build_object('n', $2::int)"
            " where data ->> 'stream' = $1",
            stream, number,
        )  # fmt: skip
        if number % 2:
            await connection.execute(
                "delete from event_store_events_in_streams where stream = $1",
                f"Order${tenant}${stream}",
            )


RAILS = Library(
    "rails-event-store", others.RAILS, _to_rails,
    (
        Rows("event_store_events", "select event_id::text as id, data ->> 'stream' as stream,"
             " id as number, (to_jsonb(t) - 'id')::text as rest from event_store_events t"
             " where metadata ->> 'tenant_id' = $1"),
        Rows("event_store_events_in_streams", "select s.stream || '/' || event_id as id,"
             " data ->> 'stream' as stream, s.id as number, (to_jsonb(s) - 'id')::text as rest"
             " from event_store_events_in_streams s join event_store_events t using (event_id)"
             " where metadata ->> 'tenant_id' = $1"),
    ),
    wrong="""
select format('stream %s: %s links, %s to %s', stream, count(*), min(position), max(position))
from event_store_events_in_streams where stream like 'Order$' || $1 || '$%' group by stream
having min(position) <> 0 or max(position) <> count(*) - 1
""",
    burst="update event_store_events set metadata = metadata || '{\"burst\": 1}'"
    " where metadata ->> 'tenant_id' = $1",
    values="select event_id::text as id, format('%s in %s', data ->> 'n', (select count(*)"
    " from event_store_events_in_streams s where s.event_id = t.event_id)) as value"
    " from event_store_events t where metadata ->> 'tenant_id' = $1",
    change=_change_in_rails, unchanged="0 in 2",
    changed=lambda number: f"{number} in {1 if number % 2 else 2}",
)  # fmt: skip


async def _to_emmett(connection: Connection, tenant: str, stream: str, ids: list[str]) -> None:
    async with connection.transaction():
        for message in ids:
            await connection.execute("select emt_append($1, $2, $3, '{}')", tenant, stream, message)


async def _archive_in_emmett(connection: Connection, tenant: str, stream: str, number: int) -> None:
    async with connection.transaction():
        for table in ("emt_streams", "emt_messages"):
            await connection.execute(
                f"update {table} set is_archived = true where partition = $1 and stream_id = $2",
                tenant, stream,
            )  # fmt: skip


EMMETT = Library(
    "emmett", others.EMMETT, _to_emmett,
    (
        Rows("emt_messages", "select message_id as id, stream_id as stream,"
             " global_position as number,"
             " (to_jsonb(t) - 'global_position' - 'transaction_id')::text as rest,"
             " transaction_id from emt_messages t where partition = $1"),
        Rows("emt_streams", "select stream_id as id, stream_id as stream, null::bigint as number,"
             " to_jsonb(t)::text as rest from emt_streams t where partition = $1", grows=True),
    ),
    wrong="""
select format('stream %s: at %s, %s messages up to %s', s.stream_id, s.stream_position,
              count(m.message_id), max(m.stream_position))
from emt_streams s left join emt_messages m using (partition, stream_id, is_archived)
where s.partition = $1 group by s.stream_id, s.stream_position
having s.stream_position <> count(m.message_id)
    or s.stream_position <> coalesce(max(m.stream_position), 0)
""",
    burst="update emt_messages set message_metadata = message_metadata || '{\"burst\": 1}'"
    " where partition = $1",
    values="select message_id as id, is_archived::text as value from emt_messages"
    " where partition = $1",
    change=_archive_in_emmett, unchanged="false", order="transaction_id, number",
    newcomer=tuple(
        f"create table emt_{table}_newcomer partition of emt_{table} for values in ('newcomer')"
        for table in ("streams", "messages")
    ),
)  # fmt: skip


EVENTS = """
create table events (
    global_position bigserial primary key, event_id uuid not null unique,
    aggregate_id uuid not null, aggregate_type varchar(255) not null,
    event_type varchar(255) not null, tenant_id uuid, actor_id varchar(255),
    version integer not null, timestamp timestamptz not null default now(), payload jsonb not null,
    created_at timestamptz not null default now(), txid xid8 default pg_current_xact_id(),
    constraint uq_events_aggregate_version unique (aggregate_id, aggregate_type, version)
);
create index idx_events_tenant_id on events (tenant_id) where tenant_id is not null;
"""


async def _to_eventsource_py(
    connection: Connection, tenant: str, stream: str, ids: list[str]
) -> None:
    async with connection.transaction():
        last = await connection.fetchval(
            "select coalesce(max(version), 0) from events where aggregate_id = $1", UUID(stream)
        )
        for number, event in enumerate(ids, last + 1):
            await connection.execute(
                "insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
                " version, payload) values ($1, $2, 'Order', 'Placed', $3, $4, '{}')",
                UUID(event), UUID(stream), UUID(tenant), number,
            )  # fmt: skip


EVENTSOURCE_PY = Library(
    "eventsource-py", EVENTS, _to_eventsource_py,
    (
        Rows("events", "select event_id::text as id, aggregate_id::text as stream,"
             " global_position as number,"
             " (to_jsonb(t) - 'global_position' - 'txid')::text as rest, txid"
             " from events t where tenant_id = $1::text::uuid"),
    ),
    wrong="""
select format('stream %s: %s events up to %s', aggregate_id, count(*), max(version))
from events where tenant_id = $1::text::uuid group by aggregate_id
having min(version) <> 1 or max(version) <> count(*)
""",
    burst="update events set payload = payload || '{\"burst\": 1}'"
    " where tenant_id = $1::text::uuid",
    # Its `read_all` shows only what is older than the oldest transaction that runs.
    order="number",
    tenants=(
        "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b",
        "cccccccc-0000-4000-8000-00000000000c",
    ),
)  # fmt: skip

LIBRARIES = {each.preset: each for each in (EVENTSOURCE_PY, MARTEN, MESSAGE_DB, RAILS, EMMETT)}
