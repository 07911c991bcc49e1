"""Cancelled at every await, a call leaves nothing half done: whoever comes next goes on.

Cancellation is what a timeout, a closed connection of an operator's tool or a shutdown is to
asyncio. The n-th await of a call is where it is cancelled, for growing n, until it comes to its end
before that. The representative slice takes longer steps than `make infra`.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import ConsistencyVerifier, Migration, MigrationState
from eventsource.migration.driver.driver import Driver
from eventsource.migration.driver.heartbeat import Heartbeat
from eventsource.migration.errors import InvalidStateTransitionError
from eventsource.migration.repositories import PostgreSQLMigrationRepository
from eventsource.migration.steps.cutover import Cutover
from eventsource.tenant_ids import as_uuid
from tests.support.application import SOURCE, TARGET, Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

STEPS = [pytest.param(67, id="slice"), pytest.param(2, id="every other", marks=pytest.mark.infra)]


@types.coroutine
def cancelled_at(work: Coroutine[Any, Any, Any], number: int) -> Generator[Any, Any, Any]:
    """Await the work, and cancel the current task at its so manieth suspension."""
    steps = work.__await__()
    awaits = 0
    sent: Any = None
    while True:
        try:
            waited_for = steps.send(sent)
        except StopIteration as end:
            return end.value
        while True:
            awaits += 1
            if awaits == number:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                sent = yield waited_for
                break
            except BaseException as error:
                try:
                    waited_for = steps.throw(error)
                except StopIteration as end:
                    return end.value


async def comes_to_its_end(work: Coroutine[Any, Any, Any], number: int) -> bool:
    """Whether it did before its n-th await; otherwise it was cancelled there."""

    async def run() -> None:
        await cancelled_at(work, number)

    task = asyncio.create_task(run())
    await asyncio.wait({task}, timeout=30)
    assert task.done(), "it does not end when it is cancelled"
    if task.cancelled():
        return False
    task.result()
    return True


async def for_growing_n(
    step: int, attempt: Callable[[int], Awaitable[bool]], *, at_least: int, most: int = 2000
) -> None:
    """Attempts for n = 1, 1 + step, …, until one is not cancelled any more."""
    for number in range(1, most, step):
        if await attempt(number):
            assert number > at_least, "it hardly awaits anything: is it cancelled at all?"
            return


async def moved(world: World, process: Process, migration: Migration) -> None:
    done = await process.coordinator.initiate_cutover(migration.id, force=True)
    assert done.state is MigrationState.MIGRATED
    await world.assert_moved(done, as_uuid(migration.tenant_id))


@pytest.mark.parametrize("step", STEPS)
async def test_a_start_that_is_cancelled_has_started_or_not(world: World, step: int) -> None:
    here = world.here

    async def attempt(number: int) -> bool:
        tenant = uuid4()
        await world.seed(5, tenant)
        ended = await comes_to_its_end(here.start(tenant), number)
        found = await here.coordinator.get_migrations_by_tenant(tenant)
        assert len(found) <= 1
        await moved(world, here, found[0] if found else await here.start(tenant))
        return ended

    await for_growing_n(step, attempt, at_least=30)


async def test_a_change_of_state_that_is_cancelled_gives_its_connection_back(world: World) -> None:
    migration = await world.dual_write()
    stale = replace(migration, state=MigrationState.PENDING)
    only = await asyncpg.create_pool(world.dsns["control"], min_size=1, max_size=1)
    journal = PostgreSQLMigrationRepository(only)

    async def refused() -> None:
        with pytest.raises(InvalidStateTransitionError):
            await journal.transition(stale, MigrationState.BULK_COPY)

    async def attempt(number: int) -> bool:
        ended = await comes_to_its_end(refused(), number)
        async with asyncio.timeout(5):
            await only.fetchval("select true")
        return ended

    try:
        await for_growing_n(1, attempt, at_least=4)
    finally:
        only.terminate()


@pytest.mark.parametrize("step", [pytest.param(13, id="slice"), STEPS[1]])
async def test_a_cutover_whose_caller_is_cancelled_goes_on_or_can_be_asked_again(
    world: World, step: int
) -> None:
    here = world.here

    async def attempt(number: int) -> bool:
        tenant = uuid4()
        await world.seed(5, tenant)
        migration = await world.dual_write(tenant)
        ended = await comes_to_its_end(here.coordinator.initiate_cutover(migration.id), number)
        await moved(world, here, migration)
        return ended

    await for_growing_n(step, attempt, at_least=4)


@pytest.mark.parametrize("step", [pytest.param(13, id="slice"), STEPS[1]])
async def test_an_abort_whose_caller_is_cancelled_goes_on_or_can_be_asked_again(
    world: World, step: int
) -> None:
    here = world.here

    async def attempt(number: int) -> bool:
        tenant = uuid4()
        await world.seed(5, tenant)
        before = await world.fingerprint(journal=False)
        migration = await world.dual_write(tenant)
        ended = await comes_to_its_end(here.coordinator.abort_migration(migration.id), number)
        aborted = await here.coordinator.abort_migration(migration.id)
        assert aborted.state is MigrationState.ROLLED_BACK
        assert await world.fingerprint(journal=False) == before
        return ended

    await for_growing_n(step, attempt, at_least=4)


@pytest.mark.parametrize("step", [pytest.param(2, id="slice"), STEPS[1]])
async def test_a_verification_that_is_cancelled_leaves_no_session_behind(
    world: World, step: int
) -> None:
    await world.seed(2000)
    await world.migrate()
    verifier = ConsistencyVerifier(world.here.source, world.here.target)

    async def attempt(number: int) -> bool:
        work = verifier.verify_tenant_consistency(world.tenant)
        return await comes_to_its_end(work, number)

    await for_growing_n(step, attempt, at_least=4)
    assert (await verifier.verify_tenant_consistency(world.tenant)).is_consistent
    sessions = (
        "select count(*) = 0 from pg_stat_activity where datname = current_database()"
        " and application_name like 'eventsource-migrate%'"
    )
    for side in ("source", "target"):
        await until(partial(getattr(world, side).fetchval, sessions), f"no session at the {side}")


@pytest.mark.parametrize("step", [pytest.param(67, id="slice"), STEPS[1]])
async def test_a_driver_that_is_cancelled_anywhere_is_followed_by_another(
    world: World, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Driver.run
    cancel_at: list[int] = []
    reached = 0

    async def cancelled(self: Driver) -> None:
        nonlocal reached
        if not cancel_at:
            return await run(self)
        number = cancel_at.pop()
        if await comes_to_its_end(run(self), number):
            return None
        reached = number
        raise asyncio.CancelledError

    monkeypatch.setattr(Driver, "run", cancelled)
    # The next driver has nothing to wait for but a lease that could not be given back.
    here = await world.process(lease_seconds=1.0)

    async def attempt(number: int) -> bool:
        tenant = uuid4()
        await world.seed(5, tenant)
        cancel_at.append(number)
        migration = await here.start(tenant)
        await moved(world, here, migration)
        return reached != number

    await for_growing_n(step, attempt, at_least=100)


async def _stands_before_its_fence(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str
) -> tuple[Process, Migration, asyncio.Task[Any]]:
    """A process in which a call waits for a cutover, whose driver has come to its fence."""
    arrived = asyncio.Event()

    async def stand_still(self: Cutover) -> None:
        arrived.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Cutover, "run", stand_still)
    await world.seed(10)
    process = await world.process()
    if call == "move":
        move = process.coordinator.move(world.tenant, SOURCE, TARGET, operator="test")
        asked: asyncio.Task[Any] = asyncio.create_task(move)
    else:
        migration = await process.start(world.tenant)
        asked = asyncio.create_task(process.coordinator.initiate_cutover(migration.id))
    await asyncio.wait_for(arrived.wait(), 20)
    [migration] = await process.coordinator.get_migrations_by_tenant(world.tenant)
    return process, migration, asked


@pytest.mark.parametrize("call", ["cutover", "move"])
async def test_a_call_that_still_waits_begins_no_driver_in_a_closed_coordinator(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    process, migration, asked = await _stands_before_its_fence(world, monkeypatch, call)
    await asyncio.wait_for(process.coordinator.close(), 5)
    monkeypatch.undo()
    # Long enough for the call to read the journal, and for a driver to have its lease.
    await asyncio.sleep(1.5)
    found = await process.coordinator.get_migration(migration.id)
    assert (found.state, found.driver_alive) == (MigrationState.CUTOVER_PAUSED, False)
    # Whoever asks this one, or another, carries it on, and the call has its answer.
    await process.coordinator.resume_migration(migration.id)
    assert (await asyncio.wait_for(asked, 20)).state is MigrationState.MIGRATED


async def test_a_driver_ends_also_where_what_runs_beside_it_fails_at_that_moment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that is cancelled may fail as a lost connection does, which is waited for."""
    beating = asyncio.Event()

    async def beat(self: Heartbeat) -> None:
        is_first = not beating.is_set()
        beating.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not is_first:
                raise
            raise asyncpg.ConnectionDoesNotExistError("closed in the middle of operation") from None

    await world.seed(10)
    process = await world.process()
    migration = await process.start(world.tenant)
    await world.reach(migration, "dual_write")
    await process.coordinator.pause_migration(migration.id)
    monkeypatch.setattr(Heartbeat, "run", beat)
    await process.coordinator.resume_migration(migration.id)
    await asyncio.wait_for(beating.wait(), 20)
    closing = asyncio.create_task(process.coordinator.close())
    await asyncio.wait({closing}, timeout=5)
    assert closing.done(), "its driver goes on"
    assert not (await process.coordinator.get_migration(migration.id)).driver_alive
