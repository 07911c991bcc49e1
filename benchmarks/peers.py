"""What a user would do by hand today, each timed from its first process to its last."""

from __future__ import annotations

import asyncio
import shlex
import time

import asyncpg

from benchmarks.bench import Bench, run
from benchmarks.workload import CARRIED, TENANT


def copy_out(where: str = "true") -> str:
    """The statement that reads the tenant's events in order."""
    return (
        f"copy (select {CARRIED} from events where tenant_id = '{TENANT}' and {where}"
        " order by global_position) to stdout"
    )


async def shell(command: str) -> None:
    """Run a pipeline; any of its parts may fail it."""
    await run(["bash", "-o", "pipefail", "-c", command])


def _pipeline(bench: Bench, source_dsn: str, target_dsn: str, where: str = "true") -> str:
    into = f"copy events ({CARRIED}) from stdin"
    return (
        f"{bench.source.program('psql')} -XqAt -d {shlex.quote(source_dsn)}"
        f" -c {shlex.quote(copy_out(where))} | "
        f"{bench.target.program('psql')} -Xq -d {shlex.quote(target_dsn)} -c {shlex.quote(into)}"
    )


async def pipe(bench: Bench, source_dsn: str, target_dsn: str) -> float:
    """``psql COPY TO | psql COPY FROM``. Seconds."""
    began = time.monotonic()
    await shell(_pipeline(bench, source_dsn, target_dsn))
    return time.monotonic() - began


async def two_pipes(bench: Bench, source_dsn: str, target_dsn: str) -> float:
    """Two such pipes at the same time, half of the events each. Seconds."""
    connection = await asyncpg.connect(source_dsn)
    middle = await connection.fetchval(
        "select percentile_disc(0.5) within group (order by global_position)"
        " from events where tenant_id = $1",
        TENANT,
    )
    await connection.close()
    began = time.monotonic()
    async with asyncio.TaskGroup() as both:
        for half in ("<=", ">"):
            where = f"global_position {half} {middle}"
            both.create_task(shell(_pipeline(bench, source_dsn, target_dsn, where)))
    return time.monotonic() - began


async def insert_select(source_dsn: str, table: str) -> float:
    """``INSERT … SELECT`` into another table of the same database. Seconds."""
    connection = await asyncpg.connect(source_dsn)
    try:
        began = time.monotonic()
        await connection.execute(
            f"insert into {table} ({CARRIED}) select {CARRIED} from events"
            f" where tenant_id = '{TENANT}' order by global_position"
        )
        return time.monotonic() - began
    finally:
        await connection.close()


async def two_bare_reads(bench: Bench, source_dsn: str, target_dsn: str) -> float:
    """``COPY TO STDOUT > /dev/null`` on both servers at the same time. Seconds."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as both:
        for cluster, dsn in ((bench.source, source_dsn), (bench.target, target_dsn)):
            command = f"{cluster.program('psql')} -XqAt -d {shlex.quote(dsn)}"
            both.create_task(shell(f"{command} -c {shlex.quote(copy_out())} > /dev/null"))
    return time.monotonic() - began
