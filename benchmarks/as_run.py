"""Two servers with the settings of servers that are in use, beside those of the rest of the suite.

The source is of an older major version by default, and its log is one that logical replication can
read: for this project's own move that is of no use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.bench import AS_RUN, MAJOR, Bench, forget
from benchmarks.machine import postgresql
from benchmarks.workload import Streams
from eventsource.testing import Cluster

OF_SOURCE = {"wal_level": "logical"}


@asynccontextmanager
async def servers(
    bench: Bench, scale: int | None = None, streams: Streams = Streams.SPREAD
) -> AsyncIterator[Bench]:
    """Such servers with workload A on the source, until the end of the block."""
    with (
        Cluster.start(bench.older, {**AS_RUN, **OF_SOURCE}) as source,
        Cluster.start(MAJOR, AS_RUN) as target,
    ):
        served = Bench(scale or bench.scale, bench.rounds, source, target, older=bench.older)
        await served.prepare(streams)
        yield served


@asynccontextmanager
async def cleaned(bench: Bench) -> AsyncIterator[asyncpg.Connection]:
    """A connection of an application to the source, which is as it was afterwards."""
    source = await asyncpg.connect(bench.source_dsn)
    try:
        before = await source.fetchval("select max(global_position) from events")
        yield source
    finally:
        await forget(bench.source_dsn)
        await source.execute("delete from events where global_position > $1", before)
        await source.execute("vacuum analyze events")
        await source.close()


def title(bench: Bench) -> str:
    """Which servers a line of the table is about."""
    return f"{bench.older} → {MAJOR} as run"


def described(bench: Bench) -> str:
    """Versions and settings, for a heading."""
    both, source = (
        ", ".join(f"{name} = {value}" for name, value in settings.items())
        for settings in (AS_RUN, OF_SOURCE)
    )
    return f"{postgresql(bench.older)} → {postgresql(MAJOR)} ({both}; at the source {source})"
