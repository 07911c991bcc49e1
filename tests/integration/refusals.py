"""What every refusal has to be: typed, with its fix, soon, without a password, nothing changed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from world import SOURCE_TABLE, TARGET_TABLE, World

from eventsource.migration import MigrationError
from eventsource.stores.postgresql import PostgreSQLEventStore

WRONG = "not-the-password"


@asynccontextmanager
async def refusal(world: World, kind: type[MigrationError], *told: str) -> AsyncIterator[None]:
    """The block is refused with this error, whose message says all of ``told``."""
    before = await world.fingerprint()
    began = time.monotonic()
    with pytest.raises(MigrationError) as caught:
        yield
    assert time.monotonic() - began < 2
    assert type(caught.value) is kind
    message = str(caught.value)
    for text in told:
        assert text in message
    secrets = [urlsplit(dsn).password or "" for dsn in world.dsns.values()]
    for secret in [*secrets, WRONG]:
        assert secret not in message
        assert secret not in repr(caught.value)
    assert await world.fingerprint() == before


def redirected(dsn: str, *, password: str | None = None, port: int | None = None) -> str:
    parts = urlsplit(dsn)
    where = f"{parts.username}:{password or parts.password}@{parts.hostname}:{port or parts.port}"
    return urlunsplit(parts._replace(netloc=where))


def elsewhere(world: World, side: str, change: Callable[[str], str]) -> dict[str, Any]:
    """A process whose store or journal is reached by a changed connection string."""
    dsn = change(world.dsns[side])
    if side == "control":
        return {"control_dsn": dsn}
    name = SOURCE_TABLE if side == "source" else TARGET_TABLE

    def store(pool: asyncpg.Pool) -> PostgreSQLEventStore:
        pool._connect_args = (dsn,)
        return PostgreSQLEventStore(pool, name)

    return {f"{side}_store": store}
