"""Marten's tables and how it writes to them, made again from what is known of them.

Conjoined tenancy, numbers drawn by the database as in its quick append, streams that are archived.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import asyncpg

TABLES = """
create sequence {s}.mt_events_sequence;
create table {s}.mt_streams (
    id uuid not null, type varchar, version bigint, "timestamp" timestamptz not null default now(),
    snapshot jsonb, snapshot_version int, created timestamptz not null default now(),
    tenant_id varchar not null default '*DEFAULT*', is_archived bool default false,
    constraint pkey_mt_streams_tenant_id_id primary key (tenant_id, id)
);
create table {s}.mt_events (
    seq_id bigint not null, id uuid not null, stream_id uuid not null, version bigint not null,
    data jsonb not null, type varchar(500) not null, "timestamp" timestamptz not null default now(),
    tenant_id varchar not null default '*DEFAULT*', mt_dotnet_type varchar,
    is_archived bool default false,
    constraint pkey_mt_events_seq_id primary key (seq_id),
    constraint fkey_mt_events_stream foreign key (tenant_id, stream_id)
        references {s}.mt_streams (tenant_id, id) on delete cascade
);
create unique index pk_mt_events_stream_and_version
    on {s}.mt_events (tenant_id, stream_id, version);
alter sequence {s}.mt_events_sequence owned by {s}.mt_events.seq_id;
create table {s}.mt_event_progression (
    name varchar not null primary key, last_seq_id bigint,
    last_updated timestamptz default transaction_timestamp()
);
create function {s}.mt_quick_append_events(
    stream uuid, stream_type varchar, tenantid varchar, event_ids uuid[], event_types varchar[],
    dotnet_types varchar[], bodies jsonb[]
) returns int[] language plpgsql as $function$
declare
    event_version int;
    event_type varchar;
    index int := 1;
    seq int;
    found_version int;
    return_value int[];
begin
    select version into event_version from {s}.mt_streams
        where id = stream and tenant_id = tenantid for update;
    if event_version is null then
        event_version = 0;
        insert into {s}.mt_streams (tenant_id, id, type, version, timestamp)
            values (tenantid, stream, stream_type, 0, now());
    end if;
    return_value := array[event_version + array_length(event_ids, 1)];
    foreach event_type in array event_types loop
        seq := nextval('{s}.mt_events_sequence');
        return_value := array_append(return_value, seq);
        event_version := event_version + 1;
        insert into {s}.mt_events (seq_id, id, stream_id, version, data, type, tenant_id, timestamp,
                                   mt_dotnet_type, is_archived)
            values (seq, event_ids[index], stream, event_version, bodies[index], event_type,
                    tenantid, now() at time zone 'utc', dotnet_types[index], false);
        index := index + 1;
    end loop;
    update {s}.mt_streams set version = event_version, timestamp = now()
        where id = stream and tenant_id = tenantid;
    return return_value;
end
$function$;
create function {s}.mt_archive_stream(streamid uuid, tenantid varchar) returns void
language plpgsql as $function$
begin
    update {s}.mt_streams set is_archived = true where id = streamid and tenant_id = tenantid;
    update {s}.mt_events set is_archived = true where stream_id = streamid and tenant_id = tenantid;
end
$function$;
"""


async def make(connection: asyncpg.Connection, schema: str = "public") -> None:
    """The tables and functions in a schema that is there."""
    await connection.execute(TABLES.replace("{s}", f'"{schema}"'))


async def append(
    connection: asyncpg.Connection, tenant: str, stream: UUID, count: int = 1, size: int = 100
) -> list[UUID]:
    """Append as Marten's quick mode does; the ids of the events once they are stored."""
    ids = [uuid4() for _ in range(count)]
    body = json.dumps({"text": "x" * size})
    await connection.fetchval(
        "select mt_quick_append_events($1, $2, $3, $4, $5, $6, $7::text[]::jsonb[])",
        stream, "order", tenant, ids, ["order_placed"] * count, ["Shop.OrderPlaced"] * count,
        [body] * count,
    )  # fmt: skip
    return ids


@dataclass
class Writers:
    """Some tasks that append for tenants, and archive, until they are stopped or sent elsewhere.

    Attributes:
        acknowledged: by tenant, the ids of the events whose append has returned.
        sent_on: the SQLSTATE that ended a tenant's writers, by tenant.
    """

    dsn: str
    tenants: list[str]
    each: int = 3
    acknowledged: dict[str, list[UUID]] = field(default_factory=dict)
    sent_on: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Writers:
        for number, tenant in enumerate(self.tenants):
            self.acknowledged[tenant], self.sent_on[tenant] = [], []
            for task in range(self.each):
                self._tasks.append(asyncio.create_task(self._write(tenant, number * 100 + task)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopping = True
        await asyncio.gather(*self._tasks)

    async def _write(self, tenant: str, seed: int) -> None:
        chance = random.Random(seed)
        connection = await asyncpg.connect(self.dsn)
        streams: list[UUID] = []
        try:
            while not self.stopping:
                if not streams or chance.random() < 0.2:
                    streams.append(uuid4())
                stream = chance.choice(streams)
                try:
                    if chance.random() < 0.1:
                        await connection.execute("select mt_archive_stream($1, $2)", stream, tenant)
                        continue
                    ids = await append(connection, tenant, stream, chance.randrange(1, 4))
                    self.acknowledged[tenant] += ids
                except asyncpg.PostgresError as error:
                    if error.sqlstate == "EVF01":
                        self.sent_on[tenant].append(error.sqlstate)
                        return
                    self.errors.append(f"{tenant}: {error.sqlstate} {error}")
                await asyncio.sleep(chance.random() * 0.01)
        finally:
            await connection.close()
