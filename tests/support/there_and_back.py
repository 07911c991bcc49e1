"""A tenant that has moved and may return: how it gets there, and where it stands."""

from __future__ import annotations

from uuid import UUID, uuid4

from eventsource.migration import Migration
from tests.support.application import Process
from tests.support.worlds.three_databases import World, table


async def moved(world: World, keeper: Process, events: int = 20) -> Migration:
    await world.seed(events)
    await world.seed(7, world.other)
    migration = await world.dual_write(process=keeper)
    return await keeper.coordinator.initiate_cutover(migration.id)


async def appended(process: Process, tenant: UUID, streams: int = 3, events: int = 4) -> list[UUID]:
    """Streams of several events, appended by turns."""
    made = [uuid4() for _ in range(streams)]
    for version in range(events):
        for stream in made:
            await process.append(tenant, stream, version)
    return made


async def versions(world: World, side: str) -> dict[UUID, list[int]]:
    rows = await getattr(world, side).fetch(
        f"select aggregate_id, version from {table(side)} where tenant_id = $1"
        " order by global_position",
        world.tenant,
    )
    found: dict[UUID, list[int]] = {}
    for stream, version in rows:
        found.setdefault(stream, []).append(version)
    return found


def whole(found: dict[UUID, list[int]]) -> bool:
    return all(each == list(range(1, len(each) + 1)) for each in found.values())


async def assert_home(world: World, process: Process, side: str, store: str) -> None:
    """Route and fences say so, and an append goes there."""
    route = await process.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.migration_state) == (store, "normal")
    before = len(await world.ids(side))
    await process.append(world.tenant)
    assert len(await world.ids(side)) == before + 1
