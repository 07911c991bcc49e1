"""The order of the cutover's steps: what is the case when each of them begins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventsource.migration import MigrationState
from eventsource.migration.errors import MigrationError
from eventsource.migration.steps import decision
from eventsource.migration.steps.cutover import OPENING_MS, Cutover
from eventsource.migration.steps.passes import Passes
from tests.support.application import SOURCE, TARGET
from tests.support.at_the_cutover import WAITS_FOR_THE_LOCK, waits_for_the_lock
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert

_HOLDS_THE_LOCK = WAITS_FOR_THE_LOCK.replace("not granted", "granted")


async def standing(world: World) -> dict[str, Any]:
    """What fences, route and journal say."""
    route = await world.here.routes.get_routing(world.tenant)
    return {
        "source": await world.source.fetchval("select state from eventsource_fences"),
        "target": await world.target.fetchval("select state from eventsource_fences"),
        "route": route.store_id if route is not None else None,
        "journal": await world.control.fetchval("select state from tenant_migrations"),
    }


async def test_what_commits_while_the_lock_is_waited_for_is_carried(world: World) -> None:
    await world.seed(10)
    driver = await world.process(cutover_timeout_seconds=15)
    migration = await world.dual_write(process=driver)
    async with world.open_transaction(world.tenant) as late:
        asked = asyncio.create_task(driver.coordinator.initiate_cutover(migration.id, force=True))
        await until(lambda: waits_for_the_lock(world), "the cutover at the lock")
        await late.execute("commit")
        done = await asked
    assert len(await world.ids("source")) == 11
    assert await world.ids("target") == await world.ids("source")
    await world.assert_moved(done)


async def test_no_connection_is_made_while_writers_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    section, made = Cutover._section, []

    async def look_behind(self: Cutover, *arguments: Any) -> Any:
        began = {side: await world.now(side) for side in ("source", "target", "control")}
        result = await section(self, *arguments)
        for side, instant in began.items():
            made.extend(
                await getattr(world, side).fetch(
                    "select application_name from pg_stat_activity where backend_start >= $1"
                    " and datname = current_database()",
                    instant,
                )
            )
        return result

    monkeypatch.setattr(Cutover, "_section", look_behind)
    await world.coordinator.initiate_cutover(migration.id, force=True)
    assert made == []


@pytest.mark.parametrize("change", ["state = 'closed'", "generation = generation + 1"])
async def test_a_fence_that_somebody_changed_is_not_decided_on(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    decide = decision.decide

    async def decide_behind_a_change(*arguments: Any) -> Any:
        await world.source.execute(f"update eventsource_fences set {change}")
        return await decide(*arguments)

    monkeypatch.setattr(decision, "decide", decide_behind_a_change)
    with pytest.raises(MigrationError, match="changed by somebody else; nothing was flipped"):
        await world.coordinator.initiate_cutover(migration.id, force=True)
    found = await standing(world)
    assert "moved" not in found.values()
    assert (found["target"], found["route"]) == ("closed", SOURCE)


async def test_a_last_pass_that_was_stopped_decides_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    prepare_last = Passes.prepare_last
    late: list[Any] = []

    async def write_and_stop(self: Passes) -> None:
        await prepare_last(self)
        if not late:
            late.append(await insert(world.source, world.tenant))
            self.session.request_stop()

    monkeypatch.setattr(Passes, "prepare_last", write_and_stop)
    with pytest.raises(MigrationError, match="stopped before its end"):
        await world.coordinator.initiate_cutover(migration.id, force=True)
    assert "moved" not in (await standing(world)).values()
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    assert len(await world.ids("target")) == 11
    await world.assert_moved(done)


async def test_nothing_is_flipped_before_the_decision_is_committed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    commit, before = Cutover._commit, []

    async def look_and_commit(self: Cutover) -> None:
        before.append(await standing(world))
        await commit(self)

    monkeypatch.setattr(Cutover, "_commit", look_and_commit)
    await world.coordinator.initiate_cutover(migration.id, force=True)
    assert before == [
        {"source": "open", "target": "closed", "route": SOURCE, "journal": "cutover_paused"}
    ]
    assert await standing(world) == {
        "source": "moved",
        "target": "open",
        "route": TARGET,
        "journal": "migrated",
    }


async def test_the_decision_is_on_disk_before_the_target_is_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that crashed and knew nothing of it would take the tenant's writes again."""
    await world.seed(10)
    migration = await world.dual_write()
    commit, open_target, log_ends_at, flushed = Cutover._commit, decision.open_target, [], []

    async def look_and_commit(self: Cutover) -> None:
        log_ends_at.append(await world.source.fetchval("select pg_current_wal_insert_lsn()::text"))
        await commit(self)

    async def look_and_open(*arguments: Any) -> None:
        flushed.append(
            await world.source.fetchval(
                "select pg_current_wal_flush_lsn() > $1::text::pg_lsn", log_ends_at[-1]
            )
        )
        await open_target(*arguments)

    monkeypatch.setattr(Cutover, "_commit", look_and_commit)
    monkeypatch.setattr(decision, "open_target", look_and_open)
    async with world.lazy_log_writer():
        await world.coordinator.initiate_cutover(migration.id, force=True)
    assert flushed == [True]


