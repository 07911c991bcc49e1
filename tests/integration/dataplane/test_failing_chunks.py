"""Which error a pass reports where one of several chunks fails, and the others with it."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from eventsource.dataplane import DataPlaneError, PassSpec
from tests.support.waiting import until
from tests.support.worlds.rows_by_hand import (
    TARGET_TABLE,
    World,
    backends,
    bare_world,  # noqa: F401 - the fixture "world"
)

#: Rows of a chunk that goes straight into the table.
CHUNK = 250


async def hold_back(
    connection: asyncpg.Connection, table: str, chunk_of: str, fails: bool = False
) -> None:
    """Rows of a chunk wait for the lock of its number; the second one may fail then."""
    await connection.execute(
        "create sequence arrivals;"
        " create function hold_back() returns trigger language plpgsql as $$"
        f" declare chunk int := {chunk_of}; begin if chunk is null then return new; end if;"
        " perform nextval('arrivals');"
        # Not a wait for a lock, which a chunk gives up soon.
        " while not pg_try_advisory_xact_lock_shared(chunk) loop perform pg_sleep(0.01); end loop;"
        f" if chunk = 2 and {fails} then raise 'it is full' using errcode = 'disk_full'; end if;"
        " return new; end $$;"
        f' create trigger hold_back before insert on "{table}"'
        " for each row execute function hold_back();"
        " select pg_advisory_lock(1), pg_advisory_lock(2)"
    )


async def until_arrived(connection: asyncpg.Connection, count: int, or_done: Any = None) -> None:
    async def arrived() -> bool:
        sql = "select is_called and last_value >= $1 from arrivals"
        return bool(await connection.fetchval(sql, count)) or bool(or_done and or_done.done())

    await until(arrived, f"the arrival {count}")


async def until_waiting(connection: asyncpg.Connection) -> None:
    async def waiting() -> bool:
        return bool(
            await connection.fetchval("select exists (select from pg_locks where not granted)")
        )

    await until(waiting, "a session waiting for a lock")


async def test_what_fails_a_chunk_is_not_hidden_by_the_mapping_of_the_one_before(
    world: World,
) -> None:
    """The mapping of the second is dropped in its transaction, and the first goes on in that one.

    It failed there with 25P02 at the control database, as a fault that does not pass.
    """
    before = await world.snapshot()
    await world.append(2 * CHUNK)
    spec = await world.start_pass(PassSpec(1, before, await world.snapshot(), staged=True))
    session = await world.open(chunk_rows=CHUNK)
    first = (await world.rows("source"))[0]
    # The first chunk finds it mapped, lets the second have the connection, and waits for it again.
    mapped = world.config.migration_id, first[0], first[0] + world.config.offset, first[1]
    await world.control.execute(
        "insert into migration_position_mappings (migration_id, source_position, target_position,"
        " event_id) values ($1, $2, $3, $4)",
        *mapped,
    )
    await hold_back(
        world.target,
        TARGET_TABLE,
        f"case new.version when 1 then 1 when {CHUNK + 1} then 2 end",
        True,
    )
    mapping = "migration_position_mappings"
    await hold_back(world.control, mapping, f"case new.source_position when {first[0]} then 1 end")
    blocker = await world.connect_control()
    running = asyncio.create_task(session.run(spec))
    await until_arrived(world.target, 2)
    # Once the first chunk has met its row, before the second has begun.
    await blocker.execute("begin")
    locking = asyncio.create_task(blocker.execute(f"lock table {mapping}"))
    await until_waiting(world.control)
    await world.control.execute("select pg_advisory_unlock(1)")
    await locking
    await until_waiting(world.control)
    await world.target.execute("select pg_advisory_unlock(2)")

    async def second_has_failed() -> bool:
        return await backends(world) == 1

    await until(second_has_failed, "the end of the second chunk")
    await blocker.execute("commit")
    await until_arrived(world.control, 2, running)
    await world.target.execute("select pg_advisory_unlock(1)")
    with pytest.raises(DataPlaneError) as caught:
        await asyncio.wait_for(running, 10)
    assert (caught.value.sqlstate, caught.value.detail["side"]) == ("53100", "target")


#: Where a statement of a chunk fails that others follow at once: at which side, what it does there,
#: whether the pass is a later one, and how many rows it has.
FOLLOWED = {
    "what an interrupted pass has mapped": ("control", "delete", False, 5),
    "the mapping of a few rows": ("control", "insert", True, 5),
    "the rows of a few": ("target", "insert", True, 5),
    "the progress of many": ("target", "update", True, CHUNK),
}


@pytest.mark.parametrize("failing", FOLLOWED)
async def test_what_fails_in_a_transaction_is_not_hidden_by_what_follows_it(
    world: World, failing: str
) -> None:
    """Sent one right after the other, the second one hears of the end of the transaction alone.

    Which of the two was reported was chance, and one of the two does not pass.
    """
    side, event, staged, rows = FOLLOWED[failing]
    before = await world.snapshot()
    await world.append(rows)
    spec = PassSpec(1, before, await world.snapshot(), staged=True) if staged else None
    started = await world.start_pass(spec) if spec is not None else await world.bulk()
    table = {
        "delete": "migration_position_mappings",
        "insert": "migration_position_mappings" if side == "control" else f'"{TARGET_TABLE}"',
        "update": "eventsource_copy_progress",
    }[event]
    connection = world.control if side == "control" else world.target
    await connection.execute(
        "create function fill_up() returns trigger language plpgsql as"
        " $$ begin raise 'it is full' using errcode = 'disk_full'; end $$;"
        f" create trigger fill_up before {event} on {table}"
        " for each statement execute function fill_up()"
    )
    told = set()
    for _ in range(20):
        session = await world.open()
        with pytest.raises(DataPlaneError) as caught:
            await session.run(started)
        told.add((caught.value.sqlstate, caught.value.detail["side"]))
        await session.close()
    assert told == {("53100", side)}
