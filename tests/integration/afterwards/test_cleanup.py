"""Old rows go portion by portion, each compared with the tenant's home first."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, tzinfo
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import (
    ConsistencyError,
    InvalidStateTransitionError,
    Migration,
    MigrationError,
)
from eventsource.migration.event_table import OwnTable
from eventsource.migration.repositories import PostgreSQLAuditLogRepository
from eventsource.migration.steps import cleanup
from eventsource.migration.tables import standby
from tests.support.application import SOURCE, TARGET, writing
from tests.support.gone_back import forget_departure
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table

NOW: dict[str, Any] = {"now": True, "backed_up": True}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several portions of a few rows."""
    monkeypatch.setattr(cleanup, "COMPARED", 7)
    monkeypatch.setattr(cleanup, "PORTION", 5)


async def _moved(world: World, events: int = 23) -> Migration:
    await world.seed(events)
    await world.seed(8, world.other)
    return await world.migrate()


async def _left(world: World, side: str = "source") -> int:
    return len(await world.ids(side))


@pytest.mark.usefixtures("small")
async def test_what_is_proven_goes_and_nothing_else(world: World) -> None:
    migration = await _moved(world)
    others, there = await world.rows("source", world.other), await world.rows("target")
    found = await world.coordinator.cleanup(migration.id, **NOW)
    assert (found.rows, found.deleted, found.store_id, found.home_id) == (23, 23, SOURCE, TARGET)
    assert await _left(world) == 0
    assert await world.rows("source", world.other) == others
    assert await world.rows("target") == there
    # A process that never heard of the move is refused as before.
    with pytest.raises(asyncpg.PostgresError) as refused:
        await insert(world.source, world.tenant)
    assert refused.value.sqlstate == "EVF01"
    again = await world.coordinator.cleanup(migration.id, **NOW)
    assert (again.rows, again.deleted) == (0, 0)
    log = PostgreSQLAuditLogRepository(world.here.migrations.pool)
    kinds = [each.event_type for each in await log.get_by_migration(migration.id)]
    assert kinds.count("cleaned_up") == 1


async def test_a_dry_run_compares_and_deletes_nothing(world: World) -> None:
    migration = await _moved(world)
    found = await world.coordinator.cleanup(migration.id, dry_run=True)
    assert (found.rows, found.deleted) == (23, 0)
    assert found.bytes > 1000
    assert await _left(world) == 23


_CHANGES = {
    "another payload": "update {t} set payload = payload || '{{\"n\": -1}}' where version = 7",
    "another number of the same value": (
        'update {t} set payload = \'{{"n": 6.0, "text": ""}}\' where payload @> \'{{"n": 6}}\''
    ),
    "another time": "update {t} set timestamp = timestamp + interval '1 us' where version = 3",
    "an actor instead of none": "update {t} set actor_id = '' where actor_id is null",
    "one is missing": "delete from {t} where version = 9",
    "another position": "update {t} set global_position = 4000000 where version = 4",
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("change", _CHANGES)
async def test_a_single_row_that_differs_stops_it_before_anything_is_deleted(
    world: World, change: str
) -> None:
    migration = await _moved(world, 10)
    await world.target.execute(_CHANGES[change].format(t=table("target")))
    for dry_run in (True, False):
        with pytest.raises(ConsistencyError, match="nothing more was deleted"):
            await world.coordinator.cleanup(migration.id, dry_run=dry_run, **NOW)
    assert await _left(world) == 10


@pytest.mark.parametrize("fence", ["none", "open"])
@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_store_that_has_forgotten_that_the_tenant_left_is_a_thing_for_repair(
    world: World, fence: str, dry_run: bool
) -> None:
    """What was appended there since then was a difference, with an abort as the way out."""
    migration = await _moved(world, 10)
    await forget_departure(world, fence=fence)
    await insert(world.source, world.tenant)
    with pytest.raises(MigrationError, match="run `eventsource-migrate repair`") as refused:
        await world.coordinator.cleanup(migration.id, dry_run=dry_run, **NOW)
    assert not isinstance(refused.value, ConsistencyError)
    assert await _left(world) == 11
    report = await world.coordinator.repair(dry_run=True)
    assert report.notes == ()
    await world.coordinator.repair(put_back=True)
    assert (await world.coordinator.cleanup(migration.id, **NOW)).deleted == 11


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("position", [0, -1, -7])
async def test_a_row_that_a_carried_position_never_has_is_seen_as_well(
    world: World, position: int
) -> None:
    """Restored by hand with the guard off: it was left where it was, and `nothing is left` said."""
    migration = await _moved(world, 10)
    events = table("source")
    await world.source.execute(f"alter table {events} disable trigger all")
    await insert(world.source, world.tenant)
    await world.source.execute(
        f"update {events} set global_position = {position}"
        f" where global_position = (select max(global_position) from {events})"
    )
    await world.source.execute(f"alter table {events} enable trigger all")
    for dry_run in (True, False):
        with pytest.raises(ConsistencyError, match=rf"position {position}.* is missing in"):
            await world.coordinator.cleanup(migration.id, dry_run=dry_run, **NOW)
    assert await _left(world) == 11


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("change", "says"),
    [("delete from {t} where event_id = $1", "is missing in store 'dedicated-a'"),
     ("update {t} set global_position = 4000000 where event_id = $1", "is at position 4000000")],
    ids=["gone", "at another position"],
)  # fmt: skip
async def test_what_changes_after_the_comparison_is_not_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str, says: str
) -> None:
    migration = await _moved(world)
    last = (await world.ids("source"))[-1]
    original = cleanup.Cleanup.compare

    async def compare(self: cleanup.Cleanup) -> int:
        rows = await original(self)
        await world.target.execute(change.format(t=table("target")), last)
        return rows

    monkeypatch.setattr(cleanup.Cleanup, "compare", compare)
    with pytest.raises(ConsistencyError, match=says):
        await world.coordinator.cleanup(migration.id, **NOW)
    assert last in await world.ids("source")


