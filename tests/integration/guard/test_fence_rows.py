"""Several fences of one tenant in one table: it has come, gone and come back."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationError
from eventsource.migration.event_table import EventTable, OwnTable
from eventsource.migration.tables import fences, guard
from eventsource.migration.tables.fences import Fence
from tests.support.application import SOURCE
from tests.support.one_fence import refused
from tests.support.worlds.three_databases import World, insert, is_blocked

#: As a guard leaves its fences: it does not touch those again that have it.
_PLACED = (
    "update eventsource_fences set table_oid = to_regclass(table_name)::oid where table_oid is null"
)


async def own_table(world: World) -> OwnTable:
    return EventTable(await world.connect(), await world.here.source.address())


async def fence(table: OwnTable, tenant: UUID, role: str, state: str, generation: int) -> Fence:
    """One more fence of the tenant, as a whole migration would have left it."""
    before = await fences.read(table, tenant)
    migration = uuid4()
    await table.connection.execute(
        "insert into eventsource_fences (table_name, tenant_id, role, state, generation,"
        " migration_id, store_id, moved_to, patience_ms, lock_id) values ('events', $1, $2, $3, $4,"
        " $5, 'shared', 'elsewhere', 500, coalesce($6::integer, 0))",
        str(tenant), role, state, generation, migration, before.lock_id if before else None,
    )  # fmt: skip
    found = await fences.of_migration(table, migration, role)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("rows", "refusal"),
    [
        ([("source", "moved", 1), ("target", "open", 2)], None),
        ([("target", "open", 2), ("source", "moved", 1)], None),
        ([("target", "open", 1), ("source", "moved", 2)], "EVF01"),
        ([("source", "moved", 2), ("target", "closed", 2)], "EVF03"),
        ([("source", "moved", 2), ("target", "aborting", 2)], "EVF03"),
        ([("source", "moved", 3), ("target", "open", 2), ("source", "moved", 1)], "EVF01"),
        ([("target", "open", 1), ("source", "open", 1)], None),
        ([("source", "moved", 1), ("target", "open", 2), ("source", "moved", 3),
          ("target", "closed", 3)], "EVF03"),
    ],
)  # fmt: skip
async def test_the_guard_obeys_the_fence_of_the_highest_generation(
    world: World, rows: list[tuple[str, str, int]], refusal: str | None
) -> None:
    table = await own_table(world)
    made = [await fence(table, world.tenant, *row) for row in rows]
    for each in made:
        if each.role == "target":
            await guard.install(table, each, world.tenant, lambda: True)
    await guard.install(table, made[-1], world.tenant, lambda: True)
    writing = insert(await world.connect(), world.tenant)
    if refusal is None:
        await writing
    else:
        await refused(writing, refusal)
    newest = await fences.read(table, world.tenant)
    assert newest is not None
    # One that has come back is not guarded as if it had left.
    guarded = await world.source.fetchval("select eventsource_guarded('events')::text")
    assert (str(world.tenant) in json.loads(guarded or "{}")) == (newest.role == "source")
    order = {"closed": 0, "aborting": 0, "moved": 1, "open": 2}
    assert newest == min(made, key=lambda f: (-f.generation, order[f.state], f.role))


async def test_a_tenant_that_leaves_again_is_guarded_by_its_newest_fence(world: World) -> None:
    table = await own_table(world)
    arrived = await fence(table, world.tenant, "target", "open", 1)
    it = await guarded_again(world, table, 1)
    assert it.lock_id == arrived.lock_id
    assert it.fence_id != arrived.fence_id
    await insert(world.source, world.tenant)
    await refused(world.source.execute("delete from events"), "EVF02")
    await guard.remove(table, it)
    await world.source.execute("delete from events")
    assert await fences.read(table, world.tenant) == arrived


async def guarded_again(world: World, table: OwnTable, generation: int) -> Fence:
    raised = await fences.raise_fence(
        table, tenant_id=world.tenant, migration_id=uuid4(), store_id=SOURCE, role="source",
        generation=generation, budget_seconds=1.0,
    )  # fmt: skip
    await guard.install(table, raised, world.tenant, lambda: True)
    return raised


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("decided", [False, True])
@pytest.mark.parametrize("by_itself", [False, True])
async def test_a_snapshot_from_before_the_newest_fence_is_refused(
    world: World, level: str, decided: bool, by_itself: bool
) -> None:
    """It shows the fence of the arrival, which is open; and which nobody has to have touched."""
    table = await own_table(world)
    await fence(table, world.tenant, "target", "open", 1)
    await world.source.execute(_PLACED)
    writer = await world.connect()
    await writer.execute(f"begin isolation level {level}")
    await writer.fetchval("select 1 from pg_class")
    if by_itself:
        it = await fence(table, world.tenant, "source", "open", 1)
        await world.source.execute(_PLACED)
        await guard.install(table, it, world.tenant, lambda: True)
    else:
        it = await guarded_again(world, table, 1)
    if decided:
        await world.source.execute(
            "update eventsource_fences set state = 'moved', generation = 2 where fence_id = $1",
            it.fence_id,
        )
    await refused(insert(writer, world.tenant), "40001")


async def test_all_fences_of_a_tenant_share_one_lock(world: World) -> None:
    table = await own_table(world)
    await fence(table, world.tenant, "target", "open", 1)
    it = await guarded_again(world, table, 1)
    holder = await world.connect()
    writer = await world.connect()
    async with holder.transaction():
        await fences.lock_exclusively(holder, it)
        waiting = asyncio.create_task(insert(writer, world.tenant))
        await is_blocked(world, writer.get_server_pid())
        await insert(world.source, world.other)
    await waiting


async def test_only_one_departure_is_open(world: World) -> None:
    table = await own_table(world)
    await fence(table, world.tenant, "source", "open", 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await fence(table, world.tenant, "source", "open", 2)
    await fence(table, world.tenant, "source", "moved", 2)
    await fence(table, world.other, "source", "open", 1)


@pytest.mark.parametrize(
    ("role", "others", "taken"),
    [
        ("source", [], True),
        ("source", [("target", "open", 5)], True),
        ("source", [("source", "moved", 4), ("target", "open", 5)], True),
        ("source", [("source", "moved", 5)], False),
        ("source", [("source", "open", 5)], False),
        ("source", [("target", "closed", 5)], False),
        ("source", [("target", "open", 6)], False),
        ("target", [], True),
        ("target", [("source", "moved", 5)], True),
        ("target", [("target", "open", 5)], False),
        ("target", [("target", "aborting", 5)], False),
        ("target", [("source", "moved", 6)], False),
    ],
)
async def test_a_fence_is_raised_only_over_what_is_over(
    world: World, role: str, others: list[tuple[str, str, int]], taken: bool
) -> None:
    table = await own_table(world)
    made = [await fence(table, world.tenant, *row) for row in others]
    migration = uuid4()

    async def raise_it() -> Fence:
        return await fences.raise_fence(
            table, tenant_id=world.tenant, migration_id=migration, store_id=SOURCE, role=role,
            generation=5, budget_seconds=1.0,
        )  # fmt: skip

    if taken:
        # Twice, as a driver that is taken up does.
        assert await raise_it() == await raise_it()
    else:
        with pytest.raises(MigrationError, match="belongs to another migration"):
            await raise_it()
    for each in made:
        assert await fences.of_migration(table, each.migration_id, each.role) == each
    rows = await world.source.fetchval("select count(*) from eventsource_fences")
    assert rows == len(made) + taken


async def test_migrations_that_begin_at_once_do_not_both_get_a_fence(world: World) -> None:
    tables = [await own_table(world) for _ in range(6)]
    raised = await asyncio.gather(
        *(
            fences.raise_fence(
                each, tenant_id=world.tenant, migration_id=uuid4(), store_id=SOURCE,
                role="target", generation=0, budget_seconds=1.0,
            )
            for each in tables
        ),
        return_exceptions=True,
    )  # fmt: skip
    assert sum(isinstance(each, Fence) for each in raised) == 1
    assert sum(isinstance(each, MigrationError) for each in raised) == 5


async def test_an_aborted_return_changes_no_row_but_its_own(world: World) -> None:
    await world.seed(5)
    first = await world.migrate()
    await world.source.execute(
        f"select set_config('eventsource.migration', '{first.id}', false);delete from events"
    )
    before = [
        await each.fetch("select * from eventsource_fences order by fence_id")
        for each in (world.source, world.target)
    ]
    here = world.here
    back = await here.coordinator.start_migration(
        world.tenant, here.target, here.source, "dedicated-a", SOURCE
    )
    await world.reach(back, "dual_write")
    await refused(insert(await world.connect(), world.tenant), "EVF03")
    await world.coordinator.abort_migration(back.id)
    error = await refused(insert(await world.connect(), world.tenant), "EVF01")
    assert json.loads(error.detail or "")["migration_id"] == str(first.id)
    after = [
        await each.fetch("select * from eventsource_fences order by fence_id")
        for each in (world.source, world.target)
    ]
    assert after == before
    await here.append(world.tenant)


async def test_the_peer_of_a_fence_is_the_other_store(world: World) -> None:
    await world.seed(1)
    migration = await world.migrate()
    found = await world.here.migrations.get(migration.id)
    for side, other in (("source", found.target_identity), ("target", found.source_identity)):
        store = world.here.source if side == "source" else world.here.target
        raised = await fences.of_migration(
            EventTable(await world.connect(side), await store.address()), migration.id, side
        )
        assert raised is not None
        assert other is not None
        assert json.loads(raised.peer or "") == json.loads(other.to_json())


async def test_nothing_is_decided_where_a_later_fence_speaks(world: World) -> None:
    """It was not there when the migration began: somebody has repaired meanwhile."""
    await world.seed(5)
    migration = await world.dual_write()
    table = await own_table(world)
    await fence(table, world.tenant, "target", "open", 9)
    with pytest.raises(MigrationError, match="changed by somebody else"):
        await world.coordinator.initiate_cutover(migration.id, force=True)
    own = await fences.of_migration(table, migration.id, "source")
    assert own is not None
    assert own.state == "open"
