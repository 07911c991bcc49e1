"""Triggers, columns and rules that come to the target after a move has begun."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from eventsource.migration import MigrationState, PreflightError
from tests.support import marten
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld

_DOUBLING = (
    "create table seen (type text); create function note() returns trigger language plpgsql as $$"
    " begin insert into seen values (new.type); return new; end $$;"
    " create trigger note {when} insert on {table} for each row execute function note()"
)


async def waits_for(world: LayoutWorld, migration_id: object, text: str) -> None:
    async def waits() -> bool:
        now = await world.control.fetchval(
            "select error_message from tenant_migrations where id = $1", migration_id
        )
        return now is not None and text in now

    await until(waits, f"the driver waiting for {text!r}")


@pytest.mark.parametrize("when", ["before", "after"])
async def test_no_pass_carries_rows_past_a_late_trigger(shop: LayoutWorld, when: str) -> None:
    """It fired for all that the passes carried, until the cutover refused."""
    await marten.append(shop.source, "acme", uuid4(), 2)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    await shop.target.execute(_DOUBLING.format(when=when, table="mt_events"))
    await marten.append(shop.source, "acme", uuid4(), 3)
    await waits_for(shop, migration.id, "trigger 'note' of the target table")
    with pytest.raises(PreflightError, match="trigger 'note' of the target table"):
        await shop.coordinators[0].initiate_cutover(migration.id)
    assert await shop.target.fetchval("select count(*) from seen") == 0
    await shop.target.execute("alter table mt_events disable trigger note")
    moved = await shop.coordinators[0].initiate_cutover(migration.id)
    assert moved.state is MigrationState.MIGRATED
    assert await shop.target.fetchval("select count(*) from mt_events") == 5
    assert await shop.target.fetchval("select count(*) from seen") == 0


async def test_a_trigger_that_may_fire_stops_no_pass(shop: LayoutWorld) -> None:
    coordinator = await shop.process(target_triggers="fire")
    migration = await shop.start("acme", coordinator)
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    await shop.target.execute(_DOUBLING.format(when="after", table="mt_events"))
    await marten.append(shop.source, "acme", uuid4(), 3)
    await coordinator.initiate_cutover(migration.id)
    assert await shop.target.fetchval("select count(*) from seen") == 3


_LOST = [("mt_events", "type"), ("mt_events", "data"), ("mt_streams", "snapshot")]


@pytest.mark.parametrize(("table", "column"), _LOST, ids=[f"{t}.{c}" for t, c in _LOST])
async def test_a_cutover_says_what_its_passes_wait_for(
    shop: LayoutWorld, table: str, column: str
) -> None:
    """It waited without an end: the passes before it did, and answered nobody."""
    await marten.append(shop.source, "acme", uuid4(), 2)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    await shop.target.execute(f"alter table {table} rename column {column} to old")
    await marten.append(shop.source, "acme", uuid4(), 3)
    for call in (shop.coordinators[0].initiate_cutover, shop.coordinators[0].rehearse_cutover):
        with pytest.raises(PreflightError, match=f"lacks the source's column {column}"):
            async with asyncio.timeout(20):
                await call(migration.id)
    await shop.target.execute(f"alter table {table} rename column old to {column}")
    moved = await shop.coordinators[0].initiate_cutover(migration.id)
    assert moved.state is MigrationState.MIGRATED
    assert await shop.target.fetchval("select count(*) from mt_events") == 5


async def test_a_target_where_new_sessions_only_read_by_now_takes_no_tenant(
    shop: LayoutWorld,
) -> None:
    await marten.append(shop.source, "acme", uuid4(), 2)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    name = await shop.target.fetchval("select quote_ident(current_database())")
    await shop.target.execute(f"alter database {name} set default_transaction_read_only = on")
    with pytest.raises(PreflightError, match="target is read-only"):
        await shop.coordinators[0].initiate_cutover(migration.id)
    await shop.target.execute(f"alter database {name} reset default_transaction_read_only")
    moved = await shop.coordinators[0].initiate_cutover(migration.id)
    assert moved.state is MigrationState.MIGRATED
