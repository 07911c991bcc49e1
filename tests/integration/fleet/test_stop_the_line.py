"""The first failed proof stops a wave in the transaction that records it, and once only."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.fleet import Outcome, WaveState
from eventsource.fleet.waves import Wave
from eventsource.migration import Migration, MigrationState
from eventsource.migration.errors import ConsistencyError
from eventsource.migration.failures import describe
from tests.support.fleet import (
    carrier_of,
    change_a_row_at_the_target,
    items_of,
    running_wave,
    seeded,
    waves_in,
)
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, is_blocked

DIFFERS = describe(ConsistencyError("row 7 differs"))


async def copied(world: World, wave: Wave, tenants: list[UUID]) -> list[Migration]:
    """Each with its copy done, and its migration known to the wave."""
    migrations = []
    items = await items_of(world, wave)
    for tenant in tenants:
        migration = await world.dual_write(tenant)
        await waves_in(world).name_migration(items[tenant], migration.id)
        migrations.append(migration)
    return migrations


async def stops(world: World) -> list[dict[str, object]]:
    wave = await waves_in(world).get("night")
    return [dict(entry) for entry in wave.history if entry["what"] == "stopped"]


async def test_a_failed_proof_stops_the_wave_and_what_is_under_way_does_not_cut_over(
    world: World,
) -> None:
    tenants = await seeded(world, 4)
    wave = await running_wave(world, tenants)
    migrations = await copied(world, wave, tenants[:2])
    await change_a_row_at_the_target(world, tenants[0])
    carrier = carrier_of(world)
    assert await carrier.deliver(wave.id, tenants[0]) is None
    stopped = await waves_in(world).get("night")
    assert stopped.state is WaveState.STOPPED
    assert stopped.stopped_by == "the first failed proof"
    assert (stopped.stop_reason or "").startswith(f"tenant {tenants[0]}: source and target differ")
    # One whose copy is done, one that has not begun.
    for tenant in tenants[1:]:
        assert await carrier.deliver(wave.id, tenant) is None
    assert await world.coordinator.get_migrations_by_tenant(tenants[2]) == []
    left = await world.here.migrations.get(migrations[1].id)
    assert left.state is MigrationState.DUAL_WRITE
    items = await items_of(world, wave)
    assert [items[each].outcome for each in tenants] == ["failed", None, None, None]
    assert len(await stops(world)) == 1

    await waves_in(world).resume(stopped, "ann")
    for tenant in tenants[1:]:
        assert await carrier.deliver(wave.id, tenant) is None
    done = await waves_in(world).get("night")
    assert done.state is WaveState.DONE
    assert [e["what"] for e in done.history] == [
        "planned", "started", "stopped", "resumed", "done",
    ]  # fmt: skip
    # The difference is mended by an abort, and the tenant is tried again.
    await world.coordinator.abort_migration(migrations[0].id)
    await waves_in(world).retry(done, "ann")
    assert await carrier.deliver(wave.id, tenants[0]) is None
    assert (await items_of(world, wave))[tenants[0]].outcome is Outcome.MOVED


async def test_a_copy_that_is_under_way_ends_and_is_parked(world: World) -> None:
    tenants = await seeded(world, 2, events=100)
    wave = await running_wave(world, tenants)
    [failing] = await copied(world, wave, tenants[:1])
    slow = await world.process(batch_size=1, max_events_per_second=100)
    copying = asyncio.create_task(carrier_of(world, slow).deliver(wave.id, tenants[1]))

    async def is_copying() -> bool:
        rows = await slow.coordinator.get_migrations_by_tenant(tenants[1])
        return bool(rows) and rows[0].state is MigrationState.BULK_COPY

    await until(is_copying, "the copy")
    await change_a_row_at_the_target(world, tenants[0])
    await carrier_of(world).deliver(wave.id, tenants[0])
    [migration] = await slow.coordinator.get_migrations_by_tenant(tenants[1])
    assert migration.state is MigrationState.BULK_COPY
    await world.coordinator.set_rate(migration.id, None)
    assert await copying is None
    left = await world.here.migrations.get(migration.id)
    assert (left.state, left.paused_from, left.parked) == ("paused", "dual_write", True)
    assert len(await world.ids("target", tenants[1])) == 100
    assert failing.id != left.id


@pytest.mark.parametrize("how", ["answer", "failure"])
async def test_the_journal_stops_the_wave_although_no_worker_lives(world: World, how: str) -> None:
    """The driver records the failed proof; the process that had asked is dead."""
    tenants = await seeded(world, 3)
    wave = await running_wave(world, tenants)
    migrations = await copied(world, wave, tenants)
    await world.coordinator.close()
    journal = world.here.migrations
    requests = [uuid4() for _ in tenants]
    for migration, request in zip(migrations, requests, strict=True):
        assert await journal.request_cutover(migration.id, request, False, None)
    if how == "answer":
        await journal.answer_cutover(migrations[0].id, requests[0], DIFFERS)
    else:
        failing = await journal.get(migrations[0].id)
        await journal.transition(
            failing, MigrationState.FAILED, error=(DIFFERS["code"], DIFFERS["message"])
        )
    assert (await waves_in(world).get("night")).state is WaveState.STOPPED
    for migration in migrations[1:]:
        assert (await journal.get(migration.id)).cutover_request is None
    assert len(await stops(world)) == 1


async def test_another_answer_stops_nothing(world: World) -> None:
    tenants = await seeded(world, 2)
    wave = await running_wave(world, tenants)
    migrations = await copied(world, wave, tenants)
    await world.coordinator.close()
    journal, request, other = world.here.migrations, uuid4(), uuid4()
    assert await journal.request_cutover(migrations[0].id, request, False, None)
    assert await journal.request_cutover(migrations[1].id, other, False, None)
    await journal.answer_cutover(
        migrations[0].id, request, {"code": "cutover_timeout", "message": "no time"}
    )
    assert (await waves_in(world).get("night")).state is WaveState.RUNNING
    assert (await journal.get(migrations[1].id)).cutover_request == other


async def test_a_wave_of_others_is_not_stopped(world: World) -> None:
    tenants = await seeded(world, 2)
    wave = await running_wave(world, tenants[:1])
    other = await running_wave(world, tenants[1:], name="other")
    [failing] = await copied(world, wave, tenants[:1])
    [bystander] = await copied(world, other, tenants[1:])
    await world.coordinator.close()
    journal, request, asked = world.here.migrations, uuid4(), uuid4()
    assert await journal.request_cutover(failing.id, request, False, None)
    assert await journal.request_cutover(bystander.id, asked, False, None)
    await journal.answer_cutover(failing.id, request, DIFFERS)
    assert (await waves_in(world).get("night")).state is WaveState.STOPPED
    assert (await waves_in(world).get("other")).state is WaveState.RUNNING
    assert (await journal.get(bystander.id)).cutover_request == asked


@pytest.mark.parametrize("first", ["the permit", "the stop"])
async def test_a_permit_and_a_stop_follow_each_other(world: World, first: str) -> None:
    """Whichever transaction is first: after the stop nothing asks for a cutover any more."""
    tenants = await seeded(world, 1)
    wave = await running_wave(world, tenants)
    [migration] = await copied(world, wave, tenants)
    await world.coordinator.close()
    waves, permitting = waves_in(world), await world.connect("control")
    await permitting.execute("begin")
    if first == "the permit":
        assert await waves.permit(permitting, wave)
        await permitting.execute(
            "update tenant_migrations set cutover_request = gen_random_uuid() where id = $1",
            migration.id,
        )
        stopping = asyncio.create_task(waves.stop(wave, "ann", "enough"))
        await asyncio.sleep(0.3)
        assert not stopping.done()
        await permitting.execute("commit")
        assert await stopping
    else:
        holding = await world.connect("control")
        await holding.execute("begin")
        await holding.execute("select from migration_waves for update")
        asking = asyncio.create_task(waves.permit(permitting, wave))
        await is_blocked(world, permitting.get_server_pid(), "control")
        await holding.execute("update migration_waves set state = 'stopped'")
        await holding.execute("commit")
        assert not await asking
        await permitting.execute("commit")
    assert (await waves.get("night")).state is WaveState.STOPPED
    assert (await world.here.migrations.get(migration.id)).cutover_request is None


async def test_a_cutover_whose_fence_is_asked_for_is_not_withdrawn(world: World) -> None:
    tenants = await seeded(world, 1)
    wave = await running_wave(world, tenants)
    process = await world.process(cutover_timeout_seconds=20.0)
    migration = await world.dual_write(tenants[0], process)
    async with world.open_transaction(tenants[0]):
        moving = asyncio.create_task(carrier_of(world, process).deliver(wave.id, tenants[0]))
        await world.reach(migration, "cutover_paused")
        assert await waves_in(world).stop(wave, "ann", "enough")
    assert await moving is None
    assert (await items_of(world, wave))[tenants[0]].outcome is Outcome.MOVED
    assert (await waves_in(world).get("night")).state is WaveState.STOPPED


@pytest.mark.parametrize(
    ("outcomes", "stopped"),
    [
        (["held", "held"], False),
        (["held", "held", "held"], True),
        (["held", "held", "moved", "held", "held"], False),
        (["held", "refused", "held", "refused", "held"], True),
        (["refused", "refused", "refused", "refused"], False),
        (["failed"], True),
    ],
)
async def test_so_many_failures_in_a_row_stop_it(
    world: World, outcomes: list[str], stopped: bool
) -> None:
    tenants = [uuid4() for _ in range(8)]
    wave = await running_wave(world, tenants)
    items = await items_of(world, wave)
    for tenant, outcome in zip(tenants, outcomes, strict=False):
        state = (await waves_in(world).get("night")).state
        assert state is WaveState.RUNNING
        assert await waves_in(world).record(items[tenant], Outcome(outcome), error=("x", "why"))
        assert not await waves_in(world).record(items[tenant], Outcome.MOVED)
    state = (await waves_in(world).get("night")).state
    assert state is (WaveState.STOPPED if stopped else WaveState.RUNNING)
    assert len(await stops(world)) == int(stopped)


async def test_an_outcome_and_the_stop_that_it_causes_are_one_transaction(world: World) -> None:
    tenants = [uuid4() for _ in range(2)]
    wave = await running_wave(world, tenants)
    items = await items_of(world, wave)
    await world.control.execute(
        "alter table migration_waves add constraint never check (state <> 'stopped')"
    )
    with pytest.raises(asyncpg.CheckViolationError):
        await waves_in(world).record(items[tenants[0]], Outcome.FAILED, error=("x", "why"))
    assert (await items_of(world, wave))[tenants[0]].outcome is None
    await world.control.execute("alter table migration_waves drop constraint never")
    assert await waves_in(world).record(items[tenants[0]], Outcome.FAILED, error=("x", "why"))
    assert (await waves_in(world).get("night")).state is WaveState.STOPPED


async def test_several_failures_at_once_stop_it_once(world: World) -> None:
    tenants = [uuid4() for _ in range(12)]
    wave = await running_wave(world, tenants)
    items = await items_of(world, wave)
    failed = [
        waves_in(world).record(items[each], Outcome.FAILED, error=("inconsistent", "why"))
        for each in tenants[:6]
    ]
    assert all(await asyncio.gather(*failed))
    assert len(await stops(world)) == 1
    assert not await waves_in(world).stop(wave, "ann", "again")
