"""There and back: no event is lost, none is copied twice, and nobody is skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventsource.migration import (
    InvalidStateTransitionError,
    MigrationError,
    PreflightError,
)
from eventsource.migration.connections import session_marks
from eventsource.migration.driver.stages import Stages
from eventsource.migration.repositories.ways_back import WaysBack
from eventsource.migration.steps import decision, way_back
from eventsource.migration.steps.passes import Passes
from tests.support.application import SOURCE, TARGET, Process, writing
from tests.support.at_the_cutover import Stop
from tests.support.there_and_back import appended, assert_home, moved, versions, whole
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table


async def test_a_tenant_returns_with_every_new_event(world: World, keeper: Process) -> None:
    migration = await moved(world, keeper)
    old, others = await world.rows("source"), await world.rows("source", world.other)
    await appended(keeper, world.tenant)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert (way.shown, way.is_open) == ("armed", True)
    back = await keeper.coordinator.return_migration(migration.id, operator="ada")
    assert (back.source_store_id, back.target_store_id, back.state) == (TARGET, SOURCE, "migrated")
    assert back.returns == migration.id
    here = await world.rows("source")
    assert here[: len(old)] == old, "old rows keep their positions"
    assert {row[1] for row in here} == {row[1] for row in await world.rows("target")}
    assert whole(await versions(world, "source"))
    assert await world.rows("source", world.other) == others
    await assert_home(world, keeper, "source", SOURCE)
    assert (await world.rows("source"))[: len(here)] == here, "what is appended now comes after"
    with pytest.raises(asyncpg.PostgresError) as refused:
        await insert(world.target, world.tenant, side="target")
    assert refused.value.sqlstate == "EVF01"


async def test_there_and_back_and_there_and_back(world: World, keeper: Process) -> None:
    migration = await moved(world, keeper)
    sides = {"source": SOURCE, "target": TARGET}
    rows: dict[str, list[Any]] = {"source": [], "target": []}
    home = "target"
    for _ in range(4):
        await appended(keeper, world.tenant)
        migration = await keeper.coordinator.return_migration(migration.id)
        home = "source" if home == "target" else "target"
        assert migration.target_store_id == sides[home]
        for side in sides:
            now = await world.rows(side)
            assert now[: len(rows[side])] == rows[side], "no row changes or is copied again"
            rows[side] = now
        assert {row[1] for row in rows["source"]} == {row[1] for row in rows["target"]}
        assert whole(await versions(world, home))
    await assert_home(world, keeper, home, sides[home])
    ids = await world.ids("source")
    assert len(ids) == len(set(ids))


@pytest.mark.alone
async def test_writers_go_there_and_back_without_an_error(world: World, keeper: Process) -> None:
    await world.seed(20)
    elsewhere = await world.process()
    async with writing(elsewhere, world.tenant) as writers:
        migration = await world.dual_write(process=keeper)
        migration = await keeper.coordinator.initiate_cutover(migration.id)
        home = "target"
        for _ in range(3):
            before = writers.acknowledged

            async def wrote(before: int = before) -> bool:
                return writers.acknowledged >= before + 30

            await until(wrote, "appends")
            migration = await keeper.coordinator.return_migration(migration.id)
            home = "source" if home == "target" else "target"
    found = await versions(world, home)
    assert whole(found)
    assert {stream: len(found[stream]) for stream in writers.streams} == writers.streams
    assert len(await world.ids(home)) == 20 + writers.acknowledged


async def test_an_armed_way_back_keeps_stale_writers_and_changes_away(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await insert(world.source, world.tenant)
    assert refused.value.sqlstate == "EVF01"
    for change in ("update {t} set actor_id = 'x'", "delete from {t}"):
        statement = f"{change.format(t=table('target'))} where tenant_id = $1"
        with pytest.raises(asyncpg.PostgresError) as refused:
            await world.target.execute(statement, world.tenant)
        assert refused.value.sqlstate == "EVF02"
    way = await keeper.coordinator.close_way_back(migration.id, operator="ada")
    assert way.shown == "closed"
    await world.target.execute(
        f"delete from {table('target')} where tenant_id = $1 and version = 1", world.tenant
    )
    with pytest.raises(InvalidStateTransitionError, match="closed"):
        await keeper.coordinator.return_migration(migration.id)


async def test_a_session_that_only_sets_the_setting_does_not_write_to_the_old_store(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    await world.source.execute(
        f"drop role if exists app_back; create role app_back; grant insert, select on"
        f" {table('source')} to app_back"
    )
    session = await world.connect(**{session_marks.MIGRATOR_SETTING: str(way.id)})
    await session.execute("set role app_back")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await insert(session, world.tenant)
    assert refused.value.sqlstate == "EVF01"
    await session.execute("reset role; drop owned by app_back; drop role app_back")


async def fed(store: Any, tenant: UUID | None = None, after: int = 0) -> list[UUID]:
    return [event.event_id async for event in store.read_all(after, tenant_id=tenant)]


async def test_what_was_carried_back_is_hidden_until_the_return_and_the_old_is_not(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    old = await world.ids("source")
    await appended(keeper, world.tenant)
    await keeper.coordinator._drivers._follower.turn()
    assert len(await world.ids("source")) == len(old) + 12, "they are there"
    for tenant in (world.tenant, None):
        found = await fed(keeper.source, tenant)
        assert set(old) <= set(found)
        assert not set(await world.ids("source")) - set(old) & set(found)
        assert len(set(found) & set(await world.ids("source"))) == len(old)
    await keeper.coordinator.return_migration(migration.id)
    assert await fed(keeper.source, world.tenant) == await world.ids("source")


async def test_what_a_closed_way_back_has_carried_stays_hidden_and_goes_with_the_old_rows(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    old = await world.ids("source")
    await appended(keeper, world.tenant)
    await keeper.coordinator._drivers._follower.turn()
    await keeper.coordinator.close_way_back(migration.id)
    assert await fed(keeper.source, world.tenant) == old
    found = await keeper.coordinator.cleanup(migration.id, backed_up=True)
    assert found.deleted == len(old) + 12
    assert await world.ids("source") == []
    left = await world.source.fetch("select role, state from eventsource_fences")
    assert [tuple(row) for row in left] == [("source", "moved")]


async def test_working_processes_keep_it_current(world: World, keeper: Process) -> None:
    migration = await moved(world, keeper)
    working = asyncio.create_task(keeper.coordinator.work(poll_seconds=0.05))
    await appended(keeper, world.tenant)

    async def current() -> bool:
        return len(await world.ids("source")) == 32

    await until(current, "the new events at the store that was left")
    working.cancel()
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert way.reason is None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("alter table {t} alter global_position set cache 20", "one after the other"),
        ("alter table {t} add column extra text", "extra"),
    ],
    ids=["cached positions", "a column of one side"],
)
async def test_what_would_not_work_is_known_before_the_decision_and_the_move_goes_on(
    world: World, keeper: Process, spoil: str, reason: str
) -> None:
    side = "source" if "cache" in spoil else "target"
    await getattr(world, side).execute(spoil.format(t=table(side)))
    migration = await moved(world, keeper)
    assert migration.state == "migrated"
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert way.shown == "refused"
    assert reason in (way.reason or "")
    with pytest.raises(InvalidStateTransitionError, match="without a way back"):
        await keeper.coordinator.return_migration(migration.id)


async def test_it_ends_by_itself_and_never_while_a_return_is_asked_for(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    await world.control.execute(
        "update tenant_migrations set completed_at = now() - interval '2 hours'"
    )
    with pytest.raises(InvalidStateTransitionError, match="ended at"):
        await keeper.coordinator.return_migration(migration.id)
    await keeper.coordinator._drivers._follower.turn()
    await keeper.coordinator._drivers._follower.turn()
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert (way.shown, way.reason) == ("closed", "its time is over")
    assert await world.target.fetch("select from eventsource_fences where role = 'source'") == []


async def test_an_end_that_a_dead_process_has_begun_is_brought_to_its_end_soon(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await moved(world, keeper)
    stop = Stop(monkeypatch, way_back, "dismantle")
    closing = asyncio.create_task(keeper.coordinator.close_way_back(migration.id))
    await asyncio.wait_for(stop.reached.wait(), 20)
    # As of one that was killed: it takes back nothing of what it has said in the journal.
    monkeypatch.setattr(WaysBack, "leave", _nothing)
    closing.cancel()
    await stop.kill(keeper)
    successor = await world.process()

    async def closed() -> bool:
        way = await successor.coordinator.close_way_back(migration.id)
        return way.shown == "closed"

    await until(closed, "the end of the way back", 30)
    assert await world.target.fetch("select from eventsource_fences where role = 'source'") == []


async def _nothing(*_: object) -> None:
    pass


async def _overtaken(keeper: Process, first: Callable[[], Awaitable[object]]) -> None:
    """What a process asks the stores before it ends a way back takes so long that another does
    ``first``.
    """
    drivers = keeper.coordinator._drivers
    look = drivers.refuse_gone_back

    async def slowly(*arguments: Any, **named: Any) -> None:
        await look(*arguments, **named)
        await first()

    drivers.refuse_gone_back = slowly  # type: ignore[method-assign]


async def test_who_closes_what_another_closes_at_the_same_moment_hears_that_it_is_closed(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    other = await world.process(keep_way_back="1h")
    await _overtaken(keeper, lambda: other.coordinator.close_way_back(migration.id))
    assert (await keeper.coordinator.close_way_back(migration.id)).shown == "closed"


async def test_who_closes_while_another_asks_for_the_return_hears_of_that_one(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    ways = WaysBack(world.here.control_pool)
    await _overtaken(keeper, lambda: ways.ask_return(way, {}, None))
    told = f"is returning.*abort the return first .*abort {way.id}"
    with pytest.raises(InvalidStateTransitionError, match=told):
        await keeper.coordinator.close_way_back(migration.id)
    await world.coordinator.abort_migration(way.id)


async def test_a_tenant_that_may_return_does_not_leave_in_another_direction(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    with pytest.raises(PreflightError, match=f"return {migration.id}"):
        await keeper.coordinator.start_migration(
            world.tenant, keeper.target, keeper.source, TARGET, SOURCE
        )


async def test_an_aborted_move_leaves_nothing_of_its_way_back(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    before = await world.fingerprint(journal=False)
    migration = await world.dual_write(process=keeper)

    async def broken(self: Passes) -> Any:
        raise MigrationError("out of sorts")

    with monkeypatch.context() as patched:
        patched.setattr(Passes, "under_the_fence", broken)
        with pytest.raises(MigrationError, match="out of sorts"):
            await keeper.coordinator.initiate_cutover(migration.id)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert way.shown == "waits for the cutover"
    await keeper.coordinator.abort_migration(migration.id)
    assert await world.fingerprint(journal=False) == before


async def test_an_aborted_return_leaves_the_way_back_as_it_was(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await moved(world, keeper)
    await appended(keeper, world.tenant)

    async def broken(self: Passes) -> Any:
        raise MigrationError("out of sorts")

    with monkeypatch.context() as patched:
        patched.setattr(Passes, "under_the_fence", broken)
        with pytest.raises(MigrationError, match="out of sorts"):
            await keeper.coordinator.return_migration(migration.id)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    await keeper.coordinator.abort_migration(way.id)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert way.shown == "armed"
    await assert_home(world, keeper, "target", TARGET)
    back = await keeper.coordinator.return_migration(migration.id)
    assert back.state == "migrated"
    assert whole(await versions(world, "source"))
    await assert_home(world, keeper, "source", SOURCE)


_STOPS = {
    "while it is made ready": (way_back, "_try_out"),
    "before the return's fence": (Stages, "_follow"),
    "before the decision": (decision, "decide"),
    "before the opening": (decision, "open_target"),
    "before the journal": (decision, "finish"),
}


@pytest.mark.parametrize("where", _STOPS)
async def test_a_driver_that_dies_is_followed_by_another_one(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    stop: Stop
    place, name = _STOPS[where]
    successor = await world.process(keep_way_back="1h", lease_seconds=1.0)
    if where == "while it is made ready":
        await world.seed(20)
        migration = await world.dual_write(process=keeper)
        stop = Stop(monkeypatch, place, name)
        asked = asyncio.create_task(successor.coordinator.initiate_cutover(migration.id))
        await stop.kill(keeper)
        migration = await asyncio.wait_for(asked, 30)
    else:
        migration = await moved(world, keeper)
        await appended(keeper, world.tenant)
        stop = Stop(monkeypatch, place, name)
        asking = asyncio.create_task(keeper.coordinator.return_migration(migration.id))
        await stop.kill(keeper)
        asking.cancel()
        back = await asyncio.wait_for(successor.coordinator.return_migration(migration.id), 30)
        assert back.state == "migrated"
        await assert_home(world, successor, "source", SOURCE)
        assert whole(await versions(world, "source"))
        return
    await appended(successor, world.tenant)
    way = await successor.coordinator.way_back(migration.id)
    assert way is not None
    assert way.is_open
    await successor.coordinator.return_migration(migration.id)
    await assert_home(world, successor, "source", SOURCE)
