"""Waves: what is recorded, what is carried, what is held by name."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from eventsource.fleet import (
    Candidate,
    Outcome,
    WaveError,
    WaveNotFoundError,
    WaveSettings,
    WaveState,
)
from eventsource.migration import CutoverTimeoutError, MigrationState, create_schema
from eventsource.migration.protocol import SPOKEN
from tests.support.application import SOURCE, TARGET
from tests.support.fleet import (
    NIGHT,
    NOON,
    WINDOW,
    carrier_of,
    items_of,
    running_wave,
    seeded,
    waves_in,
)
from tests.support.held_migration import cursor
from tests.support.worlds.three_databases import World, table


async def test_a_wave_is_planned_started_carried_and_done(world: World) -> None:
    tenants = await seeded(world, 3)
    waves, carrier = waves_in(world), carrier_of(world)
    wave = await waves.create(
        "night", [Candidate(each, SOURCE, TARGET) for each in tenants], WaveSettings(), by="ann"
    )
    assert wave.state is WaveState.PLANNED
    assert await carrier.deliver(wave.id, tenants[0]) is None
    assert await world.ids("target", tenants[0]) == []
    await waves.start(wave, "ann")
    for tenant in tenants:
        assert await carrier.deliver(wave.id, tenant) is None
    done = await waves.get("night")
    assert (done.state, done.failures_in_row) == (WaveState.DONE, 0)
    assert [entry["what"] for entry in done.history] == ["planned", "started", "done"]
    for tenant, item in (await items_of(world, wave)).items():
        assert item.outcome is Outcome.MOVED
        [migration] = await world.coordinator.get_migrations_by_tenant(tenant)
        assert item.migration_id == migration.id
        await world.assert_moved(migration, tenant)


async def test_what_is_delivered_twice_moves_once_and_has_one_outcome(world: World) -> None:
    tenants = await seeded(world, 4, events=60)
    wave = await running_wave(world, tenants)
    carriers = [carrier_of(world, await world.process(lease_seconds=1.0)) for _ in range(3)]
    deliveries = [each.deliver(wave.id, tenant) for each in carriers for tenant in tenants]
    assert await asyncio.gather(*deliveries, *(
        carriers[0].deliver(wave.id, tenant) for tenant in tenants
    )) == [None] * 16  # fmt: skip
    rows = await world.control.fetch("select state, count(*) from tenant_migrations group by 1")
    assert [tuple(row) for row in rows] == [("migrated", 4)]
    assert (await waves_in(world).get("night")).state is WaveState.DONE


async def test_what_a_newer_version_carries_is_left_to_its_workers(world: World) -> None:
    [tenant] = await seeded(world, 1)
    wave = await running_wave(world, [tenant])
    await world.dual_write(tenant)
    await world.coordinator.close()
    await world.control.execute("update tenant_migrations set protocol = $1", SPOKEN + 1)
    assert await carrier_of(world, await world.process()).deliver(wave.id, tenant) is not None
    [item] = (await items_of(world, wave)).values()
    assert (item.outcome, item.error_code) == (None, None)
    await world.control.execute("update tenant_migrations set protocol = 1")
    assert await carrier_of(world).deliver(wave.id, tenant) is None
    [item] = (await items_of(world, wave)).values()
    assert item.outcome is Outcome.MOVED


async def test_a_refusal_is_held_by_name_and_stops_nothing(world: World) -> None:
    tenants = await seeded(world, 5)
    refused = tenants[:3]
    for tenant in refused:
        await world.target.execute(
            f"insert into {table('target')} (event_id, aggregate_id, aggregate_type, event_type,"
            " tenant_id, version, timestamp, payload) values (gen_random_uuid(),"
            " gen_random_uuid(), 'Note', 'world.noted', $1, 1, now(), '{}')",
            tenant,
        )
    wave = await running_wave(world, tenants, stop_after=1)
    carrier = carrier_of(world)
    for tenant in tenants:
        assert await carrier.deliver(wave.id, tenant) is None
    items = await items_of(world, wave)
    assert [items[each].outcome for each in tenants] == ["refused"] * 3 + ["moved"] * 2
    assert items[refused[0]].error_code == "preflight"
    assert "already holds events" in (items[refused[0]].error_message or "")
    assert (await waves_in(world).get("night")).state is WaveState.DONE


async def test_retry_tries_what_did_not_move(world: World) -> None:
    tenants = await seeded(world, 2)
    await world.target.execute(f"alter table {table('target')} rename to hidden")
    wave = await running_wave(world, tenants)
    carrier, waves = carrier_of(world), waves_in(world)
    for tenant in tenants:
        await carrier.deliver(wave.id, tenant)
    assert (await waves.get("night")).state is WaveState.DONE
    await world.target.execute(f"alter table hidden rename to {table('target')}")
    assert await waves.retry(wave, "ben", tenants[0]) == 1
    assert (await waves.get("night")).state is WaveState.RUNNING
    await carrier.deliver(wave.id, tenants[0])
    items = await items_of(world, wave)
    assert [items[each].outcome for each in tenants] == ["moved", "refused"]
    assert await waves.retry(wave, "ben") == 1
    await carrier.deliver(wave.id, tenants[1])
    done = await waves.get("night")
    assert done.state is WaveState.DONE
    assert [entry["by"] for entry in done.history if entry["what"] == "retried"] == ["ben"] * 2
    assert await waves.retry(wave, "ben") == 0
    assert (await waves.get("night")).state is WaveState.DONE


async def test_a_wave_that_is_stopped_stays_so_when_a_tenant_is_to_be_tried_again(
    world: World,
) -> None:
    """Who stopped it has a reason; `resume` is what lets it go on."""
    tenants = await seeded(world, 2)
    await world.target.execute(f"alter table {table('target')} rename to hidden")
    wave = await running_wave(world, tenants)
    carrier, waves = carrier_of(world), waves_in(world)
    await carrier.deliver(wave.id, tenants[0])
    assert await waves.stop(wave, "ann", "enough")
    await world.target.execute(f"alter table hidden rename to {table('target')}")
    assert await waves.retry(wave, "ben") == 1
    assert (await waves.get("night")).state is WaveState.STOPPED
    assert await carrier.deliver(wave.id, tenants[0]) is None
    assert (await items_of(world, wave))[tenants[0]].outcome is None


async def test_a_tenant_is_held_when_its_attempts_are_used_up(world: World) -> None:
    [tenant] = await seeded(world, 1)
    wave = await running_wave(world, [tenant], attempts=3)
    process = await world.process(cutover_timeout_seconds=0.2)
    await world.dual_write(tenant, process)
    carrier = carrier_of(world, process)
    async with world.open_transaction(tenant):
        for attempt in (1, 2):
            with pytest.raises(CutoverTimeoutError):
                await carrier.deliver(wave.id, tenant)
            assert (await items_of(world, wave))[tenant].attempts == attempt
        assert await carrier.deliver(wave.id, tenant) is None
    item = (await items_of(world, wave))[tenant]
    assert (item.outcome, item.error_code) == (Outcome.HELD, "cutover_timeout")
    await waves_in(world).retry(wave, "ann")
    assert await carrier.deliver(wave.id, tenant) is None
    assert (await items_of(world, wave))[tenant].outcome is Outcome.MOVED


async def test_what_somebody_paused_is_held(world: World) -> None:
    [tenant] = await seeded(world, 1)
    migration = await world.dual_write(tenant)
    await world.coordinator.pause_migration(migration.id)
    wave = await running_wave(world, [tenant])
    assert await carrier_of(world).deliver(wave.id, tenant) is None
    item = (await items_of(world, wave))[tenant]
    assert (item.outcome, item.error_code) == (Outcome.HELD, "paused")


async def test_outside_its_window_nothing_begins(world: World) -> None:
    [tenant] = await seeded(world, 1)
    wave = await running_wave(world, [tenant], window=WINDOW)
    again = await carrier_of(world, now=lambda: NOON).deliver(wave.id, tenant)
    assert again == timedelta(hours=10)
    assert await world.coordinator.get_migrations_by_tenant(tenant) == []
    assert await carrier_of(world, now=lambda: NIGHT).deliver(wave.id, tenant) is None
    assert (await waves_in(world).get("night")).state is WaveState.DONE


class Closing:
    """A window that closes soon, and opens again in ten hours."""

    def __init__(self, seconds: float) -> None:
        self.ends = datetime.now(UTC) + timedelta(seconds=seconds)

    def is_open(self, now: datetime) -> bool:
        return now < self.ends

    def closes(self, now: datetime) -> datetime:
        assert self.is_open(now)
        return self.ends

    def opens(self, now: datetime) -> datetime:
        return now if self.is_open(now) else self.ends + timedelta(hours=10)


async def test_at_the_end_of_its_window_a_copy_is_parked_and_goes_on_the_next_night(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    [tenant] = await seeded(world, 1, events=200)
    wave = await running_wave(world, [tenant], window=WINDOW)
    slow = await world.process(batch_size=1, max_events_per_second=50)
    await slow.start(tenant)
    await cursor(world)
    monkeypatch.setattr(WaveSettings, "hours", Closing(0.5))
    again = await carrier_of(world, slow).deliver(wave.id, tenant)
    assert again is not None
    assert again > timedelta(hours=9)
    [migration] = await world.coordinator.get_migrations_by_tenant(tenant)
    assert (migration.state, migration.parked) == (MigrationState.PAUSED, True)
    assert 0 < len(await world.ids("target", tenant)) < 200
    await world.coordinator.set_rate(migration.id, None)
    monkeypatch.setattr(WaveSettings, "hours", Closing(60))
    assert await carrier_of(world).deliver(wave.id, tenant) is None
    assert (await waves_in(world).get("night")).state is WaveState.DONE


async def test_copies_by_day_wait_parked_for_the_window_of_cutovers(world: World) -> None:
    [tenant] = await seeded(world, 1)
    wave = await running_wave(world, [tenant], window=WINDOW, window_for="cutover")
    again = await carrier_of(world, now=lambda: NOON).deliver(wave.id, tenant)
    assert again == timedelta(hours=10)
    [migration] = await world.coordinator.get_migrations_by_tenant(tenant)
    assert (migration.paused_from, migration.parked) == (MigrationState.DUAL_WRITE, True)
    assert (await items_of(world, wave))[tenant].migration_id == migration.id
    await world.here.append(tenant)
    assert await carrier_of(world, now=lambda: NIGHT).deliver(wave.id, tenant) is None
    [migration] = await world.coordinator.get_migrations_by_tenant(tenant)
    assert migration.state is MigrationState.MIGRATED
    await world.assert_moved(migration, tenant)


async def test_a_wave_that_cannot_be_meant_is_refused(world: World) -> None:
    waves, tenant = waves_in(world), uuid4()
    one = [Candidate(tenant, SOURCE, TARGET)]
    with pytest.raises(WaveError, match="nobody"):
        await waves.create("none", [], WaveSettings())
    with pytest.raises(WaveError, match="more than once"):
        await waves.create("twice", one * 2, WaveSettings())
    first = await waves.create("first", one, WaveSettings())
    with pytest.raises(WaveError, match="already"):
        await waves.create("first", [Candidate(uuid4(), SOURCE, TARGET)], WaveSettings())
    with pytest.raises(WaveError, match=r"other waves.*first"):
        await waves.create("second", one, WaveSettings())
    replaced = await waves.create("first", one, WaveSettings(), replace=True)
    assert replaced.id != first.id
    with pytest.raises(WaveNotFoundError, match="second"):
        await waves.get("second")
    await waves.start(replaced, "ann")
    with pytest.raises(WaveError, match="running and cannot be started"):
        await waves.start(replaced, "ann")
    with pytest.raises(WaveError, match="running and cannot be resumed"):
        await waves.resume(replaced, "ann")
    with pytest.raises(WaveError, match="already"):
        await waves.create("first", one, WaveSettings(), replace=True)


async def test_a_wave_that_is_gone_needs_nothing(world: World) -> None:
    assert await carrier_of(world).deliver(uuid4(), uuid4()) is None


async def test_tables_of_an_older_version_get_those_of_waves(world: World) -> None:
    await world.control.execute("drop table migration_wave_items, migration_waves")
    await world.control.execute("alter table tenant_migrations drop column parked")
    await create_schema(world.here.control_pool)
    tenants = await seeded(world, 1)
    wave = await running_wave(world, tenants)
    assert await carrier_of(world).deliver(wave.id, tenants[0]) is None


@pytest.mark.parametrize(
    "settings",
    [{"window": "soon"}, {"window_for": "tea"}, {"attempts": 0}, {"stop_after": True}],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(settings)).split("_")[0])):
        WaveSettings(**settings)  # type: ignore[arg-type]


async def test_a_stopped_wave_gives_up_what_it_has_not_begun(world: World) -> None:
    """Its tenants belonged to it without end: it could only be resumed, with a wrong target."""
    tenants = await seeded(world, 4)
    waves, carrier = waves_in(world), carrier_of(world)
    wave = await running_wave(world, tenants)
    assert await carrier.deliver(wave.id, tenants[0]) is None
    await waves.begin((await items_of(world, wave))[tenants[1]])
    await waves.begin((await items_of(world, wave))[tenants[2]])
    aborted = await world.dual_write(tenants[2])
    await waves.name_migration((await items_of(world, wave))[tenants[2]], aborted.id)
    others = [Candidate(each, SOURCE, TARGET) for each in tenants[2:]]
    with pytest.raises(WaveError, match="other waves"):
        await waves.create("others", others, WaveSettings(), replace=True)
    await waves.stop(wave, "ann", "the wrong store")
    with pytest.raises(WaveError, match="with --replace"):
        await waves.create("others", others, WaveSettings())
    with pytest.raises(WaveError, match=str(tenants[2])):
        await waves.create("others", others, WaveSettings(), replace=True)
    await world.coordinator.abort_migration(aborted.id)
    taken = await waves.create("others", others, WaveSettings(), by="bob", replace=True)
    assert set(await items_of(world, taken)) == set(tenants[2:])
    left = await waves.get(wave.name)
    assert set(await items_of(world, left)) == set(tenants[:2]), "moved, and on its way"
    assert left.history[-1]["what"] == "left"
    assert left.history[-1]["reason"] == "2 tenants, for wave others"
    # The one that it has begun stays its own.
    begun = [Candidate(tenants[1], SOURCE, TARGET)]
    with pytest.raises(WaveError, match=str(tenants[1])):
        await waves.create("others again", begun, WaveSettings(), replace=True)


async def test_a_stopped_wave_that_has_begun_nothing_is_replaced(world: World) -> None:
    tenants = await seeded(world, 2)
    wave = await running_wave(world, tenants)
    waves = waves_in(world)
    await waves.stop(wave, "ann", "the wrong order")
    turned = [Candidate(each, SOURCE, TARGET) for each in reversed(tenants)]
    again = await waves.create(wave.name, turned, WaveSettings(), replace=True)
    assert again.state is WaveState.PLANNED
    assert [each.tenant_id for each in await waves.items(again)] == tenants[::-1]
