"""Plans that are recorded at the same moment, and one beside a wave that is resumed."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from eventsource.fleet import Candidate, Outcome, WaveError, WaveSettings, WaveState
from tests.support.application import SOURCE, TARGET
from tests.support.fleet import items_of, running_wave, waves_in
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, someone_blocked


async def test_of_two_plans_at_once_one_has_the_tenant(world: World) -> None:
    waves, one = waves_in(world), [Candidate(uuid4(), SOURCE, TARGET)]
    holder = await world.connect("control")
    await holder.execute("begin; lock table migration_wave_items in share mode")
    plans = [
        asyncio.create_task(waves.create(name, one, WaveSettings())) for name in ("one", "two")
    ]

    async def both_wait() -> bool:
        waiting = await world.control.fetchval(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            " and datname = current_database()"
        )
        return bool(waiting == 2)

    await until(both_wait, "both plans waiting")
    await holder.execute("commit")
    ends = await asyncio.gather(*plans, return_exceptions=True)
    [refused] = [each for each in ends if isinstance(each, BaseException)]
    assert isinstance(refused, WaveError)
    assert "tenants of other waves" in str(refused)
    assert await waves.count() == 1


async def test_a_wave_that_is_resumed_does_not_run_without_a_tenant(world: World) -> None:
    """Its tenants are given up by a plan at the same moment: it is over, and not under way."""
    tenant = uuid4()
    waves, wave = waves_in(world), await running_wave(world, [tenant], "stopped")
    await waves.stop(wave, "ann", "the wrong store")
    holder = await world.connect("control")
    await holder.execute("begin; select from migration_wave_items for update")
    planned = asyncio.create_task(
        waves.create("new", [Candidate(tenant, SOURCE, TARGET)], WaveSettings(), replace=True)
    )
    await someone_blocked(world, "%delete from migration_wave_items%", "control")
    resumed = asyncio.create_task(waves.resume(await waves.get("stopped"), "ann"))
    await asyncio.sleep(0.3)
    await holder.execute("commit")
    new = await planned
    await resumed
    assert set(await items_of(world, new)) == {tenant}
    assert await waves.items(wave) == []
    assert (await waves.get("stopped")).state is WaveState.DONE


async def test_no_tenant_is_tried_again_that_another_wave_has(world: World) -> None:
    """Each would move it, and to stores of their own."""
    ours, theirs = uuid4(), uuid4()
    waves, wave = waves_in(world), await running_wave(world, [ours, theirs], "old")
    for each in (await items_of(world, wave)).values():
        await waves.record(each, Outcome.REFUSED)
    assert (await waves.get("old")).state is WaveState.DONE
    new = await waves.create("new", [Candidate(theirs, SOURCE, TARGET)], WaveSettings())
    for tenant in (None, theirs):
        with pytest.raises(WaveError, match=rf"{theirs} \(new\)"):
            await waves.retry(wave, "ann", tenant)
        assert (await waves.get("old")).state is WaveState.DONE
        assert (await items_of(world, wave))[ours].outcome is Outcome.REFUSED
    assert await waves.retry(wave, "ann", ours) == 1
    await waves.start(new, "ann")
    await waves.record((await items_of(world, new))[theirs], Outcome.MOVED)
    assert await waves.retry(wave, "ann") == 1
