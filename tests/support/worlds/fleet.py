"""A wave of tenants from one server to several, with writers, watched from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg

from eventsource.fleet import Candidate, Wave, WaveRepository, WaveSettings, WaveState
from eventsource.fleet.queue import Queue, entrypoint_of, payload_of
from eventsource.migration import create_schema
from eventsource.migration.connections import session_marks
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import (
    Attempt,
    StoreAddress,
    WriterConfig,
    check_moved,
    read_rows,
)
from tests.support.waiting import until

SHARED = "shared"

#: Everything of a tenant that has to be the same at both sides, as one number.
_DIGEST = """
select count(*) as rows, md5(string_agg(md5(t.*::text), '' order by t.global_position)) as digest
from (select event_id, aggregate_id, aggregate_type, event_type, version, timestamp, actor_id,
             payload, metadata, created_at, global_position - $2::bigint as global_position
      from events where tenant_id = $1 and aggregate_type = 'Past') t
"""

#: The advisory lock of the control database that a recorded copy waits for.
_COPIED = 20260

_SEED = """
insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                    timestamp, actor_id, payload, metadata)
select gen_random_uuid(), md5($1::uuid::text || n % 50)::uuid, 'Past', 'acceptance.Past', $1,
       n / 50 + 1, now() - interval '1 day' + n * interval '1 ms', null,
       jsonb_build_object('number', n, 'text', repeat('x', 60)), '{}'
