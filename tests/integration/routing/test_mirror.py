"""The mirror: it writes behind the append what was appended, and nothing depends on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import (
    DualWriteInterceptor,
    Migration,
    MigrationState,
)
from eventsource.migration.routing import mirror
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, someone_blocked, table

#: So long that only what wakes the driver makes it go on.
NO_PASSES = {"pass_interval_seconds": 60}


@dataclass(frozen=True, slots=True)
class Gate:
    """Where something stands still until it is let go."""

    reached: asyncio.Event
    opened: asyncio.Event


async def mirrored(world: World, migration: Migration | None, count: int) -> None:
    """Wait until the mirror is done with ``count`` appended events, and that many are there."""

    async def done() -> bool:
        stats = world.router.dual_write_stats(world.tenant)
        return stats is not None and stats.mirrored >= count and stats.waiting == 0

    await until(done, f"{count} mirrored events")


async def mirror_is_up(world: World) -> None:
    async def up() -> bool:
        await world.router.route(world.tenant)
        return world.tenant in world.router._dual_write_interceptors

    await until(up, "the mirror")


async def following(world: World, **settings: Any) -> Migration:
    """A migration in dual-write whose next pass waits to be asked for, and a mirror."""
    driver = await world.process(**{**NO_PASSES, **settings})
    await world.router.route(world.tenant)
    migration: Migration = await world.dual_write(process=driver)
    await mirror_is_up(world)
    # The first pass after the bulk copy begins at once; what follows waits.
    await until(lambda: _second_pass_is_over(world), "the second pass")
    return migration


async def _second_pass_is_over(world: World) -> bool:
    row = await world.target.fetchrow(
        "select pass_number >= 2 and snapshot = proven_snapshot as over"
        " from eventsource_copy_progress"
    )
    return row is not None and bool(row["over"])


async def test_the_mirror_writes_what_was_appended_at_its_carried_position(world: World) -> None:
    await world.seed(30, world.other, side="target")
    await world.seed(5)
    migration = await following(world)
    assert migration.position_offset is not None
    assert migration.position_offset >= 30
    stream = uuid4()
    await world.here.append(world.tenant, stream, 0, 3)
    await world.here.append(world.tenant, stream, 3, 2)
    await mirrored(world, migration, 5)
    source = await world.rows("source")
    assert await world.rows("target", offset=migration.position_offset) == source
    assert len(source) == 10
    proven = await world.target.fetchval("select proven_rows from eventsource_copy_progress")
    assert proven == 5
    interceptor = world.router._dual_write_interceptors[world.tenant]
    assert interceptor.get_failure_stats().total_failures == 0
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


async def test_the_mirror_leaves_a_stream_alone_whose_predecessor_is_missing(
    world: World,
) -> None:
    migration = await following(world)
    stream, begun = uuid4(), uuid4()
    await insert(world.source, world.tenant, stream=stream, version=1)
    await world.here.append(world.tenant, stream, 1, 2)
    await world.here.append(world.tenant, begun)
    await mirrored(world, migration, 1)
    # The same of one that the target has the beginning of.
    await insert(world.source, world.tenant, stream=begun, version=2)
    await world.here.append(world.tenant, begun, 2, 1)
    await world.here.append(world.tenant)
    await mirrored(world, migration, 2)
    stats = world.router.dual_write_stats(world.tenant)
    assert stats is not None
    assert (stats.mirrored, stats.deferred) == (2, 3)
    assert stats.failures.total_failures == 0
    assert len(await world.ids("target")) == 2
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


async def test_the_mirror_leaves_alone_what_lies_beyond_the_kept_positions(world: World) -> None:
    """No abort would find it there. The driver is who says that the positions are used up."""
    migration = await following(world)
    await world.here.append(world.tenant)
    await mirrored(world, migration, 1)
    await world.target.execute(
        "update eventsource_copy_progress set last_target_position = position_offset +"
        " (select max(global_position) - $1::bigint from "
        f"{table('target')})",
        migration.position_offset,
    )
    await world.here.append(world.tenant)

    async def deferred() -> bool:
        stats = world.router.dual_write_stats(world.tenant)
        return stats is not None and stats.waiting == 0 and stats.deferred >= 1

    await until(deferred, "the mirror to leave it")
    assert len(await world.ids("target")) == 1
    await world.coordinator.abort_migration(migration.id)
    assert await world.ids("target") == []


async def test_the_mirror_is_bound_to_its_migration(world: World) -> None:
    first = await following(world)
    here = world.here
    old = DualWriteInterceptor(here.source, here.target, first)
    await world.coordinator.abort_migration(first.id)
    streams = [uuid4(), uuid4()]
    await insert(world.source, world.tenant, stream=streams[0])
    old.mirror(streams[0], "Note", 1, 1)
    await until(lambda: _deferred(old, 1), "the mirror's answer")
    assert await world.ids("target") == []
    second = await following(world)
    await insert(world.source, world.tenant, stream=streams[1])
    old.mirror(streams[1], "Note", 1, 1)
    await until(lambda: _deferred(old, 2), "the mirror's answer")
    await old.close()
    assert len(await world.ids("target")) == 1
    done = await world.coordinator.initiate_cutover(second.id)
    await world.assert_moved(done)


async def _deferred(interceptor: DualWriteInterceptor, events: int) -> bool:
    stats = interceptor.stats()
    assert stats.mirrored == 0
    return stats.deferred >= events


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Mirrors stand still between their look at the fence and what they write."""
    write, gate = mirror._MirrorConnections.write, Gate(asyncio.Event(), asyncio.Event())

    async def wait_then_write(self: mirror._MirrorConnections, *arguments: Any) -> int:
        gate.reached.set()
        await gate.opened.wait()
        return await write(self, *arguments)

    monkeypatch.setattr(mirror._MirrorConnections, "write", wait_then_write)
    return gate


