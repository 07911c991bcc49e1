"""What every refusal has to be: typed, with its fix, soon, without a password, nothing changed."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from eventsource.migration import MigrationError
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.worlds.three_databases import SOURCE_TABLE, TARGET_TABLE, World

WRONG = "not-the-password"
ROLE, SECRET = "tenant_migrator", "not-the-superuser"


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
        pool._connect_args = (dsn,)  # type: ignore[attr-defined]
        return PostgreSQLEventStore(pool, name)

    return {f"{side}_store": store}


def store_named(side: str, table: str, *, dsn: str | None = None) -> dict[str, Any]:
    """A process whose store on one side is in this table, or said to be in another database."""
    return {f"{side}_store": lambda pool: PostgreSQLEventStore(pool, table, dsn=dsn)}


@asynccontextmanager
async def as_owner(world: World) -> AsyncIterator[str]:
    """A role that owns all tables and is no superuser; its name is in the DSNs from here on."""
    for side in ("source", "target"):
        connection = getattr(world, side)
        await connection.execute(
            f"drop role if exists {ROLE}; create role {ROLE} login password '{SECRET}'"
        )
    try:
        for side in ("source", "target", "control"):
            connection = getattr(world, side)
            await connection.execute(f"grant usage, create on schema public to {ROLE}")
            for (name,) in await connection.fetch(
                "select format('%I', relname) from pg_class where relkind = 'r'"
                " and relnamespace = 'public'::regnamespace"
            ):
                await connection.execute(f"alter table {name} owner to {ROLE}")
            for (name,) in await connection.fetch(
                "select oid::regprocedure::text from pg_proc"
                " where pronamespace = 'public'::regnamespace"
            ):
                await connection.execute(f"alter function {name} owner to {ROLE}")
        yield ROLE
    finally:
        for side in ("source", "target", "control"):
            connection = getattr(world, side)
            await connection.execute(f"reassign owned by {ROLE} to postgres")
            await connection.execute(f"drop owned by {ROLE}")
        for side in ("source", "target"):
            await getattr(world, side).execute(f"drop role {ROLE}")


def migrating_as(world: World, role: str) -> dict[str, Any]:
    def change(dsn: str) -> str:
        return re.sub(r"//[^@]*@", f"//{role}:{SECRET}@", dsn)

    return {
        key: value
        for side in ("source", "target", "control")
        for key, value in elsewhere(world, side, change).items()
    }
