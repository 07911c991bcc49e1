"""What a way back carries, in which order, and what its subscriptions get."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import (
    InvalidStateTransitionError,
    MigrationError,
    PositionMapper,
    SubscriptionMigrator,
    configuration,
)
from eventsource.migration.connections import session_marks
from eventsource.migration.repositories import PostgreSQLPositionMappingRepository
from eventsource.migration.repositories.ways_back import WaysBack
from eventsource.migration.steps import decision
from eventsource.migration.steps.passes import Passes
from eventsource.subscriptions import InMemoryCheckpointRepository
from tests.support.application import SOURCE, TARGET, Process
from tests.support.there_and_back import appended, assert_home, moved, versions
from tests.support.worlds.three_databases import World, insert, table


async def test_a_transaction_that_began_early_and_wrote_late_keeps_its_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of transactions version 2 would come before version 1, in a chunk of its own."""
    monkeypatch.setattr(configuration, "BATCHES_PER_CHUNK", 1)
    keeper = await world.process(keep_way_back="1h", lease_seconds=1.0, batch_size=1)
    migration = await moved(world, keeper)
    stream = uuid4()
    early, late = await world.connect("target"), await world.connect("target")
    await early.execute("begin; select pg_current_xact_id()")
    await insert(late, world.tenant, side="target", stream=stream)
    await insert(early, world.tenant, side="target", stream=stream, version=2)
    await early.execute("commit")
    await keeper.coordinator.return_migration(migration.id)
    assert (await versions(world, "source"))[stream] == [1, 2]


