"""The highest generation speaks, at every call: a store that has forgotten a decision hears of it.

The tenant has moved, and its source is as before the decision and takes its events again. Who looks
at both stores mends that at once; what was appended there meanwhile stays, and is named.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from eventsource.migration import Migration, MigrationCoordinator, StoreGoneBackError
from eventsource.migration.event_table import of_store
from eventsource.migration.operations import reports
from eventsource.migration.repositories.ways_back import WaysBack
from eventsource.migration.steps import authority
from tests.support.application import Process
from tests.support.gone_back import forget_departure
from tests.support.held_migration import audit
from tests.support.there_and_back import moved
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert


async def forgotten(world: World, done: Migration, fence: str, state: str | None = None) -> UUID:
    """The source takes the tenant again, and has; ``state`` is what the journal says then."""
    await forget_departure(world, fence=fence)
    if state is not None:
        await world.control.execute(
            "update tenant_migrations set state = $2 where id = $1", done.id, state
        )
    row = await insert(world.source, world.tenant)
    event: UUID = row["event_id"]
    return event


async def left(world: World, migration: Migration) -> tuple[str, int] | None:
    """State and generation of the move's fence at the source."""
    row = await world.source.fetchrow(
        "select state, generation from eventsource_fences where migration_id = $1"
        " and role = 'source'",
        migration.id,
    )
    return tuple(row) if row is not None else None


async def named(world: World, migration: Migration) -> list[list[str]]:
    """The events of each time that a store was sent on."""
    return [
        entry.details["only_there"]
        for entry in await audit(world, migration)
        if entry.event_type == "sent_on"
    ]


@contextlib.asynccontextmanager
async def working(process: Process) -> AsyncIterator[None]:
    task = asyncio.create_task(process.coordinator.work(poll_seconds=0.02))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("fence", ["none", "open"])
async def test_an_abort_finds_the_decision_and_reminds_its_source(world: World, fence: str) -> None:
    await world.seed(30)
    done = await world.migrate()
    theirs = await insert(world.target, world.tenant, side="target")
    stray = await forgotten(world, done, fence, "dual_write")
    with pytest.raises(StoreGoneBackError, match="was opened at the target") as caught:
        await world.coordinator.abort_migration(done.id)
    assert "1 event was appended there meanwhile" in str(caught.value)
    assert await left(world, done) == ("moved", 1)
    assert await named(world, done) == [[str(stray)]]
    assert stray in await world.ids("source")
    assert theirs["event_id"] in await world.ids("target")
    # The journal follows without a further call.
    await world.reach(done, "migrated")
    await world.here.append(world.tenant)
    assert len(await world.ids("target")) == 32


@pytest.mark.parametrize("state", ["pending", "bulk_copy", "dual_write", "cutover_paused"])
async def test_a_driver_reminds_it_and_goes_on_to_the_end(world: World, state: str) -> None:
    await world.seed(30)
    done = await world.migrate()
    stray = await forgotten(world, done, "open", state)
    process = await world.process()
    await process.coordinator.resume_migration(done.id)
    await world.reach(done, "migrated")
    assert await left(world, done) == ("moved", 1)
    assert await named(world, done) == [[str(stray)]]
    states = [entry.event_type for entry in await audit(world, done)]
    if state == "cutover_paused":
        # A decided one is not given back to its source for a moment.
        assert states.count("state:dual_write") == 1
    found = await process.coordinator.get_migration(done.id)
    assert found.error_message is None


async def test_who_follows_a_way_back_carries_nothing_to_a_store_that_takes_the_tenant(
    world: World,
) -> None:
    keeper = await world.process(keep_way_back=3600.0)
    done = await moved(world, keeper)
    before = set(await world.ids("source"))
    stray = await forgotten(world, done, "open")
    await keeper.append(world.tenant)
    async with working(keeper):
        await until(lambda: named(world, done), "the word")
        assert await left(world, done) == ("moved", 1)
        assert await named(world, done) == [[str(stray)]]
        # Once it has left again, its events are carried as before.
        home = await world.ids("target")
        await until(lambda: _holds(world, home), "the way back")
    assert stray in await world.ids("source")
    assert before < set(await world.ids("source"))


async def _holds(world: World, events: list[UUID]) -> bool:
    return set(events) <= set(await world.ids("source"))


