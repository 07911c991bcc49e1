"""Storage: a target whose disk is full, and a source that does not wait for its disk."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from eventsource.migration.errors import ConsistencyError
from eventsource.testing import Cluster, Outcome, read_rows
from eventsource.testing.binaries import server_account
from eventsource.testing.records import clock
from tests.support.waiting import until
from tests.support.worlds.behind_proxies import POINTS, FaultyWorld
from tests.support.worlds.two_servers import acknowledged, all_attempts

SMALL_DISK = 8 * 1024 * 1024


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of a few megabytes that belongs to the server's account."""
    directory = Path(tempfile.mkdtemp(prefix="eventsource-disk-"))
    options = f"size={SMALL_DISK},mode=0755"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        directory.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        space = directory / "space"
        space.mkdir()
        server_account().own(space)
        yield space
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False)
        with contextlib.suppress(OSError):
            directory.rmdir()


@contextlib.asynccontextmanager
async def in_tablespace(world: FaultyWorld, directory: Path) -> AsyncIterator[None]:
    """Keep the target's event table and its indexes in a directory."""
    connection = await asyncpg.connect(world.direct.target.dsn)
    table = f'"{world.direct.target.table}"'
    indexes = [
        row[0]
        for row in await connection.fetch(
            "select format('%I', relname) from pg_index join pg_class on oid = indexrelid"
            " where indrelid = $1::text::regclass",
            table,
        )
    ]

    async def move_to(space: str) -> None:
        await connection.execute(f"alter table {table} set tablespace {space}")
        for index in indexes:
            await connection.execute(f"alter index {index} set tablespace {space}")

    await connection.execute(f"create tablespace tight location '{directory}'")
    try:
        await move_to("tight")
        yield
        await move_to("pg_default")
    finally:
        with contextlib.suppress(asyncpg.PostgresError):
            await connection.execute("drop tablespace tight")
        await connection.close()


async def test_a_full_disk_of_the_target_is_waited_for(
    faulty: FaultyWorld, small_disk: Path
) -> None:
    async with in_tablespace(faulty, small_disk):
        filler = small_disk.parent / "filler"
        filler.write_bytes(bytes(SMALL_DISK - 1_500_000))
        async with faulty.written_to(events=4000) as writers:
            migration = await faulty.driver.start(faulty.tenant)

            async def told() -> bool:
                seen = await faulty.direct.coordinator.get_migration(migration.id)
                return "waiting: " in (seen.error_message or "") and "No space left" in str(
                    seen.error_message
                )

            await until(told, "the driver to say what it waits for", 60)
            # Nobody at the source notices.
            await acknowledged(writers, 10, faulty.tenant)
            filler.unlink()
            migration = await faulty.to_the_end(migration.id)
        await faulty.check(migration, writers)


@contextlib.asynccontextmanager
async def lazy_commits(server: Cluster) -> AsyncIterator[None]:
    """Commits are answered before they are on disk, and for long not on disk."""
    connection = await asyncpg.connect(server.dsn())
    settings = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
    for name, value in settings.items():
        await connection.execute(f"alter system set {name} = '{value}'")
    await connection.execute("select pg_reload_conf()")
    await connection.close()
    try:
        yield
    finally:
        connection = await asyncpg.connect(server.dsn())
        for name in settings:
            await connection.execute(f"alter system reset {name}")
        await connection.execute("select pg_reload_conf()")
        await connection.close()


@pytest.mark.parametrize(
    "point",
    [
        "a chunk is read",
        pytest.param("a pass is proven", marks=pytest.mark.infra),
        pytest.param("the last barrier", marks=pytest.mark.infra),
        pytest.param("the decision is committed", marks=pytest.mark.infra),
    ],
)
async def test_what_a_source_forgets_in_a_crash_was_not_copied(
    faulty: FaultyWorld, point: str
) -> None:
    """Acknowledged events are lost then, and that is what asynchronous commits mean.

    But the two sides are one: nothing is at the target that the source took back, no transaction
    id that it handed out twice has hidden an event, and what came after the crash is all there.
    """
    world, crashed_at = faulty.direct, 0.0

    async def crash(_: FaultyWorld) -> None:
        nonlocal crashed_at
        await faulty.crash("source")
        crashed_at = clock()

    async with lazy_commits(faulty.servers["source"]), faulty.written_to() as writers:
        try:
            migration = await faulty.at(POINTS[point], crash)
        except ConsistencyError:
            # The mirror had written what the source took back: nothing flips, and it begins anew.
            migration = await faulty.again()
    here = await read_rows(world.source, faulty.tenant)
    there = await read_rows(world.target, faulty.tenant)
    offset = migration.position_offset or 0
    carried = [row for row in there if row.position - offset <= (migration.fence_position or 0)]
    assert [(row.event_id, row.digest, row.position) for row in here] == [
        (row.event_id, row.digest, row.position - offset) for row in carried
    ]
    stored = {row.event_id for row in there}
    later = [
        attempt
        for attempt in all_attempts(writers)
        if attempt.outcome is Outcome.OK
        and attempt.tenant_id == str(faulty.tenant)
        and attempt.invoked_at > crashed_at
    ]
    assert later
    assert {event for attempt in later for event in attempt.event_ids} <= stored
    versions: dict[str, list[int]] = {}
    for row in there:
        versions.setdefault(row.aggregate_id, []).append(row.version)
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
