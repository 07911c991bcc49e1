"""Bad input that test_preflight.py has not: where a database is, who connects, odd tables and rows.

Each is a typed error that names the fix, within two seconds, and all three databases, schema and
rows, are what they were.
"""

from __future__ import annotations

import contextlib
import time
from uuid import uuid4

import pytest

from eventsource import hosts
from eventsource.identifiers import quote_identifier
from eventsource.migration import MigrationState, PreflightError
from eventsource.migration.preflight import admission
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing.proxy import Proxy
from tests.support.fingerprint import fingerprint
from tests.support.refusals import (
    ROLE,
    as_owner,
    elsewhere,
    migrating_as,
    redirected,
    refusal,
    store_named,
)
from tests.support.worlds.three_databases import SOURCE_TABLE, TARGET_TABLE, World, insert, table

# Hosts


@pytest.mark.parametrize("side", ["source", "target", "control"])
async def test_a_host_that_drops_packets(world: World, silent_port: int, side: str) -> None:
    process = await world.process(
        **elsewhere(world, side, lambda dsn: redirected(dsn, port=silent_port))
    )
    where = f"127.0.0.1:{silent_port} does not answer"
    async with refusal(world, PreflightError, side, where, "check the host and port"):
        await process.start(world.tenant)


async def test_two_hosts_that_drop_packets_take_no_longer_than_one(
    world: World, silent_port: int
) -> None:
    silent = {
        key: value
        for side in ("source", "target")
        for key, value in elsewhere(
            world, side, lambda dsn: redirected(dsn, port=silent_port)
        ).items()
    }
    process = await world.process(**silent)
    async with refusal(world, PreflightError, "the source's", "the target's", "does not answer"):
        await process.start(world.tenant)


async def test_a_dsn_whose_host_drops_packets_beside_a_pool_that_works(
    world: World, silent_port: int
) -> None:
    dsn = redirected(world.dsns["target"], port=silent_port)
    process = await world.process(
        target_store=lambda pool: PostgreSQLEventStore(pool, TARGET_TABLE, dsn=dsn)
    )
    async with refusal(world, PreflightError, "the target's", "does not answer"):
        await process.start(world.tenant)


async def test_a_host_without_an_address(world: World) -> None:
    dsn = "postgresql://app@no-such-host.invalid/events"
    process = await world.process(
        target_store=lambda pool: PostgreSQLEventStore(pool, TARGET_TABLE, dsn=dsn)
    )
    async with refusal(world, PreflightError, "the target's database", "check the DSN"):
        await process.start(world.tenant)


async def test_a_dsn_that_asks_for_another_kind_of_server(world: World) -> None:
    dsn = world.dsns["target"] + "?target_session_attrs=standby"
    process = await world.process(
        target_store=lambda pool: PostgreSQLEventStore(pool, TARGET_TABLE, dsn=dsn)
    )
    async with refusal(world, PreflightError, "the target's database", "target_session_attrs"):
        await process.start(world.tenant)


async def test_a_server_that_is_slow_is_not_refused_for_it(world: World) -> None:
    await world.seed(20)
    async with Proxy(world.dsns["target"]) as proxy:
        proxy.delay(0.03)
        process = await world.process(**elsewhere(world, "target", proxy.through))
        began = time.monotonic()
        migration = await process.start(world.tenant)
        assert time.monotonic() - began > hosts.SILENCE_SECONDS
        proxy.restore()
        await world.reach(migration, "dual_write")
        # Its driver must not outlive the proxy.
        await process.stop()


async def test_a_server_that_accepts_and_then_says_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The product waits longer: it cannot tell this one from a server that is slow.
    monkeypatch.setattr(admission, "PREFLIGHT_SECONDS", 1.0)
    for side in ("target", "control"):
        async with Proxy(world.dsns[side]) as proxy:
            proxy.half_open()
            process = await world.process(**elsewhere(world, side, proxy.through))
            async with refusal(world, PreflightError, "did not answer within 1 s", "check host"):
                await process.start(world.tenant)


# Rights


