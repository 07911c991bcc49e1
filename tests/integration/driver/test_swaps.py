"""Tenants that leave a store while others arrive in it: neither takes the other's positions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest

from eventsource.identifiers import qualified
from eventsource.migration import Migration, MigrationState
from eventsource.migration.errors import TargetBusyError
from eventsource.migration.tables.fences import MAKING_CLASS
from eventsource.migration.tables.reserved_block import HEADROOM, Departure, is_used_up, last_of
from tests.support.application import SOURCE, TARGET, Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import TARGET_TABLE, World, table


@asynccontextmanager
async def appending(process: Process, tenant: UUID, written: list[UUID]) -> AsyncIterator[None]:
    """Somebody who appends without a pause; keeps every stream that was acknowledged."""

    async def run() -> None:
        while True:
            stream = uuid4()
            await process.append(tenant, stream)
            written.append(stream)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(run())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def living_at_the_target(world: World) -> UUID:
    """A tenant that has moved with nothing, and has written since."""
    tenant = uuid4()
    await world.migrate(tenant)
    await world.seed(100, tenant, side="target")
    return tenant


async def states(world: World, *tenants: UUID) -> list[str]:
    rows = await world.control.fetch(
        "select state from tenant_migrations where tenant_id = any ($1::text[])"
        " order by created_at",
        [str(tenant) for tenant in tenants],
    )
    return [row["state"] for row in rows]


@pytest.mark.parametrize("first", ["together", "leaves first", "arrives first"])
async def test_two_tenants_change_places_under_load(world: World, first: str) -> None:
    """Each at the first call, and without a second copy."""
    arriving = await living_at_the_target(world)
    leaving = world.tenant
    await world.seed(100)
    there = await world.process()
    pairs = [(leaving, SOURCE, TARGET, world.here), (arriving, TARGET, SOURCE, there)]
    if first == "arrives first":
        pairs.reverse()
    written: dict[UUID, list[UUID]] = {leaving: [], arriving: []}
    async with (
        appending(world.here, leaving, written[leaving]),
        appending(there, arriving, written[arriving]),
        asyncio.timeout(60),
        asyncio.TaskGroup() as moves,
    ):
        for tenant, origin, goal, process in pairs:
            moves.create_task(process.coordinator.move(tenant, origin, goal))
            if first != "together":
                await asyncio.sleep(0.3)
    assert await states(world, leaving, arriving) == ["migrated"] * 3
    for tenant, side in ((leaving, "target"), (arriving, "source")):
        ids = await world.ids(side, tenant)
        assert len(ids) == len(set(ids))
        streams = await getattr(world, side).fetch(
            f"select aggregate_id from {table(side)} where tenant_id = $1", tenant
        )
        assert set(written[tenant]) <= {row["aggregate_id"] for row in streams}
        # The last append may have been made, and not acknowledged.
        assert len(ids) - 100 - len(written[tenant]) in (0, 1)


async def test_an_arrival_waits_for_a_departure_that_needs_its_positions(world: World) -> None:
    """It says for whom, and goes on by itself when that one has moved."""
    arriving = await living_at_the_target(world)
    await world.seed(100)
    leaving = await world.dual_write()
    back = await world.here.coordinator.start_migration(
        arriving, world.here.target, world.here.source, TARGET, SOURCE
    )

    async def waits() -> Migration | None:
        found = await world.here.migrations.get(back.id)
        return found if str(leaving.id) in (found.error_message or "") else None

    assert "leaving table" in str((await until(waits, "a word about the departure")).error_message)
    for _ in range(3):
        await world.here.append(world.tenant)
    moved = await world.coordinator.initiate_cutover(leaving.id, force=True)
    assert moved.state is MigrationState.MIGRATED
    await world.assert_moved(moved)
    await world.reach(back, "dual_write")
    assert (await world.coordinator.initiate_cutover(back.id, force=True)).error_message is None


async def test_who_arrives_while_another_reserves_is_seen(world: World) -> None:
    """Between the block of the departure and its fence: it reserves again, and waits its turn."""
    arriving = await living_at_the_target(world)
    await world.seed(100)
    session = await world.connect()
    address = await world.here.source.address()
    name = qualified(address.schema, address.table)
    await session.execute(
        "select pg_advisory_lock($1, hashtext($2))", MAKING_CLASS,
        f"{name} {world.tenant}",
    )  # fmt: skip
    leaving = await world.here.start(world.tenant)

    async def reserved() -> int | None:
        found: int | None = await world.target.fetchval(
            "select last_target_position from eventsource_copy_progress where migration_id = $1",
            leaving.id,
        )
        return found

    before = await until(reserved, "the block of the departure")
    there = await world.process()
    back = await there.coordinator.start_migration(
        arriving, there.target, there.source, TARGET, SOURCE
    )
    await world.reach(back, "dual_write")
    await session.execute("select pg_advisory_unlock_all()")

    async def waits() -> str | None:
        return (await world.here.migrations.get(leaving.id)).error_message

    await until(waits, "the departure to wait")
    await world.here.append(world.tenant)
    moved = await there.coordinator.initiate_cutover(back.id, force=True)
    assert moved.state is MigrationState.MIGRATED
    await world.reach(leaving, "dual_write")
    assert await reserved() != before
    moved = await world.coordinator.initiate_cutover(leaving.id, force=True)
    await world.assert_moved(moved)


async def test_an_arrival_goes_on_when_the_departure_is_aborted(world: World) -> None:
    arriving = await living_at_the_target(world)
    await world.seed(100)
    leaving = await world.dual_write()
    back = await world.here.coordinator.start_migration(
        arriving, world.here.target, world.here.source, TARGET, SOURCE
    )
    await asyncio.sleep(0.5)
    await world.coordinator.abort_migration(leaving.id)
    await world.reach(back, "dual_write")


async def test_a_small_arrival_does_not_wait_and_leaves_enough(world: World) -> None:
    """Its numbers are few, so it takes a part of what the departure has left."""
    arriving = await living_at_the_target(world)
    # As a store that nobody has moved into yet, whose numbers are small.
    sequence = f"pg_get_serial_sequence('\"{TARGET_TABLE}\"', 'global_position')::regclass"
    top = await world.target.fetchval(f'select max(global_position) from "{TARGET_TABLE}"')
    await world.target.execute(
        f'update "{TARGET_TABLE}" set global_position = global_position - $1', top - 1000
    )
    await world.target.execute(f"select setval({sequence}, 1000)")
    await world.seed(100)
    # The departure has a block above those numbers: its start sets them far up again.
    leaving = await world.dual_write()
    await world.target.execute(f"select setval({sequence}, 2000)")
    back = await world.here.coordinator.start_migration(
        arriving, world.here.target, world.here.source, TARGET, SOURCE
    )
    await world.reach(back, "dual_write")
    for _ in range(3):
        await world.here.append(world.tenant)
    head = await world.source.fetchval(f"select max(global_position) from {table('source')}")
    assert HEADROOM // 4 < head < HEADROOM
    moved = await world.coordinator.initiate_cutover(leaving.id, force=True)
    assert moved.state is MigrationState.MIGRATED


@pytest.mark.parametrize(
    "left", ["as much as usual", pytest.param("just enough", marks=pytest.mark.thorough)]
)
async def test_a_tenant_that_was_decided_on_waits_for_no_departure_that_leaves_it_enough(
    world: World, left: str
) -> None:
    """Its target has gone back and lost its block. Its source draws for others, not for it."""
    leaving = await living_at_the_target(world)
    await world.seed(20)
    done = await world.migrate()
    decided = await world.ids("source")
    back = await world.here.coordinator.start_migration(
        leaving, world.here.target, world.here.source, TARGET, SOURCE
    )
    await world.reach(back, "dual_write")
    await world.target.execute(
        f'delete from "{TARGET_TABLE}" where tenant_id = $1', world.tenant
    )  # fmt: skip
    for name in ("fences", "copy_progress", "copied_ranges"):
        await world.target.execute(
            f"delete from eventsource_{name} where migration_id = $1", done.id
        )  # fmt: skip
    if left == "just enough":
        sequence = f"pg_get_serial_sequence('\"{TARGET_TABLE}\"', 'global_position')::regclass"
        head = await world.target.fetchval(f"select pg_sequence_last_value({sequence})")
        await world.target.execute(
            "update eventsource_fences set bounds = jsonb_build_object($1::text, $2::bigint)"
            " where migration_id = $3",
            TARGET_TABLE, head + 2_000, back.id,
        )  # fmt: skip
    await world.control.execute(
        "update tenant_migrations set state = 'cutover_paused' where id = $1", done.id
    )
    await world.coordinator.resume_migration(done.id)
    await world.reach(done, "migrated")
    assert await world.ids("target", world.tenant) == decided
    await world.here.append(world.tenant)
    moved = await world.coordinator.initiate_cutover(back.id, force=True)
    assert moved.state is MigrationState.MIGRATED


async def test_a_way_back_that_stands_keeps_nobody_from_arriving(world: World) -> None:
    """It draws new positions, and stands for days."""
    keeper = await world.process(keep_way_back=7 * 86400.0)
    arriving = await living_at_the_target(world)
    await world.seed(100)
    home = await keeper.start(world.tenant)
    await world.reach(home, "dual_write")
    await keeper.coordinator.initiate_cutover(home.id, force=True)
    # The tenant's way back makes it one that leaves the target.
    another = uuid4()
    await world.seed(10, another)
    moving = await world.here.start(another)
    await world.reach(moving, "dual_write")
    assert arriving


def left(bound: int | None) -> Departure:
    return Departure(uuid4(), uuid4(), None if bound is None else {"events": bound})


def assert_last_of(
    bounds: list[int | None], numbers: int, last: int | None, *, is_decided: bool = False
) -> None:
    """``last`` is where the block ends beside those who leave; None: it has to wait."""

    def found() -> int:
        return last_of(
            "events", [left(bound) for bound in bounds],
            head=1_000, offset=1_000, numbers=numbers, headroom=HEADROOM, is_decided=is_decided,
        )  # fmt: skip

    if last is None:
        with pytest.raises(TargetBusyError, match="cut over or aborted"):
            found()
    else:
        assert found() == last


@pytest.mark.parametrize(
    ("bounds", "numbers", "last"),
    [
        ([], 500, 1_500 + HEADROOM),
        ([10**12], 500, 1_500 + HEADROOM),
        ([1_000 + 10**9], 500, 1_000 + 10**9 // 2),
        ([10**12, 1_000 + 10**9], 500, 1_000 + 10**9 // 2),
        ([1_000 + 10**9], 10**9, None),
        ([1_000 + 2 * 10**6], 500, None),
        ([None], 500, None),
        ([10**12, None], 500, None),
    ],
)
def test_how_much_an_arrival_takes(
    bounds: list[int | None], numbers: int, last: int | None
) -> None:
    assert_last_of(bounds, numbers, last)


@pytest.mark.parametrize(
    ("spare", "last"), [(2 * 10**6, 1_000 + 10**6), (1_000, 1_500), (998, None), (None, None)]
)
def test_a_tenant_that_was_decided_on_takes_no_more_than_half_either(
    spare: int | None, last: int | None
) -> None:
    assert_last_of([None if spare is None else 1_000 + spare], 500, last, is_decided=True)


def test_a_departure_that_has_given_up_its_block_keeps_nobody_waiting() -> None:
    given_up = Departure(uuid4(), uuid4(), {})
    assert last_of(
        "events", [given_up], head=0, offset=0, numbers=5, headroom=10
    ) == 15  # fmt: skip
    assert is_used_up(1000, 1000, 1000)
    assert not is_used_up(1005, 1000, 1000)


async def test_who_appends_during_a_copy_draws_no_number_that_arrives(world: World) -> None:
    """Of a column beside the position: the target's own next one would be one of the source's."""
    for side in ("source", "target"):
        await getattr(world, side).execute(
            f"alter table {table(side)} add column number bigserial unique"
        )
    await world.seed(50)
    await world.dual_write()
    drawn = await world.target.fetchval(
        "select nextval(pg_get_serial_sequence($1, 'number'))", table("target")
    )
    assert drawn > await world.source.fetchval(f"select max(number) from {table('source')}")
