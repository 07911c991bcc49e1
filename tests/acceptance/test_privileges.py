"""The privileges that the reference names are enough for a move; neither role is a superuser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg

from eventsource import DomainEvent, ExpectedVersion, register_event
from eventsource.migration import TenantStoreRouter
from eventsource.migration.repositories import PostgreSQLRoutingRepository
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support import REPOSITORY
from tests.support.page_runner import blocks_of

PAGE = REPOSITORY / "docs" / "reference" / "database-objects.md"
MIGRATOR, APPLICATION, OPERATOR = "orders_migrator", "orders_app", "orders_operator"
ROLES = (MIGRATOR, APPLICATION, OPERATOR)
PASSWORD = "not-a-superuser"


@register_event("privileges.Noted")
class Noted(DomainEvent):
    aggregate_type: str = "Note"


def script(name: str) -> str:
    (text,) = [block.text for block in blocks_of(PAGE) if block.file == name]
    return text


def as_user(dsn: str, user: str) -> str:
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{user}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()


async def execute(dsn: str, *scripts: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for each in scripts:
            await connection.execute(each)
    finally:
        await connection.close()


async def command(*words: str, config: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from eventsource.cli import main; main()", *words,
        env={**os.environ, "EVENTSOURCE_CONFIG": str(config)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert process.returncode == 0, (output + errors).decode()
    return output.decode()


async def append(router: TenantStoreRouter, tenant: UUID, events: int) -> None:
    for _ in range(events):
        note = Noted(aggregate_id=uuid4(), tenant_id=tenant)
        await router.append_events(note.aggregate_id, "Note", [note], ExpectedVersion.NO_STREAM)


async def make_roles(dsns: Iterable[str], passwords: Sequence[str]) -> None:
    """Roles are the server's: an earlier test may have made them."""
    for dsn in dsns:
        with contextlib.suppress(asyncpg.DuplicateObjectError):
            await execute(dsn, script("roles.sql"))
        await execute(dsn, *passwords)


async def test_a_tenant_moves_with_the_privileges_of_the_page(
    source_dsn: str, target_dsn: str, control_dsn: str, tmp_path: Path
) -> None:
    stores = {"shared": source_dsn, "dedicated-a": target_dsn}
    passwords = [f"alter role {role} password '{PASSWORD}'" for role in ROLES]
    await make_roles(stores.values(), passwords)
    for dsn in (*stores.values(), control_dsn):
        await execute(dsn, script("migrator.sql"))
    config = tmp_path / "eventsource.toml"
    config.write_text(
        'default_store = "shared"\n'
        f"control.dsn = {json.dumps(as_user(control_dsn, MIGRATOR))}\n"
        + "".join(
            f"stores.{name}.dsn = {json.dumps(as_user(dsn, MIGRATOR))}\n"
            for name, dsn in stores.items()
        )
    )
    await command("init", config=config)
    for dsn in stores.values():
        await execute(as_user(dsn, MIGRATOR), script("application_at_stores.sql"))
    await execute(as_user(control_dsn, MIGRATOR), script("application_at_control.sql"))

    tenant = uuid4()
    async with AsyncExitStack() as stack:
        pools = {
            name: await stack.enter_async_context(
                asyncpg.create_pool(as_user(dsn, APPLICATION), min_size=1, max_size=2)
            )
            for name, dsn in {**stores, "control": control_dsn}.items()
        }
        shared, dedicated = [PostgreSQLEventStore(pools[name]) for name in stores]
        router = await stack.enter_async_context(
            TenantStoreRouter(
                shared,
                PostgreSQLRoutingRepository(pools["control"]),
                {"shared": shared, "dedicated-a": dedicated},
            )
        )
        await append(router, tenant, 20)
        await command("run", str(tenant), "--to", "dedicated-a", config=config)
        async with asyncio.timeout(30):
            # The mirror begins when the router has heard of the migration.
            while not (stats := router.dual_write_stats(tenant)) or stats.mirrored == 0:
                await append(router, tenant, 1)
        assert stats.failures.total_failures == 0
        said = await pools["control"].fetch("select ready, reason from migration_router_reports")
        assert [tuple(row) for row in said] == [(True, None)]
        await command("run", str(tenant), "--to", "dedicated-a", "--yes", config=config)
        await append(router, tenant, 1)
        assert len([event async for event in dedicated.read_all(tenant_id=tenant)]) >= 22
    roles = f"('{MIGRATOR}', '{APPLICATION}')"
    connection = await asyncpg.connect(source_dsn)
    superusers = await connection.fetch(
        f"select rolname from pg_roles where rolname in {roles} and rolsuper"
    )
    await connection.close()
    assert superusers == []
