"""A million old rows go beside another tenant's appends, by a process that is killed on the way."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState
from eventsource.testing import WriterProcess
from tests.faults.arena import Stalls
from tests.faults.matrix import OTHERS
from tests.faults.processes import Process, start_driver, start_writer
from tests.support.worlds.two_servers import World, two_servers

#: Rows of the tenant that has moved.
ROWS = int(os.environ.get("CLEANUP_ROWS", "1000000"))

#: Of them so many are left when the process is killed, each time.
KILLED_AT = (0.9, 0.6, 0.2)

#: How long one process may take to get there (seconds).
PATIENCE = 1200.0

_PAST = """
insert into {table} (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                     timestamp, actor_id, payload, metadata)
select gen_random_uuid(), md5(($1::uuid)::text || n % ($2 / 20))::uuid, 'Past',
       'acceptance.Past', $1, n / ($2 / 20) + 1, now(), 'someone',
       jsonb_build_object('number', n, 'text', repeat('x', 100)), '{{}}'
from generate_series(0, $2::int - 1) as n order by n
"""

# Its digest changes with any row, and with any position.
_DIGEST = "select count(*), sum(hashtextextended(t::text, 0))::text from {table} t"


@pytest.mark.infra
@pytest.mark.timeout(7200)
async def test_a_million_rows_go_beside_others_and_three_kills(
    source_dsn: str, target_dsn: str, control_dsn: str, tmp_path: Path
) -> None:
    async with two_servers(source_dsn, target_dsn, control_dsn, tmp_path) as world:
        tenant, bystander = uuid4(), uuid4()
        await world.seed([bystander], 200)
        await world.source_store.pool.execute(
            _PAST.format(table=world.source_store.table), tenant, ROWS, timeout=1200
        )
        await _moved(world, tenant)
        before = await _digest(world)
        config = world.writer_config(
            "bystander", [bystander], tasks=3, appends_per_second=20.0, max_events=2
        )
        stalls = Stalls()
        try:
            with start_writer(config) as writer:
                await asyncio.to_thread(writer.wait_for_acknowledged, 1, bystander)
                await _cleaned_up(world, tenant)
                await asyncio.to_thread(writer.wait_for_acknowledged, 10, bystander)
        finally:
            stalls.end()
        assert await _left(world, tenant) == 0
        assert await _digest(world) == before, "the store where the tenant lives was touched"
        await _others_did_not_notice(world, writer, bystander, stalls)


async def _moved(world: World, tenant: UUID) -> None:
    migration = await world.start(tenant)
    async with asyncio.timeout(1800):
        async for now in world.coordinator.stream_status(migration.id):
            if now.state is MigrationState.DUAL_WRITE:
                break
    done = await world.coordinator.initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED


async def _cleaned_up(world: World, tenant: UUID) -> None:
    """The same command again after each kill, until it comes to its end."""
    for share in KILLED_AT:
        process = start_driver(world, f"killed-at-{share}", tenant=str(tenant), steps=["cleanup"])
        await _until_so_many_are_left(world, tenant, process, int(share * ROWS))
        process.kill()
        assert await asyncio.to_thread(process.wait, 30) == -9
        assert await _left(world, tenant) > 0, "it was killed after its end"
    last = start_driver(world, "last", tenant=str(tenant), steps=["cleanup"])
    assert await asyncio.to_thread(last.wait, PATIENCE) == 0, last.output()


async def _until_so_many_are_left(world: World, tenant: UUID, process: Process, rows: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while await _left(world, tenant) >= rows:
        assert process.poll() is None, process.output()
        assert time.monotonic() < deadline, f"{rows:,} rows are still not all that is left"
        # To count them is work too.
        await asyncio.sleep(0.5)


async def _left(world: World, tenant: UUID) -> int:
    table = world.source_store.table
    query = f"select count(*) from {table} where tenant_id = $1"
    return int(await world.source_store.pool.fetchval(query, tenant))


async def _digest(world: World) -> tuple[int, str]:
    connection = await asyncpg.connect(world.target.dsn)
    try:
        row = await connection.fetchrow(_DIGEST.format(table=world.target_store.table), timeout=600)
        assert row is not None
        return row[0], row[1]
    finally:
        await connection.close()


async def _others_did_not_notice(
    world: World, writer: WriterProcess, bystander: UUID, stalls: Stalls
) -> None:
    """I8, but for what this machine keeps an idle process waiting by itself."""
    attempts = writer.attempts()
    stall = stalls.longest(0, float("inf"))
    report = await world.check_bystander(bystander, attempts, longest=OTHERS + stall)
    report.assert_clean()
    latencies = [each.latency for each in attempts if each.latency is not None]
    print(
        f"{ROWS:,} rows: longest of {len(latencies):,} appends beside it"
        f" {max(latencies) * 1000:.0f} ms; the machine stood still for {stall * 1000:.0f} ms"
    )
