"""What was fine when a migration began and is not when it ends: found before anybody is flipped.

The cutover is refused, the application goes on at the source, and once the change is taken back the
tenant moves. What comes between the look and the decision is found by the deciding statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from eventsource import failpoints
from eventsource.migration import MigrationState, PreflightError
from tests.support.application import writing
from tests.support.worlds.three_databases import World, table

_FUNCTION = (
    "create or replace function of_theirs() returns trigger language plpgsql as"
    " $$ begin return new; end $$;"
)
_OF_THE_DATABASE = "do $$ begin execute format('alter database %I {}', current_database()); end $$"


@dataclass(frozen=True)
class Change:
    """SQL for the sides while the tenant moves, what is told, and SQL that takes it back."""

    name: str
    told: str
    source: str = ""
    target: str = ""
    back: str = ""

    async def make(self, world: World) -> None:
        for side in ("source", "target"):
            if sql := getattr(self, side):
                await getattr(world, side).execute(sql.replace("{t}", table(side)))

    async def take_back(self, world: World) -> None:
        for side in ("source", "target"):
            if getattr(self, side):
                await getattr(world, side).execute(self.back.replace("{t}", table(side)))


#: Found wherever they come, also under the fence.
DECIDING = [
    Change("a column on both sides", "not those that the migration began with",
           source="alter table {t} add column region text default 'eu'",
           target="alter table {t} add column region text default 'eu'",
           back="alter table {t} drop column region"),
    Change("a guard that is disabled", "the guard of the source table",
           source="alter table {t} disable trigger zzz_eventsource_guard_write",
           back="alter table {t} enable always trigger zzz_eventsource_guard_write"),
    Change("a guard that is an ordinary trigger", "the guard of the source table",
           source="alter table {t} disable trigger all; alter table {t} enable trigger all",
           back="select eventsource_guard_renew('{t}')"),
    Change("a child", "children", source="create table kid () inherits ({t})",
           back="alter table kid no inherit {t}"),
    Change("a late trigger", "zzz_eventsource_guard_", source=_FUNCTION
           + "create trigger zzzz_late before insert on {t} for each row"
           " execute function of_theirs()", back="drop trigger zzzz_late on {t}"),
    Change("a guard at the target that is an ordinary trigger", "the guard of the target table",
           target="alter table {t} disable trigger all; alter table {t} enable trigger all",
           back="do $$ declare each name; begin for each in select tgname from pg_trigger where"
           " tgrelid = '{t}'::regclass and tgname like 'zzz_eventsource%' loop execute"
           " format('alter table {t} enable always trigger %I', each); end loop; end $$"),
    Change("a target that a crash empties", "target table .* is unlogged",
           target="alter table {t} set unlogged", back="alter table {t} set logged"),
]  # fmt: skip

#: Found by the look before the fence is asked for.
LOOKED_AT = [
    Change("a trigger at the target", "fires for every carried row", target=_FUNCTION
           + "create trigger to_outbox after insert on {t} for each row"
           " execute function of_theirs()", back="drop trigger to_outbox on {t}"),
    Change("a check at the target", "is none of the source's",
           target="alter table {t} add constraint few check (version < 1000)",
           back="alter table {t} drop constraint few"),
]  # fmt: skip

#: Waits for the cutover, where it comes under the fence.
WAITING = [
    Change("a source that a crash empties", "source table .* is unlogged",
           source="alter table {t} set unlogged", back="alter table {t} set logged"),
]  # fmt: skip


def named(change: Change) -> str:
    return change.name


@pytest.mark.parametrize("level", ["count", "hash", "full", "force"])
async def test_a_column_that_came_meanwhile_refuses_the_cutover_at_every_level(
    world: World, level: str
) -> None:
    change = DECIDING[0]
    await assert_refused(world, change, level)


@pytest.mark.parametrize("change", [*DECIDING[1:], *LOOKED_AT, *WAITING], ids=named)
async def test_a_change_before_the_cutover_refuses_it_and_taken_back_lets_it_pass(
    world: World, change: Change
) -> None:
    await assert_refused(world, change, "force")


async def assert_refused(world: World, change: Change, level: str) -> None:
    force = level == "force"
    settings: dict[str, Any] = {} if force else {"verification_level": level}
    process = await world.process(**settings)
    await world.seed(20)
    migration = await world.dual_write(process=process)
    await change.make(world)
    async with writing(process, world.tenant) as writers:
        with pytest.raises(PreflightError, match=change.told):
            await process.coordinator.initiate_cutover(migration.id, force=force)
        found = await process.coordinator.get_migration(migration.id)
        assert found.state is MigrationState.DUAL_WRITE
        await change.take_back(world)
        done = await process.coordinator.initiate_cutover(migration.id, force=force)
        assert done.state is MigrationState.MIGRATED
    assert writers.acknowledged > 0
    await world.assert_moved(done)


async def test_a_target_where_new_sessions_only_read_by_now_takes_no_tenant(world: World) -> None:
    """The tenant moved, and its writers were refused there."""
    await world.seed(20)
    migration = await world.dual_write()
    await world.target.execute(_OF_THE_DATABASE.format("set default_transaction_read_only = on"))
    with pytest.raises(PreflightError, match="target is read-only"):
        await world.coordinator.initiate_cutover(migration.id, force=True)
    await world.target.execute(_OF_THE_DATABASE.format("reset default_transaction_read_only"))
    # What was opened meanwhile goes on as it was.
    for pool in world.here.pools:
        await pool.expire_connections()
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    await world.assert_moved(done)


@pytest.mark.parametrize("change", DECIDING, ids=named)
async def test_a_change_under_the_fence_is_found_by_the_deciding_statement(
    world: World, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(20)
    migration = await world.dual_write()
    reach = failpoints.reach
    made: list[str] = []

    async def change_there(name: Any) -> None:
        if name == "cutover.fence.held" and not made:
            made.append(name)
            await change.make(world)
        await reach(name)

    monkeypatch.setattr(failpoints, "reach", change_there)
    with pytest.raises(PreflightError, match=change.told):
        await world.coordinator.initiate_cutover(migration.id, force=True)
    assert made
    assert await world.source.fetchval("select state from eventsource_fences") == "open"
    await change.take_back(world)
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    assert done.state is MigrationState.MIGRATED
    await world.assert_moved(done)


@pytest.mark.parametrize("change", [DECIDING[3], DECIDING[4], *LOOKED_AT], ids=named)
async def test_a_change_between_the_look_and_the_guard_fails_before_anything_is_copied(
    world: World, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(20)
    reach = failpoints.reach
    made: list[str] = []

    async def change_there(name: Any) -> None:
        if name == "start.committed" and not made:
            made.append(name)
            await change.make(world)
        await reach(name)

    monkeypatch.setattr(failpoints, "reach", change_there)
    migration = await world.here.start(world.tenant)
    failed = await world.reach(migration, "failed")
    assert failed.error_code == PreflightError.code
    assert await world.ids("target") == []
    await world.coordinator.abort_migration(migration.id)
    await world.here.append(world.tenant)
