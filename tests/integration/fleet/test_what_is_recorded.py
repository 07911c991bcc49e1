"""What a wave records of a move that ended with an error, and what a new beginning forgets."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import uuid4

import asyncpg
import pytest

from eventsource.dataplane import DataPlaneError
from eventsource.fleet import Candidate, Carrier, Outcome, Wave, WaveState, checks
from eventsource.migration.errors import RetryLaterError
from tests.support.application import SOURCE, TARGET
from tests.support.fleet import items_of, running_wave, seeded, waves_in
from tests.support.worlds.three_databases import World

SECRET = "postgresql://app:hidden@db1/shop"


def failing(world: World, error: Exception) -> Carrier:
    """Every move ends with this."""

    async def move(*_: object, **__: object) -> None:
        raise error

    return Carrier(SimpleNamespace(move=move), waves_in(world), "ann")  # type: ignore[arg-type]


async def state(world: World) -> WaveState:
    return (await waves_in(world).get("night")).state


@pytest.mark.parametrize(
    ("error", "outcome", "stops"),
    [
        (DataPlaneError("inconsistent", "1 row differs"), Outcome.FAILED, True),
        (DataPlaneError("protocol", "it ended"), Outcome.HELD, False),
        (asyncpg.UndefinedTableError("relation is gone"), Outcome.HELD, False),
        (asyncpg.InterfaceError("pool is closed"), Outcome.HELD, False),
    ],
    ids=["proof", "data plane", "database", "client"],
)
async def test_a_tenant_whose_move_failed_for_good_has_an_outcome(
    world: World, error: Exception, outcome: Outcome, stops: bool
) -> None:
    """Without one it would be delivered without end; a proof that failed stops the others."""
    tenant, _ = tenants = [uuid4(), uuid4()]
    wave = await running_wave(world, tenants)
    assert await failing(world, error).deliver(wave.id, tenant) is None
    assert (await items_of(world, wave))[tenant].outcome is outcome
    assert (await state(world) is WaveState.STOPPED) is stops


async def failed(world: World, wave: Wave, error: Exception) -> list[str]:
    """Messages after a delivery of each tenant that ended so."""
    carrier, items = failing(world, error), await items_of(world, wave)
    for tenant in items:
        if isinstance(error, RetryLaterError):
            with pytest.raises(RetryLaterError):
                await carrier.deliver(wave.id, tenant)
        else:
            await carrier.deliver(wave.id, tenant)
    return [each.error_message or "" for each in (await items_of(world, wave)).values()]


@pytest.mark.parametrize("kind", [RetryLaterError, asyncpg.UndefinedTableError])
async def test_no_password_is_recorded(world: World, kind: type[Exception]) -> None:
    """A report is kept with the records of the change."""
    wave = await running_wave(world, [uuid4()], stop_after=1)
    [said] = await failed(world, wave, kind(f"{SECRET} is away"))
    assert "away" in said
    assert "hidden" not in said


async def test_nor_in_the_reason_of_a_stop(world: World) -> None:
    wave = await running_wave(world, [uuid4(), uuid4()])
    waves, [item, _] = waves_in(world), (await items_of(world, wave)).values()
    await waves.record(item, Outcome.FAILED, error=("x", f"{SECRET} is away"))
    assert "hidden" not in str(await waves.items(wave))
    reason = (await waves.get("night")).stop_reason or ""
    assert "away" in reason
    assert "hidden" not in reason


async def test_a_wave_that_is_resumed_counts_its_failures_anew(world: World) -> None:
    """Once the cause is mended, the next failure is a first one."""
    tenants = [uuid4() for _ in range(4)]
    wave = await running_wave(world, tenants, stop_after=2)
    waves, items = waves_in(world), await items_of(world, wave)
    for tenant in tenants[:2]:
        await waves.record(items[tenant], Outcome.HELD, error=("x", "why"))
    assert await state(world) is WaveState.STOPPED
    await waves.resume(wave, "ann")
    await waves.record(items[tenants[2]], Outcome.HELD, error=("x", "why"))
    assert await state(world) is WaveState.RUNNING


async def test_a_tenant_that_is_tried_again_has_all_its_attempts(world: World) -> None:
    wave = await running_wave(world, [uuid4(), uuid4()], attempts=2)
    await failed(world, wave, RetryLaterError("not now"))
    waves, [item, _] = waves_in(world), (await items_of(world, wave)).values()
    await waves.record(item, Outcome.HELD, error=("x", "why"))
    await waves.retry(wave, "ann", item.tenant_id)
    assert [each.attempts for each in await waves.items(wave)] == [0, 1]


async def test_a_plan_says_whose_migration_stands_in_the_way(world: World) -> None:
    lost, elsewhere, coming = await seeded(world, 3, events=5)
    for tenant in (lost, elsewhere, coming):
        await world.dual_write(tenant)
    await world.control.execute(
        "update tenant_migrations set state = 'failed' where tenant_id = $1", str(lost)
    )
    await world.control.execute(
        "update tenant_migrations set target_store_id = 'other' where tenant_id = $1",
        str(elsewhere),
    )
    candidates = [Candidate(each, SOURCE, TARGET) for each in (coming, elsewhere, lost)]
    stores = {SOURCE: world.here.source, TARGET: world.here.target}
    found = await checks.of_all(candidates, world.here.migrations, stores)
    assert set(found) == {lost, elsewhere}
    assert "has failed; abort it, or resume it" in found[lost]
    assert "takes it to 'other'" in found[elsewhere]