async def test_an_event_in_flight_at_a_look_is_carried_by_the_next_one(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    async with world.open_transaction(world.tenant, "target"):
        await appended(keeper, world.tenant)
        await keeper.coordinator._drivers._follower.turn()
        assert len(await world.ids("source")) == 20 + 12
    slow = await world.connect("target")
    await slow.execute("begin")
    row = await insert(slow, world.tenant, side="target")
    await appended(keeper, world.tenant)
    await keeper.coordinator._drivers._follower.turn()
    await slow.execute("commit")
    await keeper.coordinator.return_migration(migration.id)
    assert row["event_id"] in await world.ids("source")
    assert set(await world.ids("source")) == set(await world.ids("target"))


async def test_a_column_that_is_always_numbered_goes_back(world: World, keeper: Process) -> None:
    """Its numbers are values of the events, and only positions are drawn again."""
    for side in ("source", "target"):
        await getattr(world, side).execute(
            f"alter table {table(side)} add column number bigint generated always as identity"
        )
    migration = await moved(world, keeper)
    await appended(keeper, world.tenant)
    numbers = [
        f"select event_id, number from {table(side)} where tenant_id = $1 order by event_id"
        for side in ("source", "target")
    ]
    await keeper.coordinator.return_migration(migration.id)
    here = await world.source.fetch(numbers[0], world.tenant)
    assert here == await world.target.fetch(numbers[1], world.tenant)
    assert len(here) == 20 + 12


async def test_what_is_written_right_before_the_fence_returns_with_the_others(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last pass is there for it: writers go on until the fence is asked for."""
    migration = await moved(world, keeper)
    prepare_last, late = Passes.prepare_last, list[UUID]()

    async def prepared(self: Passes) -> None:
        await prepare_last(self)
        late.extend(await appended(keeper, world.tenant))

    monkeypatch.setattr(Passes, "prepare_last", prepared)
    await keeper.coordinator.return_migration(migration.id)
    assert set(late) <= (await versions(world, "source")).keys()
    assert await world.rows("source") != []
    assert set(await world.ids("source")) == set(await world.ids("target"))


async def test_what_is_appended_right_after_the_opening_goes_back_too(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any process may open the target: the way back knows what is there from before."""
    finish, early = decision.finish, list[UUID]()

    async def finished(*arguments: Any) -> Any:
        if not early:
            early.extend(await appended(keeper, world.tenant))
        return await finish(*arguments)

    monkeypatch.setattr(decision, "finish", finished)
    migration = await moved(world, keeper)
    assert set(early) <= (await versions(world, "target")).keys()
    await keeper.coordinator.return_migration(migration.id)
    assert set(early) <= (await versions(world, "source")).keys()
    assert set(await world.ids("source")) == set(await world.ids("target"))


async def test_what_is_on_its_way_back_holds_no_reader_of_the_old_store_up(
    world: World, keeper: Process
) -> None:
    """Its rows are hidden, so nobody waits for the transaction that writes them."""
    migration = await moved(world, keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    carrying = await world.connect(**{session_marks.MIGRATOR_SETTING: str(way.id)})
    async with carrying.transaction():
        carried = await insert(carrying, world.tenant)
        row = await insert(world.source, world.other)
        shown = [event.event_id async for event in keeper.source.read_all(0)]
        assert row["event_id"] in shown
        assert carried["event_id"] not in shown


async def test_another_event_at_the_same_place_of_a_stream_is_a_difference(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    [stream] = await appended(keeper, world.tenant, streams=1, events=1)
    # With the rights and the setting of the way back itself.
    forger = await world.connect(**{session_marks.MIGRATOR_SETTING: str(way.id)})
    await insert(forger, world.tenant, stream=stream)
    with pytest.raises(MigrationError):
        await asyncio.wait_for(keeper.coordinator.return_migration(migration.id), 20)
    await assert_home(world, keeper, "target", TARGET)


async def test_no_end_comes_between_a_return_and_its_decision(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await moved(world, keeper)
    asked, go_on = asyncio.Event(), asyncio.Event()
    original = Passes.prepare_last

    async def slow(self: Passes) -> None:
        asked.set()
        await go_on.wait()
        await original(self)

    monkeypatch.setattr(Passes, "prepare_last", slow)
    returning = asyncio.create_task(keeper.coordinator.return_migration(migration.id))
    await asyncio.wait_for(asked.wait(), 20)
    await world.control.execute(
        "update tenant_migrations set completed_at = now() - interval '2 hours' where id = $1",
        migration.id,
    )
    elsewhere = await world.process()
    await elsewhere.coordinator._drivers._follower.turn()
    with pytest.raises(InvalidStateTransitionError, match="abort the return first"):
        await elsewhere.coordinator.close_way_back(migration.id)
    go_on.set()
    assert (await returning).state == "migrated"
    await assert_home(world, keeper, "source", SOURCE)


async def test_an_aborted_return_that_is_written_late_ends_no_other_one(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver has yet to say that the way back stands by, and somebody has asked again."""
    migration = await moved(world, keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    prepare_last, give_up = Passes.prepare_last, WaysBack.give_up
    stopped, late, given_up, go_on = [asyncio.Event() for _ in range(4)]

    async def slow(self: Passes) -> None:
        stopped.set()
        await go_on.wait()
        await prepare_last(self)

    async def give_up_late(self: WaysBack, way_id: UUID) -> None:
        if isinstance(self.pool, asyncpg.Pool):
            await give_up(self, way_id)
            return
        late.set()
        # However its driver ends meanwhile: what it has sent may come late all the same.
        await asyncio.shield(asyncio.create_task(give_up_at_last(way_id)))

    async def give_up_at_last(way_id: UUID) -> None:
        await stopped.wait()
        await give_up(WaysBack(keeper.control_pool), way_id)
        given_up.set()

    monkeypatch.setattr(WaysBack, "give_up", give_up_late)
    await WaysBack(keeper.control_pool).ask_return(way, {}, None)
    aborting = asyncio.create_task(keeper.coordinator.abort_migration(way.id))
    await asyncio.wait_for(late.wait(), 20)
    await aborting
    monkeypatch.setattr(Passes, "prepare_last", slow)
    elsewhere = await world.process()
    returning = asyncio.create_task(elsewhere.coordinator.return_migration(migration.id))
    await asyncio.wait_for(stopped.wait(), 20)
    await asyncio.wait_for(given_up.wait(), 20)
    with pytest.raises(InvalidStateTransitionError, match="abort the return first"):
        await elsewhere.coordinator.close_way_back(migration.id)
    go_on.set()
    assert (await returning).state == "migrated"
    await assert_home(world, elsewhere, "source", SOURCE)


async def test_subscriptions_go_there_and_back_and_skip_nothing(
    world: World, keeper: Process
) -> None:
    checkpoints = InMemoryCheckpointRepository()
    migrator = SubscriptionMigrator(
        PositionMapper(PostgreSQLPositionMappingRepository(keeper.control_pool)), checkpoints
    )
    await world.seed(20)
    first = await world.source.fetchval(f"select min(global_position) from {table('source')}")
    # It has read some of the tenant's past before the move, and some of what came after it.
    await checkpoints.save("P", SOURCE, first + 6, world.tenant)
    migration = await world.dual_write(process=keeper)
    migration = await keeper.coordinator.initiate_cutover(migration.id)
    stores = {SOURCE: "source", TARGET: "target"}
    handled = set((await world.ids("source"))[:7])
    for leg in range(4):
        await insert(world.source, world.other)
        await insert(world.target, world.other, side="target")
        await appended(keeper, world.tenant)
        if leg:
            migration = await keeper.coordinator.return_migration(migration.id)
        plan = await migrator.plan_migration(migration.id, world.tenant, ["P"])
        summary = await migrator.migrate_subscriptions(migration.id, world.tenant, ["P"])
        assert summary.all_successful
        [result] = summary.results
        assert result.target_position == plan.planned_migrations[0].planned_target_position
        side = stores[migration.target_store_id]
        rows = await getattr(world, side).fetch(
            f"select event_id, global_position from {table(side)} where tenant_id = $1"
            " order by global_position",
            world.tenant,
        )
        delivered = [row for row in rows if row["global_position"] > (result.target_position or 0)]
        assert {row["event_id"] for row in rows} - handled <= {row[0] for row in delivered}
        again = [row for row in delivered if row["event_id"] in handled]
        assert len(again) == plan.planned_migrations[0].redelivered_events
        # It reads on, but not to the end.
        for row in delivered[: 5 + leg]:
            handled.add(row["event_id"])
        await checkpoints.save(
            "P", migration.target_store_id, delivered[: 5 + leg][-1]["global_position"],
            world.tenant,
        )  # fmt: skip
