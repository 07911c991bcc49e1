"""Roles with few rights: what they do without, and what no setting and no lock gives them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.connections import TableAddress
from eventsource.errors import FeedBlockedError
from eventsource.migration.connections import session_marks
from eventsource.migration.event_table import EventTable
from eventsource.stores.feed import Feed
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.application import SOURCE
from tests.support.one_fence import MIGRATION, guarded, refused
from tests.support.worlds.three_databases import TARGET_TABLE, World, insert, table

HARDENED = """
alter default privileges revoke execute on functions from public;
revoke execute on all functions in schema public from public;
revoke all on schema public from public
"""


@pytest.fixture
async def role(world: World) -> AsyncIterator[str]:
    """One that may append at both sides, in databases that give PUBLIC nothing."""
    name = f"app_{uuid4().hex[:8]}"
    for side in ("source", "target"):
        await getattr(world, side).execute(
            f"{HARDENED}; create role {name}; grant usage on schema public to {name};"
            f" grant select, insert, update, delete on {table(side)} to {name}"
        )
    yield name
    for side in ("source", "target"):
        await getattr(world, side).execute(
            f"alter default privileges grant execute on functions to public;"
            f" drop owned by {name}; drop role {name}"
        )


async def as_role(world: World, side: str, role: str, **settings: str) -> asyncpg.Connection:
    connection = await world.connect(side, **settings)
    await connection.execute(f"set role {role}")
    return connection


async def test_a_hardened_database_changes_nothing_for_who_may_insert(
    world: World, role: str
) -> None:
    it = await guarded(world)
    writer = await as_role(world, "source", role)
    event = (await insert(writer, world.tenant))["event_id"]
    await insert(writer, world.other)
    await writer.execute("begin isolation level repeatable read")
    await insert(writer, world.tenant)
    await writer.execute("commit")
    await it.set_state("moved")
    await refused(insert(writer, world.tenant), "EVF01")
    await refused(writer.execute("delete from events where event_id = $1", event), "EVF02")
    await insert(writer, world.other)
    closed = await guarded(world, "target")
    there = await as_role(world, "target", role)
    await refused(insert(there, world.tenant, side="target"), "EVF03")
    await insert(there, world.other, side="target")
    await closed.set_state("open")
    await insert(there, world.tenant, side="target")


async def test_the_setting_alone_makes_nobody_a_migrator(world: World, role: str) -> None:
    await guarded(world, "target")
    for settings in ({"session_replication_role": "replica"}, {}):
        forger = await world.connect(
            "target", **{session_marks.MIGRATOR_SETTING: str(MIGRATION), **settings}
        )
        await insert(forger, world.tenant, side="target")
        await forger.execute(f"delete from {table('target')}; set role {role}")
        await refused(insert(forger, world.tenant, side="target"), "EVF03")
        await insert(forger, world.other, side="target")
    gone = await guarded(world)
    event = (await insert(world.source, world.tenant))["event_id"]
    await gone.set_state("moved")
    cleaner = await world.connect(**{session_marks.MIGRATOR_SETTING: str(MIGRATION)})
    erase = "delete from events where event_id = $1"
    await cleaner.execute(f"set role {role}")
    await refused(cleaner.execute(erase, event), "EVF02")
    await cleaner.execute("reset role")
    await cleaner.execute(erase, event)


# Not drawn at random: tests that run beside each other are matched by their names.
@pytest.mark.parametrize("value", [str(MIGRATION), str(UUID(int=7)), "anything"])
@pytest.mark.parametrize("arriving", [True, False])
async def test_a_foreign_setting_skips_no_event_in_the_feed(
    world: World, role: str, value: str, arriving: bool
) -> None:
    if arriving:
        await guarded(world, "target")
    writer = await as_role(world, "target", role, **{session_marks.MIGRATOR_SETTING: value})
    await insert(world.target, world.other, side="target")
    await writer.execute("begin")
    in_flight = (await insert(writer, world.other, side="target"))["global_position"]
    await insert(world.target, world.other, side="target")
    head = await Feed(None, TARGET_TABLE, 0.1).head(await world.connect("target"))
    assert head.position < in_flight
    await writer.execute("commit")


async def test_only_a_migration_that_arrives_here_announces_no_floor(world: World) -> None:
    """The owner's own session is believed for the table and the tenant that it closed."""
    await guarded(world, "target")
    await insert(world.target, world.other, side="target")
    for value, passed in ((str(MIGRATION), True), (str(uuid4()), False)):
        writer = await world.connect("target", **{session_marks.MIGRATOR_SETTING: value})
        await writer.execute("begin")
        tenant = world.tenant if passed else world.other
        position = (await insert(writer, tenant, side="target"))["global_position"]
        await insert(world.target, world.other, side="target")
        head = await Feed(None, TARGET_TABLE, 0.1).head(await world.connect("target"))
        assert (head.position > position) is passed
        await writer.execute("rollback")


