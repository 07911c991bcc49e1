"""What an application's log has of a move: little, to the point, and nothing secret."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

import eventsource
from eventsource.connections import brief
from eventsource.migration.routing import mirror
from tests.support import REPOSITORY
from tests.support.application import TARGET
from tests.support.reference_tables import code_in, rows_of
from tests.support.waiting import until
from tests.support.worlds.three_databases import World


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, "eventsource"):
        yield


def lines(caplog: pytest.LogCaptureFixture, name: str, level: int = logging.INFO) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == name and r.levelno == level]


async def test_a_move_leaves_one_line_per_change_in_every_process(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = await world.process(route_ttl_seconds=0.1)
    for process in (world.here, elsewhere):
        await process.append(world.tenant)
    migration = await world.migrate()

    async def both_followed() -> bool:
        routes = [await p.router.route(world.tenant) for p in (world.here, elsewhere)]
        return all(route.store_id == TARGET for route in routes)

    await until(both_followed, "both routers at the target")
    for process in (world.here, elsewhere):
        await process.append(world.tenant)
    routed = lines(caplog, "eventsource.router")
    flips = [line for line in routed if f"tenant {world.tenant} lives in store {TARGET!r}" in line]
    assert len(flips) == 2
    for process in (world.here, elsewhere):
        for _ in range(3):
            await process.router._routes.refresh(world.tenant)
    assert lines(caplog, "eventsource.router") == routed, "the same route read again"

    states = lines(caplog, "eventsource.migration")
    assert [re.findall(r": (\w+), was", line)[0] for line in states] == [
        "bulk_copy",
        "dual_write",
        "cutover_paused",
        "migrated",
    ]
    assert all(str(migration.id) in line and str(world.tenant) in line for line in states)
    assert re.search(r"held for \d+\.\d ms$", states[-1])
    assert lines(caplog, "eventsource.router", logging.WARNING) == []


async def test_a_mirror_that_fails_warns_once_in_a_while(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.here.append(world.tenant)
    await world.dual_write()

    async def mirrors() -> bool:
        return world.router.dual_write_stats(world.tenant) is not None

    await until(mirrors, "the mirror")
    refusal = asyncpg.InsufficientPrivilegeError(
        "permission denied, postgresql://app:s3cret@db/x\nfor table events"
    )

    async def refused(*_: object) -> None:
        raise refusal

    monkeypatch.setattr(mirror._MirrorConnections, "open", refused)
    monkeypatch.setattr(mirror._MirrorConnections, "copy", refused)
    monkeypatch.setattr(mirror, "WARN_EVERY", 3600.0)
    for count in (1, 2):
        await world.here.append(world.tenant, count=2)
        await until(_failures(world, count), f"failure {count}")
    [warning] = lines(caplog, "eventsource.router", logging.WARNING)
    assert str(world.tenant) in warning
    assert "InsufficientPrivilegeError: permission denied" in warning
    assert "s3cret" not in caplog.text
    assert "\n" not in warning
    monkeypatch.setattr(mirror, "WARN_EVERY", 0.0)
    await world.here.append(world.tenant)
    await until(_failures(world, 3), "failure 3")
    [_, warning] = lines(caplog, "eventsource.router", logging.WARNING)
    assert "(5 so far)" in warning


def _failures(world: World, number: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        stats = world.router.dual_write_stats(world.tenant)
        return stats is not None and stats.failures.total_failures >= number

    return look


def test_a_line_about_an_error_has_no_rows_and_no_password() -> None:
    error = asyncpg.UniqueViolationError("duplicate key value")
    error.detail = "Key (email)=(ada@example.org) already exists."
    assert brief(error) == "UniqueViolationError: duplicate key value"
    assert brief(TimeoutError()) == "TimeoutError"
    line = brief(OSError("postgresql://app:s3cret@db/orders\nis away"))
    assert line == "OSError: postgresql://app:***@db/orders is away"


def test_every_logger_is_documented() -> None:
    root = Path(eventsource.__file__).parent
    used = set()
    for file in root.rglob("*.py"):
        used |= set(re.findall(r"getLogger\((.*?)\)", file.read_text()))
    page = (REPOSITORY / "docs/reference/logging.md").read_text()
    documented = {code_in(row[0])[0] for row in rows_of(page)}
    assert used == {f'"{name}"' for name in documented}
