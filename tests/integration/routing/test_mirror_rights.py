"""What the mirror's functions write for whom: anybody who may insert can call them."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from tests.integration.routing.test_mirror import following, mirrored
from tests.support.worlds.three_databases import TARGET_TABLE, World, insert, table

_PERMIT = "select eventsource_mirror_permit($1, $2, $3)"


@pytest.mark.parametrize("state", ["aborting", "open", "standby", "retired"])
async def test_nothing_is_mirrored_to_a_target_that_is_not_closed(world: World, state: str) -> None:
    """An abort deletes there, or the tenant writes there itself."""
    migration = await following(world)
    given = (TARGET_TABLE, world.tenant, migration.id)
    assert await world.target.fetchval(_PERMIT, *given)
    await world.target.execute("update eventsource_fences set state = $1", state)
    assert not await world.target.fetchval(_PERMIT, *given)
    await world.target.execute("update eventsource_fences set state = 'closed'")
    await world.coordinator.abort_migration(migration.id)


async def test_rows_of_another_tenant_are_not_mirrored(world: World) -> None:
    """The function writes with its owner's rights, and past the guard."""
    migration = await following(world)
    await world.here.append(world.tenant)
    await mirrored(world, migration, 1)
    other = await insert(world.source, uuid4())
    mine = await insert(world.source, world.tenant)
    events = [other["event_id"], mine["event_id"]]
    first = await world.source.fetchrow(f"select * from {table('source')} limit 1")
    names = [name for name in dict(first or {}) if name != "transaction_id"]
    texts = ", ".join(f'"{name}"::text' for name in names)
    rows = await world.source.fetch(
        f"select {texts} from {table('source')} where event_id = any ($1)", events
    )
    assert len(rows) == 2
    written = await world.target.fetchval(
        "select eventsource_mirror($1, $2, $3, $4, $5)",
        TARGET_TABLE, world.tenant, migration.id, names,
        json.dumps([list(row.values()) for row in rows]),
    )  # fmt: skip
    there = await world.target.fetch(f"select event_id from {table('target')}")
    assert other["event_id"] not in {row["event_id"] for row in there}
    assert written == 1
    await world.coordinator.abort_migration(migration.id)
