"""Leases of drivers that are gone: who takes the migration up, and when."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventsource.migration import Migration, MigrationState
from eventsource.migration.driver.heartbeat import Heartbeat
from eventsource.migration.event_table import OwnTable
from eventsource.migration.tables import fences
from eventsource.migration.tables.fences import Fence
from tests.support.application import SOURCE, TARGET
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

LEASE_SECONDS = 1.0


@pytest.mark.parametrize("call", ["start", "resume", "cutover", "work"])
async def test_what_a_call_left_to_a_dead_driver_is_taken_up(world: World, call: str) -> None:
    """The driver is alive by its lease, and a moment later it is known to be dead."""
    await world.seed(20)
    here = await world.process(lease_seconds=LEASE_SECONDS)
    if call == "start":
        migration = await here.start(world.tenant)
        await world.reach(migration, "dual_write")
        for driving in list(here.coordinator._drivers._driving):
            driving.cancel()
        await _lease_of_another(world, migration.id, f"{LEASE_SECONDS} s")
    else:
        migration = await _recorded(world, lease_seconds=LEASE_SECONDS)
        await _lease_of_another(world, migration.id, f"{LEASE_SECONDS} s")
        if call == "resume":
            assert (await here.coordinator.resume_migration(migration.id)).driver_alive
        elif call == "work":
            await here.coordinator.work(once=True)
    if call == "cutover":
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await here.coordinator.initiate_cutover(migration.id)
        await world.reach(migration, "migrated")
        return
    await until(lambda: _is_driven_by_us(world, migration.id), "a driver of ours", 15)
    await world.reach(migration, "dual_write")


@pytest.mark.parametrize("ahead", ["40 min", "10 h"])
@pytest.mark.parametrize("call", ["cutover", "abort", "resume"])
async def test_a_lease_is_believed_for_its_length_whatever_the_clock_says(
    world: World, call: str, ahead: str
) -> None:
    """The clock of the control database was ahead when a driver that is dead took its lease."""
    await world.seed(20)
    here = await world.process(lease_seconds=LEASE_SECONDS)
    migration = await _recorded(world, lease_seconds=LEASE_SECONDS)
    await _lease_of_another(world, migration.id, ahead)
    async with asyncio.timeout(20):
        if call == "cutover":
            await here.coordinator.initiate_cutover(migration.id)
        elif call == "abort":
            await here.coordinator.abort_migration(migration.id)
        else:
            await here.coordinator.resume_migration(migration.id)
            await world.reach(migration, "dual_write")


@pytest.mark.parametrize("ahead", ["1 s", "40 min"])
async def test_a_lease_that_is_renewed_is_left_alone(world: World, ahead: str) -> None:
    await world.seed(20)
    here = await world.process(lease_seconds=LEASE_SECONDS)
    migration = await _recorded(world, lease_seconds=LEASE_SECONDS)
    async with _renewing(world, migration.id, ahead) as owner:
        await here.coordinator.resume_migration(migration.id)
        until_then = time.monotonic() + 4 * LEASE_SECONDS
        while time.monotonic() < until_then:
            assert await _owner(world, migration.id) == owner
            await asyncio.sleep(0.1)
    await world.reach(migration, "dual_write")


@pytest.mark.parametrize("role", ["target", "source"])
async def test_a_driver_that_wakes_up_after_an_abort_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """Frozen before it raises a fence, for a migration that is over when it goes on."""
    frozen = await world.process(lease_seconds=LEASE_SECONDS)
    asleep, awake = asyncio.Event(), asyncio.Event()
    raise_fence = fences.raise_fence

    async def sleep_before_it(table: OwnTable, **of: Any) -> Fence:
        if of["role"] == role:
            asleep.set()
            await awake.wait()
        return await raise_fence(table, **of)

    async def sleep(_: Heartbeat) -> None:
        await awake.wait()

    with monkeypatch.context() as patched:
        patched.setattr(fences, "raise_fence", sleep_before_it)
        patched.setattr(Heartbeat, "run", sleep)
        migration = await frozen.start(world.tenant)
        await asyncio.wait_for(asleep.wait(), 20)
    aborted = await world.coordinator.abort_migration(migration.id)
    assert aborted.state is MigrationState.ROLLED_BACK
    driving = list(frozen.coordinator._drivers._driving)
    assert len(driving) == 1
    awake.set()
    await asyncio.wait(driving, timeout=20)
    for side in (world.source, world.target):
        assert await side.fetchval("select count(*) from eventsource_fences") == 0


@pytest.mark.parametrize("added", ["another one", "one that had failed"])
async def test_who_is_added_while_the_journal_is_read_is_looked_after(
    world: World, monkeypatch: pytest.MonkeyPatch, added: str
) -> None:
    """The one that is asked about has an answer by then, of a time before."""
    await world.seed(20)
    here = await world.process(lease_seconds=LEASE_SECONDS)
    first = await world.dual_write(process=here)
    for driving in list(here.coordinator._drivers._driving):
        driving.cancel()
    await _lease_of_another(world, first.id, f"{LEASE_SECONDS} s")
    if added == "one that had failed":
        await world.control.execute(
            "update tenant_migrations set state = 'failed', paused_from = 'dual_write'"
        )
    journal = here.coordinator._drivers._migrations
    answered, given = asyncio.Event(), asyncio.Event()
    read = journal.get_many

    async def read_slowly(asked: list[UUID]) -> list[Migration]:
        found = await read(asked)
        answered.set()
        await given.wait()
        return found

    monkeypatch.setattr(journal, "get_many", read_slowly)
    await asyncio.wait_for(answered.wait(), 20)
    late = first
    if added == "another one":
        late = await _recorded(world, world.other, lease_seconds=LEASE_SECONDS)
    await _lease_of_another(world, late.id, f"{LEASE_SECONDS} s")
    await here.coordinator.resume_migration(late.id)
    assert not await _is_driven_by_us(world, late.id)
    given.set()
    await until(lambda: _is_driven_by_us(world, late.id), "a driver of ours", 15)
    await world.reach(late, "dual_write")


async def _recorded(world: World, tenant: UUID | None = None, **settings: Any) -> Migration:
    """A migration in the journal that nobody has driven yet."""
    here = await world.process(**settings)
    return await here.migrations.create(
        migration_id=uuid4(),
        tenant_id=tenant or world.tenant,
        source_store_id=SOURCE,
        target_store_id=TARGET,
        config=here.coordinator._config,
        generation=0,
        operator=None,
    )


async def _lease_of_another(world: World, migration_id: UUID, ahead: str) -> UUID:
    owner = uuid4()
    await world.control.execute(
        "update tenant_migrations set driver_owner = $2, driver_name = 'gone:1',"
        " driver_expires_at = now() + $3::text::interval where id = $1",
        migration_id, owner, ahead,
    )  # fmt: skip
    return owner


@contextlib.asynccontextmanager
async def _renewing(world: World, migration_id: UUID, ahead: str) -> AsyncIterator[UUID]:
    owner = await _lease_of_another(world, migration_id, ahead)
    connection = await world.connect("control")

    async def renew() -> None:
        while True:
            await connection.execute(
                "update tenant_migrations set driver_expires_at = now() + $3::text::interval"
                " where id = $1 and driver_owner = $2",
                migration_id, owner, ahead,
            )  # fmt: skip
            await asyncio.sleep(LEASE_SECONDS / 4)

    renewing = asyncio.create_task(renew())
    try:
        yield owner
    finally:
        renewing.cancel()


async def _owner(world: World, migration_id: UUID) -> UUID | None:
    owner: UUID | None = await world.control.fetchval(
        "select driver_owner from tenant_migrations where id = $1", migration_id
    )
    return owner


async def _is_driven_by_us(world: World, migration_id: UUID) -> bool:
    name = await world.control.fetchval(
        "select driver_name from tenant_migrations where id = $1 and driver_expires_at > now()",
        migration_id,
    )
    return bool(name) and name != "gone:1"


async def test_a_driver_whose_lease_another_one_has_ends(world: World) -> None:
    """It was cut off for longer than the lease; nobody has ended its sessions at the stores."""
    process = await world.process(lease_seconds=LEASE_SECONDS)
    migration = await world.dual_write(process=process)
    await world.control.execute(
        "update tenant_migrations set driver_owner = gen_random_uuid(),"
        " driver_name = 'another', driver_expires_at = now() + interval '1 hour'"
    )

    async def ended() -> bool:
        return not process.coordinator._drivers._driving

    await until(ended, "the driver to end")
    now = await world.coordinator.get_migration(migration.id)
    assert (now.state, now.driver_name) == (MigrationState.DUAL_WRITE, "another")
