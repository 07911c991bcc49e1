"""A return is compared event by event: its positions differ by no constant.

`verify` after a return once found every event of the tenant missing, and so did a `run` that took a
return up after its cutover had timed out.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import (
    ConsistencyVerifier,
    CutoverTimeoutError,
    MigrationError,
    VerificationLevel,
    background,
)
from tests.support.application import Process
from tests.support.owning_role import owning_role
from tests.support.there_and_back import appended, moved
from tests.support.worlds.three_databases import World, make_world, table

LEVELS = list(VerificationLevel)


@pytest.fixture
async def keeper(world: World) -> Process:
    """One whose target holds another tenant already, so that positions differ from the start."""
    first = uuid4()
    await world.seed(30, first)
    await world.migrate(first)
    return await world.process(keep_way_back="1h", lease_seconds=1.0)


def verifier(process: Process, *, back: bool) -> ConsistencyVerifier:
    sides = (process.target, process.source) if back else (process.source, process.target)
    return ConsistencyVerifier(*sides)


async def waiting_return(world: World, keeper: Process, events: int = 20) -> Any:
    """A return whose cutover has timed out, so that it waits in dual_write with all it carried."""
    migration = await moved(world, keeper, events)
    await appended(keeper, world.tenant)
    async with world.open_transaction(world.tenant, "target"):
        with contextlib.suppress(CutoverTimeoutError):
            await keeper.coordinator.return_migration(migration.id, max_pause_seconds=0.1)
    return await keeper.coordinator.way_back(migration.id)


@pytest.mark.parametrize("level", LEVELS)
async def test_what_returns_is_equal_before_and_after_it_and_the_next_time(
    world: World, keeper: Process, level: VerificationLevel
) -> None:
    way = await waiting_return(world, keeper)
    report = await verifier(keeper, back=True).verify_tenant_consistency(world.tenant, level)
    assert (report.is_consistent, report.source_event_count) == (True, 32)
    assert (report.streams_consistent, report.streams_verified) == (5, 5)
    await keeper.coordinator.initiate_cutover(way.id)
    back = True
    for more in range(3):
        report = await verifier(keeper, back=back).verify_tenant_consistency(world.tenant, level)
        assert (report.is_consistent, report.source_event_count) == (True, 32 + 12 * more)
        # What the application appends after a return is beyond what has to be there.
        await appended(keeper, world.tenant)
        report = await verifier(keeper, back=back).verify_tenant_consistency(world.tenant, level)
        assert report.is_consistent
        way = await keeper.coordinator.return_migration(way.id)
        back = not back


@pytest.mark.parametrize("level", LEVELS)
async def test_a_second_move_after_a_return_is_compared_as_a_move(
    world: World, keeper: Process, level: VerificationLevel
) -> None:
    way = await waiting_return(world, keeper)
    await keeper.coordinator.initiate_cutover(way.id)
    await keeper.coordinator.close_way_back(way.id)
    await keeper.coordinator.cleanup(way.id, backed_up=True)
    migration = await world.dual_write(process=keeper)
    await keeper.coordinator.initiate_cutover(migration.id)
    await appended(keeper, world.tenant)
    report = await verifier(keeper, back=False).verify_tenant_consistency(world.tenant, level)
    assert (report.is_consistent, report.source_event_count) == (True, 32)
    async with world.open_transaction(world.tenant, "target"):
        with contextlib.suppress(CutoverTimeoutError):
            await keeper.coordinator.return_migration(migration.id, max_pause_seconds=0.1)
    # Its way forth is ready now, and asleep: the move itself is still what is compared.
    report = await verifier(keeper, back=True).verify_tenant_consistency(world.tenant, level)
    assert (report.is_consistent, report.source_event_count) == (True, 44)


_SPOILED = {
    "a field of one": (
        "update {t} set payload = '{{\"n\": -1}}' where event_id = $1",
        [("different", "payload")],
    ),
    "two fields of one": (
        "update {t} set payload = '{{}}', actor_id = 'x' where event_id = $1",
        [("different", "actor_id"), ("different", "payload")],
    ),
    "one is missing": ("delete from {t} where event_id = $1", [("missing", None)]),
    "one is another": (
        "update {t} set event_id = gen_random_uuid() where event_id = $1",
        [("missing", None), ("unexpected", None)],
    ),
}


@pytest.mark.parametrize("level", [VerificationLevel.HASH, VerificationLevel.FULL])
@pytest.mark.parametrize("after", [False, True], ids=["before the return", "after it"])
@pytest.mark.parametrize("what", _SPOILED)
async def test_what_differs_is_named(
    world: World, keeper: Process, level: VerificationLevel, what: str, after: bool
) -> None:
    way = await waiting_return(world, keeper)
    if after:
        await keeper.coordinator.initiate_cutover(way.id)
        await appended(keeper, world.tenant)
    statement, wanted = _SPOILED[what]
    # An old row, which the move had taken along; and not the last one.
    event = (await world.ids("source"))[7]
    await world.source.execute(f"alter table {table('source')} disable trigger all")
    await world.source.execute(statement.format(t=table("source")), event)
    report = await verifier(keeper, back=True).verify_tenant_consistency(world.tenant, level)
    assert not report.is_consistent
    assert [(each.kind, each.field) for each in report.violations] == wanted
    assert report.violations[0].event_id == event
    assert report.streams_verified - report.streams_consistent == 1 == len(report.stream_results)


async def test_a_return_is_compared_in_one_go(
    world: World, keeper: Process, tmp_path: Path
) -> None:
    await waiting_return(world, keeper, events=5)
    with pytest.raises(MigrationError, match="leave the state file out"):
        await verifier(keeper, back=True).verify_tenant_consistency(
            world.tenant, state_file=tmp_path / "state"
        )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("back", [False, True], ids=["a move", "a return"])
async def test_nothing_is_called_different_once_the_old_rows_are_cleaned_up(
    world: World, keeper: Process, level: VerificationLevel, back: bool
) -> None:
    """It called every event of the tenant one that the source does not have."""
    migration = await moved(world, keeper)
    await appended(keeper, world.tenant)
    if back:
        migration = await keeper.coordinator.return_migration(migration.id)
    assert (
        await verifier(keeper, back=back).verify_tenant_consistency(world.tenant, level)
    ).is_consistent
    await keeper.coordinator.close_way_back(migration.id)
    await keeper.coordinator.cleanup(migration.id, backed_up=True)
    with pytest.raises(MigrationError, match="nothing left to compare with"):
        await verifier(keeper, back=back).verify_tenant_consistency(world.tenant, level)


async def test_rows_that_are_hidden_are_not_called_equal(
    source_dsn: str, target_dsn: str, control_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody switches row-level security on at both sides: neither shows the last events."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    dsns = {"source": source_dsn, "target": target_dsn, "control": control_dsn}
    async with owning_role(dsns) as role:
        world = await make_world(role.dsns)
        keeper = await world.process(keep_way_back="1h", lease_seconds=1.0)
        migration = await moved(world, keeper, 20)
        await appended(keeper, world.tenant)
        await keeper.coordinator.return_migration(migration.id)
        for side in ("source", "target"):
            connection = await asyncpg.connect(dsns[side])
            await connection.execute(
                f"alter table {table(side)} enable row level security,"
                f" force row level security; create policy shown on {table(side)}"
                " using (version <= 2)"
            )
            await connection.close()
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await verifier(keeper, back=True).verify_tenant_consistency(world.tenant)
        await world.close()
