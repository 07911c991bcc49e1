"""create_schema makes what a store needs, upgrades what is there, and says what it cannot do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from eventsource import DomainEvent, ExpectedVersion
from eventsource.errors import StoreSchemaError
from eventsource.stores.postgresql import PostgreSQLEventStore

Pool = asyncpg.Pool  # type: ignore[type-arg]

LONG_NAME = "events_of_a_tenant_whose_name_is_so_long_that_it_fills_63_bytes"

OLD_TABLE = """
    create table events (
        global_position bigserial primary key, event_id uuid not null unique,
        aggregate_id uuid not null, aggregate_type varchar(255) not null,
        event_type varchar(255) not null, tenant_id uuid, version integer not null,
        timestamp timestamptz not null, actor_id varchar(255), payload jsonb not null,
        metadata jsonb not null default '{}', created_at timestamptz not null default now(),
        unique (aggregate_id, aggregate_type, version))
"""

FILL = """
    insert into events (event_id, aggregate_id, aggregate_type, event_type, version, timestamp,
                        payload)
    select gen_random_uuid(), gen_random_uuid(), 'Cart', 'Opened', 1, now(), '{}'
    from generate_series(1, 500)
"""


class Opened(DomainEvent):
    aggregate_type: str = "Cart"


@pytest.fixture
async def pool(source_dsn: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(source_dsn, min_size=1, max_size=8) as pool:
        yield pool


async def append(store: PostgreSQLEventStore) -> int:
    cart = uuid4()
    result = await store.append_events(cart, "Cart", [Opened(aggregate_id=cart)], 0)
    return result.global_position


async def catalogue(pool: Pool) -> list[tuple[object, ...]]:
    """Everything that the database holds of ours, with the identity of its storage."""
    rows = await pool.fetch(
        """
        select c.relkind::text, c.relname::text, c.oid, pg_relation_filenode(c.oid),
               pg_get_indexdef(c.oid)
        from pg_class c
        where c.relnamespace = 'public'::regnamespace
        union all
        select 'trigger', tgname, oid, null, pg_get_triggerdef(oid) || tgenabled::text
        from pg_trigger where not tgisinternal
        order by 1, 2
        """
    )
    return [tuple(row) for row in rows]


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
        "eventsource_barrier",
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
    assert urlsplit(parameters.dsn).path == urlsplit(source_dsn).path


class TestAnExistingTable:
    @pytest.fixture(autouse=True)
    async def _old_table(self, pool: Pool) -> None:
        await pool.execute(OLD_TABLE)
        await pool.execute(FILL)

    async def test_gets_the_transaction_id_without_a_rewrite(self, pool: Pool) -> None:
        filenode = "select pg_relation_filenode('events')"
        before = await pool.fetchval(filenode)
        store = PostgreSQLEventStore(pool)
        await store.create_schema()
        assert await pool.fetchval(filenode) == before
        position = await append(store)
        assert (
            await pool.fetchval("select count(*) from events where transaction_id is null") == 500
        )
        assert await pool.fetchval(
            "select pg_visible_in_snapshot(transaction_id, pg_current_snapshot()) from events "
            "where global_position = $1",
            position,
        )
        assert [row.global_position async for row in store.read_all(498)] == [499, 500, 501]

    async def test_gets_its_missing_indexes_and_loses_a_broken_one(
        self, pool: Pool, source_dsn: str
    ) -> None:
        blocker = await asyncpg.connect(source_dsn)
        await blocker.execute("begin isolation level repeatable read; select 1 from events limit 1")
        building = asyncio.create_task(
            pool.execute(
                "create index concurrently half on events (tenant_id, global_position)", timeout=0.5
            )
        )
        with pytest.raises(asyncio.TimeoutError):
            await building
        await blocker.close()
        usable = "select indisvalid from pg_index where indexrelid = 'half'::regclass"
        assert await pool.fetchval(usable) is False

        await PostgreSQLEventStore(pool).create_schema()
        definitions = {str(row[4]) for row in await catalogue(pool) if row[0] == "i"}
        assert not any(" half " in one for one in definitions)
        for columns in (
            "(tenant_id, global_position)",
            "(tenant_id, transaction_id, global_position)",
        ):
            assert (
                sum(one.endswith(f"public.events USING btree {columns}") for one in definitions)
                == 1
            )

    @pytest.mark.alone
    async def test_is_upgraded_while_writers_go_on(self, pool: Pool, source_dsn: str) -> None:
        """A writer that waited behind the upgrade's lock request waited no longer than one try."""
        holder = await asyncpg.connect(source_dsn)
        await holder.execute("begin")
        await holder.execute(FILL)
        upgrading = asyncio.create_task(PostgreSQLEventStore(pool).create_schema())
        longest = 0.0
        writer = await asyncpg.connect(source_dsn)
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:
            started = time.monotonic()
            await writer.execute(FILL.replace("500", "1"))
            longest = max(longest, time.monotonic() - started)
        assert not upgrading.done()
        assert longest < 1.0, "a lock request of 0.2 s, on a machine that may be busy"
        await holder.execute("commit")
        await asyncio.wait_for(upgrading, 30)
        await writer.close()
        await holder.close()

    async def test_with_duplicates_is_refused_by_name_and_left_clean(self, pool: Pool) -> None:
        await pool.execute("alter table events drop constraint events_event_id_key")
        twice = await pool.fetchval(
            "update events set event_id = (select event_id from events where global_position = 1) "
            "where global_position = 2 returning event_id"
        )
        store = PostgreSQLEventStore(pool)
        with pytest.raises(StoreSchemaError, match=str(twice)):
            await store.create_schema()
        assert await pool.fetchval("select count(*) from pg_index where not indisvalid") == 0
        await pool.execute("delete from events where global_position = 2")
        await store.create_schema()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("drop column payload", "column payload is missing .*add column payload jsonb"),
            ("drop column tenant_id, drop column metadata", "tenant_id.*metadata"),
            ("alter payload type json", "payload is json, not jsonb .*type jsonb using"),
            ("alter timestamp type timestamp", "timestamp is timestamp without time zone"),
            ("alter event_id type text", "event_id is text, not uuid"),
            ("add column region text not null default ''; alter table events alter region "
             "drop default", "region is not null and has no default"),
            ("alter global_position drop default; drop sequence events_global_position_seq",
             r"draws from no sequence \(alter table .* as identity"),
            ("alter global_position drop default", "draws from no sequence"),
        ],
    )  # fmt: skip
    async def test_that_does_not_fit_is_refused_with_the_fix(
        self, pool: Pool, change: str, message: str
    ) -> None:
        await pool.execute(f"alter table events {change}")
        with pytest.raises(StoreSchemaError, match=message):
            await PostgreSQLEventStore(pool).create_schema()

    async def test_whose_sequence_is_not_its_own_is_refused(self, pool: Pool) -> None:
        await pool.execute("alter sequence events_global_position_seq owned by none")
        with pytest.raises(StoreSchemaError, match="alter sequence … owned by"):
            await PostgreSQLEventStore(pool).create_schema()

    @pytest.mark.parametrize(
        ("change", "message"),
        [("cache 20", "cache 1"), ("cycle", "no cycle"), ("increment -1 minvalue -9", "upwards")],
    )
    async def test_whose_sequence_makes_feeds_skip_is_refused(
        self, pool: Pool, change: str, message: str
    ) -> None:
        await pool.execute(f"alter sequence events_global_position_seq {change}")
        with pytest.raises(StoreSchemaError, match=message):
            await PostgreSQLEventStore(pool).create_schema()
        with pytest.raises(StoreSchemaError, match=message):
            await PostgreSQLEventStore(pool).get_global_position()

    async def test_of_positions_always_generated_accepts_carried_ones(self, pool: Pool) -> None:
        await pool.execute(
            "alter table events alter global_position drop default; "
            "drop sequence events_global_position_seq; "
            "alter table events alter global_position add generated always as identity (start 600)"
        )
        await PostgreSQLEventStore(pool).create_schema()
        identity = await pool.fetchval(
            "select attidentity::text from pg_attribute "
            "where attrelid = 'events'::regclass and attname = 'global_position'"
        )
        assert identity == "d", "generated by default"


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
    async def init(connection: asyncpg.Connection) -> None:  # type: ignore[type-arg]
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