from generate_series(0, $2::int - 1) n
"""


def sizes(count: int, largest: int) -> list[int]:
    """From 1 to the largest, most of them small, as in a shared store."""
    return [max(1, round(largest ** (n / max(1, count - 1)))) for n in range(count)]


@dataclass
class Seen:
    """What was seen from outside while the wave ran.

    Attributes:
        refused: what ordinary connections were refused with.
        most: the most moves that were under way at the same time, by store.
        longest_connect: how long an ordinary connection took at most (seconds).
    """

    refused: list[str] = field(default_factory=list)
    most: dict[str, int] = field(default_factory=dict)
    longest_connect: float = 0.0


@dataclass
class FleetWorld:
    """The databases of a fleet, the tenants and the wave."""

    directory: Path
    dsns: Mapping[str, str]
    control_dsn: str
    control: asyncpg.Pool
    #: For each store whose limit it shares.
    groups: Mapping[str, str]
    events: dict[UUID, int] = field(default_factory=dict)
    targets: dict[UUID, str] = field(default_factory=dict)
    #: Number and digest of each tenant's rows before anything moved.
    before: dict[UUID, Any] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)

    @property
    def config(self) -> Path:
        return self.directory / "eventsource.toml"

    @property
    def waves(self) -> WaveRepository:
        return WaveRepository(self.control)

    async def seed(self, counts: Iterable[int]) -> None:
        """Tenants with so many events each, shared out among the targets."""
        ids = [each for each in self.dsns if each != SHARED]
        connection = await asyncpg.connect(self.dsns[SHARED])
        try:
            for number, count in enumerate(counts):
                tenant = uuid4()
                self.events[tenant], self.targets[tenant] = count, ids[number % len(ids)]
                await connection.execute(_SEED, tenant, count)
                self.before[tenant] = await connection.fetchrow(_DIGEST, tenant, 0)
            await connection.execute("analyze events")
        finally:
            await connection.close()

    async def wave(self, name: str, **settings: Any) -> Wave:
        """A wave of all tenants, started."""
        candidates = [
            Candidate(tenant, SHARED, self.targets[tenant], events=count)
            for tenant, count in self.events.items()
        ]
        wave = await self.waves.create(name, candidates, WaveSettings(**settings), by="ann")
        return await self.waves.start(wave, "ann")

    async def state(self, name: str) -> WaveState:
        return (await self.waves.get(name)).state

    async def moved(self) -> int:
        found: int = await self.control.fetchval(
            "select count(*) from migration_wave_items where outcome = 'moved'"
        )
        return found

    def writer(self, name: str, tenants: list[UUID], **options: Any) -> WriterConfig:
        return WriterConfig(
            name=name,
            stores={each: StoreAddress(dsn) for each, dsn in self.dsns.items()},
            source=SHARED,
            control_dsn=self.control_dsn,
            tenants=tenants,
            directory=self.directory,
            **options,
        )

    async def fill_the_target(self, tenant: UUID) -> None:
        """A row of it lies there already: its preflight refuses it."""
        connection = await asyncpg.connect(self.dsns[self.targets[tenant]])
        await connection.execute(_SEED, tenant, 1)
        await connection.close()

    async def make_differ(self, tenant: UUID) -> None:
        """Change a row of it at its target, after its copy and before both sides are compared.

        The journal waits meanwhile with recording that the copy is done.
        """
        await self.control.execute(_waits_after_its_copy(tenant))
        holding = await asyncpg.connect(self.control_dsn)
        try:
            await holding.execute("select pg_advisory_lock($1)", _COPIED)

            async def copied() -> bool:
                return bool(
                    await holding.fetchval(
                        "select count(*) from pg_locks where locktype = 'advisory'"
                        " and objid = $1 and not granted",
                        _COPIED,
                    )
                )

            await until(copied, "the copy of the tenant that will differ", 600)
            migration = await holding.fetchval(
                "select id from tenant_migrations where tenant_id = $1", str(tenant)
            )
            target = await asyncpg.connect(
                self.dsns[self.targets[tenant]],
                server_settings={session_marks.MIGRATOR_SETTING: str(migration)},
            )
            changed = await target.execute(
                "update events set actor_id = 'changed' where event_id = (select event_id"
                " from events where tenant_id = $1 limit 1)",
                tenant,
            )
            await target.close()
            assert changed == "UPDATE 1"
        finally:
            await holding.close()

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[Seen]:
        """Ordinary connections to each server, and the number of moves, all the time."""
        watching = [asyncio.create_task(self._connect_on(dsn)) for dsn in self.dsns.values()]
        watching.append(asyncio.create_task(self._count_on()))
        try:
            yield self.seen
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def dispatch_again(self, name: str) -> None:
        """Put every tenant of the wave into the queue once more, beside what is there already."""
        wave = await self.waves.get(name)
        items = await self.waves.items(wave, to_do=True)
        async with asyncpg.create_pool(self.control_dsn, min_size=0, max_size=3) as pool:
            queue = Queue(pool, self.groups)
            await queue.make()
            await queue.queries.enqueue(
                [entrypoint_of(self.groups[each.target_store_id]) for each in items],
                [payload_of(each) for each in items],
                [-each.ordinal for each in items],
            )

    async def _connect_on(self, dsn: str) -> None:
        """As an application does: what is reserved for superusers is not for its role."""
        loop = asyncio.get_running_loop()
        dsn = await of_an_application(dsn)
        while True:
            began = loop.time()
            try:
                connection = await asyncpg.connect(dsn, timeout=60)
                await connection.fetchval("select 1")
                await connection.close()
            except (asyncpg.PostgresError, OSError, TimeoutError) as error:
                self.seen.refused.append(f"{type(error).__name__}: {error}")
            self.seen.longest_connect = max(self.seen.longest_connect, loop.time() - began)
            await asyncio.sleep(0.1)

    async def _count_on(self) -> None:
        while True:
            # The control database restarts in some of the tests.
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                rows = await self.control.fetch(
                    "select target_store_id as store, count(*) as moves from tenant_migrations"
                    " where driver_expires_at > now() group by 1"
                    " union all select $1, count(*) from tenant_migrations"
                    " where driver_expires_at > now()",
                    SHARED,
                )
                for row in rows:
                    self.seen.most[row["store"]] = max(
                        self.seen.most.get(row["store"], 0), row["moves"]
                    )
            await asyncio.sleep(0.1)

    async def no_cutover_began_while_it_was_stopped(self, name: str) -> None:
        """Between the stop and the resumption; what had begun came to its end."""
        history = (await self.waves.get(name)).history
        [stopped] = [each["at"] for each in history if each["what"] == "stopped"]
        [resumed] = [each["at"] for each in history if each["what"] == "resumed"]
        began = await self.control.fetch(
            "select migration_id from migration_audit_log"
            " where event_type in ('state:cutover_paused', 'cutover_requested')"
            " and created_at > $1::text::timestamptz + interval '0.5 s'"
            " and created_at < $2::text::timestamptz",
            stopped, resumed,
        )  # fmt: skip
        assert began == []

    async def check(self, tenant: UUID, attempts: list[Attempt]) -> None:
        """By the checker that shares no code with the product, and by a digest of every row."""
        [migration] = await self.control.fetch(
            "select id, position_offset from tenant_migrations"
            " where tenant_id = $1 and state = 'migrated'",
            str(tenant),
        )
        source, target = (StoreAddress(self.dsns[each]) for each in (SHARED, self.targets[tenant]))
        past = [row for row in await read_rows(source, tenant) if row.aggregate_type == "Past"]
        assert len(past) == self.events[tenant]
        report = await check_moved(
            source=source,
            target=target,
            control_dsn=self.control_dsn,
            tenant_id=tenant,
            migration_id=migration["id"],
            attempts=attempts,
            baseline=past,
        )
        report.assert_clean()
        connection = await asyncpg.connect(target.dsn)
        try:
            arrived = await connection.fetchrow(_DIGEST, tenant, migration["position_offset"] or 0)
        finally:
            await connection.close()
        assert arrived == self.before[tenant], tenant

    async def still_at_the_source(self, tenant: UUID) -> bool:
        """Whether no migration has moved it, and its source takes its appends."""
        return not await self.control.fetchval(
            "select exists (select from tenant_routing where tenant_id = $1 and store_id <> $2)",
            str(tenant), SHARED,
        )  # fmt: skip


async def of_an_application(dsn: str) -> str:
    """The same place for an ordinary role, which is made where it is missing."""
    connection = await asyncpg.connect(dsn)
    try:
        with contextlib.suppress(asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
            await connection.execute("create role fleet_application login password 'ordinary'")
        is_superuser = "select rolsuper from pg_roles where rolname = 'fleet_application'"
        assert await connection.fetchval(is_superuser) is False
    finally:
        await connection.close()
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"fleet_application:ordinary@{place}"))


def _waits_after_its_copy(tenant: UUID) -> str:
    """Lets the journal wait for a lock before it records that the tenant's copy is done."""
    return f"""
        create function waits_after_its_copy() returns trigger language plpgsql as
            'begin perform pg_advisory_xact_lock_shared({_COPIED}); return new; end';
        create trigger waits_after_its_copy before update of state on tenant_migrations
            for each row when (new.tenant_id = '{tenant}' and new.state = 'dual_write'
                               and old.state <> 'dual_write')
            execute function waits_after_its_copy()"""


