"""Tables of message-db, Rails Event Store and Emmett, made again from what is known of them.

And how each of them appends: the statements of its writer, one transaction for each append.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import asyncpg

Append = Callable[[asyncpg.Connection, str, str], Awaitable[str]]

MESSAGE_DB = """
create schema message_store;
create table message_store.messages (
    global_position bigserial not null primary key, position bigint not null,
    time timestamp without time zone default (now() at time zone 'utc') not null,
    stream_name text not null, type text not null, data jsonb, metadata jsonb,
    id uuid not null default gen_random_uuid()
);
create unique index messages_id on message_store.messages (id);
create unique index messages_stream on message_store.messages (stream_name, position);
create function message_store.write_message(
    id varchar, stream_name varchar, type varchar, data jsonb
) returns bigint language plpgsql as $$
declare
    next_position bigint;
begin
    -- The category: everything before the first dash.
    perform pg_advisory_xact_lock(hashtextextended(split_part(stream_name, '-', 1), 0));
    select coalesce(max(m.position), -1) + 1 into next_position
        from message_store.messages m where m.stream_name = write_message.stream_name;
    insert into message_store.messages (id, stream_name, position, type, data)
        values (write_message.id::uuid, write_message.stream_name, next_position,
                write_message.type, write_message.data);
    return next_position;
end $$;
"""

#: With an index over an expression, one over a part, and one that a constraint is made of.
MESSAGE_DB_INDEXED = f"""
{MESSAGE_DB}
create index messages_category on message_store.messages
    (split_part(stream_name, '-', 1), global_position);
create index messages_correlation on message_store.messages
    ((metadata ->> 'correlation')) where type = 'placed';
alter table message_store.messages add constraint messages_twice
    unique (stream_name, position, type) deferrable initially deferred;
"""

RAILS = """
create table event_store_events (
    id bigserial primary key, event_id uuid not null, event_type varchar not null,
    metadata jsonb, data jsonb not null, created_at timestamp(6) not null, valid_at timestamp(6)
);
create unique index index_event_store_events_on_event_id on event_store_events (event_id);
create table event_store_events_in_streams (
    id bigserial primary key, stream varchar not null, position integer, event_id uuid not null,
    created_at timestamp(6) not null,
    constraint fk_rails_c8d52b5857 foreign key (event_id)
        references event_store_events (event_id)
);
create unique index index_streams_position on event_store_events_in_streams (stream, position);
create unique index index_streams_event on event_store_events_in_streams (stream, event_id);
"""

EMMETT = """
create sequence emt_global_message_position;
create table emt_streams (
    stream_id text not null, stream_position bigint not null, partition text not null
        default 'global', stream_type text not null, stream_metadata jsonb not null,
    is_archived boolean not null default false,
    primary key (stream_id, partition, is_archived)
) partition by list (partition);
create table emt_messages (
    stream_position bigint not null, global_position bigint
        default nextval('emt_global_message_position'),
    transaction_id xid8 not null, created timestamptz not null default now(),
    is_archived boolean not null default false, message_kind char(1) not null default 'E',
    stream_id text not null, partition text not null default 'global',
    message_schema_version text not null, message_id text not null, message_type text not null,
    message_data jsonb not null, message_metadata jsonb not null,
    primary key (stream_id, stream_position, partition, is_archived)
) partition by list (partition);
create table emt_processors (
    processor_id text primary key, last_processed_position bigint,
    last_processed_transaction_id xid8
);
do $$
declare
    tenant text;
begin
    foreach tenant in array array['acme', 'umbrella', 'initech'] loop
        execute format('create table emt_streams_%1$s partition of emt_streams for values in (%1$L)'
                       ' partition by list (is_archived)', tenant);
        execute format('create table emt_messages_%1$s partition of emt_messages'
                       ' for values in (%1$L) partition by list (is_archived)', tenant);
        for archived in 0..1 loop
            execute format('create table emt_streams_%1$s_%2$s partition of emt_streams_%1$s'
                           ' for values in (%3$L)', tenant, archived, archived = 1);
            execute format('create table emt_messages_%1$s_%2$s partition of emt_messages_%1$s'
                           ' for values in (%3$L)', tenant, archived, archived = 1);
        end loop;
    end loop;
end $$;
create function emt_append(tenant text, stream text, message text, body jsonb) returns bigint
language plpgsql as $$
declare
    at bigint;
begin
    insert into emt_streams as s (stream_id, stream_position, partition, stream_type,
                                  stream_metadata)
        values (stream, 1, tenant, 'order', '{}')
        on conflict (stream_id, partition, is_archived)
        do update set stream_position = s.stream_position + 1
        returning stream_position into at;
    insert into emt_messages (stream_id, stream_position, partition, transaction_id, message_id,
                              message_type, message_data, message_metadata, message_schema_version)
        values (stream, at, tenant, pg_current_xact_id(), message, 'placed', body, '{}', '1');
    return at;
end $$;
"""


async def to_message_db(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    message = str(uuid4())
    await connection.execute(
        "select message_store.write_message($1, $2, 'placed', $3)",
        message, f"{tenant}:order-{stream}", json.dumps({"n": 1}),
    )  # fmt: skip
    return message


async def to_rails(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    event = uuid4()
    async with connection.transaction():
        await connection.execute(
            "insert into event_store_events (event_id, event_type, metadata, data, created_at)"
            " values ($1, 'Placed', $2, '{}', clock_timestamp())",
            event, json.dumps({"tenant_id": tenant}),
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
    return str(event)


async def to_emmett(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    message = str(uuid4())
    await connection.execute(
        "select emt_append($1, $2, $3, $4)", tenant, stream, message, json.dumps({"n": 1})
    )
    return message


@dataclass
class Writers:
    """Tasks that append for tenants until they are stopped or sent elsewhere."""

    dsn: str
    append: Append
    tenants: list[str]
    each: int = 2
    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    sent_on: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Writers:
        for tenant in self.tenants:
            self.acknowledged[tenant], self.sent_on[tenant] = [], 0
            self._tasks += [asyncio.create_task(self._write(tenant)) for _ in range(self.each)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopping = True
        await asyncio.gather(*self._tasks)

    async def _write(self, tenant: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        streams = [str(UUID(int=random.getrandbits(128))) for _ in range(5)]
        try:
            while not self.stopping:
                try:
                    stored = await self.append(connection, tenant, random.choice(streams))
                    self.acknowledged[tenant].append(stored)
                except asyncpg.UniqueViolationError:
                    continue  # another writer was first in that stream
                except asyncpg.PostgresError as error:
                    if error.sqlstate == "EVF01":
                        self.sent_on[tenant] += 1
                        return
                    self.errors.append(f"{tenant}: {error.sqlstate} {error}")
                await asyncio.sleep(random.random() * 0.01)
        finally:
            await connection.close()
