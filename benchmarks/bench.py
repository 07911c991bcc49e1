"""What all benchmarks of one run share: two servers, workload A, and what was found so far."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from benchmarks.workload import (
    ABOVE,
    SETTLED,
    TENANT,
    Streams,
    Workload,
    build,
    fingerprint,
    make_plain_table,
    make_store,
    mapping_fingerprint,
)
from eventsource.migration import create_schema
from eventsource.testing import Cluster

#: Both servers, for every peer: PostgreSQL's own defaults, but no autovacuum that falls into one
#: peer's run and not into another's. ``--set`` adds to it.
SETTINGS: dict[str, str | int] = {"autovacuum": "off"}

#: The settings of the servers of :mod:`benchmarks.as_run`; ``--set`` adds to it as well.
AS_RUN: dict[str, str | int] = {"shared_buffers": "1GB", "max_wal_size": "8GB", "autovacuum": "on"}

MAJOR = 18

#: Of each processor, when a profile is made; not a divisor of anything that ticks.
SAMPLES_PER_SECOND = 997

# As `time -v` reports it, where there is GNU time; otherwise what the process says of itself.
_GNU_TIME = Path("/usr/bin/time")
_MEASURE_MEMORY = [str(_GNU_TIME), "--format=%M"] if _GNU_TIME.exists() else []

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the table: what was asked for and what was measured.

    ``met`` is None where nothing is asked for: the line is there for comparison.
    """

    id: str
    what: str
    measured: str
    bar: str
    met: bool | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Bench:
    """One run of the suite.

    Attributes:
        scale: events of the tenant in workload A.
        rounds: how often each peer runs; figures are medians.
        source_dsn: the database with workload A, on ``source``.
        results: of the benchmarks that have run, by id.
        samples: the file for a profile of the next timed copy, or nothing.
        older: the source's major version where servers are set up as they are run.
    """

    scale: int
    rounds: int
    source: Cluster
    target: Cluster
    source_dsn: str = ""
    workload: Workload | None = None
    expected: tuple[int, int] = (0, 0)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: str = ""
    older: int = 16
    _templates: dict[str, str] = field(default_factory=dict)

    async def prepare(self, streams: Streams = Streams.SPREAD) -> None:
        """Build workload A and remember what a right answer is."""
        with self.timed(f"workload A, {self.scale:,} events of each of two tenants"):
            self.source_dsn = await self.source.create_database("shared")
            self.workload = await build(self.source_dsn, self.scale, streams=streams)
            self.expected = await fingerprint(self.source_dsn)

    async def mapping_expected(self, offset: int = 0) -> tuple[int, int]:
        """What the mapping of a right move looks like."""
        return await mapping_fingerprint(self.source_dsn, mapped=False, offset=offset)

    async def database(self, kind: str) -> str:
        """A fresh database: `store`, `plain`, `in_use` or `in_use_above` on the target, `control`
        on the source.

        Copied from a template, so that every round starts from the same files.
        """
        cluster = self.source if kind == "control" else self.target
        if kind not in self._templates:
            name = f"template_{kind}"
            await self._fill(kind, await cluster.create_database(name))
            self._templates[kind] = name
        return await _clone(cluster, self._templates[kind], f"{kind}_{uuid4().hex[:8]}")

    async def workload_copy(self) -> str:
        """A database of the source server with the same rows and indexes as workload A."""
        name = f"workload_{uuid4().hex[:8]}"
        return await _clone(self.source, urlsplit(self.source_dsn).path.strip("/"), name)

    async def _fill(self, kind: str, dsn: str) -> None:
        match kind:
            case "control":
                async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
                    await create_schema(pool)
            case "store":
                await make_store(dsn)
            case "plain":
                await make_plain_table(dsn)
            case "in_use":
                await build(dsn, max(self.scale // 2, 1), (SETTLED,))
            case "in_use_above":
                # For a peer that carries positions as they are: none of them may be taken.
                await build(dsn, max(self.scale // 2, 1), (SETTLED,), first=ABOVE)

    async def drop(self, dsn: str) -> None:
        """Remove a database made by :meth:`database`."""
        cluster = self.source if urlsplit(dsn).port == self.source.port else self.target
        await cluster.drop_database(urlsplit(dsn).path.strip("/"))

    async def settle(self) -> None:
        """Before a timed run: nothing of an earlier one is left to be written."""
        await asyncio.gather(*(_administer(c, "checkpoint") for c in (self.source, self.target)))

    async def move(
        self,
        source_dsn: str,
        target_dsn: str,
        control_dsn: str,
        until: str = "dual_write",
        **config: object,
    ) -> dict[str, Any]:
        """The tenant's move in a process of its own; see ``benchmarks.move``."""
        program = [sys.executable, "-m", "benchmarks.move"]
        command = [*program, source_dsn, target_dsn, control_dsn, until, json.dumps(config)]
        with tempfile.NamedTemporaryFile("r") as told:
            if _MEASURE_MEMORY:
                command = [*_MEASURE_MEMORY, f"--output={told.name}", *command]
            seen = json.loads((await run(command)).splitlines()[-1])
            if kilobytes := told.read().strip():
                seen["peak_rss_mb"] = int(kilobytes) / 1024
        return dict(seen)

    @contextlib.asynccontextmanager
    async def moved(self) -> AsyncIterator[str]:
        """A target that holds a right copy of the tenant; neither side is guarded any more."""
        target_dsn, control_dsn = await self.database("store"), await self.database("control")
        try:
            await self.move(self.source_dsn, target_dsn, control_dsn)
            await forget(self.source_dsn)
            await forget(target_dsn)
            yield target_dsn
        finally:
            await self.drop(target_dsn)
            await self.drop(control_dsn)

    @contextlib.asynccontextmanager
    async def sampled(self) -> AsyncIterator[None]:
        """Let `perf` sample the whole machine if that was asked for: servers and their helpers are
        no children of ours.
        """
        if not self.samples:
            yield
            return
        recording = await asyncio.create_subprocess_exec(
            "perf", "record", "--quiet", "-a", f"-F{SAMPLES_PER_SECOND}", "-o", self.samples
        )
        try:
            yield
        finally:
            if recording.returncode is None:
                recording.send_signal(signal.SIGINT)
            await recording.wait()

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Say on standard error what is under way: the suite takes minutes."""
        began = time.monotonic()
        print(f"  {what} …", end="", flush=True, file=sys.stderr)
        try:
            yield
        finally:
            print(f" {time.monotonic() - began:.1f} s", flush=True, file=sys.stderr)


async def run(command: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run a program to its end; its standard output. Raises RuntimeError with what it complained
    about, without the command line: that holds passwords.
    """
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"exit code {process.returncode}: {err.decode()[-2000:]}")
    return out.decode()


async def forget(dsn: str) -> None:
    """Drop the guard and the progress that a move left there.

    So the tenant can move in the next round too, and an emptied table is one that nobody uses.
    """
    connection = await asyncpg.connect(dsn)
    try:
        for trigger in await connection.fetch(
            "select tgname from pg_trigger where tgrelid = 'events'::regclass"
            " and tgname like 'zzz_eventsource_guard%'"
        ):
            await connection.execute(f'drop trigger "{trigger["tgname"]}" on events')
        await connection.execute("delete from eventsource_fences where tenant_id = $1", str(TENANT))
        await connection.execute(
            "delete from eventsource_changes; delete from eventsource_copied_ranges;"
            " delete from eventsource_copy_progress"
        )
    finally:
        await connection.close()


async def _clone(cluster: Cluster, template: str, name: str) -> str:
    await _administer(cluster, f'create database "{name}" template "{template}" strategy file_copy')
    return cluster.dsn(name)


async def _administer(cluster: Cluster, statement: str) -> None:
    connection = await asyncpg.connect(cluster.dsn())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
