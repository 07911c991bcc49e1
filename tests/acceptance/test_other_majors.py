"""Majors beside 16 and 18, as source (which keeps control too) and as target.

Every other test runs on 16 and 18. 17 comes with a wheel of its own, 14 and 15 from the system.
Here servers showed that compile their queries: those of the first wheel cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState, create_schema
from eventsource.migration.tables import deferred_indexes
from eventsource.testing import Cluster, PostgresNotFoundError

# The same test on other servers: it gets the clusters of this module.
from tests.acceptance.test_one_tenant_moves import (  # noqa: F401
    test_a_cutover_over_its_budget_rolls_back_and_no_writer_sees_an_error,
)
from tests.support.fingerprint import fingerprint
from tests.support.worlds.two_servers import (
    World,
    acknowledged,
    all_attempts,
    two_servers,
    writing,
)

#: Source and target: to the newest and from it, and the step that is the next for many.
PAIRS = ((14, 18), (15, 18), (17, 18), (16, 17), (18, 17), (18, 15), (18, 14))
EVENTS = 3000

#: A table as an application made it that did not know of this library yet.
FROM_BEFORE = """
create table {} (
    global_position bigserial primary key, event_id uuid not null unique,
    aggregate_id uuid not null, aggregate_type text not null, event_type text not null,
    tenant_id uuid, version integer not null, timestamp timestamptz not null, actor_id text,
    payload jsonb not null, metadata jsonb not null default '{{}}',
    created_at timestamptz not null default now(), unique (aggregate_id, aggregate_type, version)
)
"""

#: Columns whose binary form has the numbers in it that a database gives to its types.
OWN_TYPES = """
create type mood as enum ('glad', 'sad');
create type felt as (m mood, n integer);
alter table {} add column moods mood[] not null default '{{glad,NULL}}',
               add column felt felt[] not null default '{{"(sad,1)"}}'
"""


def started(major: int) -> Cluster:
    try:
        return Cluster.start(major)
    except PostgresNotFoundError:
        pytest.skip(f"no PostgreSQL {major} here; on Debian: apt-get install postgresql-{major}")


@pytest.fixture(scope="module", params=PAIRS, ids="{0[0]} to {0[1]}".format)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Cluster, Cluster]]:
    """Source and target."""
    source, target = request.param
    with started(source) as first, started(target) as second:
        yield first, second


# In this module they stand in for those of the session, also where databases are made on them.


@pytest.fixture(scope="module")
def source_cluster(pair: tuple[Cluster, Cluster]) -> Cluster:
    return pair[0]


@pytest.fixture(scope="module")
def target_cluster(pair: tuple[Cluster, Cluster]) -> Cluster:
    return pair[1]


async def test_tables_from_before_are_upgraded_and_a_tenant_moves_between_them(
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The target is empty, so that the indexes are built behind the load, as for a large tenant.
    monkeypatch.setattr(deferred_indexes, "WORTH_IT", EVENTS)
    tenant, bystander = uuid4(), uuid4()
    async with two_servers(source_dsn, target_dsn, control_dsn, tmp_path, make=False) as world:
        stores = (world.source_store, world.target_store)
        await world.target_store.pool.execute("create type nobodys as enum ()")
        for store in stores:
            await store.pool.execute(FROM_BEFORE.format(store.table))
            await store.pool.execute(OWN_TYPES.format(store.table))
        await world.seed([tenant, bystander], EVENTS)
        for store in stores:
            await store.create_schema()
        await create_schema(world.control_pool)
        without = f"select count(*) from {stores[0].table} where transaction_id is null"
        assert await stores[0].pool.fetchval(without) == 2 * EVENTS

        configs = [
            world.writer_config(f"writer-{n}", [tenant, bystander], slow_commits=0.05, seed=n)
            for n in range(2)
        ]
        with writing(configs) as writers:
            writers[0].focus(tenant)
            await acknowledged(writers, 10, tenant)
            migration = await world.move(tenant)
            await acknowledged(writers, 10, tenant)
        attempts = all_attempts(writers)
        report = await world.check(migration, attempts)
        report.assert_clean()
        assert report.preloaded == EVENTS
        assert report.carried > report.preloaded
        assert report.written_at_target > 0
        (await world.check_bystander(bystander, attempts)).assert_clean()


async def test_an_abort_leaves_nothing_behind(world: World) -> None:
    tenant = uuid4()
    await world.seed([tenant], EVENTS)
    before = await everything(world)
    migration = await world.start(tenant)
    await world.reach(migration.id, MigrationState.DUAL_WRITE)
    assert await everything(world) != before
    aborted = await world.coordinator.abort_migration(migration.id)
    assert aborted.state is MigrationState.ROLLED_BACK
    assert await everything(world) == before


async def everything(world: World) -> list[dict[str, Any]]:
    """What the three databases hold, but for the record of what was asked and done."""
    found = []
    for dsn in (world.source.dsn, world.target.dsn, world.control_dsn):
        connection = await asyncpg.connect(dsn)
        found.append(await fingerprint(connection, journal=False))
        await connection.close()
    return found
