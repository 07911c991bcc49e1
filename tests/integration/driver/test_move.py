"""`move`: one call for a whole move, made twice, at once, and after any interruption."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from eventsource.migration import (
    ConsistencyError,
    CutoverTimeoutError,
    Migration,
    MigrationAbortedError,
    MigrationAlreadyExistsError,
    MigrationError,
    MigrationState,
    PreflightError,
    RetryLaterError,
    RoutingError,
)
from eventsource.migration.connections import session_marks
from eventsource.migration.steps.cutover import Cutover
from tests.support.application import SOURCE, TARGET
from tests.support.held_migration import SLOW, audit, cursor
from tests.support.waiting import until
from tests.support.whole_moves import migrations, move
from tests.support.worlds.three_databases import World, table

THIRD = "third"


async def test_one_call_moves_the_tenant_and_the_next_one_says_so(world: World) -> None:
    await world.seed(50)
    moved = await move(world.here, world, operator="ann")
    assert moved is not None
    assert moved.state is MigrationState.MIGRATED
    await world.assert_moved(moved)
    again = await move(await world.process(), world)
    assert again is not None
    assert again.id == moved.id
    assert await migrations(world) == ["migrated"]
    assert {entry.operator for entry in await audit(world, moved) if entry.operator} == {"ann"}


async def test_a_tenant_that_has_always_lived_there_needs_no_migration(world: World) -> None:
    await world.seed(5)
    before = await world.fingerprint()
    assert await world.coordinator.move(world.tenant, TARGET, SOURCE) is None
    assert await world.fingerprint() == before


@pytest.mark.parametrize("state", ["pending", "bulk_copy", "dual_write", "cutover_requested"])
async def test_what_is_under_way_is_joined(world: World, state: str) -> None:
    await world.seed(100)
    driver = await world.process(**(SLOW if state == "bulk_copy" else {}))
    if state == "pending":
        async with world.open_transaction(world.other):
            begun = await driver.start(world.tenant)
            joining = asyncio.create_task(move(world.here, world))
            await asyncio.sleep(0.5)
            assert not joining.done()
    else:
        begun = await driver.start(world.tenant)
        await world.reach(begun, "dual_write" if "_requested" in state else state)
        asked = None
        if state == "cutover_requested":
            asked = asyncio.create_task(driver.coordinator.initiate_cutover(begun.id))
        joining = asyncio.create_task(move(world.here, world))
        if asked is not None:
            assert (await asked).state is MigrationState.MIGRATED
    joined = await joining
    assert joined is not None
    assert joined.id == begun.id
    assert await migrations(world) == ["migrated"]
    await world.assert_moved(joined)


async def test_many_at_once_make_one_migration(world: World) -> None:
    await world.seed(300)
    processes = [await world.process(lease_seconds=1.0) for _ in range(5)]
    moved = await asyncio.gather(*(move(each, world) for each in [*processes, *processes]))
    assert len({each.id for each in moved if each is not None}) == 1
    assert None not in moved
    assert await migrations(world) == ["migrated"]
    assert moved[0] is not None
    await world.assert_moved(moved[0])


async def test_it_goes_on_where_a_process_that_is_gone_has_left_it(world: World) -> None:
    await world.seed(200)
    gone = await world.process(**SLOW, lease_seconds=1.0)
    leaving = asyncio.create_task(gone.coordinator.move(world.tenant, SOURCE, TARGET))
    copied = await cursor(world)
    leaving.cancel()
    for driving in list(gone.coordinator._drivers._driving):
        driving.cancel()
    gone.coordinator._drivers._stands_by_for.clear()
    moved = await move(world.here, world)
    assert moved is not None
    assert copied > 0
    assert await migrations(world) == ["migrated"]
    await world.assert_moved(moved)


async def test_an_abort_ends_the_moves_that_wait(world: World) -> None:
    await world.seed(200)
    slow = await world.process(**SLOW)
    moving = asyncio.create_task(move(slow, world))
    await cursor(world)
    [begun] = await world.coordinator.get_active_migrations()
    await world.coordinator.abort_migration(begun.id)
    with pytest.raises(MigrationAbortedError, match="aborted meanwhile"):
        await moving
    moved = await move(world.here, world)
    assert moved is not None
    assert await migrations(world) == ["rolled_back", "migrated"]


async def test_a_difference_is_final_and_nothing_moves(world: World) -> None:
    await world.seed(50)
    begun = await world.dual_write()
    migrator = await world.connect("target", **{session_marks.MIGRATOR_SETTING: str(begun.id)})
    await migrator.execute(f"update {table('target')} set actor_id = 'x' where version = 5")
    for _ in range(2):
        with pytest.raises(ConsistencyError) as caught:
            await move(world.here, world)
        assert not isinstance(caught.value, RetryLaterError)
    assert (await world.here.migrations.get(begun.id)).state is MigrationState.DUAL_WRITE


@pytest.mark.parametrize(
    ("code", "error"),
    [("inconsistent", ConsistencyError), ("preflight", PreflightError), ("x", MigrationError)],
)
async def test_after_a_failure_nothing_begins_until_somebody_has_looked(
    world: World, code: str, error: type[MigrationError]
) -> None:
    await world.seed(20)
    begun = await world.dual_write()
    await world.coordinator.close()
    await world.control.execute(
        "update tenant_migrations set state = 'failed', paused_from = 'dual_write',"
        " driver_owner = null, driver_expires_at = null, error_code = $1,"
        " error_message = 'row 7 differs'",
        code,
    )
    await world.control.execute("update tenant_routing set migration_state = 'normal'")
    there = await world.process()
    with pytest.raises(error, match="row 7 differs") as caught:
        await move(there, world)
    assert not isinstance(caught.value, RetryLaterError)
    assert await migrations(world) == ["failed"]
    await there.coordinator.abort_migration(begun.id)
    assert await move(there, world) is not None


async def test_a_tenant_on_its_way_elsewhere_is_left_alone(world: World) -> None:
    await world.seed(20)
    here = await world.process()
    here.router.stores[THIRD] = here.target
    begun = await world.dual_write()
    with pytest.raises(MigrationAlreadyExistsError, match=str(begun.id)):
        await here.coordinator.move(world.tenant, SOURCE, THIRD)
    await world.coordinator.initiate_cutover(begun.id)
    with pytest.raises(RoutingError, match="lives in store"):
        await here.coordinator.move(world.tenant, SOURCE, THIRD)
    with pytest.raises(RoutingError, match="nowhere"):
        await here.coordinator.move(world.tenant, SOURCE, "nowhere")


async def test_a_cutover_without_time_is_tried_again(world: World) -> None:
    await world.seed(20)
    process = await world.process(cutover_timeout_seconds=0.3)
    await world.dual_write(process=process)
    async with world.open_transaction(world.tenant):
        with pytest.raises(CutoverTimeoutError) as caught:
            await move(process, world)
        assert isinstance(caught.value, RetryLaterError)
    assert await move(process, world) is not None
    assert await migrations(world) == ["migrated"]


class NotNowError(RetryLaterError):
    """What a permit of these tests raises."""


@pytest.mark.parametrize("error", [NotNowError("not now"), MigrationError("never")])
async def test_without_its_permit_no_cutover_is_asked_for(
    world: World, error: MigrationError
) -> None:
    await world.seed(20)
    asked: list[MigrationState] = []

    async def refuse(connection: Any, migration: Migration) -> None:
        asked.append(migration.state)
        await connection.execute("update tenant_migrations set generation = 77")
        raise error

    with pytest.raises(type(error), match=str(error)):
        await move(world.here, world, permit=refuse)
    assert asked == [MigrationState.DUAL_WRITE]
    [migration] = await world.coordinator.get_migrations_by_tenant(world.tenant)
    assert (migration.cutover_request, migration.generation) == (None, 0)
    parked = isinstance(error, RetryLaterError)
    assert migration.parked is parked
    assert migration.state is (MigrationState.PAUSED if parked else MigrationState.DUAL_WRITE)

    async def allow(connection: Any, migration: Migration) -> None:
        await connection.execute("select 1")

    assert await move(await world.process(), world, permit=allow) is not None


async def test_a_request_that_was_withdrawn_is_not_carried_out(world: World) -> None:
    await world.seed(20)
    begun = await world.dual_write()
    await world.coordinator.close()
    request = uuid4()
    assert await world.here.migrations.request_cutover(begun.id, request, False, None)
    found = await world.here.migrations.get(begun.id)
    await world.control.execute("update tenant_migrations set cutover_request = null")
    with pytest.raises(MigrationError, match="cannot become"):
        await world.here.migrations.transition(
            found, MigrationState.CUTOVER_PAUSED, request=request
        )
    assert await move(await world.process(), world) is not None


async def test_a_request_that_is_withdrawn_at_the_last_moment_is_no_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the driver has looked for requests, and before it enters the cutover."""
    await world.seed(20)
    begun = await world.dual_write()
    ready, withdrawn = Cutover.ready, 0

    async def withdraw(*arguments: Any) -> Cutover:
        nonlocal withdrawn
        if not withdrawn:
            await world.control.execute("update tenant_migrations set cutover_request = null")
        withdrawn += 1
        return await ready(*arguments)

    async def _withdrawn() -> bool:
        return withdrawn > 0

    monkeypatch.setattr(Cutover, "ready", withdraw)
    assert await world.here.migrations.request_cutover(begun.id, uuid4(), False, None)
    await until(_withdrawn, "the driver to be ready")
    await asyncio.sleep(0.5)
    found = await world.here.migrations.get(begun.id)
    assert (found.state, found.error_message) == (MigrationState.DUAL_WRITE, None)
    assert await move(world.here, world) is not None


@pytest.mark.parametrize("away", ["control", "source", "target"])
async def test_a_database_that_is_away_is_a_reason_to_try_later(
    world: World, away: str, unused_tcp_port: int
) -> None:
    await world.seed(5)
    there = world.dsns[away]
    world.dsns[away] = f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/nowhere"
    try:
        lost = await world.process()
    finally:
        world.dsns[away] = there
    with pytest.raises(RetryLaterError):
        await move(lost, world)
    assert await migrations(world) == []
    assert await move(world.here, world) is not None


async def test_a_refusal_is_final(world: World) -> None:
    await world.seed(5)
    await world.target.execute(f"drop table {table('target')}")
    with pytest.raises(PreflightError) as caught:
        await move(world.here, world)
    assert not caught.value.passes
    assert await migrations(world) == []