CALLS: dict[str, Callable[[MigrationCoordinator, Migration], Awaitable[Any]]] = {
    "return": lambda c, m: c.return_migration(m.id),
    "close": lambda c, m: c.close_way_back(m.id),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_way_back_is_not_used_or_ended_before_its_store_has_left_again(
    world: World, call: str
) -> None:
    keeper = await world.process(keep_way_back=3600.0)
    done = await moved(world, keeper)
    await forget_departure(world, fence="open")
    with pytest.raises(StoreGoneBackError, match="says again that the tenant has left"):
        await CALLS[call](keeper.coordinator, done)
    assert await left(world, done) == ("moved", 1)
    assert await named(world, done) == [[]]
    way = await WaysBack(world.here.migrations.pool).of_migration(done.id)
    assert way is not None
    assert way.state == "standby"
    # Now it may be.
    await CALLS[call](keeper.coordinator, done)


async def test_a_return_that_was_opened_is_remembered_by_the_store_that_was_left(
    world: World,
) -> None:
    """The same in the other direction: the target has forgotten that the tenant has returned."""
    keeper = await world.process(keep_way_back=3600.0)
    done = await moved(world, keeper)
    back = await keeper.coordinator.return_migration(done.id, keep_way_back=0)
    await world.target.execute(
        "update eventsource_fences set state = 'open', generation = generation - 1,"
        " moved_to = null, source_head = null, decided_token = null where migration_id = $1",
        back.id,
    )
    await world.control.execute(
        "update tenant_migrations set state = 'dual_write' where id = $1", back.id
    )
    stray = await insert(world.target, world.tenant, side="target")
    with pytest.raises(StoreGoneBackError, match="was opened at the target"):
        await keeper.coordinator.abort_migration(back.id)
    fence = await world.target.fetchrow(
        "select state, generation from eventsource_fences where migration_id = $1", back.id
    )
    assert tuple(fence or ()) == ("moved", 2)
    assert await named(world, back) == [[str(stray["event_id"])]]
    await world.reach(back, "migrated")


@pytest.mark.parametrize("put_back", [False, True])
async def test_a_repair_names_what_a_driver_has_left_for_it(world: World, put_back: bool) -> None:
    await world.seed(30)
    done = await world.migrate()
    stray = await forgotten(world, done, "open", "dual_write")
    await world.coordinator.resume_migration(done.id)
    await world.reach(done, "migrated")
    await world.coordinator.close()
    planned = await world.coordinator.repair(dry_run=True)
    assert [event.event_id for event in planned.stranded] == [stray]
    report = await world.coordinator.repair(put_back=put_back)
    [event] = report.stranded
    assert (event.event_id, event.was_put_back) == (stray, put_back)
    assert (stray in await world.ids("target")) is put_back
    assert stray in await world.ids("source")
    assert (await world.coordinator.repair()).changes == ()


async def test_who_looks_is_shown_which_store_has_gone_back(world: World) -> None:
    await world.seed(30)
    done = await world.migrate()
    look = world.coordinator.disagreement
    assert await look(done.id) is None
    await forgotten(world, done, "open")
    said = await look(done.id) or ""
    assert "store 'shared' has gone back" in said
    assert "eventsource-migrate repair" in said
    assert await left(world, done) == ("open", 0), "who looks changes nothing"
    await world.coordinator.repair()
    assert await look(done.id) is None
    await world.target.execute("update eventsource_fences set state = 'closed', generation = 0")
    assert "store 'dedicated-a' has gone back" in (await look(done.id) or "")
    await world.target.execute("delete from eventsource_fences")
    assert "store 'dedicated-a' has gone back" in (await look(done.id) or "")


async def test_stores_that_cannot_be_asked_are_not_said_to_agree(
    world: World, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once they were, and so was a store whose address leads to another place."""
    monkeypatch.setattr(reports, "LOOKED_AT_SECONDS", 0.5)
    await world.seed(5)
    done = await world.migrate()
    dsns = dict(world.dsns)
    world.dsns["target"] = dsns["control"]
    elsewhere = await world.process()
    await elsewhere.target.create_schema()
    world.dsns["target"] = f"postgresql://nobody@127.0.0.1:{silent_port}/none"
    away = await world.process()
    world.dsns.update(dsns)
    assert await world.coordinator.disagreement(done.id) is None
    assert "began with" in (await elsewhere.coordinator.disagreement(done.id) or "")
    assert "cannot be seen now" in (await away.coordinator.disagreement(done.id) or "")


async def test_who_has_come_home_is_not_sent_away_by_its_first_move(world: World) -> None:
    """There are two open fences then, of which one is old."""
    keeper = await world.process(keep_way_back=3600.0)
    done = await moved(world, keeper)
    back = await keeper.coordinator.return_migration(done.id, keep_way_back=0)
    here, there = [await of_store(store) for store in (keeper.source, keeper.target)]
    # As if the first move were forgotten, and all that came before.
    await world.source.execute(
        "update eventsource_fences set state = 'open', generation = 0 where migration_id = $1",
        done.id,
    )
    assert await authority.has_forgotten(here, there, done) is None
    assert await authority.has_forgotten(there, here, back) is None
    await world.source.execute("delete from eventsource_fences where migration_id = $1", back.id)
    assert await authority.has_forgotten(here, there, done) is None
