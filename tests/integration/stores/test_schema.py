"""create_schema makes what a store needs, upgrades what is there, and says what it cannot do."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from eventsource import ExpectedVersion
from eventsource.errors import StoreSchemaError
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.store_tables import FILL, OLD_TABLE, Opened, Pool, append, catalogue

LONG_NAME = "events_of_a_tenant_whose_name_is_so_long_that_it_fills_63_bytes"


async def test_a_fresh_table_has_what_the_protocol_needs(pool: Pool) -> None:
    await PostgreSQLEventStore(pool).create_schema()
    columns = await pool.fetch(
        "select column_name::text, is_nullable::text, column_default, is_identity::text "
        "from information_schema.columns where table_name = 'events' order by ordinal_position"
    )
    assert [row["column_name"] for row in columns] == [
        "global_position",
        "event_id",
        "aggregate_id",
        "aggregate_type",
        "event_type",
        "tenant_id",
        "version",
        "timestamp",
        "actor_id",
        "payload",
        "metadata",
        "created_at",
        "transaction_id",
    ]
    assert {row["column_name"] for row in columns if row["is_nullable"] == "YES"} == {
        "tenant_id",
        "actor_id",
    }
    assert columns[-1]["column_default"] == "pg_current_xact_id()"
    objects = {row[1] for row in await catalogue(pool)}
    assert objects >= {
        "eventsource_fences",
        "eventsource_witnesses",
        "eventsource_copy_progress",
        "eventsource_announce",
        "events_tenant_id_global_position_idx",
        "events_tenant_id_transaction_id_global_position_idx",
    }


async def test_a_second_time_changes_nothing(pool: Pool) -> None:
    store = PostgreSQLEventStore(pool)
    await store.create_schema()
    await append(store)
    before = await catalogue(pool)
    await store.create_schema()
    assert await catalogue(pool) == before


@pytest.mark.parametrize("existing", ["", OLD_TABLE + ";" + FILL])
async def test_several_processes_may_do_it_at_once(
    pool: Pool, source_dsn: str, existing: str
) -> None:
    if existing:
        await pool.execute(existing)
    pools = [await asyncpg.create_pool(source_dsn, min_size=1, max_size=1) for _ in range(5)]
    try:
        await asyncio.gather(*(PostgreSQLEventStore(one).create_schema() for one in pools))
    finally:
        await asyncio.gather(*(one.close() for one in pools))
    indexes = [row for row in await catalogue(pool) if row[0] == "i" and "_fences" not in str(row)]
    definitions = [str(row[4]).split(" ON ", 1)[1] for row in indexes]
    assert len(definitions) == len(set(definitions)), "no index twice"
    assert await append(PostgreSQLEventStore(pool)) > 0


async def test_with_a_dsn_the_pool_may_be_exhausted(pool: Pool, source_dsn: str) -> None:
    async with asyncpg.create_pool(source_dsn, min_size=1, max_size=1) as small:
        store = PostgreSQLEventStore(small, dsn=source_dsn)
        async with small.acquire():
            await asyncio.wait_for(store.create_schema(), 10)
            parameters = await asyncio.wait_for(store.connection_parameters(), 10)
    assert urlsplit(str(parameters.dsn)).path == urlsplit(source_dsn).path


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("create view events as select 1 as one", "a view"),
        ("create materialized view events as select 1 as one", "a materialized view"),
        ("create table events (n int) partition by range (n)", "a partitioned table"),
        ("create sequence events", "a sequence"),
    ],
)
async def test_what_is_no_ordinary_table_is_refused(pool: Pool, statement: str, kind: str) -> None:
    await pool.execute(statement)
    with pytest.raises(StoreSchemaError, match=f"is {kind}: a store needs an ordinary table"):
        await PostgreSQLEventStore(pool).create_schema()


async def test_a_missing_table_is_named_with_the_fix_on_every_use(pool: Pool) -> None:
    store = PostgreSQLEventStore(pool, "nowhere")
    cart = uuid4()
    events = [Opened(aggregate_id=cart)]
    for use in (
        store.append_events(cart, "Cart", events, 0),
        store.get_events(cart),
        store.get_events(cart, "Cart"),
        store.get_stream_version(cart),
        store.event_exists(cart),
        store.get_global_position(),
        anext(store.read_all()),
        anext(store.read_stream(cart)),
    ):
        with pytest.raises(StoreSchemaError, match=r'"nowhere" does not exist: run create_schema'):
            await use
    await store.create_schema()
    assert await append(store) == 1


async def test_a_table_that_went_away_is_named_too(pool: Pool) -> None:
    store = PostgreSQLEventStore(pool)
    await store.create_schema()
    assert await store.get_global_position() == 0
    await pool.execute("drop table events")
    with pytest.raises(StoreSchemaError, match="does not exist"):
        await store.get_global_position()
    await store.create_schema()
    assert await store.get_global_position() == 0


async def test_a_column_that_went_away_is_named(pool: Pool) -> None:
    store = PostgreSQLEventStore(pool)
    await store.create_schema()
    await pool.execute("alter table events drop column actor_id")
    with pytest.raises(StoreSchemaError, match="column actor_id is missing"):
        await append(store)


async def test_other_errors_of_the_server_arrive_unchanged(pool: Pool) -> None:
    store = PostgreSQLEventStore(pool)
    await store.create_schema()
    await pool.execute(
        """
        create function refuse() returns trigger language plpgsql as
            $$ begin
                raise exception 'moved' using errcode = 'EVF01', detail = '{"to": "b"}';
            end $$;
        create trigger refuse before insert on events for each row execute function refuse()
        """
    )
    with pytest.raises(asyncpg.PostgresError) as caught:
        await append(store)
    assert (caught.value.sqlstate, caught.value.detail) == ("EVF01", '{"to": "b"}')


@pytest.mark.parametrize(
    "lost", ["drop table events", "alter table events rename actor_id to actor"]
)
async def test_within_a_transaction_the_reason_needs_no_other_connection(
    source_dsn: str, lost: str
) -> None:
    """Every connection of the pool may be in such a transaction: each would wait for the others."""
    async with asyncpg.create_pool(source_dsn, min_size=0, max_size=2) as pool:
        store = PostgreSQLEventStore(pool)
        await store.create_schema()
        await pool.execute(lost)
        everyone = asyncio.Barrier(2)

        async def write() -> None:
            cart = uuid4()
            async with pool.acquire() as connection, connection.transaction():
                await everyone.wait()
                with pytest.raises(StoreSchemaError, match=r"run create_schema|add column actor"):
                    await store.append_events(
                        cart, "Cart", [Opened(aggregate_id=cart)], 0, connection=connection
                    )
                assert await connection.fetchval("select 1") == 1

        await asyncio.wait_for(asyncio.gather(write(), write()), 20)


@pytest.mark.parametrize("name", [LONG_NAME, "events_dedicated-a", 'a "quoted" name', "a.b", "ünï"])
async def test_any_identifier_can_be_the_name(pool: Pool, name: str) -> None:
    store = PostgreSQLEventStore(pool, name)
    await store.create_schema()
    before = await catalogue(pool)
    await store.create_schema()
    assert await catalogue(pool) == before
    assert await append(store) == await store.get_global_position() == 1
    count = "select count(*) from pg_index where indrelid = to_regclass($1)"
    assert await pool.fetchval(count, store.table) == 5


async def test_a_name_is_never_sql(pool: Pool) -> None:
    await pool.execute("create table x ()")
    await PostgreSQLEventStore(pool, "events; drop table x").create_schema()
    assert await pool.fetchval("select to_regclass('x') is not null")
    with pytest.raises(ValueError, match="63"):
        PostgreSQLEventStore(pool, "x" * 64)


async def test_a_schema_is_taken_from_the_argument_or_the_search_path(
    pool: Pool, source_dsn: str
) -> None:
    await pool.execute('create schema first; create schema "Second one"')
    assert await PostgreSQLEventStore(pool).resolve_schema() == "public"
    named = PostgreSQLEventStore(pool, schema="Second one")
    assert await named.resolve_schema() == "Second one"
    await named.create_schema()
    assert await append(named) == 1
    assert await pool.fetchval(
        "select to_regclass('\"Second one\".eventsource_fences') is not null"
    )

    settings = {"search_path": 'first, "Second one"'}
    async with asyncpg.create_pool(source_dsn, min_size=1, server_settings=settings) as by_path:
        found = PostgreSQLEventStore(by_path)
        assert await found.resolve_schema() == "Second one"
        assert await found.get_global_position() == 1
        assert await PostgreSQLEventStore(by_path, "new").resolve_schema() == "first"


async def test_a_missing_schema_is_named_with_the_fix(pool: Pool, source_dsn: str) -> None:
    with pytest.raises(StoreSchemaError, match='create schema "nowhere"'):
        await PostgreSQLEventStore(pool, schema="nowhere").create_schema()
    settings = {"search_path": "nowhere"}
    async with asyncpg.create_pool(source_dsn, min_size=1, server_settings=settings) as lost:
        with pytest.raises(StoreSchemaError, match="search_path"):
            await PostgreSQLEventStore(lost).create_schema()


async def test_a_role_needs_no_more_than_select_and_insert(pool: Pool, source_dsn: str) -> None:
    await PostgreSQLEventStore(pool).create_schema()
    role = f"app_{uuid4().hex}"
    await pool.execute(
        f"create role {role} login password 'pw'; grant select, insert on events to {role}; "
        f"grant select on sequence events_global_position_seq to {role}"
    )
    parts = urlsplit(source_dsn)
    dsn = urlunsplit(parts._replace(netloc=f"{role}:pw@{parts.hostname}:{parts.port}"))
    try:
        async with asyncpg.create_pool(dsn, min_size=1) as restricted:
            store = PostgreSQLEventStore(restricted)
            assert await append(store) == 1
            assert await store.get_global_position() == 1
    finally:
        await pool.execute(f"drop owned by {role}; drop role {role}")


async def test_codecs_of_the_application_do_not_matter(source_dsn: str) -> None:
    async def init(connection: asyncpg.Connection) -> None:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(
                name, encoder=lambda _: "null", decoder=lambda _: "wrong", schema="pg_catalog"
            )

    async with asyncpg.create_pool(source_dsn, min_size=1, init=init) as pool:
        store = PostgreSQLEventStore(pool)
        await store.create_schema()
        cart = uuid4()
        event = Opened(aggregate_id=cart, metadata={"a": [1, "ü"]})
        await store.append_events(cart, "Cart", [event], ExpectedVersion.ANY)
        (row,) = [row async for row in store.read_all()]
        assert (row.payload, row.metadata) == ({}, {"a": [1, "ü"]})


async def test_tables_of_an_older_version_get_what_they_lack(pool: Pool) -> None:
    store = PostgreSQLEventStore(pool)
    await store.create_schema()
    now = await catalogue(pool)
    await pool.execute(
        """
        alter table eventsource_fences
            drop column decided_pass, drop column decided_token, drop column decided_rows,
            drop column decided_digest, drop column decided_total,
            drop constraint eventsource_fences_state_check,
            add check (state in ('open', 'closed', 'moved')),
            drop column lock_id, drop column mirrored, drop column peer,
            drop constraint eventsource_fences_of_migrations,
            add unique (table_name, tenant_id);
        drop index eventsource_fences_departing;
        alter table eventsource_copy_progress
            drop column witness_pass, drop column witness_token, drop column source_started;
        drop table eventsource_witnesses;
        drop table eventsource_rescued_events;
        drop table eventsource_rescued_rows;
        drop function eventsource_open_target(
            text, text, uuid, bigint, bigint, integer, uuid, bigint, bytea, bigint);
        alter table eventsource_fences alter column tenant_id type uuid using tenant_id::uuid;
        alter table eventsource_copy_progress
            alter column tenant_id type uuid using tenant_id::uuid;
        insert into eventsource_fences (table_name, tenant_id, role, state, generation,
            migration_id, store_id, patience_ms)
        values ('events', gen_random_uuid(), 'target', 'closed', 1, gen_random_uuid(), 'a', 7000);
        """
    )
    await store.create_schema()
    assert {row[1] for row in await catalogue(pool)} == {row[1] for row in now}
    await pool.execute("update eventsource_fences set state = 'aborting'")
    [fence] = await pool.fetch("select * from eventsource_fences")
    assert fence["decided_total"] is None
    progress = await pool.fetch(
        "select witness_token, source_started from eventsource_copy_progress"
    )
    assert progress == []


#: A tenant's only fence in a table of an older version, and what becomes of it.
_ONE_FENCE = {
    "leaving": (("source", "open", 3, None), [("source", "open", 3, None)]),
    "left": (("source", "moved", 3, "b"), [("source", "moved", 3, "b")]),
    "arriving": (("target", "closed", 0, None), [("target", "closed", 0, None)]),
    "coming back": (
        ("target", "closed", 4, "b"),
        [("source", "moved", 4, "b"), ("target", "closed", 4, None)],
    ),
    "return that is being undone": (
        ("target", "aborting", -1, "b"),
        [("source", "moved", 0, "b"), ("target", "aborting", 0, None)],
    ),
    "has come back": (("target", "open", 5, "b"), [("target", "open", 5, None)]),
}


@pytest.mark.parametrize("kind", _ONE_FENCE)
async def test_fences_of_an_earlier_stay_are_kept_apart(pool: Pool, kind: str) -> None:
    """When a tenant had one fence in a table, that of its return held where it had gone."""
    store = PostgreSQLEventStore(pool)
    await store.create_schema()
    (role, state, generation, moved_to), wanted = _ONE_FENCE[kind]
    await pool.execute(
        """
        drop index eventsource_fences_departing;
        alter table eventsource_fences
            drop column lock_id, drop column mirrored, drop column peer,
            drop constraint eventsource_fences_of_migrations,
            add unique (table_name, tenant_id);
        drop function eventsource_guarded(name);
        """
    )
    await pool.execute(
        "insert into eventsource_fences (table_name, tenant_id, role, state, generation,"
        " migration_id, store_id, moved_to, patience_ms, table_oid)"
        " select 'events', gen_random_uuid(), $1, $2, $3, gen_random_uuid(), 'a', $4, 7000,"
        " 'events'::regclass",
        role, state, generation, moved_to,
    )  # fmt: skip
    await store.create_schema()
    rows = await pool.fetch("select * from eventsource_fences order by role, fence_id")
    assert [
        (row["role"], row["state"], row["generation"], row["moved_to"]) for row in rows
    ] == wanted
    assert {row["lock_id"] for row in rows} == {min(row["fence_id"] for row in rows)}
    assert len({row["migration_id"] for row in rows}) == len(rows)
    assert len({(row["tenant_id"], row["table_oid"]) for row in rows}) == 1
    # The guard is what they say, and a second look changes nothing.
    assert await pool.fetchval("select eventsource_guard_stands('events')")
    before = await pool.fetch("select * from eventsource_fences")
    await store.create_schema()
    assert await pool.fetch("select * from eventsource_fences") == before