async def _comes_back(old: OwnTable, tenant: UUID, state: str) -> None:
    """The fence of a later migration, as it is when the tenant may return, or has returned."""
    later = uuid4()
    await standby.add_fence(
        old, tenant_id=tenant, migration_id=later, store_id=SOURCE, role="target", patience_ms=1000
    )
    if state != standby.STANDBY:
        await old.connection.execute(
            f"update {old.fences} set state = $2, generation = 9 where migration_id = $1",
            later, state,
        )  # fmt: skip


async def test_nothing_goes_that_a_way_back_needs_which_was_made_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison takes long: meanwhile the tenant has returned and left again."""
    migration = await _moved(world)
    original = cleanup.Cleanup.compare

    async def compare(self: cleanup.Cleanup) -> int:
        rows = await original(self)
        await _comes_back(self.old, world.tenant, standby.STANDBY)
        return rows

    monkeypatch.setattr(cleanup.Cleanup, "compare", compare)
    with pytest.raises(MigrationError, match="close its way back"):
        await world.coordinator.cleanup(migration.id, **NOW)
    assert await _left(world) == 23


@pytest.mark.usefixtures("small")
async def test_it_ends_with_the_portion_in_which_the_tenant_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence of its departure says what it said; another one is in force."""
    migration = await _moved(world)
    original = cleanup.Cleanup._delete

    async def delete(self: cleanup.Cleanup, *arguments: Any) -> int:
        deleted = await original(self, *arguments)
        await _comes_back(self.old, world.tenant, "open")
        return deleted

    monkeypatch.setattr(cleanup.Cleanup, "_delete", delete)
    with pytest.raises(MigrationError, match="nothing"):
        await world.coordinator.cleanup(migration.id, **NOW)
    assert await _left(world) == 18


@pytest.mark.usefixtures("small")
async def test_nobody_changes_the_fence_while_a_portion_goes(world: World) -> None:
    migration = await _moved(world)
    # With the first portion the clean-up itself writes there.
    await world.source.execute("update eventsource_fences set cleaned_at = now()")
    rows = await world.connect()
    await rows.execute("begin; select from events where version = 3 for update")
    cleaning = asyncio.create_task(world.coordinator.cleanup(migration.id, **NOW))

    async def waits() -> bool:
        return bool(
            await world.source.fetchval(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
                " and query like 'delete from%'"
            )
        )

    await until(waits, "a portion that waits for a row")
    other = await world.connect(lock_timeout="200ms")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await other.execute("update eventsource_fences set state = 'open'")
    await rows.execute("rollback")
    assert (await cleaning).deleted == 23