#: Side, what was changed there, and what is told about it.
RIGHTS = [
    ("source", "alter table {table} owner to postgres; grant all on {table} to {role}",
     ["does not own the source table", "grant postgres to"]),
    ("target", "alter table {table} owner to postgres; grant all on {table} to {role}",
     ["does not own the target table", "grant postgres to"]),
    ("source", "revoke insert on eventsource_witnesses from {role}",
     ["lacks INSERT", "eventsource_witnesses", "the source's database"]),
    ("source", "revoke all on eventsource_fences from {role}",
     ["permission denied", "eventsource_fences"]),
    ("target", "revoke delete, update on eventsource_copy_progress from {role}",
     ["lacks UPDATE, DELETE on", "eventsource_copy_progress", "grant update, delete on"]),
    ("target", "revoke temporary on database {database} from public",
     ["temporary tables", "grant temporary on database {database} to"]),
    ("source", "revoke create on schema public from {role}, public",
     ["may make nothing in the source's schema 'public'", "grant create on schema"]),
    ("target", "revoke create on schema public from {role}, public",
     ["may make nothing in the target's schema 'public'", "grant create on schema"]),
    ("source", "revoke usage on schema public from {role}, public",
     ["the source's database cannot be used", "grant usage on it"]),
    ("source", "revoke select on {table} from {role}", ["permission denied", "grant it"]),
    ("control", "revoke insert on tenant_routing from {role}",
     ["lacks INSERT", "tenant_routing", "the control database"]),
    ("control", "revoke delete on migration_position_mappings from {role}",
     ["lacks DELETE", "migration_position_mappings"]),
    ("control", "alter role {role} set default_transaction_read_only = on",
     ["the control database is read-only"]),
    ("source", "alter table {table} enable row level security, force row level security",
     ["row-level security", "the source table", "BYPASSRLS"]),
    ("target", "alter table {table} enable row level security, force row level security",
     ["row-level security", "the target table", "BYPASSRLS"]),
    # What a policy shows to the role that migrates is not enough.
    ("source", "alter table eventsource_fences enable row level security, force row level security;"
     " create policy eventsource_reads on eventsource_fences for select to {role} using (true)",
     ["row-level security of", "eventsource_fences", "BYPASSRLS"]),
    ("target", "alter table eventsource_copy_progress enable row level security, force row level"
     " security; create policy eventsource_all on eventsource_copy_progress using (true)",
     ["row-level security of", "eventsource_copy_progress", "BYPASSRLS"]),
    ("control", "alter table tenant_migrations enable row level security, force row level security;"
     " create policy eventsource_reads on tenant_migrations for select to {role} using (true)",
     ["row-level security of tenant_migrations",
      "create policy eventsource_writes on tenant_migrations to"]),
    ("source", "revoke usage on language plpgsql from public",
     ["the source's database", "grant usage on language plpgsql to"]),
    ("source", "revoke execute on function pg_control_system() from public",
     ["may not call pg_control_system() in the source's", "grant execute on function pg_control"]),
    ("target",
     "revoke execute on function pg_control_system(), pg_walfile_name(pg_lsn) from public",
     ["pg_control_system(), pg_walfile_name(pg_lsn)", "the target's", "grant execute"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("side", "change", "told"), RIGHTS, ids=[f"{side}: {change[:60]}" for side, change, _ in RIGHTS]
)
async def test_a_missing_right(world: World, side: str, change: str, told: list[str]) -> None:
    connection = getattr(world, side)
    database = await connection.fetchval("select current_database()")
    names = {
        "role": ROLE,
        "table": table(side) if side != "control" else "",
        "database": quote_identifier(database),
    }
    await world.seed(3)
    async with as_owner(world):
        await connection.execute(change.format(**names))
        try:
            process = await world.process(**migrating_as(world, ROLE))
            told = [each.replace("{database}", names["database"].strip('"')) for each in told]
            async with refusal(world, PreflightError, *told):
                await process.start(world.tenant)
            await process.stop()
        finally:
            await connection.execute(
                f"grant temporary on database {names['database']} to public; grant execute on"
                " function pg_control_system(), pg_walfile_name(pg_lsn) to public; grant usage on"
                " language plpgsql to public"
            )


async def test_an_owner_that_is_no_superuser_may_move_a_tenant(world: World) -> None:
    await world.seed(3)
    async with as_owner(world):
        for side in ("source", "target"):
            # It hides nothing from the owner as long as it is not forced.
            await getattr(world, side).execute(
                f"alter table {table(side)} enable row level security"
            )
        process = await world.process(**migrating_as(world, ROLE))
        migration = await process.start(world.tenant)
        await world.reach(migration, "dual_write")
        done = await process.coordinator.initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        await process.stop()
        for side in ("source", "target"):
            await getattr(world, side).execute(
                f"alter table {table(side)} disable row level security"
            )
    await world.assert_moved(done)


# Tables


#: What the table is instead, made from the one of the side, and what is told about it.
TABLES = [
    ("create unlogged table {new} (like {old} including all)", ["is unlogged", "set logged"]),
    ("create table {new} (like {old} including defaults) partition by hash (tenant_id)",
     ["is a partitioned table", "needs an ordinary table"]),
    ("create sequence {new}", ["is a sequence", "needs an ordinary table"]),
    ("create type {new} as (global_position bigint)", ["needs an ordinary table"]),
]  # fmt: skip


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(("made", "told"), TABLES, ids=[made[:25] for made, _ in TABLES])
async def test_something_else_than_a_table(
    world: World, side: str, made: str, told: list[str]
) -> None:
    name = 'an "odd" one'
    await getattr(world, side).execute(made.format(new=quote_identifier(name), old=table(side)))
    process = await world.process(**store_named(side, name))
    async with refusal(world, PreflightError, side, "odd", *told):
        await process.start(world.tenant)


async def test_a_name_that_postgresql_would_cut_is_refused_at_construction(world: World) -> None:
    # 64 bytes of UTF-8 in 62 characters.
    for name, told in (("é" + "x" * 62, "64 bytes"), ("", "empty"), ("a\0b", "NUL")):
        async with contextlib.AsyncExitStack() as unchanged:
            before = await fingerprint(world.source)
            unchanged.push_async_callback(_assert_unchanged, world, before)
            with pytest.raises(ValueError, match=told):
                PostgreSQLEventStore(world.here.source.pool, name)
            with pytest.raises(ValueError, match=told):
                PostgreSQLEventStore(world.here.source.pool, schema=name)


async def _assert_unchanged(world: World, before: object) -> None:
    assert await fingerprint(world.source) == before


@pytest.mark.parametrize(
    ("table_name", "schema"),
    [
        ("events; drop table events --", None),
        ("select \"quoted\" 'twice'", None),
        ("é" + "x" * 61, None),
        ("events", 'another "schema"; --'),
    ],
)
async def test_a_name_that_is_only_odd_moves(
    world: World, table_name: str, schema: str | None
) -> None:
    for side in ("source", "target"):
        if schema is not None:
            await getattr(world, side).execute(f"create schema {quote_identifier(schema)}")
    process = await world.process(
        source_store=lambda pool: PostgreSQLEventStore(pool, table_name, schema=schema),
        target_store=lambda pool: PostgreSQLEventStore(pool, table_name, schema=schema),
    )
    await process.source.create_schema()
    await process.target.create_schema()
    for version in range(3):
        await process.append(world.tenant)
        assert version < 3
    migration = await process.start(world.tenant)
    await world.reach(migration, "dual_write")
    done = await process.coordinator.initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    here, there = [
        await getattr(world, side).fetch(
            f"select event_id, payload::text from {process.source.table} order by global_position"
        )
        for side in ("source", "target")
    ]
    assert len(here) == 3
    assert here == there
    # The table of the ordinary name is another one, and is still there.
    assert await world.source.fetchval(f'select count(*) from "{SOURCE_TABLE}"') == 0
    await process.stop()
    for side in ("source", "target"):
        if schema is not None:
            await getattr(world, side).execute(f"drop schema {quote_identifier(schema)} cascade")


# Rows


async def _collision(world: World, clash: str) -> None:
    """A row of another tenant at the target that keeps one of the tenant's from going there."""
    row = await insert(world.source, world.tenant)
    taken = await insert(
        world.target, world.other, side="target", stream=row["aggregate_id"] if clash == "stream"
        else uuid4(),
    )  # fmt: skip
    if clash == "event id":
        await world.target.execute(
            f"update {table('target')} set event_id = $1, payload = '{{\"n\": 2}}'"
            " where event_id = $2",
            row["event_id"],
            taken["event_id"],
        )


@pytest.mark.parametrize("clash", ["event id", "stream"])
async def test_what_is_taken_at_the_target_stops_the_move_and_an_abort_leaves_nothing(
    world: World, clash: str
) -> None:
    await _collision(world, clash)
    before = await world.fingerprint(journal=False)
    migration = await world.here.start(world.tenant)
    stopped = await world.reach(migration, "failed")
    told = str(stopped.error_message)
    for text in ("unique violation on the target", "already exists", "see whose it is, and abort"):
        assert text in told
    [row] = await world.source.fetch(f"select * from {table('source')} limit 1")
    assert str(row["event_id" if clash == "event id" else "aggregate_id"]) in told
    await world.coordinator.abort_migration(migration.id)
    assert await world.fingerprint(journal=False) == before


# Values


@pytest.mark.parametrize("source_type", ["json", "text"])
async def test_what_jsonb_refuses_is_told_with_its_position(world: World, source_type: str) -> None:
    await world.source.execute(
        f"alter table {table('source')} alter payload type {source_type} using payload::text::json"
    )
    await world.seed(3)
    first = await insert(world.source, world.tenant)
    # Behind an escaped backslash it is no NUL, and jsonb takes it.
    for position, text in (
        (first["global_position"], r'{"a": "\\u0000"}'),
        (first["global_position"] - 1, r'{"a": "x\\\u0000"}'),
    ):
        await world.source.execute(
            f"update {table('source')} set payload = $1::text::{source_type}"
            " where global_position = $2",
            text,
            position,
        )
    process = await world.process()
    refused = f"position {first['global_position'] - 1}: its payload holds \\u0000"
    async with refusal(world, PreflightError, f"payload is {source_type}", refused):
        await process.start(world.tenant)
