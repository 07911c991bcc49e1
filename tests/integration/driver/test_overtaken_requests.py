"""Two who ask at nearly the same time: each is answered, whoever was faster."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from eventsource.migration import InvalidStateTransitionError, Migration, MigrationState
from eventsource.migration.background import BackgroundDrivers
from eventsource.migration.connections import session_marks
from eventsource.migration.errors import ConsistencyError
from eventsource.migration.repositories import PostgreSQLMigrationRepository
from tests.support.held_migration import audit, held_in
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, table


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Whoever waits for an answer looks at the journal only when this is set."""
    wait, event = BackgroundDrivers.wait, asyncio.Event()

    async def wait_late(self: BackgroundDrivers, *arguments: Any) -> Migration:
        await event.wait()
        return await wait(self, *arguments)

    monkeypatch.setattr(BackgroundDrivers, "wait", wait_late)
    return event


async def audited(world: World, migration: Migration, event_type: str) -> bool:
    return event_type in [entry.event_type for entry in await audit(world, migration)]


async def test_a_cutover_asked_for_while_a_pause_is_carried_out_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver looked before it was asked; behind the pause nobody would answer."""
    transition = PostgreSQLMigrationRepository.transition
    asked: list[asyncio.Task[Migration]] = []

    async def asked_just_before(
        self: PostgreSQLMigrationRepository,
        migration: Migration,
        following: MigrationState,
        **told: Any,
    ) -> Migration:
        if following is MigrationState.PAUSED:
            asked.append(asyncio.create_task(world.coordinator.initiate_cutover(migration.id)))
            await until(lambda: _cutover_asked(world, migration), "the request")
        return await transition(self, migration, following, **told)

    monkeypatch.setattr(PostgreSQLMigrationRepository, "transition", asked_just_before)
    async with held_in(world, "dual_write") as (migration, _):
        await world.coordinator.pause_migration(migration.id)
        with pytest.raises(InvalidStateTransitionError) as caught:
            async with asyncio.timeout(5):
                await asked[0]
        assert (caught.value.current, caught.value.requested) == ("paused", "cut over")
        assert "cutover_answered" in [e.event_type for e in await audit(world, migration)]
        # It is not carried out later either, when nobody waits for it any more.
        resumed = await world.coordinator.resume_migration(migration.id)
        assert resumed.cutover_request is None


async def _cutover_asked(world: World, migration: Migration) -> bool:
    return (await world.here.migrations.get(migration.id)).cutover_request is not None


async def test_who_waits_for_a_cutover_is_answered_although_another_asks_again_at_once(
    world: World, look: asyncio.Event
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    migrator = await world.connect("target", **{session_marks.MIGRATOR_SETTING: str(migration.id)})
    await migrator.execute(f"update {table('target')} set actor_id = 'x' where version = 1")
    asked = asyncio.create_task(world.coordinator.initiate_cutover(migration.id))
    await until(lambda: audited(world, migration, "cutover_answered"), "the first answer")
    assert await world.here.migrations.request_cutover(migration.id, uuid4(), False, None)
    look.set()
    with pytest.raises(ConsistencyError):
        async with asyncio.timeout(15):
            await asked


async def test_who_waits_for_a_pause_hears_that_another_resumed_at_once(
    world: World, look: asyncio.Event
) -> None:
    async with held_in(world, "dual_write") as (migration, _):
        asked = asyncio.create_task(world.coordinator.pause_migration(migration.id))
        await until(lambda: audited(world, migration, "state:paused"), "the pause")
        paused = await world.here.migrations.get(migration.id)
        await world.here.migrations.transition(paused, MigrationState.DUAL_WRITE)
        look.set()
        with pytest.raises(InvalidStateTransitionError, match="it was resumed meanwhile"):
            async with asyncio.timeout(15):
                await asked
