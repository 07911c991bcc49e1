"""What a target must hold to be opened, and what a source must have to decide."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import Migration
from tests.support.waiting import until
from tests.support.worlds.three_databases import TARGET_TABLE, World, table

OPEN = "select eventsource_open_target($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"


async def decided(world: World) -> tuple[Migration, dict[str, Any]]:
    """A move that has been decided, its target closed again, and what the decision names."""
    await world.seed(20)
    migration = await world.migrate()
    await world.target.execute("update eventsource_fences set state = 'closed', generation = 0")
    names = await world.source.fetchrow(
        "select decided_pass, decided_token, decided_rows, decided_digest, decided_total"
        " from eventsource_fences"
    )
    assert names is not None
    return migration, dict(names)


async def opened(
    world: World, migration: Migration, names: dict[str, Any], last_carried: int = 20
) -> Any:
    return await world.target.fetchval(
        OPEN, TARGET_TABLE, world.tenant, migration.id, 1, last_carried, *names.values()
    )


async def state(world: World) -> tuple[str, int]:
    row = await world.target.fetchrow("select state, generation from eventsource_fences")
    assert row is not None
    return row["state"], row["generation"]


async def test_the_decision_names_what_the_target_holds(world: World) -> None:
    migration, names = await decided(world)
    row = await world.target.fetchrow(
        "select pass_number, witness_token, pass_rows, pass_digest, proven_rows + pass_rows"
        " from eventsource_copy_progress"
    )
    assert row is not None
    assert tuple(row) == tuple(names.values())
    assert names["decided_total"] == 20
    assert await opened(world, migration, names) == "open"
    assert await state(world) == ("open", 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decided_pass", 1),
        ("decided_token", uuid4()),
        ("decided_rows", 7),
        ("decided_digest", bytes(15) + b"1"),
        ("decided_total", 21),
        ("decided_token", None),
    ],
)
async def test_a_target_that_holds_something_else_stays_closed(
    world: World, name: str, value: object
) -> None:
    migration, names = await decided(world)
    assert await opened(world, migration, names | {name: value}) == "closed"
    assert await state(world) == ("closed", 0)


@pytest.mark.parametrize("before", ["aborting", "moved", "open"])
async def test_only_a_closed_target_is_opened(world: World, before: str) -> None:
    migration, names = await decided(world)
    await world.target.execute("update eventsource_fences set state = $1", before)
    assert await opened(world, migration, names) == before
    assert await state(world) == (before, 0)


async def test_a_process_of_an_older_version_opens_nothing(world: World) -> None:
    migration, _ = await decided(world)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="what the target must hold"):
        await world.target.fetchval(
            "select eventsource_open_target($1, $2, $3, 1, 20)",
            TARGET_TABLE, world.tenant, migration.id,
        )  # fmt: skip
    assert await state(world) == ("closed", 0)


async def test_a_decision_of_an_older_version_is_carried_again(world: World) -> None:
    """Its driver died before it opened the target, and it has not said what that must hold."""
    migration, _ = await decided(world)
    await world.source.execute("update eventsource_fences set decided_token = null")
    await world.control.execute("update tenant_migrations set state = 'cutover_paused'")
    await world.here.coordinator.work(once=True)
    await world.reach(migration, "migrated")
    assert (await state(world))[0] == "open"
    assert await world.source.fetchval("select decided_token is not null from eventsource_fences")
    await world.assert_moved(await world.here.migrations.get(migration.id))


@pytest.mark.parametrize("lost", ["source", "target"])
async def test_a_repair_opens_nothing_over_a_gap(world: World, lost: str) -> None:
    """A last pass over nothing would prove nothing: the whole is counted."""
    migration, _ = await decided(world)
    connection = await world.connect(lost, **{"eventsource.migration": str(migration.id)})
    await connection.execute(
        f"delete from {table(lost)} where global_position = (select min(global_position)"
        f" from {table(lost)} where tenant_id = $1)",
        world.tenant,
    )
    await world.target.execute("update eventsource_copy_progress set witness_token = null")
    await world.control.execute("update tenant_migrations set state = 'cutover_paused'")
    working = world.here.coordinator._drivers
    working.ensure(await world.here.migrations.get(migration.id))

    async def said() -> bool:
        found = await world.here.migrations.get(migration.id)
        return "nothing is opened" in (found.error_message or "")

    await until(said, "the driver to say what is missing")
    assert await state(world) == ("closed", 0)


async def test_a_sequence_that_is_ahead_is_left_alone(world: World) -> None:
    migration, names = await decided(world)
    sequence = await world.target.fetchval(
        "select pg_get_serial_sequence($1, 'global_position')", table("target")
    )
    ahead = await world.target.fetchval(f"select last_value from {sequence}")
    assert await opened(world, migration, names) == "open"
    assert await world.target.fetchval(f"select last_value from {sequence}") == ahead > 20


async def test_a_sequence_that_is_not_is_moved(world: World) -> None:
    migration, names = await decided(world)
    sequence = await world.target.fetchval(
        "select pg_get_serial_sequence($1, 'global_position')", table("target")
    )
    await world.target.fetchval("select setval($1::text::regclass, 3)", sequence)
    assert await opened(world, migration, names) == "open"
    assert await world.target.fetchval(f"select last_value from {sequence}") == 20
