"""A source that has gone back under a migration: the target follows it."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from eventsource.migration import Migration, MigrationError, StoreGoneBackError
from eventsource.migration.recovery.report import ChangeKind
from tests.support.gone_back import lose, rescued
from tests.support.held_migration import cursor, held_in
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert


async def carried(world: World, count: int = 6) -> tuple[Migration, list[UUID], UUID]:
    """A paused migration in dual-write, the events that it has carried last, and their stream."""
    await world.seed(40)
    migration = await world.dual_write()
    stream = uuid4()
    before = set(await world.ids("source"))
    await world.here.append(world.tenant, stream, count=count)
    events = [each for each in await world.ids("source") if each not in before]

    async def there() -> bool:
        return set(events) <= set(await world.ids("target"))

    await until(there, "the events at the target")
    await world.coordinator.pause_migration(migration.id)
    return migration, events, stream


async def goes_on(world: World, migration: Migration) -> None:
    """It is resumed, and the tenant moves with all that the source has."""
    await world.coordinator.resume_migration(migration.id)
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)
    assert await world.ids("target") == await world.ids("source")
    await world.here.append(world.tenant)


@pytest.mark.parametrize("appended", [0, 3, 60])
async def test_what_only_the_target_holds_is_kept_and_the_passes_go_on(
    world: World, appended: int
) -> None:
    """The source hands out the positions, and the transaction ids, of what it has lost again."""
    migration, events, _ = await carried(world)
    await lose(world, events[2:])
    for _ in range(appended):
        await world.here.append(world.tenant)
    report = await world.coordinator.repair(operator="ann")
    assert [change.kind for change in report.changes] == [ChangeKind.RECONCILE]
    assert {event.event_id for event in report.stranded} == set(events[2:])
    assert await rescued(world) == set(events[2:])
    assert set(await world.ids("target")) & set(events) == set(events[:2])
    await goes_on(world, migration)
    assert (await world.coordinator.repair()).changes == ()


async def test_what_is_in_flight_while_it_is_reconciled_is_carried(world: World) -> None:
    """Its transaction is older than the first one whose event the target lacks."""
    migration, events, _ = await carried(world)
    await lose(world, events[2:])
    early = await world.connect("source")
    await early.execute("begin; select pg_current_xact_id()")
    await world.here.append(world.tenant)
    await world.coordinator.repair()
    slow = await insert(early, world.tenant)
    await early.execute("commit")
    await goes_on(world, migration)
    assert slow["event_id"] in await world.ids("target")


async def test_a_source_that_lost_only_what_a_mirror_had_carried_is_reconciled(
    world: World,
) -> None:
    """It failed over after the last pass: the barrier is there, and events after it are not."""
    migration, events, _ = await carried(world)
    assert (await world.coordinator.repair()).changes == ()
    await lose(world, events[2:], barriers=False)
    await world.target.execute(
        "update eventsource_copy_progress set source_started = source_started - interval '1 hour'"
    )
    report = await world.coordinator.repair()
    assert [change.kind for change in report.changes] == [ChangeKind.RECONCILE]
    assert await rescued(world) == set(events[2:])
    await goes_on(world, migration)


async def test_what_is_asked_first_changes_nothing(world: World) -> None:
    _, events, _ = await carried(world)
    await lose(world, events)
    before = await world.fingerprint()
    report = await world.coordinator.repair(dry_run=True)
    assert [change.kind for change in report.changes] == [ChangeKind.RECONCILE]
    assert not report.done
    assert await world.fingerprint() == before


async def test_lost_events_go_back_to_the_source_where_they_fit(world: World) -> None:
    migration, events, stream = await carried(world)
    await lose(world, events[2:])
    await world.here.append(world.tenant)
    report = await world.coordinator.repair(put_back=True)
    assert all(event.was_put_back for event in report.stranded)
    kept = await world.router.get_events(stream, "Note", tenant_id=world.tenant)
    assert [event.event_id for event in kept.events] == events
    await goes_on(world, migration)


async def test_an_event_whose_place_is_taken_is_nobodys_to_guess(world: World) -> None:
    migration, events, stream = await carried(world)
    await lose(world, events[2:])
    await world.here.append(world.tenant, stream, version=2)
    source, target = await world.rows("source"), await world.rows("target")
    report = await world.coordinator.repair(put_back=True)
    [note] = report.notes
    assert str(events[2]) in note
    assert f"abort migration {migration.id}" in note
    assert (await world.rows("source"), await world.rows("target")) == (source, target)
    await world.coordinator.resume_migration(migration.id)
    with pytest.raises(StoreGoneBackError):
        await world.coordinator.initiate_cutover(migration.id, force=True)
    await world.coordinator.abort_migration(migration.id)
    assert await rescued(world) == set(events[2:])
    assert await world.rows("source") == source
    assert await world.rows("target") == []


async def test_a_row_that_differs_is_carried_again(world: World) -> None:
    """The same event id with other content: the source counts, before the decision."""
    migration, events, _ = await carried(world)
    await lose(world, [])
    await world.target.execute(
        f"select set_config('eventsource.migration', '{migration.id}', false);"
        f" update \"events_dedicated-a.b\" set actor_id = 'nobody' where event_id = '{events[0]}'"
    )
    await world.coordinator.repair()
    await goes_on(world, migration)


async def test_a_copy_that_was_not_complete_begins_again(world: World) -> None:
    async with held_in(world, "bulk_copy") as (migration, _):
        await cursor(world)
        driver = world.processes[-1]
        await world.coordinator.pause_migration(migration.id)
        await driver.stop()
        world.processes.remove(driver)
    copied = await world.ids("target")
    assert 0 < len(copied) < 200
    await lose(world, copied[-5:])
    report = await world.coordinator.repair()
    assert {event.event_id for event in report.stranded} == set(copied[-5:])
    assert await world.ids("target") == []
    await world.coordinator.set_rate(migration.id, None)
    await goes_on(world, migration)


async def test_nothing_is_repaired_while_a_driver_is_at_work(world: World) -> None:
    migration, events, _ = await carried(world)
    await lose(world, events)
    await world.control.execute(
        "update tenant_migrations set driver_owner = gen_random_uuid(), driver_name = 'host:7',"
        " driver_expires_at = now() + interval '1 minute'"
    )
    before = await world.fingerprint()
    with pytest.raises(MigrationError, match=r"host:7.*nothing was changed"):
        await world.coordinator.repair()
    assert await world.fingerprint() == before
    await world.control.execute("update tenant_migrations set driver_expires_at = null")
    await world.coordinator.repair()
    await goes_on(world, migration)


async def test_mirrors_stay_off_until_it_is_done(world: World) -> None:
    _, events, stream = await carried(world)
    await lose(world, events[2:])
    await world.here.append(world.tenant, stream, version=2)
    await world.coordinator.repair()  # left to somebody
    assert await world.target.fetchval("select not mirrored from eventsource_fences")
    assert not await world.target.fetchval(
        "select eventsource_mirror_permit('events_dedicated-a.b', $1, migration_id)"
        " from eventsource_fences", world.tenant,
    )  # fmt: skip