async def test_an_abort_waits_for_a_mirror_that_writes_and_deletes_what_it_wrote(
    world: World, gate: Gate
) -> None:
    migration = await following(world)
    await world.here.append(world.tenant)
    await gate.reached.wait()
    aborting = asyncio.create_task(world.coordinator.abort_migration(migration.id))
    await someone_blocked(world, "update %eventsource_fences% set state%", "target")
    gate.opened.set()
    await aborting
    assert await world.ids("target") == []


@pytest.mark.alone
async def test_a_mirror_that_freezes_does_not_keep_the_target_from_opening(
    world: World, gate: Gate
) -> None:
    migration = await following(world)
    appended = await world.here.append(world.tenant)
    await gate.reached.wait()
    async with asyncio.timeout(15):
        done = await world.coordinator.initiate_cutover(migration.id)
    assert done.cutover_pause_ms is not None
    assert done.cutover_pause_ms < 2000
    assert appended.success
    await world.assert_moved(done)


async def test_what_the_target_refuses_is_counted_and_healed_by_a_pass(world: World) -> None:
    migration = await following(world)
    await world.target.execute(
        f"""
        create function refuse() returns trigger language plpgsql as
        $$ begin raise exception 'not today'; end $$;
        create trigger a_refusal before insert on {table("target")}
        for each row execute function refuse();
        """
    )
    streams = [uuid4(), uuid4()]
    for version in range(2):
        for stream in streams:
            await world.here.append(world.tenant, stream, version * 3, 3)
    interceptor = world.router._dual_write_interceptors[world.tenant]
    await until(lambda: _failed(interceptor, 12), "failures")
    stats = interceptor.get_failure_stats()
    assert (stats.total_failures, stats.total_events_failed) == (4, 12)
    assert stats.unique_aggregates_affected == 2
    assert stats.first_failure_at is not None
    assert stats.last_failure_at is not None
    assert stats.first_failure_at <= stats.last_failure_at
    assert len(await world.ids("source")) == 12
    assert await world.ids("target") == []
    await world.target.execute(f"drop trigger a_refusal on {table('target')}")
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


async def _failed(interceptor: DualWriteInterceptor, events: int) -> bool:
    return interceptor.get_failure_stats().total_events_failed >= events


async def test_appends_go_on_while_the_target_is_away(world: World) -> None:
    migration = await following(world)
    await world.here.append(world.tenant)
    await mirrored(world, migration, 1)
    parts = urlsplit(world.dsns["target"])
    admin = await asyncpg.connect(parts._replace(path="/postgres").geturl())
    allow = f'alter database "{parts.path[1:]}" with allow_connections '
    try:
        await admin.execute(allow + "false")
        await world.target.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where application_name = 'eventsource-mirror' and datname = current_database()"
        )
        for _ in range(3):
            await world.here.append(world.tenant)
        interceptor = world.router._dual_write_interceptors[world.tenant]
        await until(lambda: _failed(interceptor, 3), "failures")
    finally:
        await admin.execute(allow + "true")
        await admin.close()
    assert len(await world.ids("source", world.tenant)) == 4
    await world.here.append(world.tenant)
    await mirrored(world, migration, 2)
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


