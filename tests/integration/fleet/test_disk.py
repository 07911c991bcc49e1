"""What may lie on the disk of a server holds tenants back by name, and stops nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from eventsource.fleet import (
    Candidate,
    NoRoomError,
    Outcome,
    Wave,
    WaveSettings,
    WaveState,
    disk,
    view,
)
from eventsource.fleet.disk import AGAIN, Bounds, Disks
from tests.support.application import SOURCE, TARGET
from tests.support.fleet import carrier_of, items_of, seeded, waves_in
from tests.support.worlds.three_databases import World

GB = 10**9


async def bounded(world: World, room: int) -> Bounds:
    """So much may still come; what other tests have on the server is nothing beside it (bytes)."""
    stores = {SOURCE: world.here.source, TARGET: world.here.target}
    most = await disk.used(world.here.target) + room
    return Bounds({"db1": most}, {SOURCE: SOURCE, TARGET: "db1"}, stores)


async def sized_wave(world: World, *sizes: int | None) -> tuple[Wave, list[UUID]]:
    """Small tenants of which the plan says another size."""
    tenants = await seeded(world, len(sizes), events=5)
    waves = waves_in(world)
    candidates = [
        Candidate(tenant, SOURCE, TARGET, None if size is None else 5, size)
        for tenant, size in zip(tenants, sizes, strict=True)
    ]
    wave = await waves.create("night", candidates, WaveSettings(stop_after=1))
    return await waves.start(wave, "ann"), tenants


async def test_a_tenant_without_room_is_refused_by_name_and_the_others_go(world: World) -> None:
    wave, [large, small, unsized] = await sized_wave(world, 9 * GB, 3 * GB, None)
    carrier = carrier_of(world, bounds=await bounded(world, 10 * GB))
    for tenant in (large, small, unsized):
        assert await carrier.deliver(wave.id, tenant) is None
    items = await items_of(world, wave)
    outcomes = [items[each].outcome for each in (large, small, unsized)]
    assert outcomes == [Outcome.REFUSED, Outcome.MOVED, Outcome.MOVED]
    assert items[large].error_code == "no_room"
    said = items[large].error_message or ""
    assert "it brings about 16.20 GB, and max_disk allows" in said
    assert items[unsized].events == 5
    assert 0 < (items[unsized].bytes or 0) < 10_000
    assert (await waves_in(world).get("night")).state is WaveState.DONE
    assert await world.ids("target", large) == []


async def test_what_is_on_its_way_takes_room_until_it_is_there(world: World) -> None:
    wave, [first, second] = await sized_wave(world, 3 * GB, 3 * GB)
    carrier = carrier_of(world, bounds=await bounded(world, 8 * GB))
    waves = waves_in(world)
    items = await items_of(world, wave)
    assert await waves.begin(items[first])
    assert await carrier.deliver(wave.id, second) == AGAIN
    moving = {each.tenant_id: each for each in (await view.view_of(waves, wave)).moving}
    assert "room" in (moving[second].waits_for or "")
    assert moving[first].waits_for is None
    assert await carrier.deliver(wave.id, second) == AGAIN
    assert (await items_of(world, wave))[second].attempts == 0
    # Of two that have begun the first one does not wait.
    assert await carrier.deliver(wave.id, first) is None
    assert await carrier.deliver(wave.id, second) is None
    assert {each.outcome for each in (await items_of(world, wave)).values()} == {Outcome.MOVED}


async def test_what_a_copy_has_brought_already_is_not_still_to_come(world: World) -> None:
    wave, [first, second] = await sized_wave(world, 4 * GB, GB)
    waves = waves_in(world)
    items = await items_of(world, wave)
    migration = await world.coordinator.start_migration(
        first, world.here.source, world.here.target, SOURCE, TARGET
    )
    await waves.begin(items[first])
    await waves.name_migration(items[first], migration.id)
    await world.coordinator.pause_migration(migration.id)
    # Before the first row, in the middle, before the indexes are built, and with all of it there.
    for state, copied, still in (
        ("paused", 0, 7.2), ("paused", 50, 5.2), ("bulk_copy", 100, 3.2), ("dual_write", 100, 0),
        ("rolled_back", 0, 7.2),
    ):  # fmt: skip
        await world.control.execute(
            "update tenant_migrations set state = $1, events_copied = $2, total_events = 100",
            state, copied,
        )  # fmt: skip
        assert await waves.arriving(items[second], [TARGET], 1.8) == round(still * GB), state
        assert await waves.arriving(items[second], [SOURCE], 1.8) == 0
        assert await waves.arriving(items[first], [TARGET], 1.8) == 0


async def test_what_waits_in_a_stopped_wave_takes_no_room(world: World) -> None:
    wave, [first, second] = await sized_wave(world, 3 * GB, 3 * GB)
    waves, items = waves_in(world), await items_of(world, wave)
    assert await waves.begin(items[first])
    assert await waves.begin(items[second])
    assert await waves.arriving(items[second], [TARGET], 1.0) == 3 * GB
    assert await waves.stop(wave, "ann", "enough")
    assert await waves.arriving(items[second], [TARGET], 1.0) == 0


async def test_stores_of_one_server_share_its_disk(world: World) -> None:
    first, second = await seeded(world, 2, events=5)
    waves = waves_in(world)
    candidates = [
        Candidate(tenant, SOURCE, target, 5, 3 * GB)
        for tenant, target in ((first, "beside"), (second, TARGET))
    ]
    wave = await waves.create("night", candidates, WaveSettings())
    wave = await waves.start(wave, "ann")
    items = await items_of(world, wave)
    assert await waves.begin(items[first])
    assert await waves.begin(items[second])
    for beside, waits in (("db2", None), ("db1", AGAIN)):
        bounds = await bounded(world, 8 * GB)
        bounds = replace(bounds, groups={**bounds.groups, "beside": beside})
        item = (await items_of(world, wave))[second]
        assert await bounds.wait_for(waves, item, world.coordinator) == waits


async def test_a_move_that_was_undone_needs_its_room_again(world: World) -> None:
    wave, [tenant] = await sized_wave(world, 3 * GB)
    waves = waves_in(world)
    migration = await world.dual_write(tenant)
    await waves.name_migration((await items_of(world, wave))[tenant], migration.id)
    bounds = await bounded(world, 1 * GB)

    async def asked() -> timedelta | None:
        item = (await items_of(world, wave))[tenant]
        return await bounds.wait_for(waves, item, world.coordinator)

    # Its rows are there already.
    assert await asked() is None
    await world.coordinator.abort_migration(migration.id)
    with pytest.raises(NoRoomError):
        await asked()


async def test_a_plan_says_who_will_have_no_room(world: World) -> None:
    bounds = await bounded(world, 10 * GB)
    tenants = [UUID(int=n) for n in range(4)]
    candidates = [
        Candidate(tenant, SOURCE, TARGET, 1, size * GB)
        for tenant, size in zip(tenants, (3, 3, 2, 4), strict=True)
    ]
    seen = await Disks.seen(candidates, bounds)
    # 5.4, then 10.8 is too much, then 9.0; the last one alone would have fitted.
    assert list(seen.too_large(candidates)) == [tenants[1], tenants[3]]
    assert (await Disks.seen(candidates, Bounds(stores=bounds.stores))).too_large(candidates) == {}


async def test_indexes_are_as_large_as_they_are_at_the_source(world: World) -> None:
    assert await disk.share(world.here.source) == 1 + disk.INDEXES
    await world.seed(6000)
    lean = await disk.share(world.here.source)
    assert 1.1 < lean < 3
    await world.source.execute(
        f"create index on {world.here.source.table} (payload, event_id, aggregate_id)"
    )
    assert await disk.share(world.here.source) > lean + 0.2
