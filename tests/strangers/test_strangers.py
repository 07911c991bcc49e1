"""Every set-up ends in one of two ways: the tenant is there, equal and fenced, or it was refused.

A refusal has a name, and has changed nothing: both catalogs and every row are what they were. Where
its remedy is a statement that can be run as it stands, it is run, and the refusal is gone.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import Migration, MigrationState, PreflightError
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import (
    Attempt,
    Cluster,
    Outcome,
    StoreAddress,
    check_moved,
    read_rows,
)
from eventsource.testing.records import clock
from tests.strangers.moved import MOVED
from tests.strangers.refused import REFUSED
from tests.strangers.stranger import Stranger, chosen
from tests.support.application import Noted, Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import SOURCE_TABLE, TARGET_TABLE, World, insert

#: Events before the move, and those that the application has to have written until the cutover.
PAST, MEANWHILE = 20, 5


@pytest.mark.parametrize("stranger", chosen(REFUSED))
async def test_what_cannot_be_moved_is_refused_by_name_and_nothing_is_changed(
    world: World, stranger: Stranger
) -> None:
    await stranger.set_up(world)
    if stranger.seeded:
        await world.seed(3, world.other)
    process = await world.process(**stranger.config)
    before = await world.fingerprint()
    findings = await process.coordinator.preflight(world.tenant, process.source, process.target)
    refusing = [each for each in findings.found if each.refuses]
    assert stranger.refused in {each.kind for each in refusing}, findings.problems
    with pytest.raises(PreflightError):
        await process.start(world.tenant)
    assert await world.fingerprint() == before
    if stranger.mends:
        for each in refusing:
            assert each.remedy is not None
            await getattr(world, each.side).execute(statement_of(each.remedy))
        after = await process.coordinator.preflight(world.tenant, process.source, process.target)
        assert stranger.refused not in {each.kind for each in after.found if each.refuses}


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_database_without_an_encoding_is_refused(
    world: World, source_cluster: Cluster, target_cluster: Cluster, side: str
) -> None:
    cluster = source_cluster if side == "source" else target_cluster
    name = "without_an_encoding"
    async with plain_connection(await cluster.create_database()) as admin:
        await admin.execute(
            f"create database {name} encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'"
            " template template0"
        )
    parts = urlsplit(world.dsns[side])
    pool = await asyncpg.create_pool(
        urlunsplit(parts._replace(path=f"/{name}")), min_size=0, max_size=4
    )
    store = PostgreSQLEventStore(pool, SOURCE_TABLE if side == "source" else TARGET_TABLE)
    await store.create_schema()
    stores: dict[str, Any] = {f"{side}_store": lambda _: store}
    process = await world.process(**stores)
    try:
        findings = await process.coordinator.preflight(world.tenant, process.source, process.target)
        assert [(each.kind, each.side) for each in findings.found if each.refuses] == [
            ("encoding", side)
        ]
    finally:
        await pool.close()
        await cluster.drop_database(name)


@asynccontextmanager
async def plain_connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def statement_of(remedy: str) -> str:
    """The statement of a remedy, which ends it."""
    found = re.search(r"\b(alter|drop|select setval)\b.*$", remedy, re.DOTALL)
    assert found is not None, remedy
    return found.group()


@pytest.mark.parametrize("stranger", chosen(MOVED))
async def test_what_is_moved_is_equal_and_fenced(world: World, stranger: Stranger) -> None:
    await stranger.set_up(world)
    stream = uuid4()
    source = await world.connect()
    for version in range(1, PAST + 1):
        await source.execute(stranger.insert(str(world.tenant), str(stream), str(version)))
    here = StoreAddress(world.dsns["source"], SOURCE_TABLE)
    there = StoreAddress(world.dsns["target"], TARGET_TABLE)
    baseline = await read_rows(here, world.tenant, filled=stranger.filled)
    process = await world.process(**stranger.config)
    findings = await process.coordinator.preflight(world.tenant, process.source, process.target)
    assert findings.problems == []
    async with writing(process, world.tenant) as attempts:
        migration = await move(world, process, attempts)
        # The application goes on at the target.
        so_far = len(attempts)
        await until(lambda: later(attempts, so_far), "appends at the target")
    await assert_fenced(world, stranger, stream)
    report = await check_moved(
        source=here, target=there, control_dsn=world.dsns["control"], tenant_id=world.tenant,
        migration_id=migration.id, attempts=attempts, baseline=baseline, filled=stranger.filled,
    )  # fmt: skip
    report.assert_clean()
    assert report.failed_appends == {}
    assert report.carried >= PAST + MEANWHILE


async def later(attempts: list[Attempt], than: int) -> bool:
    return len(attempts) > than + 2


async def move(world: World, process: Process, attempts: list[Attempt]) -> Migration:
    migration = await process.start(world.tenant)
    await world.reach(migration, "dual_write")
    await until(lambda: later(attempts, MEANWHILE), "appends while it moves")
    done = await process.coordinator.initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    return done


async def assert_fenced(world: World, stranger: Stranger, stream: UUID) -> None:
    """A stale writer is refused at the source, as the stranger's application and as any."""
    stale = stranger.insert(str(world.tenant), str(stream), str(PAST + 1))
    with pytest.raises(asyncpg.PostgresError) as refused:
        await (await world.connect()).execute(stale)
    assert refused.value.sqlstate == "EVF01"
    replica = await world.connect(session_replication_role="replica")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await insert(replica, world.tenant)
    assert refused.value.sqlstate == "EVF01"


@asynccontextmanager
async def writing(process: Process, tenant: UUID) -> AsyncIterator[list[Attempt]]:
    """A writer at work, and what it attempted."""
    attempts: list[Attempt] = []
    stopping = asyncio.Event()
    task = asyncio.create_task(_write(process, tenant, attempts, stopping))
    try:
        yield attempts
    finally:
        stopping.set()
        await task


async def _write(
    process: Process, tenant: UUID, attempts: list[Attempt], stopping: asyncio.Event
) -> None:
    stream, version = uuid4(), 0
    while not stopping.is_set():
        event = Noted(aggregate_id=stream, tenant_id=tenant, n=version)
        began = clock()
        outcome, error, result = Outcome.OK, None, None
        try:
            result = await process.router.append_events(stream, "Note", [event], version)
            version = result.new_version
        except Exception as failed:
            outcome, error = Outcome.REFUSED, f"{type(failed).__name__}: {failed}"
        attempts.append(
            Attempt(
                writer="stranger", task=0, tenant_id=str(tenant), aggregate_type="Note",
                aggregate_id=str(stream), expected_version=event.n,
                event_ids=(str(event.event_id),), path="router", invoked_at=began,
                outcome=outcome, returned_at=clock(),
                new_version=result.new_version if result else None,
                global_position=result.global_position if result else None, error=error,
            )
        )  # fmt: skip
        await asyncio.sleep(0.005)
