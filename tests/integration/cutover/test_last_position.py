"""The decision names where the source ended, and that has to be seen.

Null is what the server says of a sequence that has given nothing; and also, where it is of version
18, of one that the role may not read, and of a column that has none of its own any more. Once each
was 0: the move was decided, `verify` compared nothing after it, and the old store's feed hid all of
the tenant's events as if they had been carried back.
"""

from __future__ import annotations

import asyncpg
import pytest

from eventsource.migration import PreflightError, background
from tests.support.at_the_cutover import assert_still_at_the_source
from tests.support.owning_role import owning_role
from tests.support.worlds.three_databases import World, make_world, table


async def test_a_sequence_that_the_column_has_lost_refuses_the_cutover(world: World) -> None:
    await world.source.execute(
        f"alter table {table('source')} alter column global_position drop identity;"
        f"create sequence positions owned by {table('source')}.global_position;"
        f"alter table {table('source')} alter global_position set default nextval('positions')"
    )
    await world.here.source.create_schema()
    await world.seed(5)
    migration = await world.dual_write()
    await world.source.execute("alter sequence positions owned by none")
    with pytest.raises(PreflightError, match="cannot be seen"):
        await world.coordinator.initiate_cutover(migration.id)
    await assert_still_at_the_source(world)
    await world.source.execute(
        f"alter sequence positions owned by {table('source')}.global_position"
    )
    done = await world.coordinator.initiate_cutover(migration.id)
    assert done.fence_position == await world.source.fetchval("select last_value from positions")


async def test_a_sequence_that_may_not_be_read_any_more_refuses_the_cutover(
    source_dsn: str, target_dsn: str, control_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    # The server of version 18 is the source.
    dsns = {"source": target_dsn, "target": source_dsn, "control": control_dsn}
    async with owning_role(dsns) as role:
        world = await make_world(role.dsns)
        await world.seed(5)
        migration = await world.dual_write()
        superuser = await asyncpg.connect(dsns["source"])
        sequence = await superuser.fetchval(
            "select pg_get_serial_sequence($1, 'global_position')", table("source")
        )
        await superuser.execute(f"revoke all on sequence {sequence} from {role.quoted}")
        with pytest.raises(PreflightError, match="cannot be seen"):
            await world.coordinator.initiate_cutover(migration.id)
        await superuser.execute(f"grant select on sequence {sequence} to {role.quoted}")
        last = await superuser.fetchval(f"select last_value from {sequence}")
        await superuser.close()
        done = await world.coordinator.initiate_cutover(migration.id)
        assert done.fence_position == last
        await world.close()


#: How far the source has come, and where the target's sequence ends.
LONG_IN_USE = [(2**62, None), (2**63 - 5_000_000_000, None), (3_000_000_000, 8_000_000_000)]


@pytest.mark.parametrize(("given", "most"), LONG_IN_USE, ids=["half", "the end", "a limit"])
async def test_a_move_that_may_begin_may_be_decided_on_and_taken_back(
    world: World, given: int, most: int | None
) -> None:
    """The numbers that are reserved once are not asked for a second time."""
    sequence = "select pg_get_serial_sequence($1, 'global_position')"
    if most is not None:
        name = await world.target.fetchval(sequence, table("target"))
        await world.target.execute(f"alter sequence {name} maxvalue {most}")
    await world.source.fetchval(
        f"select setval(({sequence})::regclass, $2)", table("source"), given
    )
    await world.seed(5)
    process = await world.process(keep_way_back=3600)
    migration = await world.dual_write(process=process)
    done = await process.coordinator.initiate_cutover(migration.id)
    assert done.fence_position == given + 5
    back = await process.coordinator.return_migration(done.id)
    assert back.state == "migrated"


@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_events_above_all_that_was_drawn_refuse_the_cutover(world: World, role: str) -> None:
    """A subscription of the source's brings positions of its own: the old store's feed then hid
    events that were never carried back, and nothing could return past them."""
    await world.seed(20)
    process = await world.process(keep_way_back=3600)
    migration = await world.dual_write(process=process)
    writer = await world.connect(session_replication_role=role)
    await writer.execute(
        f"insert into {table('source')} (global_position, event_id, aggregate_id, aggregate_type,"
        " event_type, tenant_id, version, timestamp, payload) select 20 + g, gen_random_uuid(),"
        " gen_random_uuid(), 'Note', 'world.noted', $1, 1, now(), '{\"n\": 1, \"text\": \"\"}'"
        " from generate_series(1, 10) g",
        world.tenant,
    )
    with pytest.raises(PreflightError, match="has drawn no more than 20") as refused:
        await process.coordinator.initiate_cutover(migration.id)
    fence = "select state from eventsource_fences where role = 'source'"
    assert await world.source.fetchval(fence) == "open"
    said = str(refused.value)
    await world.source.execute(said[said.index("select setval") :])
    done = await process.coordinator.initiate_cutover(migration.id)
    assert done.fence_position == 30
    assert len([each async for each in process.source.read_all()]) == 30
    await process.append(world.tenant)
    back = await process.coordinator.return_migration(done.id)
    assert back.state == "migrated"
    assert set(await world.ids("source")) == set(await world.ids("target"))