@contextlib.asynccontextmanager
async def fleet_world(
    directory: Path,
    dsns: Mapping[str, str],
    control_dsn: str,
    *,
    groups: Mapping[str, str] | None = None,
    at_once: int = 2,
    defaults: str = "",
) -> AsyncIterator[FleetWorld]:
    """Tables made and a configuration written; ``dsns`` are those of the stores by id."""
    stores = ""
    for each, dsn in dsns.items():
        group = (groups or {}).get(each, each)
        stores += f"[stores.{each}]\ndsn = {json.dumps(dsn)}\ngroup = {json.dumps(group)}\n"
    (directory / "eventsource.toml").write_text(
        f'default_store = "{SHARED}"\n[control]\ndsn = {json.dumps(control_dsn)}\n{stores}'
        f"[fleet]\nat_once = {at_once}\n"
        "[defaults]\npass_interval_seconds = 0.1\nlease_seconds = 3.0\n"
        f"{defaults}"
    )
    for dsn in dsns.values():
        async with asyncpg.create_pool(dsn, min_size=0, max_size=1) as pool:
            await PostgreSQLEventStore(pool).create_schema()
    async with asyncpg.create_pool(control_dsn, min_size=0, max_size=4) as control:
        await create_schema(control)
        shared = {each: (groups or {}).get(each, each) for each in dsns}
        yield FleetWorld(directory, dsns, control_dsn, control, shared)
