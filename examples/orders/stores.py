"""Where everything is: two event stores, the control database, and the read models."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg
from asyncpg.pool import Pool

from eventsource.migration import TenantStoreRouter
from eventsource.migration.repositories import PostgreSQLRoutingRepository
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions import PostgreSQLCheckpointRepository

AnyPool: TypeAlias = "Pool[asyncpg.Record]"

_OUTBOX = """
create table if not exists outbox (
    event_id uuid primary key,
    tenant_id uuid not null,
    body text not null,
    sent_at timestamptz
)
"""

_READ_MODELS = """
create table if not exists revenue (
    event_id uuid primary key,
    tenant_id uuid not null,
    amount bigint not null
);
create table if not exists mails (
    event_id uuid primary key,
    tenant_id uuid not null,
    body text not null
)
"""


@dataclass(frozen=True)
class Stores:
    """Open pools, and what stands on them."""

    by_id: dict[str, PostgreSQLEventStore]
    control: AnyPool
    read: AnyPool
    router: TenantStoreRouter
    checkpoints: PostgreSQLCheckpointRepository

    async def create_schema(self) -> None:
        """Tables of the shop beside those that `eventsource-migrate init` makes."""
        for store in self.by_id.values():
            await store.pool.execute(_OUTBOX)
        await self.read.execute(_READ_MODELS)
        await self.checkpoints.create_schema()


@asynccontextmanager
async def opened() -> AsyncGenerator[Stores, None]:
    """Open everything that the environment names, and close it in the right order."""
    async with AsyncExitStack() as stack:

        async def pool(name: str) -> AnyPool:
            # min_size=0: the process starts, and serves the others, while one store is down.
            return await stack.enter_async_context(
                asyncpg.create_pool(os.environ[name], min_size=0, max_size=8)
            )

        shared = PostgreSQLEventStore(await pool("SHARED_DSN"))
        dedicated = PostgreSQLEventStore(await pool("DEDICATED_DSN"))
        control, read = await pool("CONTROL_DSN"), await pool("READ_DSN")
        by_id = {"shared": shared, "dedicated-a": dedicated}
        router = await stack.enter_async_context(
            TenantStoreRouter(shared, PostgreSQLRoutingRepository(control), dict(by_id))
        )
        yield Stores(by_id, control, read, router, PostgreSQLCheckpointRepository(read))
