"""What a server says under the fence: the writers go on before anybody waits for it to pass."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from eventsource.migration import MigrationError
from eventsource.migration.driver import driver
from eventsource.migration.steps.passes import Passes
from tests.support.worlds.three_databases import World, insert

#: By class: disk full, out of memory, ended by a limit or by the server, a lost connection, and
#: what another transaction is in the way of.
ERRORS = [
    asyncpg.DiskFullError, asyncpg.OutOfMemoryError, asyncpg.QueryCanceledError,
    asyncpg.AdminShutdownError, asyncpg.ConnectionFailureError, asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError, asyncpg.InternalServerError,
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS)
async def test_nobody_waits_for_a_driver_that_waits(
    world: World, monkeypatch: pytest.MonkeyPatch, error: type[asyncpg.PostgresError]
) -> None:
    monkeypatch.setattr(driver, "FIRST_BACKOFF", 5.0)
    await world.seed(5)
    migration = await world.dual_write()
    failed_at: list[float] = []
    failed = asyncio.Event()

    async def fail(self: Passes) -> Any:
        failed_at.append(time.monotonic())
        failed.set()
        raise error("as a server says it")

    monkeypatch.setattr(Passes, "under_the_fence", fail)
    asked = asyncio.create_task(world.coordinator.initiate_cutover(migration.id, force=True))
    await failed.wait()
    await insert(await world.connect(lock_timeout="900ms"), world.tenant)
    assert time.monotonic() - failed_at[0] < 1.5
    monkeypatch.undo()
    asked.cancel()
    with pytest.raises((asyncio.CancelledError, MigrationError, asyncpg.PostgresError)):
        await asked
