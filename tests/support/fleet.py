"""Waves of tenants in a world of three databases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from eventsource.fleet import Candidate, Carrier, Wave, WaveItem, WaveRepository, WaveSettings
from eventsource.migration.connections import session_marks
from eventsource.tenant_ids import as_uuid
from tests.support.application import SOURCE, TARGET, Process
from tests.support.worlds.three_databases import World, table

#: A moment outside of the window of the tests, and one within it; no deadline of theirs is past.
NOON = datetime(2126, 6, 1, 12, tzinfo=UTC)
NIGHT = datetime(2126, 6, 1, 23, tzinfo=UTC)
WINDOW = "22:00-05:00 UTC"


def waves_in(world: World) -> WaveRepository:
    return WaveRepository(world.here.control_pool)


def carrier_of(world: World, process: Process | None = None, **options: Any) -> Carrier:
    process = process or world.here
    waves = WaveRepository(process.control_pool)
    return Carrier(process.coordinator, waves, "ann", **options)


async def seeded(world: World, count: int, events: int = 20) -> list[UUID]:
    """So many tenants with a past."""
    tenants = [uuid4() for _ in range(count)]
    for tenant in tenants:
        await world.seed(events, tenant)
    return tenants


async def running_wave(
    world: World, tenants: Sequence[UUID], name: str = "night", **settings: Any
) -> Wave:
    waves = waves_in(world)
    candidates = [Candidate(tenant, SOURCE, TARGET) for tenant in tenants]
    wave = await waves.create(name, candidates, WaveSettings(**settings), by="ann")
    return await waves.start(wave, "ann")


async def items_of(world: World, wave: Wave) -> dict[UUID, WaveItem]:
    return {as_uuid(each.tenant_id): each for each in await waves_in(world).items(wave)}


async def change_a_row_at_the_target(world: World, tenant: UUID) -> None:
    """What no migration does: its proof has to find it."""
    migration = await world.control.fetchval(
        "select id from tenant_migrations where tenant_id = $1 order by created_at desc limit 1",
        str(tenant),
    )
    migrator = await world.connect("target", **{session_marks.MIGRATOR_SETTING: str(migration)})
    changed = await migrator.execute(
        f"update {table('target')} set actor_id = 'x' where tenant_id = $1 and version = 5", tenant
    )
    assert changed != "UPDATE 0"
