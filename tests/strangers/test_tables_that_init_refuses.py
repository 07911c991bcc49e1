"""A table that create_schema() will refuse is left exactly as it was, and named for what it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import asyncpg
import pytest

from eventsource.errors import StoreSchemaError
from eventsource.migration import PreflightError, create_schema
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.fingerprint import fingerprint
from tests.support.store_tables import FILL, OLD_TABLE

#: The name of the library, and its table under the name of ours, by its documentation.
FOREIGN = {
    "Marten": "seq_id bigint primary key, id uuid not null, stream_id uuid, version bigint,"
    " data jsonb not null, type varchar(500) not null, timestamp timestamptz not null,"
    " tenant_id varchar, mt_dotnet_type varchar, is_archived boolean",
    "Axon Framework": "global_index bigint primary key, event_identifier varchar(255),"
    " aggregate_identifier varchar(255), sequence_number bigint, type varchar(255),"
    " payload oid, payload_type varchar(255), meta_data oid, time_stamp varchar(255)",
    "Message DB": "id uuid, stream_name text, type text, position bigint,"
    " global_position bigserial primary key, data jsonb, metadata jsonb, time timestamp",
    "Emmett": "stream_id text, stream_position bigint, partition text, message_kind char(1),"
    " message_data jsonb, message_metadata jsonb, message_schema_version text, message_type text,"
    " message_id text, is_archived boolean, global_position bigserial, transaction_id xid8,"
    " created timestamptz",
    "eventsourcing (Python)": "originator_id uuid, originator_version bigint, topic text,"
    " state bytea, notification_id bigserial",
    "Rails Event Store": "id bigserial primary key, event_id uuid, event_type varchar,"
    " metadata jsonb, data jsonb, created_at timestamp, valid_at timestamp",
    "Akka or Pekko Persistence": "ordering bigserial, persistence_id varchar(255),"
    " sequence_number bigint, deleted boolean, writer varchar(255), event_payload bytea",
    "Commanded (Elixir)": "event_id uuid primary key, event_type text, causation_id uuid,"
    " correlation_id uuid, data bytea, metadata bytea, created_at timestamptz",
    "Spatie laravel-event-sourcing": "id bigserial primary key, aggregate_uuid uuid,"
    " aggregate_version bigint, event_version int, event_class varchar, event_properties jsonb,"
    " meta_data jsonb, created_at timestamp",
}

#: A change of a table that an older version made, and what is said of it.
OURS = {
    "a child": ("create table kid () inherits (events)", "has children"),
    "a parent": ("create table elder (event_id uuid not null); alter table events inherit elder",
                 "inherits from"),
    "a late trigger": ("create function f() returns trigger language plpgsql as"
                       " $$ begin return new; end $$; create trigger zzzz before insert on events"
                       " for each row execute function f()", "runs after the guard"),
    "a generated tenant": ("alter table events drop column tenant_id; alter table events add column"
                           " tenant_id uuid generated always as ((payload ->> 't')::uuid) stored",
                           "tenant_id is generated"),
    "a generated type": ("alter table events drop column event_type; alter table events add column"
                         " event_type text generated always as (payload ->> 't') stored",
                         "event_type is generated"),
    "a missing column": ("alter table events drop column payload", "add column payload jsonb"),
    "many missing columns": ("alter table events drop column payload, drop column event_id,"
                             " drop column timestamp", "is no event table: it lacks"),
    "another type": ("alter table events alter payload type json", "payload is json, not jsonb"),
    "a sequence that keeps numbers": ("alter sequence events_global_position_seq cache 20",
                                      "cache 1"),
    "no sequence of its own": ("alter sequence events_global_position_seq owned by none",
                               "alter sequence … owned by"),
    "duplicates": ("alter table events drop constraint events_event_id_key; update events set"
                   " event_id = '00000000-0000-4000-8000-000000000000' where global_position < 3",
                   "Remove the duplicates"),
    "an instead rule": ("create rule r as on update to events do instead nothing", "drop rule"),
}  # fmt: skip


@pytest.fixture
async def database(source_dsn: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(source_dsn, min_size=0, max_size=4) as pool:
        yield pool


async def everything(database: asyncpg.Pool) -> dict[str, Any]:
    """The fingerprint of the database."""
    async with database.acquire() as connection:
        return await fingerprint(cast("asyncpg.Connection", connection))


async def assert_left_alone(database: asyncpg.Pool, told: str) -> str:
    before = await everything(database)
    with pytest.raises(StoreSchemaError) as refused:
        await PostgreSQLEventStore(database).create_schema()
    assert told in str(refused.value)
    assert await everything(database) == before
    return str(refused.value)


@pytest.mark.parametrize("library", FOREIGN)
async def test_another_librarys_table_is_named_and_gets_no_advice(
    database: asyncpg.Pool, library: str
) -> None:
    await database.execute(f"create table events ({FOREIGN[library]})")
    said = await assert_left_alone(database, f"is a {library} event table")
    assert "alter table" not in said


@pytest.mark.parametrize("fault", OURS)
async def test_a_table_that_does_not_fit_is_left_as_it_was(
    database: asyncpg.Pool, fault: str
) -> None:
    change, told = OURS[fault]
    await database.execute(OLD_TABLE)
    await database.execute(FILL)
    await database.execute(change)
    await assert_left_alone(database, told)


async def test_a_partition_is_told_from_a_table(database: asyncpg.Pool) -> None:
    await database.execute(OLD_TABLE.replace("create table events", "create table kept"))
    await database.execute(
        "create table whole (like kept including defaults) partition by hash (aggregate_id);"
        "create table events partition of whole for values with (modulus 1, remainder 0);"
        "alter sequence kept_global_position_seq owned by events.global_position"
    )
    await assert_left_alone(database, "is a partition")


async def test_settings_of_the_database_do_not_matter(database: asyncpg.Pool) -> None:
    name = await database.fetchval("select current_database()")
    await database.execute(
        f'alter database "{name}" set standard_conforming_strings = off;'
        f'alter database "{name}" set quote_all_identifiers = on'
    )
    await database.expire_connections()
    for _ in range(2):
        await PostgreSQLEventStore(database).create_schema()


async def test_control_tables_of_another_library_are_named(database: asyncpg.Pool) -> None:
    await database.execute(
        "create table tenant_migrations (id uuid primary key, tenant_id uuid, phase text,"
        " source_store text, target_store text);"
        "create table tenant_routing (tenant_id uuid primary key, store_id text)"
    )
    before = await everything(database)
    with pytest.raises(PreflightError, match="of another library") as refused:
        await create_schema(database)
    assert "[control]" in str(refused.value)
    assert await everything(database) == before
