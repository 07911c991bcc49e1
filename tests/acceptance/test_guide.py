"""The migration guide that the product is built from: every Python block of it runs as printed.

The guide is read from `../shared/guide` beside the project. Only these things are filled in:

- the connection parameters of step 1 and the DSN of the complete script;
- the `...` of "Weekend Maintenance Window", with the arguments that step 2 prints;
- names that the guide uses without making them: `position_mapper` and `checkpoint_repo` (step 7),
  `tenant_ids` and `target_store_id` ("Migrating Multiple Tenants"), and the id of another tenant
  for the weekend.

One database holds control, source and target, as in the guide. The cool-down of a minute between
two migrations is cut short: for that block, `asyncio.sleep` of the guide's own code is another one.
"""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import PositionMapper, create_schema
from eventsource.migration.repositories import PostgreSQLPositionMappingRepository
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions import PostgreSQLCheckpointRepository
from eventsource.testing import (
    Attempt,
    StoreAddress,
    WriterConfig,
    WriterProcess,
    check_moved,
    check_unmoved,
)
from tests.support.worlds.two_servers import all_attempts, writing

GUIDE = Path(__file__).parents[2].parent / "shared" / "guide" / "migration-guide.md"

pytestmark = pytest.mark.skipif(
    not GUIDE.exists(), reason="the guide is not beside this project (../shared/guide)"
)

# The tenant of step 2.
TENANT = UUID("12345678-1234-1234-1234-123456789abc")


def blocks(language: str) -> list[str]:
    """The fenced blocks of the guide, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def block_with(text: str) -> str:
    (found,) = [block for block in blocks("python") if text in block]
    return found


def fill_in(block: str, printed: str, ours: str) -> str:
    assert block.count(printed) == 1, printed
    return block.replace(printed, ours)


class Notebook:
    """Runs blocks one after the other in one namespace, with `await` at the top level."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "guide"}

    async def run(self, block: str) -> None:
        code: CodeType = compile(block, "guide", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, self.names)
        if asyncio.iscoroutine(result):
            await result


class Guide:
    """One database with the tables of the guide, and a writer process with its own router."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn = dsn
        self.directory = directory
        self.shared = StoreAddress(dsn, "events_shared")

    async def set_up(self, *targets: str) -> None:
        """The guide's schema, made by hand from its SQL, then completed by ours."""
        (schema,) = blocks("sql")
        # PostgreSQL has no partial UNIQUE constraint; what is meant is a partial unique index.
        schema, found = re.subn(
            r",\s*CONSTRAINT unique_active_migration\s*UNIQUE \(tenant_id\) WHERE [^\n]*\n",
            "\n",
            schema,
        )
        assert found == 1
        async with asyncpg.create_pool(self.dsn, min_size=1, max_size=2) as pool:
            await pool.execute(schema)
            await create_schema(pool)
            for table in ("events_shared", *targets):
                await PostgreSQLEventStore(pool, table).create_schema()

    def writer(self, tenants: list[UUID], **stores: StoreAddress) -> WriterConfig:
        return WriterConfig(
            name="writer",
            stores={"shared": self.shared, **stores},
            source="shared",
            control_dsn=self.dsn,
            tenants=tenants,
            tasks=4,
            appends_per_second=5.0,
            directory=self.directory,
        )

    async def check(self, tenant: UUID, table: str, attempts: list[Attempt]) -> None:
        connection = await asyncpg.connect(self.dsn)
        migration = await connection.fetchval(
            "select id from tenant_migrations where tenant_id = $1 and state = 'migrated'",
            str(tenant),
        )
        await connection.close()
        report = await check_moved(
            source=self.shared,
            target=StoreAddress(self.dsn, table),
            control_dsn=self.dsn,
            tenant_id=tenant,
            migration_id=migration,
            attempts=attempts,
        )
        report.assert_clean()
        assert report.acknowledged > 0

    async def check_bystander(self, tenant: UUID, attempts: list[Attempt]) -> None:
        report = await check_unmoved(store=self.shared, tenant_id=tenant, attempts=attempts)
        report.assert_clean()
        assert report.acknowledged > 0


class Groups:
    """`tenant_ids`: the block names it twice, for two ways to do it, so each gets its own."""

    def __init__(self, *groups: list[UUID]) -> None:
        self._groups = iter(groups)

    def __iter__(self) -> Iterator[UUID]:
        return iter(next(self._groups))


async def _heard(writer: WriterProcess, tenant: UUID) -> None:
    await asyncio.to_thread(writer.wait_for_acknowledged, 5, tenant)


