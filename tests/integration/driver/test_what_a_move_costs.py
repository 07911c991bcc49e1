"""What a small move costs where others went before it: statements and log-ins, as servers see it.

A ceiling is a little above what is sent today; how often the journal is read depends on the clock.
Who makes a move cheaper lowers it, and who needs more says for what.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationConfig, MigrationState
from eventsource.migration.connections import kept
from eventsource.testing import Cluster
from tests.support.worlds.two_servers import DEDICATED, SHARED, World, two_servers

#: Most statements of one move, by database.
CEILING = {"source": 131, "target": 136, "control": 114}

#: Moves before the one that counts: sessions are open then.
FIRST = 2

# `log_line_prefix` is that of `eventsource.testing`: time, process id, application@database.
_SENT = re.compile(r"\[(?P<pid>\d+)\] .*@(?P<database>\S+) LOG:  (?:statement|execute [^:]+): ")


class Servers:
    """Three databases that write down what they are sent."""

    def __init__(self, clusters: dict[str, Cluster], dsns: dict[str, str]) -> None:
        self.dsns = dsns
        self._logs = {cluster.log_path for cluster in clusters.values()}
        self._sides = {dsn.rpartition("/")[2]: side for side, dsn in dsns.items()}

    def sent(self) -> Counter[tuple[str, str]]:
        """How many statements until now, by side and process of the server."""
        found: Counter[tuple[str, str]] = Counter()
        for log in self._logs:
            for line in log.read_text(encoding="utf-8").splitlines():
                if (sent := _SENT.search(line)) and sent["database"] in self._sides:
                    found[self._sides[sent["database"]], sent["pid"]] += 1
        return found


@asynccontextmanager
async def logging_servers(source: Cluster, target: Cluster) -> AsyncIterator[Servers]:
    clusters = {"source": source, "target": target, "control": source}
    dsns = {side: await cluster.create_database() for side, cluster in clusters.items()}
    for dsn in dsns.values():
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            f"alter database \"{dsn.rpartition('/')[2]}\" set log_statement = 'all'"
        )
        await connection.close()
    try:
        yield Servers(clusters, dsns)
    finally:
        for side, dsn in dsns.items():
            await clusters[side].drop_database(dsn.rpartition("/")[2])


async def opened(pool: asyncpg.Pool[Any]) -> None:
    """An application's pool opens a connection when all are lent, which depends on the clock."""
    async with AsyncExitStack() as stack:
        for _ in range(pool.get_max_size()):
            await stack.enter_async_context(pool.acquire())


async def moved(world: World, servers: Servers) -> tuple[dict[str, int], int]:
    """Statements by side, and log-ins, of a move that others went before."""
    tenants = [uuid4() for _ in range(FIRST + 1)]
    await world.seed(tenants, events=10)
    for pool in (world.source_store.pool, world.target_store.pool, world.control_pool):
        await opened(pool)
    for tenant in tenants[:FIRST]:
        await world.coordinator.move(tenant, SHARED, DEDICATED)
    before = servers.sent()
    migration = await world.coordinator.move(tenants[-1], SHARED, DEDICATED)
    assert migration is not None
    assert migration.state is MigrationState.MIGRATED
    after = servers.sent()
    sent: Counter[str] = Counter()
    for (side, _), count in (after - before).items():
        sent[side] += count
    return dict(sent), len(set(after) - set(before))


@pytest.mark.parametrize("keep_way_back", [0, 3600])
async def test_a_small_move_sends_few_statements_and_logs_in_nowhere(
    source_cluster: Cluster,
    target_cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keep_way_back: float,
) -> None:
    """A move used to log in 13 times, and to send 670 statements."""
    # However slow the machine is: a second is for one that has nothing else to do.
    monkeypatch.setattr(kept, "KEPT_SECONDS", 60.0)
    config = MigrationConfig(keep_way_back=keep_way_back)
    async with logging_servers(source_cluster, target_cluster) as servers:
        source, target, control = (servers.dsns[side] for side in CEILING)
        async with two_servers(source, target, control, tmp_path, config) as world:
            sent, log_ins = await moved(world, servers)
    assert log_ins == 0
    assert {side: count for side, count in sent.items() if count > CEILING[side]} == {}, sent