async def test_the_route_changes_when_the_target_is_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    open_target, before = decision.open_target, []

    async def look_and_open(*arguments: Any) -> None:
        before.append(await standing(world))
        await open_target(*arguments)

    monkeypatch.setattr(decision, "open_target", look_and_open)
    await world.coordinator.initiate_cutover(migration.id, force=True)
    assert before == [
        {"source": "moved", "target": "closed", "route": SOURCE, "journal": "cutover_paused"}
    ]


async def test_writers_wait_until_the_target_is_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    elsewhere = await world.connect()
    open_target, writers = decision.open_target, []

    async def write_and_open(*arguments: Any) -> None:
        writers.append(asyncio.create_task(insert(elsewhere, world.tenant)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(writers[0]), OPENING_MS / 5000)
        await open_target(*arguments)

    finish, held = decision.finish, []

    async def look_and_finish(*arguments: Any) -> Any:
        held.append(await world.source.fetchval(_HOLDS_THE_LOCK))
        return await finish(*arguments)

    monkeypatch.setattr(decision, "open_target", write_and_open)
    monkeypatch.setattr(decision, "finish", look_and_finish)
    await world.coordinator.initiate_cutover(migration.id, force=True)
    assert held == [False]
    with pytest.raises(Exception, match="has moved"):
        await writers[0]
    assert await standing(world) == {
        "source": "moved",
        "target": "open",
        "route": TARGET,
        "journal": "migrated",
    }


async def test_a_decision_is_never_taken_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver is lost after the decision, and every change of the fence is watched."""
    await world.seed(10)
    await world.source.execute(
        """
        create table fence_changes (state text);
        create function note_fence() returns trigger language plpgsql as
        $$ begin insert into public.fence_changes values (new.state); return null; end $$;
        create trigger note after update on eventsource_fences
            for each row execute function note_fence()
        """
    )
    migration = await world.dual_write()
    open_target = decision.open_target
    lost: list[bool] = []

    async def lose_it_once(*arguments: Any) -> None:
        if not lost:
            lost.append(True)
            raise ConnectionResetError("the connection was lost")
        await open_target(*arguments)

    monkeypatch.setattr(decision, "open_target", lose_it_once)
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    assert done.state is MigrationState.MIGRATED
    assert lost == [True]
    changes = await world.source.fetch("select state from fence_changes")
    # What comes before is the same fence, written again by a driver that begins.
    states = [row["state"] for row in changes]
    assert states == ["open"] * (len(states) - 1) + ["moved"]
    with pytest.raises(Exception, match="has moved"):
        await insert(world.source, world.tenant)
