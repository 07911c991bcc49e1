"""A fence of a tenant, without the rest of its migration."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from eventsource.migration.event_table import EventTable, OwnTable
from eventsource.migration.tables import fences, guard
from eventsource.migration.tables.fences import Fence
from tests.support.application import SOURCE, TARGET
from tests.support.worlds.three_databases import World

MIGRATION = UUID("00000000-0000-4000-8000-000000000001")
BUDGET = 1.0


class Guarded:
    """A tenant behind a guard, without the rest of a migration."""

    def __init__(
        self,
        world: World,
        side: str,
        table: OwnTable,
        fence: Fence,
        tenant: UUID,
    ) -> None:
        self.world, self.side, self.table = world, side, table
        self.admin, self.fence, self.tenant = table.connection, fence, tenant

    async def install(self) -> None:
        await guard.install(self.table, self.fence, self.tenant, lambda: True)

    async def set_state(self, state: str) -> None:
        await self.admin.execute(
            "update eventsource_fences set state = $1, generation = generation + 1, moved_to = $2"
            " where fence_id = $3",
            state,
            TARGET,
            self.fence.fence_id,
        )

    @contextlib.asynccontextmanager
    async def closed_to_writers(self) -> AsyncIterator[asyncpg.Connection]:
        """The cutover's lock, held; leaving without a commit gives it back."""
        holder = await self.world.connect(self.side)
        await holder.execute("begin")
        await fences.lock_exclusively(holder, self.fence)
        yield holder
        await holder.execute("rollback")

    async def move(self, holder: asyncpg.Connection) -> None:
        """Decide, as the cutover does, in the transaction that holds the lock."""
        await holder.execute(
            "update eventsource_fences set state = 'moved', generation = generation + 1,"
            " moved_to = $1",
            TARGET,
        )
        await holder.execute("commit")


async def guarded(
    world: World,
    side: str = "source",
    *,
    install: bool = True,
    tenant: UUID | None = None,
    migration: UUID = MIGRATION,
) -> Guarded:
    store = world.here.source if side == "source" else world.here.target
    table = EventTable(await world.connect(side), await store.address())
    tenant = tenant or world.tenant
    fence = await fences.raise_fence(
        table, tenant_id=tenant, migration_id=migration,
        store_id=SOURCE if side == "source" else TARGET, role=side, generation=0,
        budget_seconds=BUDGET,
    )  # fmt: skip
    made = Guarded(world, side, table, fence, tenant)
    if install:
        await made.install()
    return made


async def refused(statement: object, sqlstate: str) -> asyncpg.PostgresError:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await statement  # type: ignore[misc]
    assert caught.value.sqlstate == sqlstate
    return caught.value


async def triggers(world: World, side: str = "source") -> list[tuple[str, str]]:
    """Of the guard: their names, and when they are enabled."""
    rows = await getattr(world, side).fetch(
        "select tgname, tgenabled::text from pg_trigger where tgname like '%guard%' order by 1"
    )
    return [tuple(row) for row in rows]