@pytest.mark.usefixtures("small")
async def test_three_interruptions_are_gone_on_from(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await _moved(world)
    there = await world.rows("target")
    original = cleanup.Cleanup._delete

    async def dies(self: cleanup.Cleanup, *arguments: Any) -> int:
        await original(self, *arguments)
        raise ConnectionResetError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(cleanup.Cleanup, "_delete", dies)
        for left in (18, 13, 8):
            with pytest.raises(ConnectionResetError):
                await world.coordinator.cleanup(migration.id, **NOW)
            assert await _left(world) == left
    found = await world.coordinator.cleanup(migration.id, **NOW)
    assert (found.rows, found.deleted) == (8, 8)
    assert await world.rows("target") == there


async def test_it_waits_until_the_old_rows_need_not_be_kept(world: World) -> None:
    migration = await _moved(world)
    await world.control.execute(
        "update tenant_migrations set config = jsonb_set(config, '{keep_way_back}', '604800')"
    )
    with pytest.raises(MigrationError, match="keep_way_back"):
        await world.coordinator.cleanup(migration.id, backed_up=True)
    await world.control.execute(
        "update tenant_migrations set completed_at = now() - interval '8 days'"
    )
    with pytest.raises(MigrationError, match="backup of it that is younger"):
        await world.coordinator.cleanup(migration.id)
    assert await _left(world) == 23
    await world.coordinator.cleanup(migration.id, backed_up=True)
    assert await _left(world) == 0


async def test_a_clock_that_is_ahead_here_ends_no_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Ahead:
            return cls.fromtimestamp(time.time() + 8 * 86_400, tz)

    migration = await _moved(world)
    await world.control.execute(
        "update tenant_migrations set config = jsonb_set(config, '{keep_way_back}', '604800')"
    )
    monkeypatch.setattr("eventsource.migration.operations.cleanups.datetime", Ahead, raising=False)
    with pytest.raises(MigrationError, match="keep_way_back"):
        await world.coordinator.cleanup(migration.id, backed_up=True)
    assert await _left(world) == 23


async def test_a_migration_that_did_not_move_the_tenant_is_not_cleaned_up(world: World) -> None:
    await world.seed(5)
    migration = await world.dual_write()
    with pytest.raises(InvalidStateTransitionError, match="cleaned up"):
        await world.coordinator.cleanup(migration.id, **NOW)
    await world.coordinator.abort_migration(migration.id)
    with pytest.raises(InvalidStateTransitionError, match="cleaned up"):
        await world.coordinator.cleanup(migration.id, **NOW)
    assert await _left(world) == 5


async def test_the_rows_of_a_store_that_a_route_was_set_to_are_not_touched(world: World) -> None:
    migration = await _moved(world)
    await world.control.execute("update tenant_routing set store_id = $1", SOURCE)
    with pytest.raises(MigrationError, match="lives in store 'shared' again"):
        await world.coordinator.cleanup(migration.id, **NOW)
    assert await _left(world) == 23


async def test_a_fence_that_is_not_the_one_of_a_departure_stops_it(world: World) -> None:
    migration = await _moved(world)
    await world.source.execute("update eventsource_fences set state = 'open'")
    with pytest.raises(MigrationError, match="does not say that tenant"):
        await world.coordinator.cleanup(migration.id, **NOW)
    assert await _left(world) == 23


@pytest.mark.usefixtures("small")
async def test_two_clean_ups_of_a_tenant_do_not_run_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await _moved(world)
    elsewhere = await world.process()
    inside, go_on = asyncio.Event(), asyncio.Event()
    original = cleanup.Cleanup._delete

    async def slow(self: cleanup.Cleanup, *arguments: Any) -> int:
        inside.set()
        await go_on.wait()
        return await original(self, *arguments)

    monkeypatch.setattr(cleanup.Cleanup, "_delete", slow)
    first = asyncio.create_task(world.coordinator.cleanup(migration.id, **NOW))
    await asyncio.wait_for(inside.wait(), 20)
    with pytest.raises(MigrationError, match="another clean-up"):
        await elsewhere.coordinator.cleanup(migration.id, **NOW)
    go_on.set()
    assert (await first).deleted == 23


@pytest.mark.alone
async def test_others_write_on_while_old_rows_go(world: World) -> None:
    migration = await _moved(world, 4000)
    tenant = uuid4()
    elsewhere = await world.process()
    async with writing(elsewhere, tenant) as writers:
        found = await world.coordinator.cleanup(migration.id, **NOW)
    assert found.deleted == 4000
    assert writers.acknowledged > 10
    assert writers.longest < 0.5
