"""Two servers with the settings of servers that are in use, beside those of the rest of the suite.

The source is of an older major version by default, and its log is one that logical replication can
read: for this project's own move that is of no use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.bench import AS_RUN, MAJOR, Bench
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