@pytest.mark.parametrize(
    "call",
    [
        "eventsource_guard_check({fence}, '1s', 'INSERT')",
        "eventsource_guard_check({fence}, {fence}, '1s', 'INSERT')",
        "eventsource_guarded('{name}')",
        "eventsource_guard_weakened('{table}')",
        "eventsource_guard_renew('{table}')",
        "eventsource_guard_stands('{table}')",
        "eventsource_fences_follow('{table}')",
        "eventsource_open_target('{name}', '{tenant}', '{migration}', 9, 1)",
        "eventsource_arriving('{name}')",
        "eventsource_hidden('{name}')",
        "eventsource_mirror_permit('{name}', '{tenant}', '{migration}')",
        "eventsource_mirror('{name}', '{tenant}', '{migration}', '{{}}', '[]')",
        "eventsource_caller()",
    ],
)
@pytest.mark.parametrize("hardened", [True, False])
async def test_a_role_without_rights_learns_nothing_from_functions(
    world: World, call: str, hardened: bool
) -> None:
    it = await guarded(world, "target")
    name = f"stranger_{uuid4().hex[:8]}"
    if hardened:
        await world.target.execute("revoke execute on all functions in schema public from public")
    await world.target.execute(f"create role {name}; grant usage on schema public to {name}")
    try:
        stranger = await as_role(world, "target", name)
        statement = "select " + call.format(
            fence=it.fence.fence_id, table=table("target"), name=TARGET_TABLE,
            tenant=world.tenant, migration=MIGRATION,
        )  # fmt: skip
        error = await refused(stranger.execute(statement), "42501")
        for secret in (str(world.tenant), str(MIGRATION), SOURCE):
            assert secret not in f"{error} {error.detail} {error.hint}"
        await stranger.close()
    finally:
        await world.target.execute(f"drop owned by {name}; drop role {name}")


async def test_the_documented_rights_open_no_fence(world: World, role: str) -> None:
    it = await guarded(world)
    await it.set_state("moved")
    await world.source.execute(f"grant select on eventsource_fences to {role}")
    writer = await as_role(world, "source", role)
    for statement in (
        "update eventsource_fences set state = 'open'",
        "delete from eventsource_fences",
        "alter table events disable trigger all",
        "drop trigger zzz_eventsource_guard_write on events",
        "select eventsource_guard_renew('events')",
        "select from eventsource_fences for update",
    ):
        await refused(writer.execute(statement), "42501")
    await refused(insert(writer, world.tenant), "EVF01")


async def test_a_temporary_table_or_function_shadows_nothing(world: World, role: str) -> None:
    it = await guarded(world)
    await it.set_state("moved")
    writer = await as_role(world, "source", role, search_path="pg_temp, public")
    await writer.execute(
        "create temp table eventsource_fences as select 1 as fence_id, 'open'::text as state;"
        "create function pg_temp.pg_advisory_xact_lock_shared(integer, integer) returns void"
        " language sql as $$ select null::void $$;"
        "create function pg_temp.eventsource_guard_check(integer, integer, text, text) returns void"
        " language sql as $$ select null::void $$"
    )
    await refused(insert(writer, world.tenant), "EVF01")


async def test_whoever_holds_the_lock_of_announcements_stops_no_writer(
    world: World, role: str
) -> None:
    """Any role may take such locks; writers go on, and the feed waits for what it cannot see."""
    await insert(world.source, world.other)
    oid = await world.source.fetchval("select 'events'::regclass::oid::bigint")
    holder = await as_role(world, "source", role)
    await holder.execute("begin")
    for floor in range(40):
        await holder.execute(
            f"select pg_advisory_xact_lock(({oid}::integer # -1152626862), {floor})"
        )
    async with asyncio.timeout(5):
        for _ in range(10):
            await insert(world.source, world.other)
    writer = await world.connect()
    await writer.execute("begin")
    first = (await insert(writer, world.other))["global_position"]
    await holder.execute("rollback")
    # Its second statement could announce, but only a floor above its first event.
    await insert(writer, world.other)
    await insert(world.source, world.other)
    with contextlib.suppress(FeedBlockedError):
        head = await Feed(None, "events", 0.1).head(await world.connect())
        assert head.position < first
    await writer.execute("rollback")


async def test_an_address_is_not_needed_to_see_a_guard(world: World) -> None:
    """A table in a schema whose name has to be quoted has the same functions."""
    await world.source.execute('create schema "it\'s a ""home"""')
    address = TableAddress(world.dsns["source"], 'it\'s a "home"', "events")
    store = PostgreSQLEventStore(world.here.pools[0], "events", schema=address.schema)
    await store.create_schema()
    assert await store.get_global_position() == 0
    odd = EventTable(world.source, address)
    assert await world.source.fetchval(
        f"select {odd.beside('eventsource_guard_stands')}($1::text::regclass)", odd.name
    )
    await world.source.execute('drop schema "it\'s a ""home""" cascade')
