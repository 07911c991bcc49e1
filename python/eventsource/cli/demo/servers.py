"""The two servers of the demonstration, and what is in them before anything happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from eventsource.errors import EventSourceError
from eventsource.testing import Cluster, ClusterError, PostgresNotFoundError, StoreAddress

SHARED, DEDICATED = "shared", "dedicated"
TABLE = "events"

#: Tenants of the shared store; the first one moves.
TENANTS = 3

#: How many events the moving tenant has for each event of one of the others.
OTHERS_SHARE = 10

_STREAM_LENGTH = 20

# In the order of time, the tenants interleaved as they would be; about 500 bytes each.
_SEED = f"""
insert into {TABLE} (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                     "timestamp", actor_id, payload, metadata)
select gen_random_uuid(), md5(t.tenant::text || (i % greatest(s.streams, 1)))::uuid, 'Order',
       'OrderLineAdded', t.tenant, i / greatest(s.streams, 1) + 1,
       now() - interval '90 days' + i * interval '1 second', 'seed',
       jsonb_build_object('line', i, 'sku', 'SKU-' || i % 997, 'price', (i % 10000) / 100.0,
                          'note', repeat(md5(i::text), 6)),
       jsonb_build_object('correlation_id', gen_random_uuid())
from unnest($1::uuid[], $2::int[]) as t(tenant, every)
cross join lateral (select $3::int / t.every as events) e
cross join lateral (select (e.events + {_STREAM_LENGTH - 1}) / {_STREAM_LENGTH} as streams) s
cross join lateral generate_series(0, e.events - 1) i
order by i * t.every, t.tenant
"""


class DemoError(EventSourceError):
    """The demonstration cannot run here; the message names the fix."""


@dataclass(frozen=True, slots=True)
class World:
    """Two running servers with empty databases.

    Attributes:
        moving, others: tenants of the shared store.
        directory: for the configuration and the records of the writers; removed at the end.
    """

    shared: Cluster
    dedicated: Cluster
    shared_dsn: str
    dedicated_dsn: str
    control_dsn: str
    moving: UUID
    others: tuple[UUID, ...]
    directory: Path

    @property
    def tenants(self) -> tuple[UUID, ...]:
        return (self.moving, *self.others)

    @property
    def addresses(self) -> dict[str, StoreAddress]:
        """Where the stores are, for writers and for the checker."""
        return {
            SHARED: StoreAddress(self.shared_dsn, TABLE),
            DEDICATED: StoreAddress(self.dedicated_dsn, TABLE),
        }

    def write_configuration(self) -> Path:
        """`eventsource.toml` for these servers; readable by its owner only, passwords are in it."""
        path = self.directory / "eventsource.toml"
        path.touch(mode=0o600)
        path.write_text(
            f'default_store = "{SHARED}"\n\n'
            f"[control]\ndsn = {json.dumps(self.control_dsn)}\n\n"
            f"[stores.{SHARED}]\ndsn = {json.dumps(self.shared_dsn)}\ntable = {TABLE!r}\n\n"
            f"[stores.{DEDICATED}]\ndsn = {json.dumps(self.dedicated_dsn)}\ntable = {TABLE!r}\n"
        )
        return path


@contextlib.asynccontextmanager
async def start() -> AsyncIterator[World]:
    """Start PostgreSQL 16 (shared store and control tables) and 18 (dedicated store).

    Raises:
        DemoError: the server programs are not installed, or do not start.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="eventsource-demo-"))
        try:
            # A start that is cancelled ends later in its thread; the exit handler stops it then.
            shared, dedicated = await asyncio.gather(
                asyncio.to_thread(Cluster.start, 16), asyncio.to_thread(Cluster.start, 18)
            )
        except (PostgresNotFoundError, ClusterError) as error:
            raise DemoError(str(error)) from error
        stack.callback(dedicated.stop)
        stack.callback(shared.stop)
        yield World(
            shared=shared,
            dedicated=dedicated,
            shared_dsn=await shared.create_database("app"),
            dedicated_dsn=await dedicated.create_database("app"),
            control_dsn=await shared.create_database("control"),
            moving=uuid4(),
            others=tuple(uuid4() for _ in range(TENANTS - 1)),
            directory=Path(directory),
        )


async def seed(dsn: str, moving: UUID, others: Sequence[UUID], events: int) -> None:
    """Fill a shared store: ``events`` of the moving tenant, a tenth of that of each other."""
    every = [1] + [OTHERS_SHARE] * len(others)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_SEED, [moving, *others], every, events)
        await connection.execute(f"analyze {TABLE}")
    finally:
        await connection.close()
