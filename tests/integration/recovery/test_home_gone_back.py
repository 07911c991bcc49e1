"""The home of a tenant that may return has gone back, and the old store has what it lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from eventsource.migration import Migration, StoreGoneBackError
from eventsource.migration.recovery.report import ChangeKind
from eventsource.migration.steps.passes import Passes
from tests.support.application import SOURCE, Process
from tests.support.gone_back import forget_control, home_loses, rescued
from tests.support.there_and_back import appended, assert_home, moved, versions, whole
from tests.support.worlds.three_databases import World, insert, table


async def followed(process: Process) -> None:
    await process.coordinator._drivers._follower.turn()


async def kept(world: World) -> Process:
    """A process whose migrations keep a way back."""
    return await world.process(keep_way_back="1h", lease_seconds=1.0)


async def gone_back(world: World, events: int = 7) -> tuple[Process, Migration, list[UUID]]:
    """A tenant whose home has lost its last events, which were carried to the old store."""
    keeper = await kept(world)
    migration = await moved(world, keeper)
    await appended(keeper, world.tenant)
    # Positions have gaps: others append, and transactions are rolled back.
    await world.target.execute(
        f"select nextval(pg_get_serial_sequence('{table('target')}', 'global_position'))"
        " from generate_series(1, 5)"
    )
    await appended(keeper, world.tenant, streams=1, events=3)
    await followed(keeper)
    lost = (await world.ids("target"))[-events:]
    return keeper, migration, lost


async def positions(world: World, events: Sequence[UUID]) -> dict[UUID, int]:
    rows = await world.target.fetch(
        f"select event_id, global_position from {table('target')}"
        " where event_id = any ($1::uuid[])",
        list(events),
    )
    return {row["event_id"]: row["global_position"] for row in rows}


async def assert_returns(world: World, process: Process, migration: Migration) -> None:
    await appended(process, world.tenant)
    await followed(process)
    at_home = await world.ids("target")
    assert set(await world.ids("source")) == set(at_home)
    await process.coordinator.return_migration(migration.id)
    assert set(await world.ids("source")) == set(at_home)
    assert whole(await versions(world, "source"))
    await assert_home(world, process, "source", SOURCE)


@pytest.mark.parametrize("control", ["there", "lost"])
async def test_what_it_lost_goes_home_to_where_it_was(world: World, control: str) -> None:
    keeper, migration, lost = await gone_back(world)
    before = await positions(world, lost)
    await home_loses(world, lost)
    if control == "lost":
        await forget_control(world)
        keeper = await kept(world)
    planned = await keeper.coordinator.repair(dry_run=True)
    if control == "there":
        assert [event.event_id for event in planned.stranded] == lost
    assert await positions(world, lost) == {}
    report = await keeper.coordinator.repair()
    assert ChangeKind.RECONCILE in {change.kind for change in report.changes}
    assert [event.event_id for event in report.stranded] == lost
    assert all(event.was_put_back and event.kept_in == SOURCE for event in report.stranded)
    after = await positions(world, lost)
    if control == "there":
        assert after == before
    assert sorted(after, key=lambda each: after[each]) == lost
    report = await keeper.coordinator.repair()
    assert (report.changes, report.notes, report.stranded) == ((), (), ())
    await assert_returns(world, keeper, migration)


async def test_what_somebody_may_have_read_past_gets_the_next_positions(world: World) -> None:
    """A reader of all tenants has a checkpoint there: it would skip what is put below it."""
    keeper, migration, lost = await gone_back(world)
    before = await positions(world, lost)
    await home_loses(world, lost)
    rows = [await insert(world.target, world.other, side="target") for _ in range(4)]
    passed = rows[-1]["global_position"]
    await keeper.coordinator.repair()
    after = await positions(world, lost)
    assert min(after.values()) > passed
    assert sorted(after, key=lambda each: after[each]) == lost
    assert any(before[each] <= passed for each in lost)
    row = await insert(world.target, world.tenant, side="target")
    assert row["global_position"] > max(after.values())
    await assert_returns(world, keeper, migration)


async def test_an_event_whose_place_is_taken_is_kept_and_named(world: World) -> None:
    keeper, migration, _ = await gone_back(world)
    [stream] = await appended(keeper, world.tenant, streams=1, events=3)
    await followed(keeper)
    lost = (await world.ids("target"))[-2:]
    await home_loses(world, lost)
    await insert(world.target, world.tenant, side="target", stream=stream, version=2)
    report = await keeper.coordinator.repair()
    assert [event.event_id for event in report.stranded] == lost
    assert "another event of version 2" in (report.stranded[0].conflict or "")
    assert report.stranded[1].conflict is not None
    assert await rescued(world, "source") == set(lost)
    assert not set(lost) & (set(await world.ids("source")) | set(await world.ids("target")))
    await assert_returns(world, keeper, migration)


@pytest.mark.parametrize("beside", ["what is put back", "what is new"])
async def test_what_is_in_flight_meanwhile_goes_back_as_well(world: World, beside: str) -> None:
    """Its transaction is older than the first one whose event the old store lacks."""
    keeper, migration, lost = await gone_back(world)
    await home_loses(world, lost)
    early, late = await world.connect("target"), await world.connect("target")
    await early.execute("begin; select pg_current_xact_id()")
    if beside == "what is new":
        await insert(late, world.tenant, side="target")
    await keeper.coordinator.repair()
    slow = await insert(early, world.tenant, side="target")
    await early.execute("commit")
    await followed(keeper)
    assert slow["event_id"] in await world.ids("source")
    await assert_returns(world, keeper, migration)


async def test_nobody_ends_or_uses_it_before_that(world: World) -> None:
    keeper, migration, lost = await gone_back(world)
    await home_loses(world, lost)
    for ask in (keeper.coordinator.close_way_back, keeper.coordinator.return_migration):
        with pytest.raises(StoreGoneBackError, match="eventsource-migrate repair"):
            await ask(migration.id)
    await followed(keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert (way.shown, way.lag) == ("armed", 0)
    assert "eventsource-migrate repair" in (way.reason or "")
    # Nor does its time.
    await world.control.execute(
        "update tenant_migrations set completed_at = now() - interval '2 hours'"
    )
    await followed(keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert way.shown == "expired"
    await keeper.coordinator.repair()
    assert set(lost) <= set(await world.ids("target"))
    await followed(keeper)
    await followed(keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert way.shown == "closed"


async def test_one_that_is_being_closed_takes_nothing_away_before_that(world: World) -> None:
    keeper, migration, lost = await gone_back(world)
    await world.control.execute("update tenant_ways_back set state = 'closing'")
    await home_loses(world, lost)
    await followed(keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert way.shown == "closing"
    assert "eventsource-migrate repair" in (way.reason or "")
    report = await keeper.coordinator.repair()
    assert {event.event_id for event in report.stranded} == set(lost)
    await followed(keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert way.shown == "closed"
    assert set(lost) <= set(await world.ids("target"))


async def test_a_process_that_ends_lets_go_of_what_it_follows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a repair would wait for a minute."""
    keeper = await kept(world)
    migration = await moved(world, keeper)
    await appended(keeper, world.tenant)
    began = asyncio.Event()

    async def slow(passes: Passes) -> None:
        began.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(Passes, "catch_up", slow)
    following = asyncio.create_task(followed(keeper))
    await asyncio.wait_for(began.wait(), 20)
    following.cancel()
    await asyncio.wait([following])
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert (way.is_followed, way.reason) == (False, None)


async def test_an_append_that_is_under_way_is_waited_for(world: World) -> None:
    """It has a position already, and what is put back is not to lie on either side of it unseen."""
    keeper, migration, lost = await gone_back(world)
    await home_loses(world, lost)
    async with world.open_transaction(world.other, "target"):
        repairing = asyncio.create_task(keeper.coordinator.repair())
        done, _ = await asyncio.wait([repairing], timeout=2)
        assert not done
        assert await positions(world, lost) == {}
    await repairing
    assert set(await positions(world, lost)) == set(lost)
    await assert_returns(world, keeper, migration)
