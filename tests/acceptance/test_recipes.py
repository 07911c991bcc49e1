"""The recipes of other engines, as the page shows them; each tenant is dispatched twice."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from eventsource.migration import MigrationState, RetryLaterError
from tests.support import REPOSITORY
from tests.support.page_runner import blocks_of
from tests.support.worlds.two_servers import DEDICATED, SHARED, World

PAGE = REPOSITORY / "docs" / "howto" / "move-tenants-with-your-own-queue.md"


def recipe(world: World, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's own file, imported."""
    [block] = [each for each in blocks_of(PAGE) if each.file == "tasks.py"]
    path = world.directory / "tasks.py"
    path.write_text(block.text)
    monkeypatch.setenv("CONTROL_DSN", world.control_dsn)
    spec = importlib.util.spec_from_file_location("tasks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_procrastinate_carries_a_move(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant whose database answers at its second attempt, and another one, both put twice."""
    tenants = [uuid4(), uuid4()]
    await world.seed(tenants, events=40, streams=4)
    tasks = recipe(world, monkeypatch)
    move = world.coordinator.move
    failed: list[Any] = []

    async def once_away(tenant: Any, *arguments: Any, **options: Any) -> Any:
        if not failed:
            failed.append(tenant)
            raise RetryLaterError("a store does not answer")
        return await move(tenant, *arguments, **options)

    monkeypatch.setattr(world.coordinator, "move", once_away)
    app = tasks.app
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for tenant in tenants * 2:
            await tasks.move.defer_async(tenant=str(tenant), source=SHARED, target=DEDICATED)
        context = {"coordinator": world.coordinator}
        async with asyncio.timeout(90):
            while not all([await _has_moved(world, tenant) for tenant in tenants]):
                await app.run_worker_async(
                    wait=False, concurrency=3, additional_context=context,
                    install_signal_handlers=False,
                )  # fmt: skip
                await world.control_pool.execute(
                    "update procrastinate_jobs set scheduled_at = null where status = 'todo'"
                )
    assert len(failed) == 1
    for tenant in tenants:
        [migration] = await world.coordinator.get_migrations_by_tenant(tenant)
        (await world.check(migration, [])).assert_clean()


async def _has_moved(world: World, tenant: Any) -> bool:
    found = await world.coordinator.get_migrations_by_tenant(tenant)
    return [each.state for each in found] == [MigrationState.MIGRATED]


def cron_line() -> str:
    """What cron would run."""
    page = PAGE.read_text()
    [line] = [each for each in page.splitlines() if "xargs" in each]
    return line.split(" * * * ", 1)[1]


@pytest.mark.skipif(not shutil.which("flock"), reason="flock is not there")
async def test_cron_carries_moves_and_repeats_them(world: World) -> None:
    tenants = [uuid4() for _ in range(3)]
    await world.seed(tenants, events=40, streams=4)
    (world.directory / "tenants.txt").write_text("".join(f"{tenant}\n" for tenant in tenants))
    (world.directory / "eventsource.toml").write_text(
        f'default_store = "{SHARED}"\n[control]\ndsn = "{world.control_dsn}"\n'
        f'[stores.{SHARED}]\ndsn = "{world.source.dsn}"\ntable = "{world.source.table}"\n'
        f'[stores.{DEDICATED}]\ndsn = "{world.target.dsn}"\ntable = "{world.target.table}"\n'
    )
    line = cron_line().replace("/tmp/moves", str(world.directory / "moves"))
    program = Path(sys.executable).parent / "eventsource-migrate"
    if not program.exists():
        program = world.directory / "eventsource-migrate"
        program.write_text(f"#!{sys.executable}\nfrom eventsource.cli import main\nmain()\n")
        program.chmod(0o755)
    line = line.replace("'eventsource-migrate ", f"'{program} ")
    for _ in range(2):
        done = await asyncio.to_thread(
            subprocess.run, line, shell=True, cwd=world.directory, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    for tenant in tenants:
        assert await _has_moved(world, tenant)