ODD_COLUMNS = """
    add column a_float float8 default 0.1, add column a_real real default 0.1,
    add column a_nan float8 default 'nan', add column a_number numeric default 1.10,
    add column a_span interval default '1 mon -3 days 04:05:06.7',
    add column some_bytes bytea default '\\x00ff5c27',
    add column some_texts text[] default '{"a,b",NULL,"\\"\\\\"}',
    add column a_time timestamptz default '0044-03-15 12:00:00.000001 BC',
    add column for_ever timestamptz default 'infinity', add column a_day date default '-infinity',
    add column nothing text
"""
ODD_PAYLOAD = """
    {"price": 1.10, "round": 1.0, "large": 1e400, "small": 0.1, "deep": [{"ä": null}],
     "text": "שלום 🎉 \\"quoted\\" \\\\ \\u0001"}
"""


async def test_odd_values_are_mirrored_byte_for_byte(world: World) -> None:
    for side in ("source", "target"):
        await getattr(world, side).execute(f"alter table {table(side)} {ODD_COLUMNS}")
    await world.source.execute(
        f"""
        create function embellish() returns trigger language plpgsql as $do$ begin
            new.payload := new.payload || $odd${ODD_PAYLOAD}$odd$::jsonb;
            new.actor_id := E'tab\\t, newline\\n, back\\\\slash, ''quote''';
            new.timestamp := '2031-01-01 00:00:00.123456+05:30';
            return new;
        end $do$;
        create trigger embellish before insert on events
        for each row execute function embellish();
        """
    )
    # Text forms must not depend on what either server's role prefers.
    for side in ("source", "target"):
        name = await getattr(world, side).fetchval("select current_database()")
        zone = "Asia/Tokyo" if side == "source" else "America/New_York"
        await getattr(world, side).execute(
            f"alter database \"{name}\" set datestyle = 'German';"
            f"alter database \"{name}\" set timezone = '{zone}';"
            f'alter database "{name}" set extra_float_digits = -5;'
            f"alter database \"{name}\" set intervalstyle = 'sql_standard'"
        )
    migration = await following(world)
    await world.here.append(world.tenant, count=3, text="‮abc\t  ")
    await mirrored(world, migration, 3)
    every = "select to_jsonb(t) - 'transaction_id' from {} t order by global_position"
    for side in ("source", "target"):
        await getattr(world, side).execute("set timezone = 'UTC'")
    source = await world.source.fetch(every.format(table("source")))
    assert await world.target.fetch(every.format(table("target"))) == source
    assert "1.10" in source[0][0]
    # And as the passes see it, which compare the binary form of every field.
    done = await world.coordinator.initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    await world.assert_moved(done)


async def test_without_mirror_writes_there_is_no_mirror(world: World) -> None:
    driver = await world.process(mirror_writes=False)
    await world.router.route(world.tenant)
    migration = await world.dual_write(process=driver)
    await until(lambda: _route_says(world, "dual_write"), "the route")
    await world.here.append(world.tenant)
    assert world.router.dual_write_stats(world.tenant) is None
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


async def _route_says(world: World, state: str) -> bool:
    return (await world.router.route(world.tenant)).migration_state == state


async def test_mirroring_begins_and_ends_with_the_migration(world: World) -> None:
    assert world.router.dual_write_stats(world.tenant) is None
    migration = await following(world)
    assert world.router.dual_write_stats(world.tenant) is not None
    assert world.router.dual_write_stats(world.other) is None
    await world.coordinator.initiate_cutover(migration.id)
    await until(lambda: _no_mirror(world), "the mirror to end")
    assert not await world.source.fetchval(
        "select count(*) from pg_stat_activity where application_name = 'eventsource-mirror'"
        " and datname = current_database() and state <> 'idle'"
    )


async def _no_mirror(world: World) -> bool:
    await world.router.route(world.tenant)
    return world.router.dual_write_stats(world.tenant) is None


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_stricter_level_of_the_role_costs_the_mirror_nothing(
    world: World, level: str
) -> None:
    """The driver writes to the fence row too: the mirror waits for it, and takes it as it is."""
    role = await world.target.fetchval("select quote_ident(current_user)")
    database = await world.target.fetchval("select quote_ident(current_database())")
    setting = f"alter role {role} in database {database}"
    await world.target.execute(f"{setting} set default_transaction_isolation = '{level}'")
    try:
        await following(world)
        writer = await world.connect("target", default_transaction_isolation="read committed")
        await writer.execute(
            "begin; update eventsource_fences set patience_ms = patience_ms + 1"
            f" where tenant_id = '{world.tenant}' and role = 'target'"
        )
        await world.here.append(world.tenant)
        await someone_blocked(world, "%eventsource_mirror_permit%", "target")
        await writer.execute("commit")
        await mirrored(world, None, 1)
    finally:
        await world.target.execute(f"{setting} reset default_transaction_isolation")
    stats = world.router.dual_write_stats(world.tenant)
    assert stats is not None
    assert stats.failures.total_failures == 0