async def test_the_steps_run_as_printed_while_another_process_writes(
    source_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = Guide(source_dsn, tmp_path)
    await guide.set_up("events_dedicated_a")
    bystander = uuid4()
    dedicated = StoreAddress(source_dsn, "events_dedicated_a")
    steps = GUIDE.read_text().split("## Complete Example")[0]
    printed = [block for block in blocks("python") if block in steps]
    assert len(printed) == 8
    server = urlsplit(source_dsn)
    setup = printed[0]
    setup = fill_in(setup, 'host="localhost"', f'host="{server.hostname}", port={server.port}')
    setup = fill_in(setup, 'database="events"', f'database="{server.path[1:]}"')
    setup = fill_in(setup, 'password="password"', f'password="{server.password}"')
    notebook = Notebook()
    config = guide.writer([TENANT, bystander], **{"dedicated-a": dedicated})
    with writing([config]) as (writer,):
        await _heard(writer, TENANT)
        await notebook.run(setup)
        pool = notebook.names["pool"]
        checkpoints = PostgreSQLCheckpointRepository(pool)
        notebook.names["position_mapper"] = PositionMapper(
            PostgreSQLPositionMappingRepository(pool)
        )
        notebook.names["checkpoint_repo"] = checkpoints
        await checkpoints.create_schema()
        # One projection has read half of the tenant's past, the other nothing.
        handled = [event async for event in notebook.names["shared_store"].read_all(limit=50)]
        handled = [event for event in handled if event.tenant_id == TENANT]
        last = handled[-1].global_position
        await checkpoints.save("OrderProjection", "shared", last, TENANT)
        for step in printed[1:]:
            await notebook.run(step)
        await _heard(writer, TENANT)
    # I9: nothing is skipped, nothing comes again.
    dedicated_store = notebook.names["dedicated_store"]
    events = [event.event_id async for event in dedicated_store.read_all(tenant_id=TENANT)]
    for name, before in (("OrderProjection", handled), ("InventoryProjection", [])):
        moved = await checkpoints.get(name, "dedicated-a", TENANT)
        assert moved is not None
        rest = [e async for e in dedicated_store.read_all(moved.position, tenant_id=TENANT)]
        assert [event.event_id for event in (*before, *rest)] == events
    await notebook.names["router"].close()
    await pool.close()
    said = capsys.readouterr().out
    for line in (
        "Migration started: ",
        "Bulk copy complete, entering dual-write phase",
        "Verification passed!",
        "Cutover successful!",
        "All subscriptions migrated successfully",
        "Migration complete!",
    ):
        assert line in said
    attempts = all_attempts([writer])
    await guide.check(TENANT, "events_dedicated_a", attempts)
    await guide.check_bystander(bystander, attempts)


async def test_the_complete_script_runs_as_a_script_while_another_process_writes(
    source_dsn: str, tmp_path: Path
) -> None:
    guide = Guide(source_dsn, tmp_path)
    await guide.set_up("events_dedicated-a")
    tenant, bystander = uuid4(), uuid4()
    script = tmp_path / "migrate_tenant.py"
    printed = block_with("#!/usr/bin/env python3")
    script.write_text(fill_in(printed, '"postgresql://..."', repr(source_dsn)))
    dedicated = StoreAddress(source_dsn, "events_dedicated-a")
    config = guide.writer([tenant, bystander], **{"dedicated-a": dedicated})
    with writing([config]) as (writer,):
        await _heard(writer, tenant)
        finished = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, str(script), str(tenant), "--target-store", "dedicated-a"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        await _heard(writer, tenant)
    assert f"Migration complete! Tenant {tenant} is now on dedicated-a" in finished.stdout
    assert finished.stderr == ""
    attempts = all_attempts([writer])
    await guide.check(tenant, "events_dedicated-a", attempts)
    await guide.check_bystander(bystander, attempts)


async def test_the_scenarios_run_as_printed(source_dsn: str, tmp_path: Path) -> None:
    guide = Guide(source_dsn, tmp_path)
    tables = {"dedicated-b": "events_dedicated-b", "dedicated": "events_dedicated"}
    await guide.set_up("events_dedicated_a", *tables.values())
    one_by_one, at_once, weekend = [uuid4(), uuid4()], [uuid4(), uuid4(), uuid4()], uuid4()
    everybody = [*one_by_one, *at_once, weekend]
    addresses = {name: StoreAddress(source_dsn, table) for name, table in tables.items()}
    addresses["dedicated-a"] = StoreAddress(source_dsn, "events_dedicated_a")
    notebook = Notebook()
    with writing([guide.writer(everybody, **addresses)]) as (writer,):
        for tenant in everybody:
            await _heard(writer, tenant)
        script = block_with("#!/usr/bin/env python3")
        await notebook.run(fill_in(script, '"postgresql://..."', repr(source_dsn)))
        notebook.names["tenant_ids"] = Groups(one_by_one, at_once)
        notebook.names["target_store_id"] = "dedicated-b"
        notebook.names["asyncio"] = SimpleNamespace(
            sleep=lambda seconds: asyncio.sleep(min(seconds, 0.2)), gather=asyncio.gather
        )
        await notebook.run(block_with("# Sequential migration (safer)"))

        server = urlsplit(source_dsn)
        setup = block_with("# Create database connection pool")
        setup = fill_in(setup, 'host="localhost"', f'host="{server.hostname}", port={server.port}')
        setup = fill_in(setup, 'database="events"', f'database="{server.path[1:]}"')
        await notebook.run(fill_in(setup, '"password"', f'"{server.password}"'))
        await notebook.run(block_with("# Larger batches"))
        assert notebook.names["config"].batch_size == 5000
        arguments = re.search(
            r"start_migration\((.*?)\n\)", block_with("# Define the tenant"), re.DOTALL
        )
        assert arguments is not None
        notebook.names["tenant_id"] = weekend
        await notebook.run(
            fill_in(block_with("# Pause before weekend"), "(...)", f"({arguments[1]})")
        )
        await _heard(writer, weekend)
    await notebook.names["router"].close()
    await notebook.names["pool"].close()
    attempts = all_attempts([writer])
    for tenant in one_by_one:
        await guide.check(tenant, "events_dedicated-b", attempts)
    for tenant in at_once:
        await guide.check(tenant, "events_dedicated", attempts)
    await guide.check(weekend, "events_dedicated_a", attempts)


def test_every_python_block_is_run_by_one_of_these_tests() -> None:
    # Eight steps, the script and three scenarios; a new block needs a test.
    assert len(blocks("python")) == 12
