"""Logical replication with a row filter: what PostgreSQL itself offers for the rows of one tenant.

Only inserts are published, as an application that updates its events would fail otherwise, and the
columns that are carried by every peer: `transaction_id` is assigned by the target. The source needs
``wal_level = logical``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg

from benchmarks.workload import CARRIED, TENANT

# Whether the first copy is still under way; waits a moment, so that asking costs nothing.
_LOOK = """
select exists (select from pg_subscription_rel where srsubstate <> 'r')
from pg_sleep(0.01)
"""


@asynccontextmanager
async def published(source_dsn: str) -> AsyncIterator[str]:
    """The tenant's events, offered by the source; the publication's name."""
    name = f"peer_{uuid4().hex[:8]}"
    source = await asyncpg.connect(source_dsn)
    try:
        await source.execute(
            f"create publication {name} for table events ({CARRIED})"
            f" where (tenant_id = '{TENANT}') with (publish = 'insert')"
        )
        yield name
    finally:
        await source.execute(f"drop publication if exists {name}")
        await source.close()


@asynccontextmanager
async def subscribed(
    source_dsn: str, target_dsn: str, streaming: str = "off"
) -> AsyncIterator[float]:
    """A target that has the tenant's events and follows the source; the seconds of the first copy.

    The copy is timed from subscribing until the table is ready, so with its slot and its workers.

    Args:
        streaming: `off` sends a transaction once it is committed; `parallel` while it goes on.
    """
    async with published(source_dsn) as name:
        target = await asyncpg.connect(target_dsn)
        try:
            began = time.monotonic()
            await target.execute(
                f"create subscription {name} connection '{source_dsn}' publication {name}"
                f" with (binary = true, streaming = {streaming})"
            )
            while await target.fetchval(_LOOK):
                pass
            yield time.monotonic() - began
        finally:
            # With it goes the slot at the source, which would keep the source's log.
            await target.execute(f"drop subscription if exists {name}")
            await target.close()
