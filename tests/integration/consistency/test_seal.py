"""What the bulk copy has proven is not read again before the cutover, unless it was touched."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from eventsource.dataplane import Verification, VerifyConfig
from eventsource.migration import ConsistencyVerifier, Migration
from eventsource.migration.consistency import seal
from eventsource.migration.event_table import of_store
from eventsource.migration.models import VerificationLevel
from eventsource.migration.steps.passes import Passes
from eventsource.migration.tables import progress
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table


async def sealed(world: World, migration: Migration) -> seal.Sealed | None:
    here = world.here
    source, target = await of_store(here.source), await of_store(here.target)
    at = await progress.read(target, migration.id)
    assert at is not None
    return await seal.unbroken(source, target, migration.tenant_id, at)


async def compared(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Events that the comparison of a cutover counts, and rows of the source that it reads."""
    started: list[Any] = []
    start = Verification.start

    def remembered(config: VerifyConfig) -> Verification:
        verification = start(config)
        started.append(verification)
        return verification

    monkeypatch.setattr(Verification, "start", remembered)
    verifier = ConsistencyVerifier(world.here.source, world.here.target)
    report = await verifier.verify_before_cutover(world.tenant, VerificationLevel.HASH, 100.0)
    assert report.is_consistent
    assert report.source_event_count == report.target_event_count
    [verification] = started
    return report.source_event_count, verification.progress().source_rows


async def test_a_cutover_reads_only_what_came_behind_the_bulk_copy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(300)
    await world.seed(50, world.other)
    migration = await world.dual_write()
    await world.here.append(world.tenant, count=7)
    await until(lambda: _has(world, 307), "the new events at the target")
    assert await sealed(world, migration) == seal.Sealed(300, 300)
    assert await compared(world, monkeypatch) == (307, 7)
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


async def test_an_event_in_flight_at_the_bulk_copy_is_compared(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(100)
    late = await world.connect()
    begin = Passes.begin

    async def begin_beside_a_writer(passes: Passes) -> None:
        if passes.at.proven_snapshot is None:
            await late.execute("begin")
            await insert(late, world.tenant)
            await world.seed(20)
        await begin(passes)

    monkeypatch.setattr(Passes, "begin", begin_beside_a_writer)
    migration = await world.dual_write()
    assert await sealed(world, migration) == seal.Sealed(121, 120)
    await late.execute("commit")
    await until(lambda: _has(world, 121), "the late event at the target")
    assert await sealed(world, migration) == seal.Sealed(100, 100)
    assert await compared(world, monkeypatch) == (121, 21)
    await world.assert_moved(await world.coordinator.initiate_cutover(migration.id))


async def test_events_under_savepoints_and_those_older_than_the_column_are_under_the_seal(
    world: World,
) -> None:
    await world.seed(10)
    await world.source.execute(
        f"alter table {table('source')} alter transaction_id drop not null;"
        f"update {table('source')} set transaction_id = null"
    )
    async with world.source.transaction():
        await insert(world.source, world.tenant)
        async with world.source.transaction():
            await insert(world.source, world.tenant)
    migration = await world.dual_write()
    assert await sealed(world, migration) == seal.Sealed(12, 12)


#: Each needs rights that no application has; the guard refuses all of them otherwise.
TOUCHED = {
    "a changed row at the target": (
        "target",
        "update {table} set actor_id = 'x' where version = 3",
    ),
    "a missing row at the target": ("target", "delete from {table} where version = 3"),
    "a row too many at the target": (
        "target",
        "update {table} set global_position = 5, event_id = gen_random_uuid(), version = 99"
        " where tenant_id = '{other}'; update {table} set tenant_id = '{tenant}'"
        " where tenant_id = '{other}'",
    ),
    "a changed row at the source": (
        "source",
        "update {table} set actor_id = 'x' where version = 3",
    ),
    "a missing row at the source": ("source", "delete from {table} where version = 3"),
}


@pytest.mark.parametrize("what", TOUCHED)
async def test_whoever_touches_a_row_breaks_the_seal(world: World, what: str) -> None:
    # Between the tenant's events there is room for one more.
    await world.seed(4)
    await world.seed(1, uuid4())
    await world.seed(6)
    side, change = TOUCHED[what]
    migration = await world.dual_write()
    assert await sealed(world, migration) is not None
    owner = await world.connect(side, session_replication_role="replica")
    await owner.execute(f"alter table {table(side)} disable trigger all")
    if "too many" in what:
        await insert(owner, world.other, side="target")
    await owner.execute(change.format(table=table(side), tenant=world.tenant, other=world.other))
    assert await sealed(world, migration) is None


async def test_a_seal_so_old_that_ids_may_have_come_round_is_not_trusted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    # As if a handful of transactions were a billion.
    monkeypatch.setattr(seal, "_NEAR", seal._NEAR.replace(str(seal.NEAR), "50"))
    assert await sealed(world, migration) is not None
    for _ in range(60):
        await world.target.fetchval("select pg_current_xact_id()")
    assert await sealed(world, migration) is None


async def test_the_migrators_own_later_writes_do_not_break_the_seal(world: World) -> None:
    await world.seed(40)
    migration = await world.dual_write()
    for _ in range(3):
        await world.here.append(world.tenant, count=5)
    await until(lambda: _has(world, 55), "the new events at the target")
    await world.target.execute(f"vacuum freeze {table('target')}")
    assert await sealed(world, migration) == seal.Sealed(40, 40)


async def test_a_migration_that_another_process_carries_on_keeps_its_seal(world: World) -> None:
    await world.seed(40)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.here.stop()
    elsewhere = await world.process()
    world.processes.remove(elsewhere)
    world.processes.insert(0, elsewhere)
    await elsewhere.coordinator.resume_migration(migration.id)
    await world.reach(migration, "dual_write")
    assert await sealed(world, migration) == seal.Sealed(40, 40)
    await world.assert_moved(await elsewhere.coordinator.initiate_cutover(migration.id))


async def _has(world: World, count: int) -> bool:
    at = await world.target.fetchval("select proven_rows from eventsource_copy_progress")
    return bool(at == count) and len(await world.ids("target")) == count
